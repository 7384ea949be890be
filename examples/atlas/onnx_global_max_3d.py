"""GlobalMaxPool over three axes leaves the first of them as it is."""

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2, 2, 2] x) => (float[1, 1, 1, 1, 1] y)
{ y = GlobalMaxPool(x) }"""
x = np.arange(1, 9, dtype="float32").reshape(1, 1, 2, 2, 2)
print(f"onnx {onnx.__version__}, ReferenceEvaluator", [[[8.0]]], sep="\n")

got = ReferenceEvaluator(parser.parse_model(MODEL)).run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
