"""auto_pad SAME_LOWER pads a dilated window as if it had no dilation."""

import numpy as np
import onnxruntime
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 3] y)
{ y = MaxPool<kernel_shape = [2], dilations = [2], auto_pad = "SAME_LOWER">(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"ONNX Runtime {onnxruntime.__version__}", [2.0, 3.0, 2.0], sep="\n")

session = onnxruntime.InferenceSession(parser.parse_model(MODEL).SerializeToString())
got = session.run(None, {"x": x})[0]
print(got[0, 0].astype(float).round(4).tolist())
