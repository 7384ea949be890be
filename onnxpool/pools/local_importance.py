"""Local importance pooling (LIP): the mean of a window weighted by exp of logits that a small network gives.

    y = sum_i w_i x_i,   w_i = exp(l_i) / sum_j exp(l_j),   l = logit(x),   over the in-bounds cells of the window

Source: Gao, Wang, Wu, "LIP: Local Importance-based Pooling", ICCV 2019. Per channel; ``min <= y <= max``, and adding a
constant to all logits changes nothing. A cell whose logit is -inf takes no part, whatever its value (a mask). A window
gives NaN where a cell that takes part is NaN, where a logit is NaN or +inf, and where all logits are -inf. Otherwise an
infinite cell gives that infinity, however small its weight.

>>> import numpy as np
>>> x, logit = np.array([[[[1.0, 2.0], [5.0, 6.0]]]]), np.array([[[[0.0, 1.0], [1.0, 2.0]]]])
>>> reference(Window.of(2, 2), x, logit).round(10).item()
4.6552928932
"""

import copy
import math
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _function_body as body
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._bounded import ratio
from onnxpool.pools._logits import (
    BottleneckLogit1d,
    BottleneckLogit2d,
    BottleneckLogit3d,
    ProjectionLogit1d,
    ProjectionLogit2d,
    ProjectionLogit3d,
    SimplifiedLogit1d,
    SimplifiedLogit2d,
    SimplifiedLogit3d,
    SoftGate,
)
from onnxpool.pools._method import Calls, Method, Operator, over_windows
from onnxpool.pools._ordinary import are_near, average, can_average
from onnxpool.pools._torch_ops import Module, WindowModule, cells, is_jit_tracing, operator, spread, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BottleneckLogit1d",
    "BottleneckLogit2d",
    "BottleneckLogit3d",
    "LocalImportancePool1d",
    "LocalImportancePool2d",
    "LocalImportancePool3d",
    "ProjectionLogit1d",
    "ProjectionLogit2d",
    "ProjectionLogit3d",
    "SimplifiedLogit1d",
    "SimplifiedLogit2d",
    "SimplifiedLogit3d",
    "SoftGate",
]


# --- what it computes: float64, plain


