"""Log-sum-exp pooling: a smooth maximum, between the mean (r -> 0) and the largest cell (r -> infinity).

    y = log( mean_i exp(r x_i) ) / r,   r > 0,   over the in-bounds cells of the window

Source: Pinheiro, Collobert, "From image-level to pixel-level labeling with convolutional networks", CVPR 2015.
``mean <= y <= max``, ``y(x + c) = y(x) + c``. Computed as ``y = m + log(mean exp(r (x - m))) / r`` with ``m`` the
window's maximum, which cannot overflow. A cell of -inf adds nothing to the sum and counts in the mean; a window of only
such cells gives -inf, one with +inf gives +inf, one with NaN gives NaN.

>>> import numpy as np
>>> round(reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item(), 10)
3.0538953374
"""

import math
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method, over_windows
from onnxpool.pools._torch_ops import WindowModule, cells, pooled_shape, standard_operator, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LogSumExpPool1d", "LogSumExpPool2d", "LogSumExpPool3d"]

METHOD = Method(
    name="LogSumExpPool",
    summary="a smooth maximum: the logarithm of the mean of exponentials",
    formula="y = log(mean exp(r x)) / r",
    source="Pinheiro and Collobert, CVPR 2015",
    modules=(
        "LogSumExpPool2d(2)",
        "LogSumExpPool1d(3, 2, 1, 2, r=5.0)",
        "LogSumExpPool2d(3, 2, 1, ceil_mode=True, learn_r=True)",
        "LogSumExpPool3d(2, r=0.1)",
    ),
)


# --- what it computes: float64, plain


