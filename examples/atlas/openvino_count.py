"""Convolution of ones with ones, which counts cells of padded windows, miscounts in a column, with AVX-512."""

import numpy as np
import openvino
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 6, 1] x) => (float[1, 1, 5, 1] y)
{
  w = Constant<value = float[1, 1, 4, 2] {1, 1, 1, 1, 1, 1, 1, 1}>()
  shape = Shape(x)
  ones = ConstantOfShape<value = float[1] {1}>(shape)
  y = Conv<strides = [1, 4], pads = [1, 1, 1, 1]>(ones, w)
}"""
x = np.ones((1, 1, 6, 1), "float32")
print(f"OpenVINO {openvino.__version__.split('-')[0]}", [[3.0], [4.0], [4.0], [4.0], [3.0]], sep="\n")

model = openvino.Core().read_model(parser.parse_model(MODEL).SerializeToString())
got = openvino.compile_model(model, "CPU")(x)[0]
print(got[0, 0].astype(float).round(4).tolist())
