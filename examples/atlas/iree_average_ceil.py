"""AveragePool with ceil_mode and count_include_pad counts cells beyond the padding."""

import pathlib
import subprocess
import sys
from importlib import metadata

import iree.runtime
import numpy as np
import onnx
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 3] x) => (float[1, 1, 2] y)
{ y = AveragePool<kernel_shape = [2], strides = [2], ceil_mode = 1, count_include_pad = 1>(x) }"""
x = np.arange(1, 4, dtype="float32").reshape(1, 1, 3)
print(f"IREE {metadata.version('iree-base-runtime')}", [1.5, 3.0], sep="\n")

onnx.save(parser.parse_model(MODEL), "model.onnx")
tools = pathlib.Path(sys.executable).parent
subprocess.run([tools / "iree-import-onnx", "model.onnx", "-o", "model.mlir"], check=True)
compile_it = [tools / "iree-compile", "model.mlir", "--iree-hal-target-backends=llvm-cpu", "-o", "model.vmfb"]
subprocess.run(compile_it, check=True, stderr=subprocess.DEVNULL)
module = iree.runtime.load_vm_flatbuffer_file("model.vmfb", driver="local-task")
got = np.asarray(module["g"](x))
print(got[0, 0].astype(float).round(4).tolist())
