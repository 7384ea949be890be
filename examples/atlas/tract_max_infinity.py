"""MaxPool of -infinity alone gives the lowest finite number."""

import pathlib

import numpy as np
import tract
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = MaxPool<kernel_shape = [2]>(x) }"""
x = np.full((1, 1, 3), -np.inf, "float32")
print(f"tract {tract.version()}", [-np.inf, -np.inf], sep="\n")

pathlib.Path("model.onnx").write_bytes(parser.parse_model(MODEL).SerializeToString())
got = tract.onnx().load("model.onnx").into_model().into_runnable().run([x])[0].to_numpy()
print(got[0, 0].astype(float).round(4).tolist())
