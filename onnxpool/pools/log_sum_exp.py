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
from collections.abc import Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np

from onnxpool.errors import ArgumentError
from onnxpool.pool import Array, Pool, over_windows
from onnxpool.torch_op import WindowModule, cells, pooled_shape, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LogSumExpPool1d", "LogSumExpPool2d", "LogSumExpPool3d"]

POOL = Pool(
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


# --- how it trains, and what is exported: strided slices, one per cell of the window, and elementwise operators


_FLOOR = -80.0
"""Exponents are cut here: beside the largest cell, whose exponent is 0, exp(-80) is nothing, in float64 too."""


def log_sum_exp_pool(window: Window, x: "Tensor", r: "float | Tensor") -> "Tensor":
    """``(N, C, *spatial) -> (N, C, *output)``, computed in the type of ``x``.

    The mean of ``exp - 1`` keeps the digits of tiny exponents, the mean of ``exp`` those of exponents far below 0.
    """
    limit = torch.finfo(x.dtype).max
    views = list(cells(x, window, fill=-torch.inf))
    top = reduce(torch.maximum, views).detach()  # the weights of the cells sum to 1, so that it has no gradient
    level = torch.where(top.isinf(), 0, top)
    exponents = [(r * (view - level).clamp(-limit, 0.0)).clamp(min=_FLOOR) for view in views]
    inside, count = _inside(window, x, len(views))
    less_one = _total([_expm1(exponent) * here for exponent, here in zip(exponents, inside, strict=True)]) / count
    mean = _total([exponent.exp() * here for exponent, here in zip(exponents, inside, strict=True)]) / count
    flat, steep = _log1p(less_one.clamp(min=-0.5)), mean.log()
    return top + torch.where(less_one > -0.5, flat, steep) / r


def _inside(window: Window, x: "Tensor", size: int) -> "tuple[Sequence[float | Tensor], float | Tensor]":
    """For each cell of the window 1 where it is in bounds, else 0; and how many are."""
    if not any(window.pad + window.tail):
        return [1.0] * size, float(size)
    inside = list(cells(x.new_ones((1, 1, *x.shape[2:])), window, fill=0.0))
    return inside, _total(inside)


def _total(terms: "list[Tensor]") -> "Tensor":
    return sum(terms[1:], terms[0])


def _expm1(x: "Tensor") -> "Tensor":
    """``exp(x) - 1``, for ``x`` from the floor to 0.

    ONNX has no such operator, and PyTorch's exporter writes the difference, which is 0 for tiny ``x``. What ``exp`` has
    rounded away is ``x - log(exp(x))``.
    """
    if not torch.compiler.is_exporting():
        return x.expm1()
    power = x.exp()
    return (power - 1) + power * (x - power.log())


def _log1p(x: "Tensor") -> "Tensor":
    """``log(1 + x)``, for the same reason: what the sum has rounded away is ``x - ((1 + x) - 1)``."""
    if not torch.compiler.is_exporting():
        return x.log1p()
    one_more = 1 + x
    return one_more.log() + (x - (one_more - 1)) / one_more


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
        self.log_r = torch.nn.Parameter(torch.tensor(math.log(r))) if learn_r else None

    @property
    def r(self) -> "float | Tensor":
        """How sharp the maximum is; a tensor where it is learned."""
        return self._r if self.log_r is None else widen(self.log_r).exp()

    def pool(self, x: "Tensor") -> "Tensor":
        """Pool a batch ``(N, C, *spatial)``."""
        pooled_shape(self.window, x)
        return log_sum_exp_pool(self.window, widen(x), self.r).to(x.dtype)

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
    arguments and errors as :class:`onnxpool.torch_op.WindowModule`; also :class:`ArgumentError` for an ``r`` that is
    not positive and finite.

    >>> import torch
    >>> round(LogSumExpPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).item(), 10)
    3.0538953374
    """

    rank = 2


class LogSumExpPool3d(_LogSumExpPool):
    """Log-sum-exp pooling over ``(N, C, D, H, W)``: as :class:`LogSumExpPool2d`."""

    rank = 3
