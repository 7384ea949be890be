"""Which node was put in front of one that looks wrong: the one that is wrong takes the wrong value.

A node whose result is not what the network has there may be right, and one of the nodes in front of it, whose values
nobody knows, wrong. Where it is right as soon as it takes a value that is known in place of theirs, they are: somebody
put them in between, or in the place of another.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxpool.diagnosis.runs import Runs
from onnxpool.golden import from_model
from onnxpool.golden.collect import widen
from onnxpool.graph import subgraph

MOST = 24
"""How many known values are tried in the place of an unknown one, nearest first."""


@dataclass(frozen=True)
class Between:
    """Nodes that make ``value`` for ``user``, which is right where it takes ``other`` in its place."""

    nodes: tuple[str, ...]
    value: str
    other: str
    user: str


def put_between(runs: Runs) -> list[Between]:
    """What was put in front of each node that looks wrong, as far as that explains it."""
    found = []
    for node in runs.graph.graph:
        names = [str(value.name) for value in node.outputs if value.name in runs.known]
        wrong = next((name for name in names if runs.departs(node, name) > 1), None)
        if wrong is not None and (one := _between(runs, node, wrong)) is not None:
            found.append(one)
    return found


def corrected(runs: Runs, between: Between) -> Runs:
    """The same, where it is known what the value should be."""
    arrays = {**runs.case.inputs, **{name: one.reference for name, one in runs.known.items()}}
    known = replace(runs.known[between.value], reference=arrays[between.other], anchored=True)
    return replace(runs, known={**runs.known, between.value: known})


def _between(runs: Runs, node: ir.Node, name: str) -> Between | None:
    for value in dict.fromkeys(node.inputs):
        maker = value.producer() if value is not None else None
        if value is None or maker is None or value.name not in runs.known or runs.known[str(value.name)].anchored:
            continue
        for other in _known(runs, node, str(value.name)):
            if _right_with(runs, node, name, str(value.name), other):
                within = {*runs.region(maker), str(maker.name)}
                order = tuple(str(one.name) for one in runs.graph.graph if one.name in within)
                return Between(order, str(value.name), other, str(node.name))
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
