"""Poolings over tokens that a model spells out in float16 or bfloat16, where they overflow or divide by 0.

    mean       sum(x m, 1) / clamp(sum(m, 1), 1e-9)        4096 tokens of 20 have a sum beyond float16; 1e-9 is 0 there
    max        max(where(m == 0, -1e9, x), 1)              -1e9 is -inf there, and so is a sequence without a token
    length 1   y / clamp(norm(y), 1e-12)                   a norm beyond float16 gives 0, and a vector of 0 gives NaN

In their place stands the same formula in float32, rounded once, whatever the weights ``m`` are (a mask, places, their
product): a token of weight 0 takes no part, though it be NaN, and the limits are those that the author wrote, or the
usual ones where float16 has made 0 of them. The maximum of no token becomes 0, also where the author wrote -inf, which
is the same number there as -1e9; where PyTorch's exporter noted that he wrote ``masked_fill(mask, -inf)``, it stays
-inf, as it is. The mean over the square root of the weights' sum is read too. In float32 these spellings are right, and
left.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.lifting.match import Match
from onnxpool.lifting.values import (
    MOVES,
    attribute,
    constant,
    original,
    present,
    producer,
    rank_of,
    reduced_axes,
    scalar,
)
from onnxpool.pools import _onnx_ops as onnx_ops

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
WIDE = ir.DataType.FLOAT
_FLOATING = (*NARROW, WIDE, ir.DataType.DOUBLE)

USUAL_COUNT = 1e-9
"""The usual lower limit of a sum of weights, where float16 has made 0 of it."""

USUAL_NORM = 1e-12
"""The usual lower limit of a norm, where float16 has made 0 of it."""


_NOTE = "pkg.torch.onnx.fx_node"
_ENDLESS = re.compile(r"aten\.masked_fill\.Scalar\]\(args = \(.*, -inf\)")
"""How PyTorch's exporter notes a fill that is -inf by its author's own wish: for -1e9 stands -1000000000.0."""


@dataclass(frozen=True)
class _Sum:
    """``reduce(term)`` over the axis of tokens, and whether that axis is kept."""

    term: ir.Value
    keep: bool


def quotient(node: ir.Node) -> Match | None:
    """A mean of tokens, or a vector by its length."""
    return _mean(node) or _unit(node)


def _mean(node: ir.Node) -> Match | None:
    above, below = node.inputs
    if above is None or below is None or not _narrowed(above):
        return None
    total = _over_tokens(above, "ReduceSum")
    if total is None or not _is_count(below):
        return None
    product = producer(total.term, "Mul")
    if product is None:
        if producer(total.term, "Where") is None:
            return None
        factors: tuple[ir.Value, ...] = (total.term,)
    else:
        first, second = present(product.inputs)
        weighted = [pair for pair in ((first, second), (second, first)) if _is_weight(pair[1])]
        if not weighted or _is_weight(weighted[0][0]):
            return None
        factors = weighted[0]
    write = partial(_write_mean, total.keep, node.outputs[0].dtype, below)
    return Match("TokenMean", "weighted sum by a sum of weights", node, tuple(map(_uncast, factors)), write=write)


def _unit(node: ir.Node) -> Match | None:
    y, below = node.inputs
    if y is None or y.dtype not in NARROW:
        return None
    grown = producer(below, "Expand")
    length = _uncast(grown.inputs[0] if grown is not None else below)
    limited, least = _limited(length, USUAL_NORM)
    norm = producer(_uncast(limited), "ReduceL2")
    if norm is None or _uncast(norm.inputs[0]) is not original(y) or not attribute(norm, "keepdims", 1):
        return None
    axes = reduced_axes(norm)
    if axes is None or len(axes) != 1:
        return None
    return Match("UnitLength", "vector by its norm", node, (y,), write=partial(_write_unit, axes[0], least))


def largest(node: ir.Node) -> Match | None:
    """The largest token, padding filled with what is -inf in this type."""
    total = _over_tokens(node.outputs[0], "ReduceMax")
    filled = None if total is None else _filled(total.term)
    if total is None or filled is None or filled[0].dtype not in NARROW:
        return None
    x, chosen, gone = filled
    write = partial(_write_largest, total.keep, gone, node.outputs[0].dtype)
    return Match("TokenMax", "largest of filled tokens (0 where there is none)", node, (x, chosen), write=write)


# --- reading


def _uncast(value: ir.Value | None) -> Any:
    """Without casts between floating point types."""
    node = producer(value, "Cast")
    while node is not None and node.inputs[0] is not None and node.inputs[0].dtype in _FLOATING:
        value = node.inputs[0]
        node = producer(value, "Cast")
    return original(value)


def _narrowed(value: ir.Value | None) -> bool:
    """Whether this, or what it was cast from, is of a narrow type."""
    while value is not None:
        if value.dtype in NARROW:
            return True
        node = producer(value, "Cast")
        value = None if node is None else node.inputs[0]
    return False


def _over_tokens(value: ir.Value, op_type: str) -> _Sum | None:
    node = producer(_uncast(value), op_type)
    if node is None or node.inputs[0] is None or rank_of(node.inputs[0]) != 3 or reduced_axes(node) != (1,):
        return None
    return _Sum(_uncast(node.inputs[0]), bool(attribute(node, "keepdims", 1)))


def _is_weight(value: ir.Value) -> bool:
    """Whether it is the same for all channels, and not the exponential of anything."""
    node = producer(value, "Cast", "Mul", *MOVES)
    if node is None:
        return value.dtype not in _FLOATING or rank_of(value) == 2 or constant(value) is not None
    if node.op_type == "Mul":
        return all(_is_weight(given) for given in present(node.inputs))
    return node.inputs[0] is not None and _is_weight(node.inputs[0])


def _limited(value: ir.Value | None, usual: float) -> tuple[ir.Value | None, float | None]:
    """``v`` and the limit where this is ``max(v, limit)``; else the value and None."""
    node = producer(value, "Max", "Clip")
    if node is None or len(present(node.inputs)) != 2:
        return value, None
    for given, limit in (node.inputs, node.inputs[::-1]):
        least = scalar(limit)
        if least is not None and least >= 0 and (node.op_type == "Max" or given is node.inputs[0]):
            return given, least or usual
    return value, None


def _is_count(value: ir.Value | None) -> bool:
    """Whether :func:`_count` can write this."""
    value = _uncast(value)
    node = producer(value, "Max", "Clip", "Sqrt", "Cast", "Unsqueeze", "Squeeze", "ReduceSum")
    if node is None:
        return False
    if node.op_type == "ReduceSum":
        term = node.inputs[0]
        axes = reduced_axes(node) if term is not None else None
        return term is not None and axes == (1,) and _is_weight(term)
    if node.op_type in ("Max", "Clip"):
        inner, least = _limited(value, USUAL_COUNT)
        return least is not None and _is_count(inner)
    return _is_count(node.inputs[0])


def _filled(value: ir.Value) -> tuple[ir.Value, ir.Value, bool] | None:
    """``x``, a bool tensor, and whether that says where padding is, of values with -inf in place of padding."""
    choice = producer(value, "Where")
    if choice is not None:
        if _ENDLESS.search(choice.metadata_props.get(_NOTE, "")):
            return None
        chosen, first, second = present(choice.inputs)
        for x, fill, gone in ((second, first, True), (first, second, False)):
            if scalar(fill) == -np.inf:
                return x, chosen, gone
        return None
    put = producer(value, "ScatterND")  # x[m == 0] = -1e9
    turned = producer(put.inputs[1], "Transpose") if put is not None else None
    found = producer(turned.inputs[0], "NonZero") if turned is not None else None
    if put is None or found is None or found.inputs[0] is None or found.inputs[0].dtype != ir.DataType.BOOL:
        return None
    target, filling = put.inputs[0], put.inputs[2]
    while (moved := producer(filling, "Expand", "Reshape")) is not None:
        filling = moved.inputs[0]
    return (target, found.inputs[0], True) if target is not None and scalar(filling) == -np.inf else None


# --- writing


def _wide(op: Any, value: Any) -> Any:
    return onnx_ops.cast(op, value, WIDE)


def _back(op: Any, value: Any, dtype: ir.DataType | None) -> Any:
    return value if dtype in (None, WIDE) else op.Cast(value, to=dtype)


def _write_mean(
    keep: bool, dtype: ir.DataType | None, below: ir.Value, op: Any, x: ir.Value, *weights: ir.Value
) -> ir.Value:
    terms, zero = _wide(op, x), onnx_ops.number(op, 0, WIDE)
    for weight in weights:
        factor = _wide(op, weight)
        terms = op.Mul(op.Where(op.Equal(factor, zero), zero, terms), factor)
    total = op.ReduceSum(terms, onnx_ops.ints(op, 1), keepdims=int(keep))
    y: ir.Value = _back(op, op.Div(total, _count(op, below)), dtype)
    return y


def _count(op: Any, value: ir.Value | None) -> Any:
    """The denominator once more, in float32."""
    value = _uncast(value)
    node = producer(value, "Max", "Clip", "Sqrt", "Cast", "Unsqueeze", "Squeeze", "ReduceSum")
    assert node is not None
    if node.op_type == "ReduceSum":
        return op.ReduceSum(
            _wide(op, _uncast(node.inputs[0])), onnx_ops.ints(op, 1), keepdims=int(attribute(node, "keepdims", 1))
        )
    if node.op_type in ("Max", "Clip"):
        limited, least = _limited(value, USUAL_COUNT)
        return op.Max(_count(op, limited), onnx_ops.number(op, least or 0, WIDE))
    made = _count(op, node.inputs[0])
    if node.op_type == "Sqrt":
        return op.Sqrt(made)
    return made if node.op_type == "Cast" else getattr(op, node.op_type)(made, *node.inputs[1:])


def _write_unit(axis: int, least: float | None, op: Any, y: ir.Value) -> ir.Value:
    wide = _wide(op, y)
    norm = op.ReduceL2(wide, onnx_ops.ints(op, axis), keepdims=1)
    if least is not None:
        norm = op.Max(norm, onnx_ops.number(op, least, WIDE))
    unit: ir.Value = _back(op, op.Div(wide, norm), y.dtype)
    return unit


def _write_largest(
    keep: bool, gone: bool, dtype: ir.DataType | None, op: Any, x: ir.Value, chosen: ir.Value
) -> ir.Value:
    kept = op.Not(chosen) if gone else chosen
    tokens = op.Where(kept, _wide(op, x), onnx_ops.number(op, -np.inf, WIDE))
    along = onnx_ops.ints(op, 1)
    top = op.ReduceMax(tokens, along, keepdims=int(keep))
    some = op.Cast(op.ReduceMax(op.Cast(kept, to=ir.DataType.INT32), along, keepdims=int(keep)), to=ir.DataType.BOOL)
    y: ir.Value = _back(op, op.Where(some, top, onnx_ops.number(op, 0, WIDE)), dtype)
    return y
