"""Poolings in ONNX Runtime's layout: the program of docs/how-to/optimize.md, to be run in a copy of examples/files."""

import onnxpool

made = onnxpool.optimize("network.onnx")
print([node.op_type for node in made.in_blocks], dict(made.kept))  # ['SoftPool'] {}
onnxpool.save(made.model, "network-here.onnx")
session = onnxpool.load("network-here.onnx")
