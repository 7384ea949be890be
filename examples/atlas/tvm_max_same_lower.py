"""MaxPool with auto_pad SAME_LOWER rounds the number of windows down."""

import numpy as np
import tvm
from onnx import parser
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = MaxPool<kernel_shape = [2], strides = [2], auto_pad = "SAME_LOWER">(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"TVM {tvm.__version__}", [1.0, 3.0], sep="\n")

program = tvm.compile(from_onnx(parser.parse_model(MODEL)), target="llvm")
got = relax.VirtualMachine(program, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
print(got[0, 0].astype(float).round(4).tolist())
