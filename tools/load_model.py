"""The small networks that tools/load serves where no model is given, made with onnx alone from a fixed seed.

conv     x: (batch, 3, 32, 32) -> scores: (batch, 10): convolution, ReLU and SoftPool twice, average, linear layer
linear   x: (batch, 8, 256) -> scores: (batch, 10): SoftPool over 4, then linear layers of 2048, whose 20 MB of weights
         are read once for each run, however many rows it has
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxpool.domain import DOMAIN, IR_VERSION, VERSION
from onnxpool.graph import forms
from onnxpool.window import Window

NETWORKS = ("conv", "linear")


def write(path: Path, network: str) -> Path:
    """Write one of the networks in function form."""
    nodes, weights, shape = {"conv": _conv, "linear": _linear}[network]()
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=size) / np.sqrt(np.prod(size[1:])) for name, size in weights.items()}
    graph = helper.make_graph(
        nodes,
        network,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in drawn.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    forms.write(forms.to_form(model, "function"), path)
    return path


Network = tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]], tuple[int, ...]]
"""Nodes, shapes of weights, and the input's shape without its first axis."""


def _conv() -> Network:
    window = Window.of(2, 2).attributes()
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("SoftPool", ["r1"], ["p1"], "pool1", domain=DOMAIN, **window),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("SoftPool", ["r2"], ["p2"], "pool2", domain=DOMAIN, **window),
        helper.make_node("GlobalAveragePool", ["p2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["scores"]),
    ]
    return nodes, {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 10)}, (3, 32, 32)


def _linear() -> Network:
    nodes = [
        helper.make_node("SoftPool", ["x"], ["p"], "pool", domain=DOMAIN, **Window.of(1, 4).attributes()),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m1"]),
        helper.make_node("Relu", ["m1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"]),
        helper.make_node("Relu", ["m2"], ["r2"]),
        helper.make_node("MatMul", ["r2", "w3"], ["scores"]),
    ]
    return nodes, {"w1": (512, 2048), "w2": (2048, 2048), "w3": (2048, 10)}, (8, 256)
