"""Which node was put in front of one that looks wrong: the one that is wrong takes the wrong value.

A node whose result is not what the network has there may be right, and one of the nodes in front of it, whose values
nobody knows, wrong. Where it is right as soon as it takes a value that is known in place of theirs, they are: somebody
put them in between, or in the place of another.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxpool.diagnosis.runs import Runs
from onnxpool.golden import from_model
from onnxpool.golden.collect import widen
from onnxpool.graph import subgraph

MOST = 24
"""How many known values are tried in the place of an unknown one, nearest first."""


def blamed(runs: Runs, node: ir.Node, name: str) -> tuple[ir.Node, str] | None:
    """The node in front of ``node`` that makes ``name`` wrong, and the value that should be taken in its place."""
    for value in dict.fromkeys(node.inputs):
        maker = value.producer() if value is not None else None
        if value is None or maker is None or value.name not in runs.known or runs.known[str(value.name)].anchored:
            continue
        for other in _known(runs, node, str(value.name)):
            if _right_with(runs, node, name, str(value.name), other):
                return _first(runs, maker), other
    return None


def _known(runs: Runs, node: ir.Node, name: str) -> Iterator[str]:
    """Values of the same shape that are known, nearest before the node first; the model's inputs last."""
    shape = runs.known[name].reference.shape
    before: list[str] = []
    for one in runs.graph.graph:
        if one is node:
            break
        before += [str(value.name) for value in one.outputs]
    found = [n for n in reversed(before) if n in runs.known and runs.known[n].anchored and runs.known[n].sound]
    inputs = [n for n, array in runs.case.inputs.items() if array.shape == shape]
    yield from [*(n for n in found if runs.known[n].reference.shape == shape), *inputs][:MOST]


def _right_with(runs: Runs, node: ir.Node, name: str, taken: str, other: str) -> bool:
    """Whether the node is right where it takes the value ``other`` in the place of ``taken``."""
    feeds = {}
    for value in subgraph.taken(node):
        one = other if value.name == taken else str(value.name)
        if one in runs.known:
            feeds[str(value.name)] = runs.known[one].reference
        elif one in runs.feeds:
            feeds[str(value.name)] = runs.feeds[one]
        elif (constant := ir.convenience.get_const_tensor(value)) is not None:
            feeds[str(value.name)] = constant.numpy()
    try:
        run = from_model.one_node(from_model.in_float64(node), runs.graph.opset_imports)
        found = run(widen(feeds))
    except Exception:  # the evaluator raises whatever NumPy does
        return False
    return name in found and isinstance(found[name], np.ndarray) and runs.is_right(node, name, found[name])


def _first(runs: Runs, node: ir.Node) -> ir.Node:
    """The first of the nodes whose values are not known, from ``node`` upwards."""
    while True:
        makers = [
            maker
            for value in subgraph.taken(node)
            if value.name in runs.known
            and not runs.known[str(value.name)].anchored
            and (maker := value.producer()) is not None
        ]
        if not makers:
            return node
        node = makers[0]
