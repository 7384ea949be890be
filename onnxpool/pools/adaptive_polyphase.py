"""Adaptive polyphase sampling: of the s x s ways to take every s-th position, the one that holds most.

    y = x[:, :, i::s, j::s]   with (i, j) the phase of the largest norm, (sum |x[:, :, i::s, j::s]|^p)^(1/p)

The norm is that of all channels together, or of each. The first phase in row-major order wins where norms are equal. An
axis whose length is no multiple of s is continued by its beginning first. A circular shift of the input by any number
of positions shifts the output, where axes are multiples of s: a network of this, of circular convolutions and a global
pooling at the end gives the same class for every shift, before it is trained too.

Source: Chaman, Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021. There a blur comes before;
here that is :class:`BlurPool2d` with stride 1 and ``padding_mode="circular"``. Magnitudes are measured in units of the
largest, so that no power overflows. An infinity makes its phase's norm infinite; NaN in a sample, or a channel where
each has its own phase, makes all of it NaN, since no phase is then the largest. The gradient is that of what was taken.

>>> import numpy as np
>>> reference(np.array([[[1.0, -2.0, 3.0, -4.0]]]), (2,))
array([[[-2., -4.]]])
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import (
    PoolModule,
    has_known_sizes,
    is_jit_tracing,
    laid_out_as,
    standard_operator,
    torch,
    widen,
)
from onnxpool.pools._windows_at_run_time import constant
from onnxpool.window import Size, per_axis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaptivePolyphasePool1d", "AdaptivePolyphasePool2d", "AdaptivePolyphasePool3d"]

Per = Literal["sample", "channel"]

METHOD = Method(
    name="AdaptivePolyphasePool",
    summary="every s-th position, from where the norm is largest",
    formula="y = x[i::s, j::s] of the largest norm",
    source="Chaman and Dokmanic, CVPR 2021",
    modules=("AdaptivePolyphasePool2d()",),
)


# --- what it computes: float64, plain


def reference(x: Array, stride: Sequence[int], p: float = 2.0, per: Per = "sample") -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *ceil(spatial / stride))``: the definition."""
    ends = [(0, 0), (0, 0), *((0, -n % s) for n, s in zip(x.shape[2:], stride, strict=True))]
    around = np.pad(x, ends, mode="wrap") if x.size else x
    y = np.empty((*x.shape[:2], *(-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True))))
    channels = [[c] for c in range(x.shape[1])] if per == "channel" else [list(range(x.shape[1]))]
    for n, some in product(range(len(x)), channels):
        phases = [
            around[n, some][:, *(slice(i, None, s) for i, s in zip(offset, stride, strict=True))]
            for offset in product(*map(range, stride))
        ]
        best = phases[int(np.argmax([_norm(phase, p, np.abs(around[n, some]).max()) for phase in phases]))]
        y[n, some] = np.nan if np.isnan(around[n, some]).any() else best
    return y


def _norm(phase: Array, p: float, largest: float) -> float:
    """In units of the largest magnitude, and to the power of p."""
    if not 0 < largest < math.inf:
        return float(np.isinf(phase).any())
    relative = np.abs(phase) / largest
    return float(relative.max() if p == math.inf else (relative**p).sum())


# --- how it trains


def _forward(x: "Tensor", stride: Sequence[int], p: float, each: bool) -> "Tensor":
    phases = _phases(x, stride)
    axes = tuple(range(2 if each else 1, x.dim()))
    size = widen(x.detach()).abs()
    largest = _most(size, axes)
    is_infinite = largest == torch.inf
    unit = torch.where(is_infinite | (largest == 0), 1, largest)
    relative = torch.where(is_infinite & (size < torch.inf), 0, torch.where(size == torch.inf, 1, size / unit))
    power = relative if p in (1, math.inf) else relative**p
    norms = [_most(part, axes) if p == math.inf else part.sum(axes, keepdim=True) for part in _phases(power, stride)]
    norms = [torch.where(is_infinite, norm.clamp(max=1), norm) for norm in norms]
    y, most = phases[0], norms[0]
    for phase, norm in zip(phases[1:], norms[1:], strict=True):
        is_more = norm > most
        y, most = torch.where(is_more, phase, y), torch.where(is_more, norm, most)
    has_nan = relative.sum(axes, keepdim=True).isnan()
    return laid_out_as(x, torch.where(has_nan, torch.nan, y))


def _most(size: "Tensor", axes: tuple[int, ...]) -> "Tensor":
    if not is_jit_tracing() and size.shape[0] == 0:
        return size.sum(axes, keepdim=True)  # there is no largest number of an empty batch
    return size.amax(axes, keepdim=True)


