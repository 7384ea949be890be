"""MaxPool of -infinity alone gives the lowest finite number."""

import numpy as np
import onnxruntime
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = MaxPool<kernel_shape = [2]>(x) }"""
x = np.full((1, 1, 3), -np.inf, "float32")
print(f"ONNX Runtime {onnxruntime.__version__}", [-np.inf, -np.inf], sep="\n")

session = onnxruntime.InferenceSession(parser.parse_model(MODEL).SerializeToString())
got = session.run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
