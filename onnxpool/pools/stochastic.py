"""Stochastic pooling: trained, a cell drawn with probability in proportion to its value; evaluated, their mean.

    training      y = a_i with probability a_i / sum_j a_j
    evaluation    y = sum_i a_i^2 / sum_j a_j,   a = max(x, 0),   over the in-bounds cells of the window

Source: Zeiler, Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", ICLR 2013, which
takes its input from a rectifier. ``y = 0`` where no cell is above 0; ``y(c x) = c y(x)`` for ``c > 0``; in evaluation
``mean(a) <= y <= max(a)``. Everywhere computed from ``a_i / m`` with ``m = max a``, so that no square leaves the range
of its type. A window that holds NaN or +inf gives NaN; -inf counts as 0.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[-1.0, 2.0], [3.0, -4.0]]]])).item()
2.6
"""

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _function_body as body
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Calls, Method, Operator, over_windows
from onnxpool.pools._ordinary import are_near, average, can_average
from onnxpool.pools._torch_ops import WindowModule, cells, draw_operator, operator, spread, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StochasticPool1d", "StochasticPool2d", "StochasticPool3d"]


# --- what it computes: float64, plain


def reference(window: Window, x: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, in evaluation: what all else is compared with."""
    return over_windows(_expected, window, x)


def _expected(x: Array) -> Array:
    a = np.where(x < 0, 0, x)
    top = a.max(-1, keepdims=True)
    shares = np.divide(a, top, out=np.zeros_like(a), where=top != 0)
    total = shares.sum(-1)
    mean = np.divide((shares**2).sum(-1), total, out=np.zeros_like(total), where=total != 0)
    expected: Array = top[..., 0] * mean
    return expected


# --- how it looks in ONNX

_ORDINARY = 2.0**50
"""Where no cell is above this, and each mean 0 or above 1 / this, sums of 2^24 squares are normal float32, but for
squares that are nothing beside others of their window."""

_SMALLEST = {
    ir.DataType.FLOAT16: (2.0**-14, 2.0**-10),
    ir.DataType.BFLOAT16: (2.0**-126, 2.0**-23),
    ir.DataType.FLOAT: (2.0**-126, 2.0**-23),
    ir.DataType.DOUBLE: (2.0**-1022, 2.0**-52),
}
"""The smallest normal number of each type, and the share in it that the smallest denormal number has.

Denormal numbers are 0 in many runtimes, so that none stands in a model, or is divided by. Those of float16 are right
also where a runtime computes the whole model in float16.
"""


def _exact(op: Any, windows: body.Windows, dtype: ir.DataType, wide: ir.DataType) -> Any:
    smallest, least = (onnx_ops.number(op, value, wide) for value in _SMALLEST[dtype])
    top = windows.largest()
    above = op.Max(top, smallest)

    def cell(op: Any, a: Any) -> tuple[Any, Any]:
        share = op.Div(a, above)
        return share, op.Mul(share, share)

    total, moment = windows.sums(top, cell)
    positive = op.Max(total, least)  # less only where nothing is above 0, and then the moment is 0
    return op.Mul(above, op.Div(moment, positive))


def function(calls: Calls) -> ir.Function:
    """The generic function: a ratio of two average pools where no value is large or tiny, else a loop over the cells.

    For when the ratio is out, see :func:`onnxpool.pools.soft.function`.
    """
    wide = calls.wide

    def write(op: Any, x: Any) -> Any:
        nothing = onnx_ops.number(op, 0, wide)
        a = op.Max(x, nothing)

        def exact(op: Any) -> Any:
            return _exact(op, body.LoopedWindows(op, wide, (a, 0.0)), wide, wide)

        if calls.dilated or wide == ir.DataType.DOUBLE:
            return exact(op)
        limit, least = (onnx_ops.number(op, value, wide) for value in (_ORDINARY, 1 / _ORDINARY))
        mean = body.average(op, a)
        positive_mean = op.Where(op.Greater(mean, nothing), mean, limit)
        is_small = op.Less(op.ReduceMax(a, keepdims=0), limit)
        is_large = op.Greater(op.ReduceMin(positive_mean, keepdims=0), least)

        def ratio(op: Any) -> Any:
            return op.Div(body.average(op, op.Mul(a, a)), positive_mean)

        return body.either(op, op.And(is_small, is_large), ratio, exact, wide)

    return body.function(calls, OPERATOR.op_type, OPERATOR.inputs, write)


def standard(op: Any, window: Window, dtype: ir.DataType, x: Any) -> Any:
    """The same for one window, without control flow: one strided slice per cell of the window.

    Rectified by Where: 17 times slower than Max or Relu, which lose NaN in some runtimes.
    """
    wide = onnx_ops.wide_for(dtype)
    nothing = onnx_ops.number(op, 0, wide)
    a = op.Where(op.Less(x, nothing), nothing, x)
    return _exact(op, onnx_ops.SlicedWindows(op, window, wide, (a, 0.0)), dtype, wide)


OPERATOR = Operator("StochasticPool", ("x",), reference, function, standard)

METHOD = Method(
    name="StochasticPool",
    summary="a cell drawn in proportion to its value in training, the mean of such draws in evaluation",
    formula="y = sum a_i^2 / sum a_i, a = max(x, 0)",
    source="Zeiler and Fergus, ICLR 2013",
    modules=(
        "StochasticPool1d(3, 2, 1, 2)",
        "StochasticPool2d(3, 2, 1)",
        "StochasticPool2d(2, ceil_mode=True)",
        "StochasticPool3d(2)",
    ),
    operator=OPERATOR,
)


# --- how it trains


def _shares(window: Window, x: "Tensor") -> "tuple[Tensor, list[Tensor], Tensor]":
    """Maximum ``m`` of ``a``, ``a_i / m`` in the order of cells (0 where ``m`` is), and their sum."""
    views = [view.clamp(min=0) for view in cells(widen(x), window, fill=0.0)]
    top = reduce(torch.maximum, views)
    above = torch.where(top == 0, 1, top)  # forward-mode derivatives would be 0 / 0
    shares = [view / above for view in views]
    return top, shares, sum(shares[1:], shares[0])


def _forward(window: Window, x: "Tensor") -> "Tensor":
    top, shares, total = _shares(window, x)
    moment = sum(share * share for share in shares)
    return (top * (moment / torch.where(top == 0, 1, total))).to(x.dtype)


def _backward(window: Window, grad: "Tensor", x: "Tensor") -> "tuple[Tensor]":
    """``dy/dx_i = (2 a_i - y) / sum a`` where ``x_i > 0``, else 0."""
    top, shares, total = _shares(window, x)
    mean = sum(share * share for share in shares) / total
    step = torch.where(top == 0, 0, widen(grad) / total)
    slopes = (torch.where(share > 0, step * (2 * share - mean), 0) for share in shares)
    return (spread(slopes, widen(x), window).to(x.dtype),)


def _ordinary(window: Window, x: "Tensor") -> "Tensor | None":
    a = widen(x).relu()  # its slope is 0 at 0
    if not (can_average(window) and are_near(a, _ORDINARY)):
        return None
    mean = average(window, a)
    if not bool(((mean == 0) | (mean > 1 / _ORDINARY)).all()):
        return None
    return (average(window, a * a) / mean.clamp(min=1 / _ORDINARY)).to(x.dtype)


stochastic_pool = operator(OPERATOR, "stochastic_pool", _forward, _backward, _ordinary)


def _pick(window: Window, x: "Tensor", uniforms: "Tensor", of: "Tensor", fill: float) -> "Tensor":
    """What ``of`` has in the cell that ``uniforms`` draw of each window; where none is drawn ``fill``, or NaN."""
    with torch.no_grad():
        _, shares, total = _shares(window, x)
        threshold = uniforms * total
    before = torch.zeros_like(total)
    picked = fill + 0 * total  # NaN where a cell is
    for share, value in zip(shares, cells(of, window, fill=fill), strict=True):
        picked = torch.where((share > 0) & (before <= threshold), value, picked)
        before = before + share
    return picked


def _drawn(window: Window, x: "Tensor", uniforms: "Tensor") -> "Tensor":
    """Of each window the last cell above 0 whose predecessors sum up to no more than ``uniforms`` times the whole."""
    return _pick(window, x, uniforms, widen(x), 0).to(x.dtype)


def _places(window: Window, x: "Tensor", uniforms: "Tensor") -> "Tensor":
    """Where that cell stands in its plane; -1 where none is drawn."""
    places = torch.arange(math.prod(x.shape[2:]), device=x.device).view(1, 1, *x.shape[2:])
    return _pick(window, x, uniforms, places.double(), -1).nan_to_num(nan=-1).long()


draw = draw_operator("stochastic_draw", _drawn, _places)
"""Draw one cell of each window: ``(window, x) -> output``. Gradients go to the cells that were drawn; 0 has none."""


class _StochasticPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        sample_in_eval: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if not isinstance(sample_in_eval, bool):
            raise ArgumentError(f"sample_in_eval={sample_in_eval!r} is not a bool; use True or False")
        self.sample_in_eval: bool = sample_in_eval

    @property
    def draws(self) -> bool:
        """Whether forward draws at random, so that no two calls give the same: then it cannot be exported."""
        return self.training or self.sample_in_eval

    def pool(self, x: "Tensor") -> "Tensor":
        if not self.draws:
            return stochastic_pool(self.window, x)
        return draw(self.window, x)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`: what many draws come to on average."""
        return reference(self.window, x)


class StochasticPool1d(_StochasticPool):
    """Stochastic pooling over ``(N, C, L)``: as :class:`StochasticPool2d`."""

    rank = 1


class StochasticPool2d(_StochasticPool):
    """Stochastic pooling over ``(N, C, H, W)``: draws a cell in training, and averages in evaluation.

    ``sample_in_eval=True`` draws in evaluation too, for averages over several runs of a network (section 5.5 of the
    paper). Other arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`.

    >>> import torch
    >>> StochasticPool2d(2).eval()(torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]], dtype=torch.float64)).item()
    2.6
    """

    rank = 2


class StochasticPool3d(_StochasticPool):
    """Stochastic pooling over ``(N, C, D, H, W)``: as :class:`StochasticPool2d`."""

    rank = 3
