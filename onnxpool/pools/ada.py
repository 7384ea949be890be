"""AdaPool: a learned mix of two means, one weighted by likeness to the window's mean, one by the softmax of the values.

    y = beta eDSCW + (1 - beta) eM,   0 <= beta <= 1
    eDSCW = sum_i w_i x_i / sum_i w_i,   w_i = exp(D(x_i, m)),   m the mean of the window
    D(a, b) = 2 |a b| / (a^2 + b^2),   the Dice-Sorensen coefficient, from 0 to 1
    eM = SoftPool,   over the in-bounds cells of the window

``beta`` is learned, for the layer, for each channel, or for each region of an output of known size; what is learned is
its logit, so that it stays between 0 and 1. Both means stay within the window's values. Where a cell and the mean are
both 0, D is 0: the answer is 0 whatever it is. NaN or an infinity in the window gives NaN. Computed by the ratio of
magnitudes, so that no square overflows.

Source: Stergiou, Poppe, "AdaPool: exponential adaptive pooling for information-retaining downsampling", IEEE
Transactions on Image Processing, 2023. The authors' kernels, which run on CUDA only, give 0 in place of every negative
answer, and clamp beta where their learning may have led; neither is followed.

>>> import numpy as np
>>> x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
>>> [round(reference(Window.of(2, 2), x, beta).item(), 10) for beta in (0.0, 1.0)]
[3.4926527346, 2.5722499539]
"""

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools import soft
from onnxpool.pools._large import LARGE, LESS, unit_for
from onnxpool.pools._method import Method, over_windows
from onnxpool.pools._shares import Share, mixed
from onnxpool.pools._torch_ops import WindowModule, cells, pooled_shape, standard_operator, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaPool1d", "AdaPool2d", "AdaPool3d"]

METHOD = Method(
    name="AdaPool",
    summary="a learned mix of SoftPool and a mean weighted by likeness to the window's mean",
    formula="y = beta sum x_i exp(D_i) / sum exp(D_i) + (1 - beta) SoftPool, D_i = 2 |x_i m| / (x_i^2 + m^2)",
    source="Stergiou and Poppe, TIP 2023",
    modules=("AdaPool2d(3, 2, 1, channels=3)",),
)


# --- what it computes: float64, plain


