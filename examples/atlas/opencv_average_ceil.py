"""AveragePool with ceil_mode and count_include_pad counts cells beyond the padding."""

import cv2
import numpy as np
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = AveragePool<kernel_shape = [2], strides = [2], ceil_mode = 1, count_include_pad = 1>(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"OpenCV {cv2.__version__}", [1.5, 3.0], sep="\n")

network = cv2.dnn.readNetFromONNX(np.frombuffer(parser.parse_model(MODEL).SerializeToString(), "uint8"))
network.setInput(x)
got = network.forward()
print(got[0, 0].astype(float).round(4).tolist())
