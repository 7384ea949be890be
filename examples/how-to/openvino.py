"""OpenVINO: the program of docs/how-to/openvino.md, to be run in a copy of examples/files."""

import numpy as np
import openvino

model = openvino.Core().compile_model("network-standard.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
image = np.zeros((1, 3, 64, 64), np.float32)
print(model(image)[0].shape)  # (1, 10)
