"""Pooling nodes that another program has written out: it put the body of our function in place of the call.

onnxscript's optimizer and version converter, ``onnx.inliner`` and ONNX Runtime's optimised files do that. What is left
of a node is a Loop over the cells of a window: it slices a padded tensor that a MaxPool of the same window takes too.
Here such loops are found; :mod:`onnxpool.lifting` makes nodes of them again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxpool.graph.forms import Model, read
from onnxpool.graph.subgraph import bodies


@dataclass(frozen=True)
class Inlined:
    """One of them. ``node`` is the Loop, or the If of the main graph that holds it.

    ``largest`` is the MaxPool, whose window it is; ``padded`` what is sliced, which the MaxPool takes the first of.
    """

    node: ir.Node
    largest: ir.Node
    padded: tuple[ir.Value, ...]

    @property
    def name(self) -> str:
        """The name of the node, or of its first output."""
        return self.node.name or str(self.node.outputs[0].name)


def inlined(model: Model) -> list[Inlined]:
    """Every pooling node that is written out in this model, in the order of execution."""
    model = read(model)
    return [found for node in model.graph for found in _within(node, node)]


def _within(node: ir.Node, outermost: ir.Node) -> Iterator[Inlined]:
    """What is written out in a node of the main graph or of a body inside of it."""
    for body in bodies(node):
        if node.op_type == "Loop" and not node.domain and (found := _read(body)):
            yield Inlined(outermost, *found)
        for inner in body:
            yield from _within(inner, outermost)


def _read(loop: ir.Graph) -> tuple[ir.Node, tuple[ir.Value, ...]] | None:
    """The MaxPool and the padded tensors, where this is the body of a Loop over the cells of a window."""
    sliced = dict.fromkeys(node.inputs[0] for node in loop if node.op_type == "Slice" and not node.domain)
    outer = [value for value in sliced if value is not None and _graph(value) is not loop]
    for first in outer:
        for user in first.consumers():
            if user.op_type == "MaxPool" and not user.domain and "kernel_shape" in user.attributes:
                return user, (first, *(value for value in outer if value is not first))
    return None


def _graph(value: ir.Value) -> ir.Graph | ir.Function | None:
    producer = value.producer()
    return value.graph if producer is None else producer.graph
