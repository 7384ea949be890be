"""MaxPool with stride 1 takes the padding of one axis for another's."""

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 3] y)
{ y = MaxPool<kernel_shape = [1, 2], strides = [1, 1], pads = [0, 1, 0, 1]>(x) }"""
x = np.arange(1, 5, dtype="float32").reshape(1, 1, 2, 2)
print(f"onnx {onnx.__version__}, ReferenceEvaluator", [[1.0, 2.0, 2.0], [3.0, 4.0, 4.0]], sep="\n")

got = ReferenceEvaluator(parser.parse_model(MODEL)).run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
