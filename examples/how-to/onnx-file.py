"""I got an .onnx: the program of docs/how-to/onnx-file.md, to be run in a copy of examples/files."""

import onnxpool

lifted = onnxpool.lift("theirs.onnx")
print([fold.op_type for fold in lifted.folds])  # ['SoftPool']
print(len(lifted.refused))  # 0