def _phases(x: "Tensor", stride: Sequence[int]) -> "list[Tensor]":
    """Every phase in row-major order: views of ``x``, continued by its beginning."""
    for axis, step in enumerate(stride, start=2):
        if step > 1:
            n = x.shape[axis]
            place = torch.arange((n + step - 1) // step * step, device=x.device)
            x = x.index_select(axis, torch.where(place < n, place, place - n) % n)
    views: list[Any] = [
        (..., *(slice(i, None, s) for i, s in zip(offset, stride, strict=True)))
        for offset in product(*map(range, stride))
    ]
    return [x[view] for view in views]


def _shape(x: "Tensor", stride: Sequence[int], *_: Any) -> tuple[Any, ...]:
    if has_known_sizes(x) and 0 in x.shape[1:]:
        raise ArgumentError(f"x has shape {tuple(x.shape)}, which has no position to pool; use at least one")
    return (*x.shape[:2], *((n + s - 1) // s for n, s in zip(x.shape[2:], stride, strict=True)))


# --- how it looks in ONNX


def _translate(op: Any, x: Any, stride: Sequence[int], p: float, each: bool) -> Any:
    wide, rank = onnx_ops.wide_for(x.dtype), len(stride)
    axes = onnx_ops.ints(op, *range(2 if each else 1, rank + 2))

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def continued(x: Any) -> Any:
        """To multiples of the stride."""
        for axis, step in enumerate(stride, start=2):
            if step > 1:
                n, more = op.Shape(x, start=axis, end=axis + 1), onnx_ops.ints(op, step - 1)
                end = op.Mul(op.Div(op.Add(n, more), onnx_ops.ints(op, step)), onnx_ops.ints(op, step))
                place = op.Range(constant(op, 0), op.Squeeze(end), constant(op, 1))
                x = op.Gather(x, op.Mod(place, n), axis=axis)
        return x

    def phases(x: Any) -> list[Any]:
        spatial, steps = onnx_ops.ints(op, *range(2, rank + 2)), onnx_ops.ints(op, *stride)
        ends = onnx_ops.ints(op, *[2**31 - 1] * rank)
        return [
            op.Slice(x, onnx_ops.ints(op, *offset), ends, spatial, steps) for offset in product(*map(range, stride))
        ]

    def norm(part: Any) -> Any:
        return op.ReduceMax(part, axes) if p == math.inf else op.ReduceSum(part, axes)

    def write(x: Any) -> Any:
        around, zero, one, infinity = continued(x), number(0), number(1), number(math.inf)
        size = op.Abs(around)
        largest = op.ReduceMax(size, axes)
        is_infinite = op.Equal(largest, infinity)
        unit = op.Where(op.Or(is_infinite, op.Equal(largest, zero)), one, largest)
        ratio = op.Where(op.Equal(size, infinity), one, op.Div(size, unit))
        relative = op.Where(op.And(is_infinite, op.Less(size, infinity)), zero, ratio)
        power = (
            relative if p in (1, math.inf) else op.Mul(relative, relative) if p == 2 else op.Pow(relative, number(p))
        )
        norms = [op.Where(is_infinite, op.Min(value, one), value) for value in map(norm, phases(power))]
        (y, *others), most = phases(around), norms[0]
        for phase, value in zip(others, norms[1:], strict=True):
            is_more = op.Greater(value, most)
            y, most = op.Where(is_more, phase, y), op.Where(is_more, value, most)
        has_nan = op.IsNaN(op.ReduceSum(relative, axes))
        return op.Where(has_nan, number(math.nan), y)

    return onnx_ops.computed_in(op, x, wide, write)


adaptive_polyphase_pool = standard_operator(
    "adaptive_polyphase_pool", "Tensor x, int[] stride, float p, bool each", _forward, _shape, _translate
)


# --- modules


class _AdaptivePolyphasePool(PoolModule):
    def __init__(self, stride: Size = 2, p: float = 2.0, *, per: Per = "sample") -> None:
        super().__init__()
        self.stride: tuple[int, ...] = per_axis("stride", stride, self.rank, 1)
        if isinstance(p, bool) or not isinstance(p, int | float) or not p >= 1:
            raise ArgumentError(f"p={p!r} must be a number of at least 1, or math.inf")
        if per not in get_args(Per):
            raise ArgumentError(f"per={per!r} is unknown; use one of {', '.join(get_args(Per))}")
        self.p: float = float(p)
        self.per: Per = per

    def pool(self, x: "Tensor") -> "Tensor":
        return adaptive_polyphase_pool(x, list(self.stride), self.p, self.per == "channel")

    def reference(self, x: Array) -> Array:
        return reference(x, self.stride, self.p, self.per)

    def extra_repr(self) -> str:
        return f"{self.stride}, p={self.p:g}, per={self.per!r}"


class AdaptivePolyphasePool1d(_AdaptivePolyphasePool):
    """Adaptive polyphase sampling over ``(N, C, L)``; arguments and errors as :class:`AdaptivePolyphasePool2d`."""

    rank = 1


class AdaptivePolyphasePool2d(_AdaptivePolyphasePool):
    """Adaptive polyphase sampling ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``.

    ``stride`` is s, an int or one per axis; ``p`` that of the norm, at least 1, ``math.inf`` for the largest magnitude;
    ``per``: ``"sample"`` takes the same phase of all channels, as published, ``"channel"`` one of each. Norms are
    computed in float32 of float16 and bfloat16. Raises :class:`ArgumentError` for others, and in ``forward`` for a
    wrong rank, an integer dtype, and an input without positions.

    >>> import torch
    >>> AdaptivePolyphasePool2d()(torch.tensor([[[[1.0, 2.0, 0.0, 7.0], [3.0, 4.0, 5.0, 6.0]]]]))
    tensor([[[[2., 7.]]]])
    """

    rank = 2


class AdaptivePolyphasePool3d(_AdaptivePolyphasePool):
    """Adaptive polyphase sampling over ``(N, C, D, H, W)``; as :class:`AdaptivePolyphasePool2d`."""

    rank = 3
