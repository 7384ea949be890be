"""GlobalLpPool with an odd p takes no magnitudes."""

import pathlib

import numpy as np
import tract
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2] x) => (float[1, 1, 1] y)
{ y = GlobalLpPool<p = 1>(x) }"""
x = np.array([[[1, -2]]], "float32")
print(f"tract {tract.version()}", [3.0], sep="\n")

pathlib.Path("model.onnx").write_bytes(parser.parse_model(MODEL).SerializeToString())
got = tract.onnx().load("model.onnx").into_model().into_runnable().run([x])[0].to_numpy()
print(got[0, 0].astype(float).round(4).tolist())
