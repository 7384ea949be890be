"""Blur pooling: a binomial filter, of which every s-th position is taken, so that fine detail leaves no false pattern.

    y = sum_k b_k x[s i + k - (K - 1) // 2] / 2^(K - 1),   b_k = K - 1 over k,   along each axis

The filter is 1 1, 1 2 1, 1 3 3 1, ... up to 1 6 15 20 15 6 1, for K = 1 to 7; there are ceil(n / s) positions, since
``(K - 1) // 2`` cells are added before an axis and ``K // 2`` after it: by reflection without the edge cell, or as
``padding_mode`` says. ``MaxBlurPool`` is the maximum at stride 1, then this: the anti-aliased max-pooling.

Source: Zhang, "Making convolutional networks shift-invariant again", ICML 2019. ``min <= y <= max`` but for rounding,
and equal cells give their value; NaN under the filter gives NaN, an infinity gives that infinity, both give NaN.

In ONNX, in every form of a model: ``Pad`` and a depthwise ``Conv``, and ``MaxPool`` before.

>>> import numpy as np
>>> reference(np.array([[[1.0, 2.0, 3.0, 10.0]]]), 3, 2)
array([[[1.5, 4.5]]])
"""

from collections.abc import Sequence
from math import comb
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools import max as maximum
from onnxpool.pools._large import LARGE, limit_of, without_overflow
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
from onnxpool.window import Size, Window, per_axis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BlurPool1d", "BlurPool2d", "BlurPool3d", "MaxBlurPool1d", "MaxBlurPool2d", "MaxBlurPool3d"]

PaddingMode = Literal["reflect", "replicate", "zeros", "circular"]

METHOD = Method(
    name="BlurPool",
    summary="binomial filter, and the maximum at stride 1 before it",
    formula="y = sum b_k x_k / 2^(K - 1), b = 1 2 1 or another row of Pascal's triangle",
    source="Zhang, ICML 2019",
    modules=("BlurPool2d(4)", "MaxBlurPool1d(3, 2, 1, filter_size=3, padding_mode='replicate')"),
)


# --- what it computes: float64, plain

_PADDED_AS = {"reflect": "reflect", "replicate": "edge", "zeros": "constant", "circular": "wrap"}
"""Padding modes in the words of NumPy and of ONNX."""


