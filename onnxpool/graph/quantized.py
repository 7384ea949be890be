"""What a quantised model holds: where it rounds to whole steps, and what of that cannot be right.

A quantised model keeps its float operators, each between a DequantizeLinear (DQ) and a QuantizeLinear (Q), which
runtimes join into kernels for integers. Q stores ``round(x / scale) + zero_point``, saturated; DQ gives back
``scale * (stored - zero_point)``. One step is ``scale``: what lies within the range comes back within half a step.

    faults        of the model by itself: a scale that is no positive number, a DQ that counts in other steps than its
                  Q, a bias that counts in other steps than the products that it is added to
    unlike        of the model beside its float original: a weight that is further than its rounding away, a node that
                  has become another
    output_steps  the step of each output

>>> faults(onnx_ir.load("network-int8.onnx"))  # doctest: +SKIP
[]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import Array

Q, DQ = "QuantizeLinear", "DequantizeLinear"

DOMAINS = ("", "com.microsoft")
"""ONNX Runtime has these operators in a domain of its own too, for older opsets."""

_MOVES = {"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move elements, or leave some out, and change none."""

_HALF = 0.5 + 1e-3
"""Of a step; the rest is for the quantiser's own division in float32."""

_PRODUCTS = 1e-4
"""How far, relatively, a bias may count from what its products count in: both are float32."""


@dataclass(frozen=True)
class Steps:
    """How a Q or DQ counts: ``scale`` and ``zero_point`` are numbers, or arrays along ``axis``; of that stored type."""

    scale: Array
    zero_point: Array
    axis: int
    dtype: np.dtype[Any]

    @property
    def sound(self) -> bool:
        """Whether every scale is a positive number."""
        return bool(np.all(np.isfinite(self.scale) & (self.scale > 0)))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number that is stored without saturation, by the narrowest of the channels."""
        limits = np.iinfo(self.dtype)
        return (
            float(((limits.min - self.zero_point) * self.scale).max()),
            float(((limits.max - self.zero_point) * self.scale).min()),
        )

    def real(self, stored: NDArray[Any]) -> Array:
        """What DQ gives of stored whole numbers."""
        zero_point, scale = (self._along(number, stored.ndim) for number in (self.zero_point, self.scale))
        return scale * (stored.astype(np.float64) - zero_point)

    def each(self, rank: int) -> Array:
        """The scale, to be broadcast to a tensor of that rank."""
        return self._along(self.scale, rank)

    def same(self, other: "Steps") -> bool:
        """Whether both count alike."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)

    def _along(self, number: Array, rank: int) -> Array:
        if number.size == 1:
            return number.reshape(())
        axes = [1] * rank
        axes[self.axis] = -1
        return number.reshape(axes)

    def __str__(self) -> str:
        return f"steps of {_short(self.scale)} from {_short(self.zero_point)}"


def nodes(model: ir.Model, *operators: str) -> Iterator[ir.Node]:
    """The nodes of these operators (by default Q and DQ), also those inside of If and Loop."""
    wanted = operators or (Q, DQ)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from (node for node in graph.all_nodes() if node.op_type in wanted and node.domain in DOMAINS)


def is_quantized(model: ir.Model) -> bool:
    """Whether the model rounds activations anywhere."""
    return next(nodes(model, Q), None) is not None


def steps(node: ir.Node) -> Steps | None:
    """How a Q or DQ counts; None where it learns that as it runs, or counts in blocks or in floating point numbers."""
    scale, zero_point = (_constant(node.inputs[i]) if i < len(node.inputs) else None for i in (1, 2))
    if scale is None or (zero_point is None and len(node.inputs) > 2 and node.inputs[2] is not None):
        return None
    if node.attributes.get_int("block_size", 0):
        return None
    stored = node.inputs[0] if node.op_type == DQ else node.outputs[0]
    dtype = np.dtype(np.uint8)
    if zero_point is not None:
        dtype = zero_point.dtype
    elif node.op_type == DQ and stored is not None and stored.dtype is not None:
        dtype = np.dtype(stored.dtype.numpy())
    if dtype.kind not in "iu":
        return None
    zeros = np.zeros(scale.shape) if zero_point is None else zero_point.astype(np.float64)
    return Steps(scale.astype(np.float64), zeros, node.attributes.get_int("axis", 1), dtype)


# --- by itself


def faults(model: ir.Model) -> list[str]:
    """A sentence on each thing that cannot be right in this model, whatever it was made of."""
    found: list[str] = []
    for node in nodes(model):
        own = steps(node)
        if own is None:
            continue
        if not own.sound:
            found.append(f"node {_name(node)} counts in {own}: a scale must be a positive number; {_about(node)}")
        elif node.op_type == DQ and (before := _producer(node.inputs[0])) is not None and before.op_type == Q:
            rounded = steps(before)
            if rounded is not None and rounded.sound and not rounded.same(own):
                found.append(
                    f"node {_name(node)} counts in {own}, but node {_name(before)}, which it undoes, in {rounded}"
                )
    return [*found, *_biases(model)]


def _biases(model: ir.Model) -> Iterator[str]:
    """Kernels for integers add a bias to the products as it is stored: both must count alike."""
    for node in nodes(model, "Conv", "ConvTranspose", "Gemm"):
        if len(node.inputs) < 3:
            continue
        x, w, bias = (_read(value) for value in node.inputs[:3])
        if x is None or w is None or bias is None or bias.dtype != np.int32 or not (x.sound and w.sound and bias.sound):
            continue
        products = x.scale * w.scale * node.attributes.get_float("beta", 1.0)
        if not np.allclose(products, bias.scale, rtol=_PRODUCTS, atol=0):
            yield (
                f"node {_name(node)} multiplies in steps of {_short(products)}, and its bias counts in steps of "
                f"{_short(bias.scale)}: kernels for integers take the two for equal"
            )


