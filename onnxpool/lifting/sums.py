"""Sums over windows, as models write them: pooled, convolved, reduced, or added up cell by cell, times a number, cast.

>>> import onnx_ir as ir
>>> pool = ir.node("AveragePool", [ir.Value(name="x")], {"kernel_shape": [2, 2]})
>>> total(ir.node("Mul", [pool.outputs[0], ir.Value(name="y")]).outputs[0]) is None
True
>>> str(window_of(total(pool.outputs[0])))
'2x2 s1'
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from onnxpool.errors import ArgumentError
from onnxpool.lifting.values import (
    attribute,
    base,
    constant,
    present,
    producer,
    rank_of,
    reduced_axes,
    same,
    scalar,
    sizes_of,
)
from onnxpool.window import Window


class Mismatch(Exception):  # noqa: N818 - no error: the reason why a candidate is another function
    """Why what looks like a pooling is not one of ours."""


class Unrelated(Mismatch):
    """No candidate after all: nothing is told of it."""


@dataclass(frozen=True)
class Total:
    """Sums over windows, times ``factor``: of one value that is pooled, or reduced over ``axes``, or of one term for
    each cell (``taps``). ``how`` is what must be equal above and below.
    """

    kind: str
    terms: tuple[ir.Value, ...]
    how: tuple[tuple[str, Any], ...] = ()
    factor: float = 1.0
    axes: tuple[int, ...] = ()
    keep: bool = False


def total(value: ir.Value | None) -> Total | None:
    """What is summed here, or None where this is not a sum over windows."""
    node = producer(value, *_TOTALS)
    return None if node is None or node.inputs[0] is None else _TOTALS[node.op_type](node)


def _convolved(node: ir.Node) -> Total | None:
    """A convolution of each channel with one number in all cells, as the AveragePool that it is a multiple of."""
    weight = constant(node.inputs[1])
    groups = attribute(node, "group", 1)
    if weight is None or len(present(node.inputs)) > 2 or tuple(weight.shape[:2]) != (groups, 1):  # not one by one
        return None
    numbers = weight.numpy()
    number, kernel = float(numbers.reshape(-1)[0]), tuple(numbers.shape[2:])
    if not number or (numbers != number).any():
        return None
    return replace(_averaged(node, kernel, include_pad=1), factor=number * math.prod(kernel))


def _averaged(node: ir.Node, kernel: tuple[int, ...] = (), include_pad: int = 0) -> Total:
    """An AveragePool, defaults filled in; padding that is never there is not told apart."""
    kernel = kernel or tuple(attribute(node, "kernel_shape", ()))
    strides = tuple(attribute(node, "strides", (1,) * len(kernel)))
    dilations = tuple(attribute(node, "dilations", (1,) * len(kernel)))
    pads = _pads(node, kernel, strides, dilations)
    ceil = attribute(node, "ceil_mode", 0)
    how = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "ceil_mode": ceil,
        "count_include_pad": attribute(node, "count_include_pad", include_pad) if any(pads) else 0,
    }
    return Total("AveragePool", present(node.inputs[:1]), tuple(how.items()))


def _pads(node: ir.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        return (0,) * 2 * len(kernel)
    if auto == "NOTSET":
        return tuple(attribute(node, "pads", (0,) * 2 * len(kernel)))
    sizes = sizes_of(present(node.inputs[:1])[0])
    if sizes is None:
        raise Mismatch(f"auto_pad={auto} depends on sizes that may change; export the model for one size")
    begins, ends = [], []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        whole = max(0, (math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
        begins.append(whole // 2 if auto == "SAME_UPPER" else whole - whole // 2)
        ends.append(whole - begins[-1])
    return (*begins, *ends)


def _reduced(node: ir.Node) -> Total | None:
    """A Reduce operator over known axes, or GlobalAveragePool over all spatial ones."""
    term = present(node.inputs[:1])
    whole = node.op_type == "GlobalAveragePool"
    axes = tuple(range(2, rank_of(term[0]))) if whole else reduced_axes(node)
    keep = whole or bool(attribute(node, "keepdims", 1))
    kind = "ReduceMean" if whole else node.op_type
    return Total(kind, term, (("axes", axes), ("keepdims", keep)), 1.0, axes, keep) if axes else None


def _scaled(node: ir.Node) -> Total | None:
    """A sum times a number, or the sign of a sum times its magnitude (as PyTorch writes LPPool)."""
    for rest, other in (node.inputs, node.inputs[::-1]):
        number = scalar(other)
        inner = total(rest) if number else None
        if number and inner is not None and inner.kind != "taps" and (node.op_type == "Mul" or other is node.inputs[1]):
            return replace(inner, factor=inner.factor * (number if node.op_type == "Mul" else 1 / number))
        sign, size = producer(rest, "Sign"), producer(other, "Abs", "Relu")
        while size is not None and size.op_type == "Relu":
            size = producer(size.inputs[0], "Abs")
        if sign is not None and size is not None and same(sign.inputs[0], size.inputs[0]) and node.op_type == "Mul":
            return total(sign.inputs[0])
    return None


def _cast(node: ir.Node) -> Total | None:
    """Through a cast to a wider type, which loses nothing; above and below must be cast to the same."""
    inner = total(node.inputs[0])
    before = None if node.inputs[0] is None else node.inputs[0].dtype
    after = attribute(node, "to", None)
    if inner is None or inner.kind == "taps" or before is None or (int(before), after) not in _WIDENING:
        return None
    return replace(inner, how=(*inner.how, ("cast", after)))


_WIDENING = {(a, b) for b, narrow in ((1, (10, 16)), (11, (1, 10, 16))) for a in (*narrow, b)}
"""Casts from float16 or bfloat16 to float, and from these to double, as pairs of ``TensorProto.DataType``."""


def _added(node: ir.Node) -> Total | None:
    terms = tuple(_addends(node))
    return Total("taps", terms) if all(scalar(term) is None for term in terms) else None


def _addends(node: ir.Node) -> Iterator[ir.Value]:
    """The terms of nested additions, in order; a zero, which Python's sum starts from, is none."""
    for value in node.inputs:
        inner = producer(value, "Add", "Sum")
        if inner is not None:
            yield from _addends(inner)
        elif value is not None and scalar(value) != 0:
            yield value


