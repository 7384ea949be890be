"""ONNX's poolings for its reference evaluator: all windows at once, where onnx's own take one after the other.

    POOLINGS    AveragePool, MaxPool, LpPool, GlobalMaxPool, at every opset

Here NaN in a window gives NaN, where onnx's AveragePool and MaxPool take it for padding, and a window that
``ceil_mode`` makes has the cells that are there; ``docs/atlas.md`` has what else onnx's get wrong. Sums are of the
input's type, float32 for float16 and bfloat16.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun


@dataclass(frozen=True)
class _Windows:
    """Windows over the spatial axes of an input; ``around`` are the cells before and behind it that they reach, and
    ``pads`` those that were asked for. What they reach beyond these is no cell, and no window begins there.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    output: Sequence[int]
    pads: Sequence[tuple[int, int]]
    around: Sequence[tuple[int, int]]

    @classmethod
    def over(
        cls,
        spatial: Sequence[int],
        kernel_shape: Sequence[int],
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
    ) -> "_Windows":
        """From a node's attributes."""
        ones = [1] * len(kernel_shape)
        strides, dilations = strides or ones, dilations or ones
        spans = [(k - 1) * dilation + 1 for k, dilation in zip(kernel_shape, dilations, strict=True)]
        given = pads or [0] * 2 * len(ones)
        asked = list(zip(given[: len(ones)], given[len(ones) :], strict=True))
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            asked = [
                _same(size, span, stride, auto_pad) for size, span, stride in zip(spatial, spans, strides, strict=True)
            ]
        output, around = [], []
        for size, span, stride, (begin, end) in zip(spatial, spans, strides, asked, strict=True):
            count = (size + begin + end - span + (stride - 1) * bool(ceil_mode)) // stride + 1
            count -= bool(ceil_mode) and (count - 1) * stride >= size + begin
            output.append(count)
            around.append((begin, max(0, (count - 1) * stride + span - size - begin)))
        return cls(kernel_shape, strides, dilations, output, asked, around)

    def cells(self, filled: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """For each cell of a window what lies there in every window; the last axes have what is around."""
        axes = list(zip(self.output, self.strides, strict=True))
        for cell in product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True))):
            place = tuple(slice(at, at + (n - 1) * step + 1, step) for at, (n, step) in zip(cell, axes, strict=True))
            yield filled[(slice(None),) * (filled.ndim - len(place)) + place]

    def filled(self, x: NDArray[Any], value: float) -> NDArray[Any]:
        """``x`` with this value around it."""
        return np.pad(x, [(0, 0), (0, 0), *self.around], constant_values=value)

    def counts(self, spatial: Sequence[int], include_pad: bool) -> NDArray[Any]:
        """How many cells each window has: in the input, or in that with the padding asked for."""
        pads = self.pads if include_pad else [(0, 0)] * len(self.pads)
        there = np.ones([size + begin + end for size, (begin, end) in zip(spatial, pads, strict=True)])
        rest = [
            (most - begin, max(0, last - end)) for (most, last), (begin, end) in zip(self.around, pads, strict=True)
        ]
        return np.asarray(sum(self.cells(np.pad(there, rest))))


def _same(size: int, span: int, stride: int, auto_pad: str) -> tuple[int, int]:
    """So much padding that every ``stride`` has its output; the odd one at the end, or at the begin."""
    whole = max(0, (-(-size // stride) - 1) * stride + span - size)
    less, more = whole // 2, whole - whole // 2
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def _wide(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _average(_: OpRun, x: NDArray[Any], count_include_pad: int | None = None, **window: Any) -> tuple[NDArray[Any]]:
    windows = _Windows.over(x.shape[2:], **window)
    total = reduce(np.add, windows.cells(windows.filled(_wide(x), 0)))
    return ((total / windows.counts(x.shape[2:], bool(count_include_pad))).astype(x.dtype),)


def _lp(_: OpRun, x: NDArray[Any], p: float | None = None, **window: Any) -> tuple[NDArray[Any]]:
    windows, exponent = _Windows.over(x.shape[2:], **window), p or 2
    powers = windows.filled(np.abs(_wide(x)) ** exponent, 0)
    return ((reduce(np.add, windows.cells(powers)) ** (1 / exponent)).astype(x.dtype),)


def _max(node: OpRun, x: NDArray[Any], storage_order: int | None = None, **window: Any) -> tuple[NDArray[Any], ...]:
    windows = _Windows.over(x.shape[2:], **window)
    least = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    cells = windows.cells(windows.filled(x, least))
    if len(node.onnx_node.output) == 1:
        return (reduce(np.maximum, cells),)
    numbers = np.arange(math.prod(x.shape[2:]))
    order: NDArray[Any] = numbers.reshape(x.shape[:1:-1]).T if storage_order else numbers.reshape(x.shape[2:])
    planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(order.shape))
    y = place = np.full((*x.shape[:2], *windows.output), -1)
    for cell, number in zip(cells, windows.cells(windows.filled(planes * order.size + order, -1)), strict=True):
        taken = (number >= 0) & ((place < 0) | (cell > y) | np.isnan(cell))  # the first of the largest, the last NaN
        y, place = np.where(taken, cell, y), np.where(taken, number, place)
    return (y.astype(x.dtype), place)


def _global_max(_: OpRun, x: NDArray[Any]) -> tuple[NDArray[Any]]:
    return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


_RUN = {"AveragePool": _average, "LpPool": _lp, "MaxPool": _max, "GlobalMaxPool": _global_max}

POOLINGS: tuple[type[OpRun], ...] = tuple(
    type(name, (OpRun,), {"op_domain": "", "_run": run}) for name, run in _RUN.items()
)
