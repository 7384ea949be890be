"""Small ONNX models for the tests, written with onnx alone."""

from typing import Any

import onnx
from onnx import TensorProto, helper

from onnxpool.domain import DOMAIN, IR_VERSION, VERSION
from onnxpool.window import Window

CODES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def pooled(
    window: Window,
    dtype: str = "float32",
    op_type: str = "SoftPool",
    inputs: tuple[str, ...] = ("x",),
    *,
    opset: int = 18,
    **attributes: Any,
) -> onnx.ModelProto:
    """One bare pooling node ``pool``: inputs -> y, every axis dynamic; an attribute of None is left out."""
    given = {**window.attributes(), **attributes}
    node = helper.make_node(op_type, inputs, ["y"], "pool", domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in given.items() if value is not None)
    return model([node], window.rank, dtype, inputs, opset=opset)


def model(
    nodes: list[onnx.NodeProto],
    rank: int,
    dtype: str = "float32",
    inputs: tuple[str, ...] = ("x",),
    *,
    opset: int = 18,
) -> onnx.ModelProto:
    """These nodes, from inputs of one shape to y of this rank and type."""
    shape = ["N", "C", *(f"in_{axis}" for axis in range(rank))]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, CODES[dtype], shape) for name in inputs],
        [helper.make_tensor_value_info("y", CODES[dtype], ["N", "C", *(f"out_{axis}" for axis in range(rank))])],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
