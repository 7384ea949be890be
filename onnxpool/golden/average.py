"""ONNX's AveragePool for its reference evaluator: every window at once, where onnx's own takes one after the other.

    AVERAGE    the operator, at every opset

NaN in a window gives NaN, as in runtimes: onnx's takes it for padding, and with ``ceil_mode`` it pads at the wrong end.
Sums are of the input's type, float32 for float16 and bfloat16.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun


def average(
    x: NDArray[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil: bool,
    count_include_pad: bool,
) -> NDArray[Any]:
    """``(N, C, *spatial) -> (N, C, *output)``; ``pads`` of all begins, then of all ends. A window's cells beyond the
    padded input, as ``ceil`` makes them, never count, and one that begins there does not exist.
    """
    rank = len(kernel)
    begins, ends = pads[:rank], pads[rank:]
    spans = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    output, rest = [], []
    for size, span, stride, begin, end in zip(x.shape[2:], spans, strides, begins, ends, strict=True):
        count = (size + begin + end - span + (stride - 1) * ceil) // stride + 1
        count -= ceil and (count - 1) * stride >= size + begin
        output.append(count)
        rest.append(max(0, (count - 1) * stride + span - size - begin))
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    margins = list(zip(begins, rest, strict=True))
    filled = np.pad(wide, [(0, 0), (0, 0), *margins])
    there = np.ones(x.shape[2:], wide.dtype)
    if count_include_pad:
        there = np.pad(there, list(zip(begins, ends, strict=True)), constant_values=1)
        margins = [(0, max(0, tail - end)) for tail, end in zip(rest, ends, strict=True)]
    there = np.pad(there, margins)
    axes = list(zip(spans, dilations, output, strides, strict=True))
    cells = product(*(range(0, span, dilation) for span, dilation, _, _ in axes))
    places = [
        tuple(
            slice(at, at + (count - 1) * stride + 1, stride) for at, (*_, count, stride) in zip(cell, axes, strict=True)
        )
        for cell in cells
    ]
    total = reduce(np.add, (filled[slice(None), slice(None), *place] for place in places))
    counts = reduce(np.add, (there[place] for place in places))
    return np.asarray(total / counts).astype(x.dtype)


def _pads(
    node_pads: Sequence[int] | None, auto_pad: str | None, x: NDArray[Any], spans: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """As given, or so much that every ``stride`` has its output, the odd one at the end or at the begin."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        whole = [
            max(0, (-(-size // stride) - 1) * stride + span - size)
            for size, stride, span in zip(x.shape[2:], strides, spans, strict=True)
        ]
        less, more = [pad // 2 for pad in whole], [pad - pad // 2 for pad in whole]
        return less + more if auto_pad == "SAME_UPPER" else more + less
    return list(node_pads or [0] * 2 * len(strides))


def _run(
    _: OpRun,
    x: NDArray[Any],
    auto_pad: str | None = None,
    ceil_mode: int | None = None,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] = (),
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    count_include_pad: int | None = None,
) -> tuple[NDArray[Any]]:
    ones = [1] * len(kernel_shape)
    steps, apart = strides or ones, dilations or ones
    spans = [(k - 1) * dilation + 1 for k, dilation in zip(kernel_shape, apart, strict=True)]
    around = _pads(pads, auto_pad, x, spans, steps)
    return (average(x, kernel_shape, steps, around, apart, bool(ceil_mode), bool(count_include_pad)),)


AVERAGE = type("AveragePool", (OpRun,), {"op_domain": "", "_run": _run})
