"""Pictures and folders of them: the program of docs/how-to/pictures.md, to be run in a copy of examples/files."""

import onnxpool

found = onnxpool.predict("network.onnx", ["photo.jpg"], size=(64, 64), top=2)
best = found.pictures[0].outputs[0].classes
print(len(best), best[0].score >= best[1].score)  # 2 True
