"""I have LIP: the program of docs/how-to/lip.md, to be run in a copy of examples/files."""

import torch
import onnxpool
from onnxpool import nn

pool = nn.LocalImportancePool2d(nn.SimplifiedLogit2d(8), 3, stride=2, padding=1)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), pool)
sizes = {0: "batch", 2: "height", 3: "width"}
onnxpool.export(network, (torch.randn(1, 3, 48, 48),), "lip.onnx", dynamic_shapes=(sizes,))
print([node.op_type for node in onnxpool.pool_nodes("lip.onnx")])  # ['LocalImportancePool']
