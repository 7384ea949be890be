"""The ONNX side that methods share: windows, cells and numbers as standard operators.

Each call such as ``op.Add(x, y)`` writes a node. ``op`` is onnxscript's opset 18 inside of PyTorch's exporter, where a
method's ``translate(op, ...)`` runs, else a :class:`Builder`. What is known then becomes constants; sizes that may
change are read at run time.

>>> op = Builder("pool/")
>>> op.Add(ir.Value(name="x"), ir.Value(name="y")).name
'pool/Add_0'
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from onnxpool.window import Window


class Builder(Tape):
    """Writes nodes of opset 18 or newer, and keeps them in ``nodes``; names begin with ``prefix``."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.write(op_type, inputs, attributes)[0]

    def write(
        self, op_type: str, inputs: Sequence[Any], attributes: Mapping[str, Any], *, domain: str = "", outputs: int = 1
    ) -> Sequence[ir.Value]:
        """The outputs of a new node."""
        name = f"{self.prefix}{op_type}_{len(self.nodes)}"
        made = self.op_multi_out(op_type, inputs, attributes, num_outputs=outputs, domain=domain, name=name)
        for i, value in enumerate(made):
            value.name = f"{name}_{i}" if i else name
        return made


def ints(op: Any, *numbers: int) -> Any:
    """A list of integers, as a tensor: older ONNX Runtimes do not load ``value_ints`` that feed Pad."""
    return op.Constant(value=ir.tensor(np.array(numbers, np.int64)))


def number(op: Any, value: float | Sequence[float], dtype: ir.DataType) -> Any:
    """A constant of this element type."""
    return op.Constant(value=ir.tensor(np.array(value, dtype.numpy())))


def wide_for(dtype: ir.DataType) -> ir.DataType:
    """The type to compute in: float32 for float16 and bfloat16, else the same."""
    return dtype if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT


def computed_in(op: Any, x: Any, dtype: ir.DataType, write: Callable[[Any], Any]) -> Any:
    """``write(x)`` with ``x`` and the result cast to ``dtype`` and back, where ``x`` is of another type."""
    if x.dtype == dtype:
        return write(x)
    return op.Cast(write(op.Cast(x, to=dtype)), to=x.dtype)


def max_pool(op: Any, x: Any, **attributes: Any) -> Any:
    """The largest values alone: onnxscript gives their indices as well."""
    made = op.MaxPool(x, **attributes)
    return made if isinstance(made, ir.Value) else made[0]


def cast(op: Any, x: Any, dtype: ir.DataType) -> Any:
    """``x`` as this type; itself where it is known to be of it."""
    return x if x.dtype == dtype else op.Cast(x, to=dtype)


def pooling_type(dtype: ir.DataType) -> ir.DataType:
    """The type that a standard pooling operator gets: ONNX Runtime's CPU provider has none for bfloat16."""
    return ir.DataType.FLOAT if dtype == ir.DataType.BFLOAT16 else dtype


def attributes(window: Window) -> dict[str, list[int]]:
    """The window in ONNX's words, what it reaches beyond the end with ``ceil_mode`` as padding.

    Runtimes do not agree on how many windows ``ceil_mode`` adds, nor on what they divide by.
    """
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "pads": [*window.pad, *window.tail],
        "dilations": list(window.dilation),
    }


def padded(op: Any, x: Any, window: Window, fill: float, dtype: ir.DataType, more: int = 0) -> tuple[Any, Window]:
    """``x`` with the padding that ``window`` asks for, and the window over it, which needs none.

    ``more`` positions follow the end, which no window reaches.
    """
    inside = replace(window, pad=(0,) * window.rank, ceil=False)
    if more == 0 and not any(window.pad + window.tail):
        return x, inside
    amounts = ints(op, 0, 0, *window.pad, 0, 0, *(tail + more for tail in window.tail))
    return op.Pad(x, amounts, number(op, fill, dtype)), inside


def cells(op: Any, x: Any, window: Window, fill: float, dtype: ir.DataType) -> Iterator[Any]:
    """Each cell of all windows at once, ``(N, C, *output)``, one per offset, ``fill`` where there is padding.

    Each slice ends at a negative index, thanks to one more position at the end, so that none depends on the size.
    """
    x, _ = padded(op, x, window, fill, dtype, more=1)
    yield from _slices(op, x, window)


