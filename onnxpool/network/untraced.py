"""The values of a model that PyTorch does not know, in float64: what the nodes between make of those that it knows.

PyTorch's values come one by one while it runs. Those that no such node takes are not held, and the others until the
last of these has run: at most :data:`MOST_HELD` elements at a time. A value that finds no room, or that is larger than
:data:`MOST_CELLS`, is left out, and with it all that only the nodes that take it make.
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.golden.collect import widen
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import subgraph

MOST_CELLS = 2**19
"""Elements of what a node takes, at most, that onnx's evaluator is given: it is slow."""

MOST_HELD = 2**25
"""Elements that are held at a time, at most: 256 MB in float64."""


class Between:
    """The nodes of the main graph that have to be computed for those of the values called ``wanted`` that are not
    ``known``. Each runs as soon as all that it takes was given, and ``found`` hears of what it makes.
    """

    def __init__(
        self,
        model: ir.Model,
        known: Collection[str],
        wanted: Collection[str],
        found: Callable[[str, NDArray[Any]], None],
    ) -> None:
        self._opsets, self._known, self._found = model.opset_imports, known, found
        self._takes = _needed(model, known, wanted)
        self._lacks = {node: set(names) for node, names in self._takes.items()}
        self._takers: dict[str, set[ir.Node]] = {}
        for node, names in self._takes.items():
            for name in names:
                self._takers.setdefault(name, set()).add(node)
        self._held: Feeds = {}

    def start(self, feeds: Feeds) -> None:
        """Give the model's inputs."""
        for node in [node for node, names in self._lacks.items() if not names]:
            self._follow(self._run(node))
        self._follow(widen(feeds).items())

    def give(self, name: str, array: NDArray[Any]) -> None:
        """Give a value that is ``known``; what is held of it is a copy."""
        self._follow([(name, array)])

    def _follow(self, values: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Run what can be with these values, and with what comes of that."""
        values = [*values]
        while values:
            name, array = values.pop()
            if not self._takers.get(name):
                continue
            held = sum(one.size for one in self._held.values())
            if array.size > MOST_CELLS or held + array.size > MOST_HELD:
                self._leave_out([name])
                continue
            self._held[name] = array.copy()
            for node in list(self._takers[name]):
                self._lacks[node].discard(name)
                if not self._lacks[node]:
                    values += self._run(node)

    def _run(self, node: ir.Node) -> list[tuple[str, NDArray[Any]]]:
        """What a node makes that is not known."""
        from onnxpool.golden import from_model  # brings onnx's evaluator

        constants = ((str(value.name), ir.convenience.get_const_tensor(value)) for value in subgraph.taken(node))
        feeds = {name: self._held[name] for name in self._takes[node]}
        feeds |= widen({name: tensor.numpy() for name, tensor in constants if tensor is not None})
        made: dict[str, Any] = {}
        with suppress(Exception):  # an operator that the evaluator does not know, or not in float64
            made = from_model.one_node(from_model.in_float64(node), self._opsets)(feeds)
        self._let_go(node)
        unknown = [name for name in _made(node) if name not in self._known]
        arrays = {
            name: np.asarray(made[name]) for name in unknown if isinstance(made.get(name), np.ndarray | np.generic)
        }
        self._leave_out([name for name in unknown if name not in arrays])
        for name, array in arrays.items():
            self._found(name, array)
        return list(arrays.items())

    def _leave_out(self, names: list[str]) -> None:
        """These values will not come, nor will what is made of them."""
        while names:
            for node in list(self._takers.get(names.pop(), ())):
                self._let_go(node)
                names += [name for name in _made(node) if name not in self._known]

    def _let_go(self, node: ir.Node) -> None:
        """The node takes nothing any more."""
        for name in self._takes[node]:
            self._takers[name].discard(node)
            if not self._takers[name]:
                self._held.pop(name, None)


def _needed(model: ir.Model, known: Collection[str], wanted: Collection[str]) -> dict[ir.Node, set[str]]:
    """The nodes that have to be computed, and can be, with the names of what each takes beside constants."""
    there = {str(value.name) for value in model.graph.inputs} | set(known)
    can: dict[ir.Node, set[str]] = {}
    for node in model.graph:
        constants = {value: ir.convenience.get_const_tensor(value) for value in subgraph.taken(node)}
        takes = {str(value.name) for value, constant in constants.items() if constant is None}
        small = all(constant.size <= MOST_CELLS for constant in constants.values() if constant is not None)
        if small and takes <= there and not any(True for _ in subgraph.bodies(node)):
            can[node] = takes
            there |= {*_made(node)}
    missing = set(wanted) - set(known)
    needed: dict[ir.Node, set[str]] = {}
    for node, takes in reversed(can.items()):
        if not missing.isdisjoint(_made(node)):
            needed[node] = takes
            missing |= takes - set(known)
    return dict(reversed(needed.items()))


def _made(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.outputs if value.name]