def reference(window: Window, x: Array, beta: float | Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``beta`` of a shape that fits the output: the definition."""
    alike, softest = over_windows(_dice_weighted, window, x), soft.reference(window, x)
    with np.errstate(all="ignore"):
        return np.asarray(beta * alike + (1 - np.asarray(beta)) * softest)


def _dice_weighted(x: Array) -> Array:
    mean = np.abs((x / x.shape[-1]).sum(-1, keepdims=True))
    size = np.abs(x)
    ratio = np.where(
        mean == size, np.where(np.isfinite(mean), 1, np.nan), np.minimum(mean, size) / np.maximum(mean, size)
    )
    weight = np.exp(2 * ratio / (1 + ratio**2))
    return np.asarray((weight / weight.sum(-1, keepdims=True) * x).sum(-1))


# --- how it trains


def _forward(window: Window, x: "Tensor") -> "Tensor":
    wide = widen(x)
    unit = unit_for(wide)  # so that no sum leaves the type
    views, is_padded = list(cells(wide, window, fill=0.0)), any(window.pad + window.tail)
    count: Any = len(views)
    low, high = reduce(torch.minimum, views), reduce(torch.maximum, views)
    inside: list[Any] = [1.0] * len(views)
    if is_padded:
        inside = list(cells(wide.new_ones((1, 1, *x.shape[2:])), window, fill=0.0))
        count = reduce(torch.add, inside)
        low = reduce(torch.minimum, cells(wide, window, fill=torch.inf))
        high = reduce(torch.maximum, cells(wide, window, fill=-torch.inf))
    mean = (reduce(torch.add, [view * unit for view in views]) / count).abs()
    ratios = [_ratio(view.abs() * unit, mean) for view in views]
    weights = [(2 * r / (1 + r * r)).exp() * here for r, here in zip(ratios, inside, strict=True)]
    total = reduce(torch.add, weights)
    y = reduce(torch.add, [weight / total * view for weight, view in zip(weights, views, strict=True)])
    pooled: Tensor = y.clamp(low, high)
    return pooled.to(x.dtype)


def _ratio(size: "Tensor", mean: "Tensor") -> "Tensor":
    """The smaller divided by the larger; 0 of zeros. Below normal numbers it has no slope, which would be infinite."""
    smaller, larger = torch.minimum(size, mean), torch.maximum(size, mean)
    least = torch.finfo(size.dtype).smallest_normal
    plain = smaller.detach() / torch.where(larger == 0, 1, larger).detach()
    return torch.where(larger < least, plain, smaller / larger.clamp(min=least))


# --- how it looks in ONNX


def _translate(op: Any, window: Window, x: Any) -> Any:
    wide = onnx_ops.wide_for(x.dtype)
    zero, one, two, large, less = (onnx_ops.number(op, value, wide) for value in (0, 1, 2, LARGE, LESS))

    def write(x: Any) -> Any:
        views, is_padded = list(onnx_ops.cells(op, x, window, 0, wide)), any(window.pad + window.tail)
        lowest, highest, inside = views, views, None
        count = onnx_ops.number(op, len(views), wide)
        if is_padded:
            inside = list(onnx_ops.cells(op, onnx_ops.ones_like(op, x, wide), window, 0, wide))
            count = op.Sum(*inside)
            lowest, highest = (list(onnx_ops.cells(op, x, window, fill, wide)) for fill in (math.inf, -math.inf))
        unit = op.Where(op.Greater(op.ReduceMax(op.Abs(x), keepdims=0), large), less, one)
        scaled = [op.Mul(view, unit) for view in views]
        mean = op.Abs(op.Div(op.Sum(*scaled), count))
        weights = []
        for i, value in enumerate(scaled):
            size = op.Abs(value)
            larger = op.Max(size, mean)
            ratio = op.Div(op.Min(size, mean), op.Where(op.Equal(larger, zero), one, larger))
            weight = op.Exp(op.Div(op.Mul(two, ratio), op.Add(op.Mul(ratio, ratio), one)))
            weights.append(op.Mul(weight, inside[i]) if inside else weight)
        total = op.Sum(*weights)
        y = op.Sum(*(op.Mul(op.Div(weight, total), view) for weight, view in zip(weights, views, strict=True)))
        return op.Min(op.Max(y, op.Min(*lowest)), op.Max(*highest))

    return onnx_ops.computed_in(op, x, wide, write)


dice_weighted_pool = standard_operator(
    "dice_weighted_pool", "Window window, Tensor x", _forward, pooled_shape, _translate
)


# --- modules


class _AdaPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size = 2,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        beta: float = 0.5,
        learn_beta: bool = True,
        channels: int | None = None,
        regions: Size | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.beta: Share = Share("beta", self.rank, beta, learn_beta, channels, regions)

    def pool(self, x: "Tensor") -> "Tensor":
        wide = widen(x)
        share = self.beta.of(self.window, wide)
        return mixed(share, dice_weighted_pool(self.window, wide), soft.soft_pool(self.window, wide)).to(x.dtype)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present ``beta``."""
        return reference(self.window, x, self.beta.number())

    def extra_repr(self) -> str:
        return str(self.window)


class AdaPool1d(_AdaPool):
    """AdaPool over ``(N, C, L)``; arguments and errors as :class:`AdaPool2d`."""

    rank = 1


class AdaPool2d(_AdaPool):
    """AdaPool over ``(N, C, H, W)``: ``beta`` of eDSCW and the rest of SoftPool.

    ``beta`` is where learning starts, between 0 and 1; without ``learn_beta`` it stays, and may be 0 or 1. ``channels``
    learns one for each channel, ``regions``, the output's size, one for each of its positions. float16 and bfloat16 are
    computed in float32. Other arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also
    :class:`ArgumentError` for others, and in ``forward`` for other channels or another output.

    >>> import torch
    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    >>> round(AdaPool2d(2, beta=1, learn_beta=False)(x).item(), 10)
    2.5722499539
    """

    rank = 2


class AdaPool3d(_AdaPool):
    """AdaPool over ``(N, C, D, H, W)``; arguments and errors as :class:`AdaPool2d`."""

    rank = 3