def reference(window: Window, x: Array, logit: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``logit`` of ``x``'s shape: what all else is compared with."""
    return over_windows(_mean, window, x, logit)


def _mean(x: Array, logit: Array) -> Array:
    logit = np.where(logit.max(-1, keepdims=True) == np.inf, np.nan, logit)
    weights = np.exp(logit - logit.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)  # NaN where all logits are -inf
    parts = np.where(np.isinf(x) & ~np.isnan(weights), x, weights * x)
    mean: Array = np.where(logit == -np.inf, 0 * weights, parts).sum(-1)
    return mean


# --- how it looks in ONNX

_LEAST = 1e-30
"""No weight is less: beside the largest, 1, this adds nothing, and it gives an infinite cell its say."""

_ORDINARY_LOGIT, _ORDINARY = 16, 1e17
"""Below these magnitudes weights scaled by 2^24 are 1 or more, so that no product falls below float32's range where its
cell does not, and sums of 2^24 products stay inside it."""


def _exact(op: Any, windows: body.Windows, spread: Any, wide: ir.DataType) -> Any:
    """The mean, of cells divided by ``spread``: twice their number or more, so that no sum leaves the type's range."""
    greatest = float(np.finfo(wide.numpy()).max)
    least, lowest, largest, nothing, margin = (
        onnx_ops.number(op, value, wide) for value in (_LEAST, -greatest, greatest, 0, 1.5)
    )
    top = windows.largest()

    def cell(op: Any, logit: Any, x: Any) -> tuple[Any, Any]:
        weight = op.Exp(op.Sub(logit, top))
        share = op.Mul(op.Div(x, spread), op.Max(weight, least))
        return weight, op.Where(op.Less(logit, lowest), nothing, share)

    total, moment = windows.sums(top, cell)
    mean = op.Div(moment, total)
    limit = op.Div(largest, spread)
    brought_back = op.Min(op.Max(mean, op.Neg(limit)), limit)  # what rounding took a little beyond the largest number
    near = op.Less(op.Abs(mean), op.Mul(limit, margin))
    y = op.Mul(op.Where(near, brought_back, mean), spread)
    return op.Add(y, op.Div(nothing, total))  # NaN where nothing took part


def function(calls: Calls) -> ir.Function:
    """The generic function: a ratio of two average pools where no logit is large, else a loop over the window's cells.

    For when the ratio is out, see :func:`onnxpool.pools.soft.function`.
    """
    wide = calls.wide

    def write(op: Any, x: Any, logit: Any) -> Any:
        def exact(op: Any) -> Any:
            windows = body.LoopedWindows(op, wide, (body.within(op, logit), -math.inf), (body.within(op, x), 0.0))
            two = onnx_ops.number(op, 2, wide)
            bits = op.Ceil(op.Div(op.Log(op.Cast(windows.count, to=wide)), op.Log(two)))
            return _exact(op, windows, op.Mul(op.Pow(two, bits), two), wide)

        def ratio(op: Any) -> Any:
            weight = op.Mul(op.Exp(body.within(op, logit)), onnx_ops.number(op, 2.0**24, wide))
            return op.Div(body.average(op, op.Mul(body.within(op, x), weight)), body.average(op, weight))

        if calls.dilated or wide == ir.DataType.DOUBLE:
            return exact(op)
        ordinary_logit, ordinary_x = (
            op.Less(op.ReduceMax(op.Abs(value), keepdims=0), onnx_ops.number(op, limit, wide))
            for value, limit in ((logit, _ORDINARY_LOGIT), (x, _ORDINARY))
        )
        return body.either(op, op.And(ordinary_logit, ordinary_x), ratio, exact, wide)

    return body.function(calls, OPERATOR.op_type, OPERATOR.inputs, write)


def standard(op: Any, window: Window, dtype: ir.DataType, x: Any, logit: Any) -> Any:
    """The same for one window, without control flow: two strided slices per cell of the window."""
    wide = onnx_ops.wide_for(dtype)
    spread = onnx_ops.number(op, 2.0 ** (1 + (math.prod(window.kernel) - 1).bit_length()), wide)
    return _exact(op, onnx_ops.SlicedWindows(op, window, wide, (logit, -math.inf), (x, 0.0)), spread, wide)


OPERATOR = Operator("LocalImportancePool", ("x", "logit"), reference, function, standard, ratio)

METHOD = Method(
    name="LocalImportancePool",
    summary="mean of the window weighted by exp of learned logits",
    formula="y = sum x_i exp(l_i) / sum exp(l_i), l = logit(x)",
    source="Gao et al., ICCV 2019",
    modules=(
        "LocalImportancePool2d(SimplifiedLogit2d(3))",
        "LocalImportancePool2d(ProjectionLogit2d(3, zero=False), 2, 2, 0, ceil_mode=True)",
        "LocalImportancePool2d(BottleneckLogit2d(3, width=8, zero=False))",
        "LocalImportancePool1d(SimplifiedLogit1d(3, zero=False))",
        "LocalImportancePool3d(ProjectionLogit3d(3, zero=False), 2, 2, 0)",
    ),
    operator=OPERATOR,
)


# --- how it trains


def _weights(window: Window, logit: "Tensor") -> "list[Tensor]":
    """``w_i``, in the order of cells: 0 for a masked cell, NaN in a window of nothing else."""
    views = list(cells(widen(logit), window, fill=-torch.inf))
    top = reduce(torch.maximum, views)
    weights = [(view - top).exp() for view in views]
    total = sum(weights[1:], weights[0])
    return [weight / total for weight in weights]


def _forward(window: Window, x: "Tensor", logit: "Tensor") -> "Tensor":
    parts = []
    values, logits = cells(widen(x), window, fill=0.0), cells(widen(logit), window, fill=-torch.inf)
    for weight, value, own in zip(_weights(window, logit), values, logits, strict=True):
        part = weight.clamp(min=_LEAST) * value / 2
        parts.append(torch.where(own == -torch.inf, 0 * weight, part))
    half = sum(parts[1:], parts[0])
    limit = torch.finfo(half.dtype).max / 2  # rounding may have gone a little beyond the largest cell
    y = torch.where(half.isfinite(), half.clamp(-limit, limit), half) * 2
    return y.to(x.dtype)


def _backward(window: Window, grad: "Tensor", x: "Tensor", logit: "Tensor") -> "tuple[Tensor, Tensor]":
    """``dy/dx_i = w_i``, ``dy/dl_i = w_i (x_i - y)``."""
    weights = _weights(window, logit)
    y = sum(weight * value for weight, value in zip(weights, cells(widen(x), window, fill=0.0), strict=True))
    steps = [widen(grad) * weight for weight in weights]
    slopes = (step * (value - y) for step, value in zip(steps, cells(widen(x), window, fill=0.0), strict=True))
    return spread(steps, widen(x), window).to(x.dtype), spread(slopes, widen(logit), window).to(logit.dtype)


def _ordinary(window: Window, x: "Tensor", logit: "Tensor") -> "Tensor | None":
    wide, logits = widen(x), widen(logit)
    if not (can_average(window) and are_near(logits) and are_near(wide, _ORDINARY)):
        return None
    weights = logits.exp()
    return (average(window, wide * weights) / average(window, weights)).to(x.dtype)


local_importance_pool = operator(OPERATOR, "local_importance_pool", _forward, _backward, _ordinary)


# --- the pools


class _LocalImportancePool(WindowModule):
    def __init__(
        self,
        logit: "Callable[[Tensor], Tensor]",
        kernel_size: Size = 3,
        stride: Size | None = 2,
        padding: Size = 1,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if not isinstance(logit, Module):
            raise ArgumentError(
                f"logit={logit!r:.80} is not a torch.nn.Module; use one such as SimplifiedLogit2d(channels)"
            )
        self.logit: Module = logit

    def pool(self, x: "Tensor") -> "Tensor":
        return local_importance_pool(self.window, x, _expanded(self.logit(x), x))

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with logits that PyTorch computes in float64."""
        given = torch.from_numpy(x)
        with torch.no_grad():
            logit = _expanded(copy.deepcopy(self.logit).double().eval()(given), given)
        return reference(self.window, x, logit.numpy())


def _expanded(logit: "Tensor", x: "Tensor") -> "Tensor":
    """Logits of one channel serve all."""
    if is_jit_tracing():  # sizes that are compared there would be fixed
        return logit.expand_as(x)
    fits = logit.dim() == x.dim() and all(logit.shape[i] == x.shape[i] for i in range(x.dim()) if i != 1)
    if not fits or not (logit.shape[1] == 1 or logit.shape[1] == x.shape[1]):  # `in` does not compile
        raise ArgumentError(
            f"logit gives the shape {tuple(logit.shape)} for x of shape {tuple(x.shape)}; it must give one logit per "
            "cell: the same shape, or 1 channel"
        )
    return logit.expand_as(x)


class LocalImportancePool1d(_LocalImportancePool):
    """Local importance pooling over ``(N, C, L)``: as :class:`LocalImportancePool2d`."""

    rank = 1


class LocalImportancePool2d(_LocalImportancePool):
    """Local importance pooling over ``(N, C, H, W)``, by default 3x3 windows with stride 2 and padding 1.

    ``logit`` is a module that gives one logit per cell, of ``x``'s shape or with one channel for all. Other arguments
    and errors as :class:`onnxpool.pools._torch_ops.WindowModule`.

    >>> import torch
    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> LocalImportancePool2d(SimplifiedLogit2d(1), 2, 2, 0)(x).item()  # untrained, so the mean
    2.5
    """

    rank = 2


class LocalImportancePool3d(_LocalImportancePool):
    """Local importance pooling over ``(N, C, D, H, W)``: as :class:`LocalImportancePool2d`."""

    rank = 3