def _slices(op: Any, x: Any, window: Window) -> Iterator[Any]:
    """Each cell of all windows over ``x``, which is padded already, with one more position at the end."""
    axes, stride = ints(op, *range(2, 2 + window.rank)), ints(op, *window.stride)
    for offset in window.offsets():
        ends = (start - extent for start, extent in zip(offset, window.extent, strict=True))
        yield op.Slice(x, ints(op, *offset), ints(op, *ends), axes, stride)


class SlicedWindows:
    """Windows of known sizes over inputs of type ``dtype``, each padded with its own number.

    What is written has no control flow: one strided slice for each input and cell.
    """

    def __init__(self, op: Any, window: Window, dtype: ir.DataType, *inputs: tuple[Any, float]) -> None:
        first, *others = (cells(op, x, window, fill, dtype) for x, fill in inputs)
        self._op, self._first, self._others = op, list(first), others

    def largest(self) -> Any:
        """The maximum of the first input in each window."""
        return self._op.Max(*self._first)

    def sums(self, like: Any, cell: Callable[..., tuple[Any, Any]]) -> tuple[Any, Any]:  # noqa: ARG002 - a Loop needs it
        """The sums over the cells of both values that ``cell(op, *inputs)`` gives."""
        made = (cell(self._op, *inputs) for inputs in zip(self._first, *self._others, strict=True))
        return reduce(lambda sums, terms: (self._op.Add(sums[0], terms[0]), self._op.Add(sums[1], terms[1])), made)


def count(op: Any, x: Any, window: Window, dtype: ir.DataType, *, include_pad: bool = False) -> Any:
    """How many cells of each window lie inside of the input or, with ``include_pad``, of its ordinary padding.

    A number where all windows have the same, else ``(1, 1, *output)``: a sum of cells of ones, since OpenVINO errs in a
    convolution of them.
    """
    if not window.ceil and (include_pad or not any(window.pad)):
        return number(op, math.prod(window.kernel), dtype)
    ones = ones_like(op, x, dtype)
    if not include_pad:
        return op.Sum(*cells(op, ones, window, 0, dtype))
    pad = window.pad
    ends = (tail - before + 1 for tail, before in zip(window.tail, pad, strict=True))
    ones = op.Pad(ones, ints(op, 0, 0, *pad, 0, 0, *pad), number(op, 1, dtype))
    ones = op.Pad(ones, ints(op, 0, 0, *(0 for _ in pad), 0, 0, *ends), number(op, 0, dtype))
    return op.Sum(*_slices(op, ones, window))


def ones_like(op: Any, x: Any, dtype: ir.DataType) -> Any:
    """Ones of the spatial sizes of ``x``: ``(1, 1, *spatial)``."""
    sizes = op.Concat(ints(op, 1, 1), op.Shape(x, start=2), axis=0)
    return op.ConstantOfShape(sizes, value=ir.tensor(np.ones(1, dtype.numpy())))


def parts(op: Any, x: Any, axis: int, size: int, rank: int, fill: float, dtype: ir.DataType) -> tuple[Any, Any]:
    """Cut an axis of length n into ``size`` windows, from floor(i n / size) to ceil((i + 1) n / size).

    Returns their cells, in an axis after ``axis`` that is as long as the longest window, ``fill`` where others have
    none, and how many each window has. ``rank`` is that of the pooling.
    """
    n, windows, count = op.Shape(x, start=axis, end=axis + 1), range(size), ints(op, size)
    starts = op.Div(op.Mul(n, ints(op, *windows)), count)
    ends = op.Div(op.Add(op.Mul(n, ints(op, *(i + 1 for i in windows))), ints(op, size - 1)), count)
    lengths = op.Sub(ends, starts)
    zero, one = (op.Constant(value=ir.tensor(np.array(value, np.int64))) for value in (0, 1))
    steps = op.Range(zero, op.ReduceMax(lengths, keepdims=0), one)
    column = ints(op, -1, 1)
    places = op.Add(op.Reshape(starts, column), steps)
    places = op.Where(op.Less(places, op.Reshape(ends, column)), places, n)  # there stands fill
    amounts = [0] * (2 * rank + 4)
    amounts[rank + 2 + axis] = 1
    cells = op.Gather(op.Pad(x, ints(op, *amounts), number(op, fill, dtype)), places, axis=axis)
    return cells, op.Reshape(lengths, ints(op, -1, *[1] * (rank + 1 - axis)))
