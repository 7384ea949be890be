"""I want other poolings in my network: the program of docs/how-to/swap.md, to be run in a copy of examples/files."""

import torch
import onnxpool

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1))
swapped = onnxpool.swap(network, {"max": "SoftPool"})
print(swapped.network[1])  # SoftPool2d(3x3 s2 p1)
onnxpool.export(swapped.network, (torch.randn(1, 3, 32, 32),), "swapped.onnx")
