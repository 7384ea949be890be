"""GlobalAveragePool over three axes fails."""

import cv2
import numpy as np
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2, 2, 2] x) => (float[1, 1, 1, 1, 1] y)
{ y = GlobalAveragePool(x) }"""
x = np.arange(1, 9, dtype="float32").reshape(1, 1, 2, 2, 2)
print(f"OpenCV {cv2.__version__}", [[[4.5]]], sep="\n")

network = cv2.dnn.readNetFromONNX(np.frombuffer(parser.parse_model(MODEL).SerializeToString(), "uint8"))
network.setInput(x)
got = network.forward()
print(got[0, 0].astype(float).round(4).tolist())
