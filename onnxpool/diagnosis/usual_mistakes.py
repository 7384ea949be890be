"""Why a single node is wrong: tries the usual mistakes on it, until one makes it right.

count_include_pad, ceil_mode   the other way
kernel, strides, pads          with height and width exchanged
inputs                         the first two exchanged
training_mode                  off
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN
from onnxpool.golden import from_model
from onnxpool.golden.inputs import Feeds

_POOLS = {"AveragePool", "MaxPool", "LpPool"}
_SPATIAL = ("kernel_shape", "strides", "dilations", "pads")


def explain(node: ir.Node, inputs: Feeds, right: Callable[[NDArray[Any]], bool], opsets: Mapping[str, int]) -> str:
    """The change to ``node`` that lets it give what is ``right`` to float64 ``inputs``, in words; "" for none known."""
    for words, changed in _changes(node):
        try:
            result = next(iter(from_model.one_node(changed, opsets)(inputs).values()))
        except Exception:  # a change that makes no sense here
            continue
        if right(result):
            return f"it is right with {words}"
    return ""


def _changes(node: ir.Node) -> Iterator[tuple[str, ir.Node]]:
    pooling = node.domain == DOMAIN or node.op_type in _POOLS
    for name in ("count_include_pad", "ceil_mode") if pooling else ():
        if name == "ceil_mode" or node.op_type == "AveragePool":
            attribute = node.attributes.get(name)
            value = 0 if attribute is not None and attribute.value else 1
            yield f"{name}={value}", _with(node, {name: value})
    if node.attributes.get("training_mode") is not None:
        yield "training_mode=0: it takes statistics of each batch, and should not", _with(node, {"training_mode": 0})
    turned = {name: _turned(node.attributes[name].value) for name in _SPATIAL if name in node.attributes}
    if any(list(node.attributes[name].value) != value for name, value in turned.items()):
        yield "height and width of its window exchanged", _with(node, turned)
    if len(node.inputs) >= 2 and node.inputs[1] is not None:
        yield "its first two inputs exchanged", _with(node, {}, swap=True)


def _turned(values: list[int]) -> list[int]:
    """Spatial axes in the other order; pads are all the starts, then all the ends."""
    half = len(values) // 2
    return [*reversed(values[:half]), *reversed(values[half:])] if len(values) >= 4 else [*reversed(values)]


def _with(node: ir.Node, attributes: Mapping[str, Any], *, swap: bool = False) -> ir.Node:
    """A copy of the node, apart from its graph, with other attributes or its first two inputs exchanged."""
    inputs = [None if value is None else ir.Value(name=value.name) for value in node.inputs]
    if swap:
        inputs[0], inputs[1] = inputs[1], inputs[0]
    kept = {name: attribute.value for name, attribute in node.attributes.items()}
    outputs = [ir.Value(name=node.outputs[0].name)]  # the first is what the others come with
    return ir.node(node.op_type, inputs, {**kept, **attributes}, domain=node.domain, outputs=outputs)
