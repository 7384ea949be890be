"""Average pooling: the mean of the window.

    y = sum_i x_i / divisor   over the in-bounds cells of the window

The divisor is the number of the window's cells inside of the input and its padding (``count_include_pad``, PyTorch's
default, not ONNX's), or inside of the input alone, or a given number (``divisor_override``). Cells of a ``ceil_mode``
window beyond the padding never count.

The standard operator of PyTorch and of ONNX, ``AveragePool``, in every form of a model; with ``divisor_override`` a
multiplication follows. PyTorch's has no dilation, and ONNX's has only since opset 19: a dilated window is a sum of its
cells, in both, which ONNX Runtime computes as fast as that ``AveragePool``; so is a float64 window, which ONNX
Runtime's CPU provider has no ``AveragePool`` for. NaN in the window gives NaN. Sums are float32, or float64 for
float64: one beyond 3.4e38 overflows.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
2.5
"""

from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method, over_windows
from onnxpool.pools._torch_ops import WindowModule, cells, pooled_shape, standard_operator, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d"]


def reference(window: Window, x: Array, count_include_pad: bool = True, divisor_override: int | None = None) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition that everything else is compared with."""
    if divisor_override is None and not count_include_pad:
        return over_windows(lambda cells: cells.mean(-1), window, x)
    total = over_windows(lambda cells: cells.sum(-1), window, x)
    return total / (divisor_override or _sizes(window, x.shape[2:]))


def _sizes(window: Window, spatial: tuple[int, ...]) -> Array:
    """How many cells of each window lie inside of the padded input."""
    sizes = np.ones(())
    axes = zip(spatial, window.output(spatial), window.pad, window.extent, window.stride, window.dilation, strict=True)
    for n, output, pad, extent, stride, dilation in axes:
        starts = range(0, output * stride, stride)
        cells = [len(range(start, min(start + extent, n + 2 * pad), dilation)) for start in starts]
        sizes = sizes[..., None] * np.array(cells)
    return sizes


METHOD = Method(
    name="AvgPool",
    summary="mean of the window",
    formula="y = sum x_i / count",
    source="standard operator AveragePool",
    modules=(
        "AvgPool1d(3, 2, 1, 2)",
        "AvgPool2d(3, 2, 1)",
        "AvgPool2d(2, ceil_mode=True, count_include_pad=False)",
        "AvgPool3d(2, divisor_override=3)",
    ),
)


# --- how it trains


def _forward(window: Window, x: "Tensor", count_include_pad: bool, divisor_override: int | None) -> "Tensor":
    wide = widen(x)
    if divisor_override is not None:
        y = _sum(window, wide) / divisor_override
    elif set(window.dilation) != {1}:
        y = _sum(window, wide) / _counts(window, wide, count_include_pad)
    else:
        functions = torch.nn.functional
        pool = (functions.avg_pool1d, functions.avg_pool2d, functions.avg_pool3d)[window.rank - 1]
        y = pool(wide, window.kernel, window.stride, window.pad, window.ceil, count_include_pad)
    return y.to(x.dtype)


def _sum(window: Window, x: "Tensor") -> "Tensor":
    return reduce(torch.add, cells(x, window, 0))


def _counts(window: Window, x: "Tensor", include_pad: bool) -> "Tensor":
    """How many cells of each window count, ``(*output)``: a product over the axes."""
    counts = x.new_ones(())
    axes = zip(
        x.shape[2:], window.output(x.shape[2:]), window.kernel, window.stride, window.pad, window.dilation, strict=True
    )
    for n, output, kernel, stride, pad, dilation in axes:
        starts = torch.arange(output, device=x.device) * stride - pad
        places = starts[:, None] + torch.arange(kernel, device=x.device) * dilation
        margin = pad if include_pad else 0
        inside = (places >= -margin) & (places < n + margin)
        counts = counts[..., None] * inside.sum(1).to(x.dtype)
    return counts


# --- how it looks in ONNX


def _translate(op: Any, window: Window, x: Any, count_include_pad: bool, divisor_override: int | None) -> Any:
    def pool(x: Any) -> Any:
        if count_include_pad and window.ceil and any(window.pad):  # zeros that count, and an end that does not
            x = op.Pad(x, onnx_ops.ints(op, 0, 0, *window.pad, 0, 0, *window.pad), onnx_ops.number(op, 0, narrow))
            ends = [tail - pad for tail, pad in zip(window.tail, window.pad, strict=True)]
            return op.AveragePool(x, **attributes, pads=[0] * window.rank + ends, count_include_pad=0)
        counts = int(count_include_pad and not window.ceil)
        return op.AveragePool(x, **attributes, pads=pads, count_include_pad=counts)

    def scaled(x: Any) -> Any:
        x, inside = onnx_ops.padded(op, x, window, 0, wide)
        mean = op.AveragePool(x, kernel_shape=list(inside.kernel), strides=list(inside.stride))
        return op.Mul(mean, onnx_ops.number(op, prod(window.kernel) / divisor, wide))

    def summed(x: Any) -> Any:
        total = reduce(op.Add, onnx_ops.cells(op, x, window, 0, wide))
        if divisor_override is None:
            divisor = onnx_ops.count(op, x, window, wide, include_pad=count_include_pad)
        else:
            divisor = onnx_ops.number(op, divisor_override, wide)
        return op.Div(total, divisor)

    wide, narrow, divisor = onnx_ops.wide_for(x.dtype), onnx_ops.pooling_type(x.dtype), divisor_override or 1
    attributes = onnx_ops.attributes(window)
    pads, dilations = attributes.pop("pads"), attributes.pop("dilations")
    if set(dilations) != {1} or wide == ir.DataType.DOUBLE:
        return onnx_ops.computed_in(op, x, wide, summed)
    if divisor_override is not None:
        return onnx_ops.computed_in(op, x, wide, scaled)
    return onnx_ops.computed_in(op, x, narrow, pool)


average_pool = standard_operator(
    "average_pool",
    "Window window, Tensor x, bool count_include_pad, int? divisor_override",
    _forward,
    lambda window, x, *_: pooled_shape(window, x),
    _translate,
)


# --- modules


class _AvgPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if not isinstance(count_include_pad, bool):
            raise ArgumentError(f"count_include_pad={count_include_pad!r} is not a bool; use True or False")
        if divisor_override is not None and (type(divisor_override) is not int or divisor_override < 1):
            raise ArgumentError(f"divisor_override={divisor_override!r} must be a positive int, or None")
        self.count_include_pad: bool = count_include_pad
        self.divisor_override: int | None = divisor_override

    def pool(self, x: "Tensor") -> "Tensor":
        return average_pool(self.window, x, self.count_include_pad, self.divisor_override)

    def reference(self, x: Array) -> Array:
        return reference(self.window, x, self.count_include_pad, self.divisor_override)

    def extra_repr(self) -> str:
        text = super().extra_repr() + ", count_include_pad=False" * (not self.count_include_pad)
        return text + (f", divisor_override={self.divisor_override}" if self.divisor_override else "")


class AvgPool1d(_AvgPool):
    """Average pooling over ``(N, C, L)``; arguments and errors as :class:`AvgPool2d`."""

    rank = 1


class AvgPool2d(_AvgPool):
    """Average pooling over ``(N, C, H, W)``.

    Window arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`. With ``count_include_pad`` padded
    cells count as zeros; ``divisor_override``, a positive int, replaces the count. :class:`ArgumentError` for other
    values.

    >>> import torch
    >>> AvgPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
    2.5
    """

    rank = 2


class AvgPool3d(_AvgPool):
    """Average pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`AvgPool2d`."""

    rank = 3
