"""I call torch.onnx.export: the program of docs/how-to/torch-onnx-export.md, to be run in a copy of examples/files."""

import torch
import onnxpool
from onnxpool import nn

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), nn.SoftPool2d(2)).eval()
program = torch.onnx.export(
    network,
    (torch.randn(1, 3, 32, 32),),
    dynamo=True,
    dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
    custom_translation_table=onnxpool.translations(),
    verbose=False,
)
onnxpool.finish(program).save("by-torch.onnx")
print([node.op_type for node in onnxpool.pool_nodes("by-torch.onnx")])  # ['SoftPool']