# --- beside the float original


@dataclass(frozen=True)
class Likeness:
    """A quantised model beside its original: what is wrong, how many weights are right, and what was not compared."""

    faults: tuple[str, ...]
    weights: int
    unmatched: tuple[str, ...]


def unlike(model: ir.Model, original: ir.Model) -> Likeness:
    """Compare nodes of the same name: operators, attributes, and weights, each of which may be off by its rounding."""
    mine = {node.name: node for node in model.graph if node.name}
    found: list[str] = []
    weights = 0
    unmatched = []
    for node in original.graph:
        if node.op_type in ("Constant", "Identity"):
            continue
        same = mine.get(node.name or "")
        if same is None:
            unmatched.append(_name(node))
        elif (same.op_type, same.domain) != (node.op_type, node.domain) or _attributes(same) != _attributes(node):
            found.append(f"node {_name(same)} is not what it was in float: {_name(node)}, or with other attributes")
        else:
            for i, (now, was) in enumerate(zip(same.inputs, node.inputs, strict=False)):
                wanted = _constant(was)
                if wanted is None or wanted.dtype.kind != "f":
                    continue
                weights += 1
                found += _weight(same, i, now, wanted)
    return Likeness(tuple(found), weights, tuple(unmatched))


def _weight(node: ir.Node, i: int, now: ir.Value | None, wanted: NDArray[Any]) -> Iterator[str]:
    """What is wrong with input ``i`` of a node, which was this constant."""
    what = f"input {i} of node {_name(node)}"
    exact = _constant(now)
    if exact is not None:
        if not np.array_equal(exact, wanted, equal_nan=True):
            yield f"{what}, {now.name!r}, is another constant than in float"  # type: ignore[union-attr]
        return
    read = _read(now)
    stored = _constant(_producer(now).inputs[0]) if read is not None else None  # type: ignore[union-attr]
    if read is None or stored is None:
        yield f"{what} was a constant in float, and is not one that a {DQ} gives"
        return
    if stored.shape != wanted.shape:
        yield f"{what} has shape {stored.shape}, in float {wanted.shape}"
        return
    if not read.sound:
        return  # said by itself
    limits = np.iinfo(read.dtype)
    ends = (stored == limits.min) | (stored == limits.max)  # a rounded zero point moves the range by up to half a step
    allowed = (_HALF + 0.5 * ends) * read.each(stored.ndim)
    with np.errstate(invalid="ignore"):
        off = np.abs(read.real(stored) - wanted) / allowed
    if not np.all(off <= 1):
        place = tuple(map(int, np.unravel_index(int(np.nanargmax(off)), off.shape))) if off.ndim else ()
        step = float(np.broadcast_to(read.each(stored.ndim), stored.shape)[place])
        yield (
            f"{what} is {float(read.real(stored)[place]):.6g} at {place} and {float(wanted[place]):.6g} in float, "
            f"further than rounding to steps of {step:.3g} goes"
        )


# --- outputs


def output_steps(model: ir.Model) -> dict[str, float | None]:
    """The step that each output counts in, the largest of its channels; None where something is computed after it."""
    return {str(value.name): _step(value) for value in model.graph.outputs}


def _step(value: ir.Value | None) -> float | None:
    while (node := _producer(value)) is not None and node.op_type in _MOVES:
        value = node.inputs[0]
    own = _read(value)
    return float(own.scale.max()) if own is not None else None


def input_ranges(model: ir.Model) -> dict[str, tuple[float, float]]:
    """What each input that is rounded at once may hold without saturation, by name."""
    found = {}
    for value in model.graph.inputs:
        known = [own for user in value.consumers() if user.op_type == Q and (own := steps(user)) is not None]
        if known:
            found[str(value.name)] = max(one.range[0] for one in known), min(one.range[1] for one in known)
    return found


# --- parts


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _read(value: ir.Value | None) -> Steps | None:
    """How a value counts that a DQ gives."""
    node = _producer(value)
    return steps(node) if node is not None and node.op_type == DQ and node.domain in DOMAINS else None


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or value is None or value.is_graph_input() else tensor.numpy()


def _about(node: ir.Node) -> str:
    """The tensor that a Q or DQ counts, and the node that makes it, or the nodes that take it."""
    taken = node.inputs[0]
    maker = _producer(taken)
    if node.op_type == DQ and maker is not None and maker.op_type == Q:
        taken, maker = maker.inputs[0], _producer(maker.inputs[0])
    users = ", ".join(_name(user) for value in node.outputs for user in _readers(value)) or "nothing"
    made = f"which node {_name(maker)} gives " if maker is not None else ""
    return f"it is of {str(taken.name)!r}, {made}for {users}"  # type: ignore[union-attr]


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that take a value, or what a DQ gives of it."""
    for user in value.consumers():
        if user.op_type == DQ and user.domain in DOMAINS:
            yield from (reader for given in user.outputs for reader in given.consumers())
        else:
            yield user


def _name(node: ir.Node) -> str:
    return f"{node.name!r} ({node.op_type})"


def _attributes(node: ir.Node) -> dict[str, str]:
    return {name: repr(attribute.value) for name, attribute in node.attributes.items() if not attribute.is_ref()}


def _short(numbers: Array) -> str:
    """One number, or the least and the largest."""
    least, largest = float(np.min(numbers)), float(np.max(numbers))
    return f"{least:.6g}" if least == largest or np.isnan(least) else f"{least:.6g} to {largest:.6g}"
