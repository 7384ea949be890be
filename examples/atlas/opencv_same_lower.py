"""auto_pad SAME_LOWER pads at the end, as SAME_UPPER does."""

import cv2
import numpy as np
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = MaxPool<kernel_shape = [2], strides = [2], auto_pad = "SAME_LOWER">(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"OpenCV {cv2.__version__}", [1.0, 3.0], sep="\n")

network = cv2.dnn.readNetFromONNX(np.frombuffer(parser.parse_model(MODEL).SerializeToString(), "uint8"))
network.setInput(x)
got = network.forward()
print(got[0, 0].astype(float).round(4).tolist())