def reference(x: Array, size: Size, stride: Size, padding_mode: PaddingMode = "reflect") -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *ceil(spatial / stride))``: the definition."""
    sizes, strides = ((n,) * (x.ndim - 2) if isinstance(n, int) else n for n in (size, stride))
    with np.errstate(all="ignore"):
        for axis, (count, step) in enumerate(zip(sizes, strides, strict=True), start=2):
            line = np.moveaxis(x, axis, -1)
            ends = [(0, 0)] * (x.ndim - 1) + [((count - 1) // 2, count // 2)]
            around = np.pad(line, ends, mode=_PADDED_AS[padding_mode])  # type: ignore[call-overload]
            cells = np.lib.stride_tricks.sliding_window_view(around, count, -1)[..., ::step, :]
            x = np.moveaxis((cells * _filter(count)).sum(-1), -1, axis)
    return x


def _filter(size: int) -> Array:
    return np.array([comb(size - 1, k) / 2 ** (size - 1) for k in range(size)])


# --- how it trains


def _kernel(sizes: Sequence[int]) -> Array:
    """The filter over all axes."""
    kernel = np.array(1.0)
    for size in sizes:
        kernel = np.multiply.outer(kernel, _filter(size))
    return kernel


def _filled(sizes: Sequence[int], like: "Tensor") -> "Tensor":
    """The filter as a tensor, exactly: means of neighbours of what starts as 1. Programs hold it as operators."""
    kernel = like.new_ones([1] * len(sizes))
    for axis, size in enumerate(reversed(sizes)):
        for _ in range(size - 1):
            ends = [0] * 2 * axis
            pad = torch.nn.functional.pad
            kernel = (pad(kernel, [*ends, 0, 1]) + pad(kernel, [*ends, 1, 0])) / 2
    return kernel


def _forward(x: "Tensor", sizes: Sequence[int], strides: Sequence[int], mode: str) -> "Tensor":
    wide, rank = widen(x), len(sizes)
    ends = [end for size in reversed(sizes) for end in ((size - 1) // 2, size // 2)]
    around = wide
    if any(ends):
        around = torch.nn.functional.pad(wide, ends, mode={"zeros": "constant"}.get(mode, mode))
    kernel = _filled(sizes, wide).expand(x.shape[1], 1, *sizes)
    convolution = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[rank - 1]

    def blurred(values: "Tensor") -> "Tensor":
        return convolution(values, kernel, None, list(strides), groups=x.shape[1])

    y = blurred(around) if x.dtype == torch.float16 else without_overflow(around, blurred)
    return laid_out_as(x, y.to(x.dtype))


def _shape(x: "Tensor", sizes: Sequence[int], strides: Sequence[int], mode: str) -> tuple[Any, ...]:
    if has_known_sizes(x) and not is_jit_tracing():
        for n, size in zip(x.shape[2:], sizes, strict=True):
            least = {"reflect": size // 2 + 1, "circular": size // 2}.get(mode, 1)
            if n < max(1, least):
                raise ArgumentError(
                    f"x has shape {tuple(x.shape)}, too small for padding_mode={mode!r} with a filter of {size}: axes "
                    f"must have at least {max(1, least)} positions; use 'replicate'"
                )
    return (*x.shape[:2], *((n + step - 1) // step for n, step in zip(x.shape[2:], strides, strict=True)))


# --- how it looks in ONNX


def _translate(op: Any, x: Any, sizes: Sequence[int], strides: Sequence[int], mode: str) -> Any:
    wide = onnx_ops.wide_for(x.dtype)
    channels, narrow, limit = x.shape[1], x.dtype == ir.DataType.FLOAT16, limit_of(wide.numpy())

    def blurred(x: Any) -> Any:
        if wide == ir.DataType.DOUBLE:  # which ONNX Runtime has no Conv for
            return _by_axes(op, x, sizes, strides, wide)
        kernel = np.broadcast_to(_kernel(sizes), (channels, 1, *sizes)).astype(wide.numpy())
        weight = op.Constant(value=ir.tensor(np.ascontiguousarray(kernel)))
        return op.Conv(x, weight, group=channels, strides=list(strides), kernel_shape=list(sizes))

    def write(x: Any) -> Any:
        given = x
        before, after = [(size - 1) // 2 for size in sizes], [size // 2 for size in sizes]
        if mode == "circular":  # ONNX has it since opset 19
            for axis, ends in enumerate(zip(before, after, strict=True), start=2):
                x = _wrapped(op, x, axis, *ends)
        elif any(after):
            fill = [onnx_ops.number(op, 0, wide)] if mode == "zeros" else []
            x = op.Pad(x, onnx_ops.ints(op, 0, 0, *before, 0, 0, *after), *fill, mode=_PADDED_AS[mode])
        if narrow:
            return blurred(x)
        large, one, half, nothing, least, most = (
            onnx_ops.number(op, value, wide) for value in (LARGE, 1, 0.5, 0, -limit, limit)
        )
        is_large = op.Greater(op.ReduceMax(op.Abs(given), keepdims=0), large)
        some = blurred(op.Mul(x, op.Where(is_large, half, one)))
        return op.Add(some, op.Where(is_large, op.Clip(some, least, most), nothing))

    return onnx_ops.computed_in(op, x, wide, write)


def _by_axes(op: Any, x: Any, sizes: Sequence[int], strides: Sequence[int], dtype: ir.DataType) -> Any:
    """The filter along one axis after the other, each cell a slice."""
    rank = len(sizes)
    for axis in range(rank):
        kernel, stride = ([n if i == axis else 1 for i in range(rank)] for n in (sizes[axis], strides[axis]))
        cells = onnx_ops.cells(op, x, Window.of(rank, kernel, stride), 0, dtype)
        parts = [
            op.Mul(cell, onnx_ops.number(op, b, dtype)) for cell, b in zip(cells, _filter(sizes[axis]), strict=True)
        ]
        x = op.Sum(*parts)
    return x


def _wrapped(op: Any, x: Any, axis: int, before: int, after: int) -> Any:
    """``x`` with cells of its other end at both ends of an axis."""
    parts = [x]
    if before:
        parts.insert(0, _part(op, x, axis, -before, 2**31 - 1))
    if after:
        parts.append(_part(op, x, axis, 0, after))
    return op.Concat(*parts, axis=axis) if len(parts) > 1 else x


def _part(op: Any, x: Any, axis: int, start: int, end: int) -> Any:
    return op.Slice(x, onnx_ops.ints(op, start), onnx_ops.ints(op, end), onnx_ops.ints(op, axis))


blur_pool = standard_operator(
    "blur_pool", "Tensor x, int[] sizes, int[] strides, str mode", _forward, _shape, _translate
)


# --- modules


class _Blur(PoolModule):
    def _set(self, filter_size: Size, stride: Size, padding_mode: PaddingMode) -> None:
        if padding_mode not in get_args(PaddingMode):
            raise ArgumentError(
                f"padding_mode={padding_mode!r} is unknown; use one of {', '.join(get_args(PaddingMode))}"
            )
        self.filter_size: tuple[int, ...] = per_axis("filter_size", filter_size, self.rank, 1)
        if max(self.filter_size) > _MOST:
            raise ArgumentError(f"filter_size={filter_size!r} is above {_MOST}; use 1 to {_MOST}")
        self.stride: tuple[int, ...] = per_axis("stride", stride, self.rank, 1)
        self.padding_mode: PaddingMode = padding_mode

    def _blurred(self, x: "Tensor") -> "Tensor":
        return blur_pool(x, list(self.filter_size), list(self.stride), self.padding_mode)

    def _reference(self, x: Array) -> Array:
        return reference(x, self.filter_size, self.stride, self.padding_mode)


_MOST = 7


class _BlurPool(_Blur):
    def __init__(self, filter_size: Size = 4, stride: Size = 2, padding_mode: PaddingMode = "reflect") -> None:
        super().__init__()
        self._set(filter_size, stride, padding_mode)

    def pool(self, x: "Tensor") -> "Tensor":
        return self._blurred(x)

    def reference(self, x: Array) -> Array:
        return self._reference(x)

    def extra_repr(self) -> str:
        return f"{self.filter_size}, {self.stride}, {self.padding_mode}"


class BlurPool1d(_BlurPool):
    """Blur pooling over ``(N, C, L)``; arguments and errors as :class:`BlurPool2d`."""

    rank = 1


class BlurPool2d(_BlurPool):
    """Blur pooling ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``, anti-aliased subsampling.

    ``filter_size``, 1 to 7, an int or one per axis; ``stride`` likewise; ``padding_mode``: ``"reflect"``,
    ``"replicate"``, ``"zeros"`` or ``"circular"``. float16 and bfloat16 are computed in float32. Raises
    :class:`ArgumentError` for others, and in ``forward`` for a wrong rank, an integer dtype and axes that are too short
    to be reflected.

    >>> import torch
    >>> BlurPool2d(3)(torch.tensor([[[[1.0, 2.0, 3.0, 10.0]] * 2]]))
    tensor([[[[1.5000, 4.5000]]]])
    """

    rank = 2


class BlurPool3d(_BlurPool):
    """Blur pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`BlurPool2d`."""

    rank = 3


class _MaxBlurPool(_Blur):
    def __init__(
        self,
        kernel_size: Size = 2,
        stride: Size | None = None,
        padding: Size = 0,
        *,
        filter_size: Size = 4,
        padding_mode: PaddingMode = "reflect",
    ) -> None:
        super().__init__()
        self._set(filter_size, kernel_size if stride is None else stride, padding_mode)
        self.max_window: Window = Window.of(self.rank, kernel_size, 1, padding)

    def pool(self, x: "Tensor") -> "Tensor":
        return self._blurred(maximum.max_pool(self.max_window, x))

    def reference(self, x: Array) -> Array:
        return self._reference(maximum.reference(self.max_window, x))

    def extra_repr(self) -> str:
        return f"{self.max_window}, {self.stride}, filter {self.filter_size}, {self.padding_mode}"


class MaxBlurPool1d(_MaxBlurPool):
    """Anti-aliased max-pooling over ``(N, C, L)``; arguments and errors as :class:`MaxBlurPool2d`."""

    rank = 1


class MaxBlurPool2d(_MaxBlurPool):
    """Anti-aliased max-pooling ``(N, C, H, W)``: the maximum at stride 1, then :class:`BlurPool2d` with the stride.

    ``kernel_size`` and ``padding`` are those of the maximum, in which padded cells take no part; ``filter_size`` and
    ``padding_mode`` those of the blur. ``stride`` is ``kernel_size`` unless given, as in ``torch.nn``. Raises what both
    do.

    >>> import torch
    >>> MaxBlurPool2d(2, filter_size=3)(torch.tensor([[[[1.0, 2.0, 3.0, 10.0]] * 3]]))
    tensor([[[[2.5000, 6.5000]]]])
    """

    rank = 2


class MaxBlurPool3d(_MaxBlurPool):
    """Anti-aliased max-pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`MaxBlurPool2d`."""

    rank = 3