_TOTALS: dict[str, Callable[[ir.Node], Total | None]] = {
    "AveragePool": _averaged,
    "Conv": _convolved,
    "GlobalAveragePool": _reduced,
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "Mul": _scaled,
    "Div": _scaled,
    "Cast": _cast,
    "Add": _added,
    "Sum": _added,
}


def over_cells(how: Total) -> bool:
    """Whether what is reduced can be windows: all spatial axes, or axes that an unfolding made."""
    spatial = tuple(range(2, rank_of(how.terms[0])))
    return not how.axes or how.axes == spatial or any(base(leaf) is not leaf for leaf in _leaves(how.terms[0]))


def _leaves(value: ir.Value) -> Iterator[ir.Value]:
    """What products, powers and exponentials were made of."""
    node = producer(value, "Mul", "Exp", "Pow", "Softmax", "Sub", "Div", "Cast", "Relu", "Clip", "Max")
    if node is None:
        yield value
        return
    for given in node.inputs:
        if given is not None and scalar(given) is None:
            yield from _leaves(given)


def window_of(how: Total) -> Window:
    """The window of an AveragePool; :class:`Mismatch` where it is not one of ours."""
    attributes = {name: value for name, value in how.how if name not in ("count_include_pad", "cast")}
    try:
        return Window.from_attributes(attributes)
    except ArgumentError as error:
        raise Mismatch(str(error)) from error


def difference(above: Total, below: Total) -> str:
    """In what two sums differ, for messages."""
    if above.kind != below.kind:
        return f"{above.kind} and {below.kind}"
    ours, theirs = dict(above.how), dict(below.how)
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {ours.get(name)} and {theirs.get(name)}" for name in differing)
