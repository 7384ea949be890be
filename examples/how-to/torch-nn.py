"""I have torch.nn's poolings: the program of docs/how-to/torch-nn.md, to be run in a copy of examples/files."""

import torch
import onnxpool

network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2, ceil_mode=True), torch.nn.AdaptiveAvgPool2d(3)
)
sizes = {0: "batch", 2: "height", 3: "width"}
onnxpool.export(network, (torch.randn(1, 3, 32, 32),), "network.onnx", dynamic_shapes=(sizes,))
print(onnxpool.validate("network.onnx").passed)  # True
