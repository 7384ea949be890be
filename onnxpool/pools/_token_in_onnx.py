"""Pooling of tokens in standard ONNX operators: what :mod:`onnxpool.pools.token` computes, in every form of a model."""

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._tokens import without_padding, written_mask


def translate(op: Any, x: Any, mask: Any, mode: str, normalize: bool, nan: bool) -> Any:
    """Standard operators for ``x (N, T, C)`` of known type, and a mask or None."""
    wide = onnx_ops.wide_for(x.dtype)

    def write(x: Any) -> Any:
        kept = None if mask is None else written_mask(op, mask)
        y = _WRITTEN[mode](op, x, kept, wide)
        if kept is not None and (nan or mode in ("max", "cls", "lasttoken")):  # a sum of nothing is 0
            some = op.Cast(op.ReduceMax(op.Cast(kept, to=_INT32), _along(op), keepdims=1), to=ir.DataType.BOOL)
            y = op.Where(some, y, onnx_ops.number(op, np.nan if nan else 0, wide))
        return _written_unit(op, y, wide) if normalize else y

    return onnx_ops.computed_in(op, x, wide, write)


_INT32 = ir.DataType.INT32


def _along(op: Any) -> Any:
    return onnx_ops.ints(op, 1)


def _number(op: Any, value: int) -> Any:
    """An integer without an axis."""
    return op.Constant(value=ir.tensor(np.array(value, np.int64)))


def _written_sum(op: Any, x: Any, kept: Any, wide: ir.DataType) -> tuple[Any, Any]:
    total = op.ReduceSum(without_padding(op, x, kept, 0, wide), _along(op), keepdims=0)
    count = op.ReduceSum(op.Cast(kept, to=wide), _along(op), keepdims=1)
    return total, op.Max(count, onnx_ops.number(op, 1, wide))


def _written_mean(op: Any, x: Any, kept: Any, wide: ir.DataType) -> Any:
    if kept is None:
        return op.ReduceMean(x, _along(op), keepdims=0)
    total, count = _written_sum(op, x, kept, wide)
    return op.Div(total, count)


def _written_mean_sqrt_len(op: Any, x: Any, kept: Any, wide: ir.DataType) -> Any:
    if kept is None:
        count = op.Cast(op.Shape(x, start=1, end=2), to=wide)
        return op.Div(op.ReduceSum(x, _along(op), keepdims=0), op.Sqrt(count))
    total, count = _written_sum(op, x, kept, wide)
    return op.Div(total, op.Sqrt(count))


def _written_weighted_mean(op: Any, x: Any, kept: Any, wide: ir.DataType) -> Any:
    ones = op.ConstantOfShape(op.Shape(x, start=0, end=2), value=ir.tensor(np.ones(1, wide.numpy())))
    places = op.CumSum(ones, _number(op, 1))
    if kept is not None:
        places, x = op.Mul(places, op.Cast(kept, to=wide)), without_padding(op, x, kept, 0, wide)
    total = op.Max(op.ReduceSum(places, _along(op), keepdims=1), onnx_ops.number(op, 1, wide))
    shares = op.Unsqueeze(op.Div(places, total), onnx_ops.ints(op, 2))
    return op.ReduceSum(op.Mul(x, shares), _along(op), keepdims=0)


def _written_max(op: Any, x: Any, kept: Any, wide: ir.DataType) -> Any:
    values = x if kept is None else without_padding(op, x, kept, -np.inf, wide)
    return op.ReduceMax(values, _along(op), keepdims=0)


def _written_first(op: Any, x: Any, kept: Any, _: ir.DataType) -> Any:
    if kept is None:
        return op.Gather(x, _number(op, 0), axis=1)
    return op.GatherND(x, op.ArgMax(op.Cast(kept, to=_INT32), axis=1, keepdims=1), batch_dims=1)


def _written_last(op: Any, x: Any, kept: Any, _: ir.DataType) -> Any:
    if kept is None:
        return op.Gather(x, _number(op, -1), axis=1)
    counted = op.CumSum(op.Cast(kept, to=_INT32), _number(op, 1))
    return op.GatherND(x, op.ArgMax(counted, axis=1, keepdims=1), batch_dims=1)


_WRITTEN = {
    "mean": _written_mean,
    "max": _written_max,
    "cls": _written_first,
    "lasttoken": _written_last,
    "weightedmean": _written_weighted_mean,
    "mean_sqrt_len_tokens": _written_mean_sqrt_len,
}


def _written_unit(op: Any, y: Any, wide: ir.DataType) -> Any:
    zero, one = (onnx_ops.number(op, value, wide) for value in (0, 1))
    top = op.ReduceMax(op.Abs(y), _along(op), keepdims=1)
    usual = op.And(op.Greater(top, zero), op.Less(top, onnx_ops.number(op, np.inf, wide)))
    scaled = op.Div(y, op.Where(usual, top, one))
    length = op.Sqrt(op.ReduceSum(op.Mul(scaled, scaled), _along(op), keepdims=1))
    return op.Div(scaled, op.Where(op.Equal(length, zero), one, length))
