"""Triton: the program of docs/how-to/triton.md, to be run in a copy of examples/files."""

from onnxpool.deploy import package

written = package("network.onnx", "models", "triton", max_batch=16)
print(written.name, written.form)  # network function
print("network/config.pbtxt" in written.files, "network/1/model.onnx" in written.files)  # True True
print(written.run.split()[:2])  # ['docker', 'run']
