"""SoftPool: the mean of a window weighted by the softmax of its own values.

    y = sum_i w_i x_i,   w_i = exp(x_i) / sum_j exp(x_j),   over the in-bounds cells of the window

Source: Stergiou, Poppe, Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021. Per channel, signed;
``mean <= y <= max``, ``y(x + c) = y(x) + c``. Everywhere computed as ``y = m + sum_i d_i exp(d_i) / sum_i exp(d_i)``
with ``d_i = x_i - m`` and ``m`` the window's maximum, which cannot overflow. A cell of -inf takes no part; a window
that holds NaN or +inf, or only -inf, gives NaN.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
3.4926527345951543
"""

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.pools import _function_body as body
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._bounded import ratio
from onnxpool.pools._method import Calls, Method, Operator, over_windows
from onnxpool.pools._ordinary import are_near, average, can_average
from onnxpool.pools._torch_ops import WindowModule, cells, operator, spread, torch, widen
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SoftPool1d", "SoftPool2d", "SoftPool3d"]


# --- what it computes: float64, plain


def reference(window: Window, x: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition that everything else is compared with."""
    return over_windows(_soft, window, x)


def _soft(x: Array) -> Array:
    x = np.where(x.max(-1, keepdims=True) == np.inf, np.nan, x)
    weights = np.exp(x - x.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    mean: Array = np.where(weights == 0, 0, weights * x).sum(-1)
    return mean


# --- how it looks in ONNX

_FLOOR = -1000
"""Distances below the maximum are cut here, so that -inf times its weight is 0: exp(-1000) is 0 even in float64."""

_ORDINARY = 60
"""Below this magnitude exp(x), and sums of more products x exp(x) than a tensor has cells, are normal float32."""


def _exact(op: Any, windows: body.Windows, wide: ir.DataType) -> Any:
    floor, top = onnx_ops.number(op, _FLOOR, wide), windows.largest()

    def cell(op: Any, x: Any) -> tuple[Any, Any]:
        distance = op.Sub(x, top)
        weight = op.Exp(distance)
        return weight, op.Mul(op.Max(distance, floor), weight)

    total, moment = windows.sums(top, cell)
    return op.Add(top, op.Div(moment, total))


def function(calls: Calls) -> ir.Function:
    """The generic function: a ratio of two average pools where no value is large, else a loop over the window's cells.

    The ratio is out where a node is dilated (AveragePool learned that in opset 19, and ONNX Runtime wants its padding
    below the undilated kernel) and in float64 (ONNX Runtime's CPU provider has no AveragePool for it).
    """
    wide = calls.wide

    def write(op: Any, x: Any) -> Any:
        def exact(op: Any) -> Any:
            return _exact(op, body.LoopedWindows(op, wide, (x, -math.inf)), wide)

        def ratio(op: Any) -> Any:
            weight = op.Exp(x)
            part = op.Mul(x, weight)
            return op.Div(body.average(op, part), body.average(op, weight))

        if calls.dilated or wide == ir.DataType.DOUBLE:
            return exact(op)
        largest = op.ReduceMax(op.Abs(x), keepdims=0)
        is_ordinary = op.Less(largest, onnx_ops.number(op, _ORDINARY, wide))
        return body.either(op, is_ordinary, ratio, exact, wide)

    return body.function(calls, OPERATOR.op_type, OPERATOR.inputs, write)


def standard(op: Any, window: Window, dtype: ir.DataType, x: Any) -> Any:
    """The same for one window, without control flow: one strided slice per cell of the window."""
    wide = onnx_ops.wide_for(dtype)
    return _exact(op, onnx_ops.SlicedWindows(op, window, wide, (x, -math.inf)), wide)


def bounded(op: Any, window: Window, dtype: ir.DataType, x: Any) -> Any:
    """The plain formula, for inputs within a range."""
    return ratio(op, window, dtype, x, x)


OPERATOR = Operator("SoftPool", ("x",), reference, function, standard, bounded)

METHOD = Method(
    name="SoftPool",
    summary="mean of the window weighted by the softmax of its values",
    formula="y = sum x_i exp(x_i) / sum exp(x_i)",
    source="Stergiou et al., ICCV 2021",
    modules=("SoftPool1d(3, 2, 1, 2)", "SoftPool2d(3, 2, 1)", "SoftPool2d(2, ceil_mode=True)", "SoftPool3d(2)"),
    operator=OPERATOR,
)


# --- how it trains


def _parts(window: Window, x: "Tensor") -> "tuple[Tensor, list[Tensor], list[Tensor], Tensor]":
    """Maximum ``m``, distances below it ``d_i``, weights ``exp(d_i)`` and their sum; lists in the order of cells."""
    views = list(cells(widen(x), window, fill=-torch.inf))
    top = reduce(torch.maximum, views)
    depths = [(view - top).clamp(min=_FLOOR) for view in views]
    weights = [depth.exp() for depth in depths]
    return top, depths, weights, sum(weights[1:], weights[0])


def _forward(window: Window, x: "Tensor") -> "Tensor":
    top, depths, weights, total = _parts(window, x)
    moment = sum(depth * weight for depth, weight in zip(depths, weights, strict=True))
    return (top + moment / total).to(x.dtype)


def _backward(window: Window, grad: "Tensor", x: "Tensor") -> "tuple[Tensor]":
    """``dy/dx_i = w_i (1 + x_i - y)``."""
    _, depths, weights, total = _parts(window, x)
    below = sum(depth * weight for depth, weight in zip(depths, weights, strict=True)) / total
    share = widen(grad) / total
    slopes = (share * weight * (1 + depth - below) for depth, weight in zip(depths, weights, strict=True))
    return (spread(slopes, widen(x), window).to(x.dtype),)


def _ordinary(window: Window, x: "Tensor") -> "Tensor | None":
    wide = widen(x)
    if not (can_average(window) and are_near(wide)):
        return None
    weights = wide.exp()
    return (average(window, wide * weights) / average(window, weights)).to(x.dtype)


soft_pool = operator(OPERATOR, "soft_pool", _forward, _backward, _ordinary)


class _SoftPool(WindowModule):
    def pool(self, x: "Tensor") -> "Tensor":
        return soft_pool(self.window, x)

    def reference(self, x: Array) -> Array:
        return reference(self.window, x)


class SoftPool1d(_SoftPool):
    """SoftPool over ``(N, C, L)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`."""

    rank = 1


class SoftPool2d(_SoftPool):
    """SoftPool over ``(N, C, H, W)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`.

    >>> import torch
    >>> SoftPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).item()
    3.4926527345951543
    """

    rank = 2


class SoftPool3d(_SoftPool):
    """SoftPool over ``(N, C, D, H, W)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`."""

    rank = 3
