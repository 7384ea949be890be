"""Learned filters over windows: sums of a window's cells, each times a number, for each of several filters."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._channels import check_has_channels
from onnxpool.pools._large import unit_for
from onnxpool.pools._torch_ops import is_jit_tracing, pooled_shape, standard_operator, torch, widen
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 1e4
"""Logits are cut here: their sigmoid is 0 or 1."""


def reference(window: Window, x: Array, weight: Array) -> Array:
    """Float64 ``(N, C, *spatial)`` and ``(C or 1, F, *kernel)`` to ``(F, N, C, *output)``; padding adds nothing."""
    channels, filters = x.shape[1], weight.shape[1]
    numbers = np.broadcast_to(weight, (channels, *weight.shape[1:])).reshape(channels, filters, -1)
    sums = np.zeros((filters, *window.check(x.shape)))
    ends = [(0, 0), (0, 0), *((pad, tail) for pad, tail in zip(window.pad, window.tail, strict=True))]
    around = np.pad(x, ends)
    inside = np.pad(np.ones(x.shape), ends)
    for k, offset in enumerate(window.offsets()):
        places = zip(offset, sums.shape[3:], window.stride, strict=True)
        view: Any = (..., *(slice(start, start + (n - 1) * step + 1, step) for start, n, step in places))
        parts = numbers[:, :, k].T.reshape(filters, 1, channels, *[1] * window.rank) * around[view]
        sums += np.where(inside[view] == 0, 0, parts)
    return sums


def reference_share(logit: Array) -> Array:
    """The sigmoid; NaN where the logit is not finite."""
    return np.where(np.isfinite(logit), 1 / (1 + np.exp(-logit)), np.nan)


def _forward(window: Window, x: "Tensor", weight: "Tensor") -> "Tensor":
    channels = x.shape[1]
    kernel = weight.expand(channels, *weight.shape[1:]).flatten(0, 1).unsqueeze(1)
    ends = [n for axis in zip(reversed(window.pad), reversed(window.tail), strict=True) for n in axis]
    functions = torch.nn.functional
    convolution: Any = (functions.conv1d, functions.conv2d, functions.conv3d)[window.rank - 1]
    padded = functions.pad(x, ends) if any(ends) else x
    return convolution(padded, kernel, None, window.stride, 0, window.dilation, channels)  # type: ignore[no-any-return]


def _shape(window: Window, x: "Tensor", weight: "Tensor") -> tuple[int, ...]:
    n, channels, *output = pooled_shape(window, x)
    if not is_jit_tracing() and weight.shape[0] != 1:
        check_has_channels(x, weight.shape[0])
    return (n, channels * weight.shape[1], *output)


def _translate(op: Any, window: Window, x: Any, weight: Any) -> Any:
    channels, (own, filters, *kernel) = x.shape[1], weight.shape
    every = weight if own == channels else op.Expand(weight, onnx_ops.ints(op, channels, filters, *kernel))
    if x.dtype != ir.DataType.DOUBLE:
        numbers = op.Reshape(every, onnx_ops.ints(op, channels * filters, 1, *kernel))
        return op.Conv(x, numbers, group=channels, **onnx_ops.attributes(window))
    numbers = op.Reshape(every, onnx_ops.ints(op, channels, filters, math.prod(kernel), *[1] * window.rank))
    parts = []
    for k, cell in enumerate(onnx_ops.cells(op, x, window, 0, x.dtype)):  # ONNX Runtime has no such Conv
        number = op.Gather(numbers, op.Constant(value=ir.tensor(np.array(k, np.int64))), axis=2)
        parts.append(op.Mul(op.Unsqueeze(cell, onnx_ops.ints(op, 2)), number))
    total = op.Sum(*parts)
    shape = op.Shape(total)
    spatial = op.Slice(shape, onnx_ops.ints(op, 3), onnx_ops.ints(op, 9))
    return op.Reshape(total, op.Concat(op.Shape(total, end=1), onnx_ops.ints(op, channels * filters), spatial, axis=0))


_filtered = standard_operator(
    "filtered_windows", "Window window, Tensor x, Tensor weight", _forward, _shape, _translate
)


def filtered(window: Window, x: "Tensor", weight: "Tensor", gates: int) -> "tuple[list[Tensor], list[Tensor], Tensor]":
    """What filters give, of weights ``(C or 1, F, *kernel)``: the first ``gates`` as logits, the others as sums.

    Each is ``(N, C, *output)``. A logit is NaN where its sum is not finite. Sums are in units that are given as well.
    """
    wide = widen(x)
    unit = unit_for(wide)  # so that sums of moderate weights do not overflow
    shape = (x.shape[1], weight.shape[1])
    sums = _filtered(window, wide * unit, widen(weight).to(wide)).unflatten(1, shape).unbind(2)  # type: ignore[no-untyped-call]
    most = _MOST * unit
    logits = [torch.where(total.isfinite(), total.clamp(-most, most) / unit, torch.nan) for total in sums[:gates]]
    return logits, list(sums[gates:]), unit
