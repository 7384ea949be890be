"""GlobalMaxPool along one axis loses it."""

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 1] y)
{ y = GlobalMaxPool(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"onnx {onnx.__version__}, ReferenceEvaluator", [3.0], sep="\n")

got = ReferenceEvaluator(parser.parse_model(MODEL)).run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