def reference(window: Window, x: Array, r: float = 1.0) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition that everything else is compared with."""
    return over_windows(partial(_log_mean_exp, r=r), window, x)


def _log_mean_exp(x: Array, r: float) -> Array:
    top = x.max(-1)
    limit = np.finfo(np.float64).max
    exponent = r * np.minimum(x - np.clip(top, -limit, limit)[..., None], 0)
    less_one = np.expm1(exponent).mean(-1)  # exact where the exponents are tiny
    log_mean = np.where(less_one > -0.5, np.log1p(less_one), np.log(np.exp(exponent).mean(-1)))
    y: Array = top + log_mean / r
    return y


# --- how it trains


_FLOOR = -80.0
"""Exponents are cut here: beside the largest cell, whose exponent is 0, exp(-80) is nothing, in float64 too."""


def _forward(window: Window, x: "Tensor", learned: "Tensor | None", fixed: float) -> "Tensor":
    """The mean of ``exp - 1`` keeps the digits of tiny exponents, the mean of ``exp`` those of large ones."""
    r = fixed if learned is None else widen(learned)
    views = list(cells(widen(x), window, fill=-torch.inf))
    limit = torch.finfo(views[0].dtype).max
    top = reduce(torch.maximum, views).detach()  # the weights of the cells sum to 1, so that it has no gradient
    level = torch.where(top.isinf(), 0, top)
    exponents = [(r * (view - level).clamp(-limit, 0.0)).clamp(min=_FLOOR) for view in views]
    inside = list(cells(level.new_ones((1, 1, *x.shape[2:])), window, fill=0.0))
    count = reduce(torch.add, inside)
    pairs = list(zip(exponents, inside, strict=True))
    less_one = reduce(torch.add, [exponent.expm1() * here for exponent, here in pairs]) / count
    mean = reduce(torch.add, [exponent.exp() * here for exponent, here in pairs]) / count
    log_mean = torch.where(less_one > -0.5, less_one.clamp(min=-0.5).log1p(), mean.log())
    return (top + log_mean / r).to(x.dtype)


# --- how it looks in ONNX


def _translate(op: Any, window: Window, x: Any, learned: Any, fixed: float) -> Any:
    """ONNX has no ``expm1`` and no ``log1p``: what ``exp(x)`` has rounded away is ``x - log(exp(x))``, what ``1 + x``
    has is ``x - ((1 + x) - 1)``.
    """
    wide = onnx_ops.wide_for(x.dtype)
    zero, one, half, floor, infinity = (onnx_ops.number(op, value, wide) for value in (0, 1, -0.5, _FLOOR, math.inf))

    def less_one(exponent: Any, power: Any) -> Any:
        return op.Add(op.Sub(power, one), op.Mul(power, op.Sub(exponent, op.Log(power))))

    def log_one_more(x: Any) -> Any:
        sum_ = op.Add(x, one)
        return op.Add(op.Log(sum_), op.Div(op.Sub(x, op.Sub(sum_, one)), sum_))

    def write(x: Any) -> Any:
        r = onnx_ops.number(op, fixed, wide) if learned is None else onnx_ops.cast(op, learned, wide)
        views = list(onnx_ops.cells(op, x, window, -math.inf, wide))
        top = op.Max(*views)
        level = op.Where(op.Less(op.Abs(top), infinity), top, zero)
        exponents = [op.Clip(op.Mul(op.Sub(view, level), r), floor, zero) for view in views]
        powers = [op.Exp(exponent) for exponent in exponents]
        less = [less_one(exponent, power) for exponent, power in zip(exponents, powers, strict=True)]
        count = onnx_ops.number(op, len(views), wide)
        if any(window.pad + window.tail):
            inside = list(onnx_ops.cells(op, onnx_ops.ones_like(op, x, wide), window, 0, wide))
            less = [op.Mul(value, here) for value, here in zip(less, inside, strict=True)]
            count = op.Sum(*inside)
        mean_less, mean = op.Div(op.Sum(*less), count), op.Div(op.Sum(*powers), count)  # in padding powers are nothing
        flat = log_one_more(op.Max(mean_less, half))
        log_mean = op.Where(op.Greater(mean_less, half), flat, op.Log(mean))
        return op.Add(top, op.Div(log_mean, r))

    return onnx_ops.computed_in(op, x, wide, write)


_pool = standard_operator(
    "log_sum_exp_pool",
    "Window window, Tensor x, Tensor? learned, float fixed",
    _forward,
    lambda window, x, *_: pooled_shape(window, x),
    _translate,
)


def log_sum_exp_pool(window: Window, x: "Tensor", r: "float | Tensor") -> "Tensor":
    """``(N, C, *spatial) -> (N, C, *output)``, computed in float32 where ``x`` is of a shorter type."""
    return _pool(window, x, None, r) if isinstance(r, float) else _pool(window, x, r, 0.0)


# --- modules


class _LogSumExpPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        r: float = 1.0,
        learn_r: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if isinstance(r, bool) or not (isinstance(r, int | float) and 0 < r < math.inf):
            raise ArgumentError(f"r={r!r} must be a positive number")
        if not isinstance(learn_r, bool):
            raise ArgumentError(f"learn_r={learn_r!r} is not a bool; use True or False")
        self._r = float(r)
        self.log_r: torch.nn.Parameter | None = torch.nn.Parameter(torch.tensor(math.log(r))) if learn_r else None

    @property
    def r(self) -> "float | Tensor":
        """How sharp the maximum is; a tensor where it is learned."""
        return self._r if self.log_r is None else widen(self.log_r).exp()

    def pool(self, x: "Tensor") -> "Tensor":
        return log_sum_exp_pool(self.window, x, self.r)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present ``r``."""
        return reference(self.window, x, self._number())

    def extra_repr(self) -> str:
        """The window, and ``r``."""
        return f"{self.window}, r={self._number():.4g}" + " learned" * (self.log_r is not None)

    def _number(self) -> float:
        return self._r if self.log_r is None else math.exp(self.log_r.item())


class LogSumExpPool1d(_LogSumExpPool):
    """Log-sum-exp pooling over ``(N, C, L)``: as :class:`LogSumExpPool2d`."""

    rank = 1


class LogSumExpPool2d(_LogSumExpPool):
    """Log-sum-exp pooling over ``(N, C, H, W)``.

    ``r`` is how sharp the maximum is, in units of 1 / x: by default 1, the plain logarithm of the mean of exponentials.
    With ``learn_r`` its logarithm is the parameter ``log_r``. float16 and bfloat16 are computed in float32. Other
    arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also :class:`ArgumentError` for an ``r``
    that is not positive and finite.

    >>> import torch
    >>> round(LogSumExpPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).item(), 10)
    3.0538953374
    """

    rank = 2


class LogSumExpPool3d(_LogSumExpPool):
    """Log-sum-exp pooling over ``(N, C, D, H, W)``: as :class:`LogSumExpPool2d`."""

    rank = 3
