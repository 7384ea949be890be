"""KServe: the program of docs/how-to/kserve.md, to be run in a copy of examples/files."""

from onnxpool.deploy import package

written = package("network.onnx", "for-kserve", "kserve", storage="s3://bucket/network", max_replicas=4)
print(written.files[0])  # inference-service.yaml
