"""MaxPool with ceil_mode adds a window that would start in the padding at the end."""

import numpy as np
import openvino
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 5] x) => (float[1, 1, 2] y)
{ y = MaxPool<kernel_shape = [1], strides = [3], ceil_mode = 1>(x) }"""
x = np.arange(1, 6, dtype="float32").reshape(1, 1, 5)
print(f"OpenVINO {openvino.__version__.split('-')[0]}", [1.0, 4.0], sep="\n")

model = openvino.Core().read_model(parser.parse_model(MODEL).SerializeToString())
got = openvino.compile_model(model, "CPU")(x)[0]
print(got[0, 0].astype(float).round(4).tolist())
