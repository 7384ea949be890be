"""A model in which every node can be switched to a narrower type, one by one, for one run: what that does to outputs.

A node that is switched takes and gives numbers rounded to the narrower type, and has its weights rounded so; it
computes in float32, as ONNX Runtime does with float16 on CPUs, and its sums on GPUs. One session runs all: what each
node does alone, and all those of a choice together.

    float16    rounded to float16; what is beyond its range is infinite
    int8       rounded to the step of a range in 255 steps, and cut off there; weights by channel

An error that only few inputs show (a steep function where it is steep, a difference that nearly vanishes) may be among
those that are to come. So each choice is run a second time with every rounding error :data:`LARGER` times as large,
which such places show that many times as often; that many times the budget is allowed there.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.golden import bounds
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms
from onnxpool.run.session import load

To: TypeAlias = Literal["float16", "int8"]
Places: TypeAlias = tuple[list[int], list[int]]

SWITCH = "onnxpool/switch"
"""The input that says which nodes are switched: (nodes,) of bool."""

FACTOR = "onnxpool/factor"
"""The input by which rounding errors are multiplied."""

LARGER = {"float16": 32.0, "int8": 1.0}
"""By how much in the second run; a step of int8 is large enough by itself."""

_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": -1}
"""The axis of channels in the weight of an operator; of Gemm where it is transposed."""


class Switched:
    """``nodes`` says of each node that can be switched which of its inputs and outputs are rounded.

    ``model`` is :func:`onnxpool.graph.mixed.prepared`; ``ranges`` are of every value, for int8.
    """

    def __init__(
        self, model: ir.Model, nodes: Mapping[str, Places], to: To, ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self.names, self._larger = list(nodes), LARGER[to]
        self._inputs = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
        self._session = load(forms.to_form(_made(model.clone(), nodes, to, ranges), "function"), kernels="off")

    def run(self, feeds: Feeds, names: Collection[str], factor: float = 1.0) -> Feeds:
        """What the model gives with the nodes of these names switched."""
        switch, by = np.array([name in names for name in self.names], bool), np.array(factor, np.float32)
        return self._session.run({**{name: feeds[name] for name in self._inputs}, SWITCH: switch, FACTOR: by})

    def effect(self, samples: Sequence[Feeds], right: Sequence[Feeds], names: Collection[str]) -> float:
        """How far that moves the outputs: the largest :func:`apart` of all samples, of both runs."""
        found = 0.0
        for factor in sorted({1.0, self._larger}):
            for feeds, answers in zip(samples, right, strict=True):
                found = max(found, apart(self.run(feeds, names, factor), answers) / factor)
                if found == np.inf:
                    return found
        return found


def apart(found: Feeds, right: Feeds) -> float:
    """How far outputs are from the ``right`` ones, the worst of all elements: an error by the answer, or by the median
    of all answers where that is larger; infinite where NaN or infinity came. Of whole numbers, how many differ.
    """
    return max((_apart(found[name], answer) for name, answer in right.items()), default=0.0)


def _apart(found: NDArray[Any], right: NDArray[Any]) -> float:
    if not right.size:
        return 0.0
    if not bounds.is_floating(right.dtype):
        return float(np.mean(found != right))
    a, b = found.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(b)
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (same | finite).all() or not (same | np.isfinite(a)).all():
        return np.inf
    usual = np.abs(b[finite & (b != 0)])
    scale = np.maximum(np.abs(b), float(np.median(usual)) if usual.size else 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.where(same, 0.0, np.abs(a - b) / scale).max())


# --- the model


def _made(model: ir.Model, nodes: Mapping[str, Places], to: To, ranges: Mapping[str, tuple[float, float]]) -> ir.Model:
    graph = model.graph
    switch = ir.Value(name=SWITCH, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([len(nodes)]))
    factor = ir.Value(name=FACTOR, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    places = {name: i for i, name in enumerate(nodes)}
    rounded = dict[ir.Value, ir.Value]()
    constants = _Constants(graph, factor)
    for node in list(graph):
        if node.name not in nodes:
            continue
        inputs, outputs = nodes[str(node.name)]
        own = ir.node("Gather", [switch, constants.of(np.array(places[str(node.name)]))])
        graph.insert_before(node, own)
        for i in inputs:
            value = node.inputs[i]
            assert value is not None
            array = value.const_value.numpy() if value.is_initializer() and value.const_value is not None else None
            if array is not None:
                made = _off(value, constants.of(_weight(array, node, i, to)), constants)
                graph.insert_before(node, made)
                other = made[-1].outputs[0]
            else:
                if value not in rounded:
                    made = _rounding(value, to, ranges, constants)
                    graph.insert_before(node, made)
                    rounded[value] = made[-1].outputs[0]
                other = rounded[value]
            chosen = ir.node("Where", [own.outputs[0], other, value])
            graph.insert_before(node, chosen)
            node.replace_input_with(i, chosen.outputs[0])
        for i in outputs:
            value = node.outputs[i]
            made = _rounding(value, to, ranges, constants)
            chosen = ir.node("Where", [own.outputs[0], made[-1].outputs[0], value])
            graph.insert_after(node, [*made, chosen])
            _take(graph, value, chosen, {*made, chosen})
    graph.inputs.extend([switch, factor])
    for value in (value for node in graph for value in node.outputs):
        if value.is_graph_output() and value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


class _Constants:
    """Initializers that are added to a graph, and the factor."""

    def __init__(self, graph: ir.Graph, factor: ir.Value) -> None:
        self.factor, self._graph, self._count = factor, graph, 0

    def of(self, array: NDArray[Any]) -> ir.Value:
        """A value that holds this array."""
        self._count += 1
        name = f"{SWITCH}/{self._count}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value


def _rounding(
    value: ir.Value, to: To, ranges: Mapping[str, tuple[float, float]], constants: _Constants
) -> list[ir.Node]:
    """Nodes that round a value; the last gives it."""
    if to == "float16":
        narrow = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)})
        wide = ir.node("Cast", [narrow.outputs[0]], {"to": int(ir.DataType.FLOAT)})
        return [narrow, wide, *_off(value, wide.outputs[0], constants)]
    least, most = ranges.get(str(value.name), (0.0, 0.0))
    least, most = min(least, 0.0), max(most, 0.0)  # 0 is always one of the steps
    step = np.float32((most - least) / 255 or 1.0)
    zero = np.uint8(np.clip(np.rint(-least / step), 0, 255))
    by = [constants.of(np.asarray(step)), constants.of(np.asarray(zero))]
    whole = ir.node("QuantizeLinear", [value, *by])
    wide = ir.node("DequantizeLinear", [whole.outputs[0], *by])
    return [whole, wide, *_off(value, wide.outputs[0], constants)]


def _off(value: ir.Value, rounded: ir.Value, constants: _Constants) -> list[ir.Node]:
    """Nodes that give a value with its rounding error, times the factor."""
    error = ir.node("Sub", [rounded, value])
    more = ir.node("Mul", [error.outputs[0], constants.factor])
    return [error, more, ir.node("Add", [value, more.outputs[0]])]


def _weight(array: NDArray[Any], node: ir.Node, place: int, to: To) -> Array:
    """A weight as the narrower type has it, in float32."""
    if to == "float16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16).astype(np.float32)
    if place != 1 or node.op_type not in _WEIGHTED or array.ndim < 2:
        return array  # a bias is stored in 32 bits
    axis = _WEIGHTED[node.op_type]
    if node.op_type == "Gemm" and not (node.attributes.get("transB") and node.attributes["transB"].as_int()):
        axis = 1
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    step = np.abs(array).max(axis=others, keepdims=True) / 127
    step = np.where(step == 0, 1, step)
    return np.asarray(np.rint(array / step) * step, np.float32)


def _take(graph: ir.Graph, value: ir.Value, chosen: ir.Node, but: set[ir.Node]) -> None:
    """Let all that took ``value``, but for these nodes, take what ``chosen`` gives."""
    new = chosen.outputs[0]
    new.type, new.shape = value.type, value.shape
    new.name, value.name = value.name, f"{value.name}/exact"  # ranges are by name
    for user, place in list(value.uses()):
        if user not in but:
            user.replace_input_with(place, new)
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = new
