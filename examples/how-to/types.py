"""float16 and int8: the program of docs/how-to/types.md, to be run in a copy of examples/files."""

import onnxpool

done = onnxpool.quantize("network.onnx", "network-int8.onnx", "photos", size=(64, 64))
print(done.samples, done.outputs[0].max_steps < 16)  # 3 True
