"""OpenVINO: the program of docs/how-to/openvino.md, to be run in a copy of examples/files."""

import numpy as np
import onnxpool
import openvino

onnxpool.save(onnxpool.to_form("network.onnx", "standard"), "network-standard.onnx")
model = openvino.Core().compile_model("network-standard.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
image = np.zeros((1, 3, 64, 64), np.float32)
print(model(image)[0].shape)  # (1, 10)
