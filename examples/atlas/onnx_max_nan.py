"""MaxPool drops NaN: the maximum of NaN and 1 is 1."""

import numpy as np
import onnx
from onnx import parser
from onnx.reference import ReferenceEvaluator

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2] x) => (float[1, 1, 1] y)
{ y = MaxPool<kernel_shape = [2]>(x) }"""
x = np.array([[[np.nan, 1]]], "float32")
print(f"onnx {onnx.__version__}, ReferenceEvaluator", [np.nan], sep="\n")

got = ReferenceEvaluator(parser.parse_model(MODEL)).run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
