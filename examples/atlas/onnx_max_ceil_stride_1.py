"""MaxPool with ceil_mode and stride 1 gives more windows than there are."""

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y)
{ y = MaxPool<kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1], ceil_mode = 1>(x) }"""
x = np.arange(1, 5, dtype="float32").reshape(1, 1, 2, 2)
print(f"onnx {onnx.__version__}, ReferenceEvaluator", [[4.0, 4.0], [4.0, 4.0]], sep="\n")

got = ReferenceEvaluator(parser.parse_model(MODEL)).run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
