"""MaxPool drops NaN: the maximum of NaN and 1 is 1."""

import pathlib
import subprocess
import sys

import ncnn
import numpy as np
from onnx import parser

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 1, 2] x) => (float[1, 1, 1] y)
{ y = MaxPool<kernel_shape = [2]>(x) }"""
x = np.array([[[np.nan, 1]]], "float32")
print(f"ncnn {ncnn.__version__}", [np.nan], sep="\n")

pathlib.Path("model.onnx").write_bytes(parser.parse_model(MODEL).SerializeToString())
pnnx = pathlib.Path(sys.executable).with_name("pnnx")
subprocess.run([pnnx, "model.onnx"], check=True, stdout=subprocess.DEVNULL)
network = ncnn.Net()
network.load_param("model.ncnn.param")
network.load_model("model.ncnn.bin")
run = network.create_extractor()
run.input("in0", ncnn.Mat(x[0]))
got = np.array(run.extract("out0")[1])[None]
print(got[0, 0].astype(float).round(4).tolist())
