"""Windows of sizes that the model computes, in ONNX: kernels, strides and paddings that are values of its graph.

A window is a product over its axes, so that largest values and sums can be taken along one axis after the other. Along
each axis the cells of every window are gathered, in an axis after it, and reduced. Where they lie is computed by the
model itself, of the axis' length and of sizes that are either Python's ints or integer scalars of the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.pools import _onnx_ops as onnx_ops


class Whole:
    """A whole number, or a tensor of them, to calculate with: known ones at once, others by nodes of the graph."""

    def __init__(self, op: Any, value: Any) -> None:
        self.op, self.value = op, value

    @property
    def known(self) -> bool:
        """Whether it is a Python int."""
        return isinstance(self.value, int)

    @property
    def node(self) -> Any:
        """It as a value of the graph."""
        return constant(self.op, self.value) if self.known else self.value

    def _with(self, other: "Whole | int", operator: str) -> "Whole":
        other = other if isinstance(other, Whole) else Whole(self.op, other)
        if self.known and other.known:
            a, b = self.value, other.value
            known = {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": a // (b or 1), "Min": min(a, b), "Max": max(a, b)}
            return Whole(self.op, known[operator])
        return Whole(self.op, getattr(self.op, operator)(self.node, other.node))

    def __add__(self, other: "Whole | int") -> "Whole":
        return self._with(other, "Add")

    def __sub__(self, other: "Whole | int") -> "Whole":
        return self._with(other, "Sub")

    def __mul__(self, other: "Whole | int") -> "Whole":
        return self._with(other, "Mul")

    def __floordiv__(self, other: "Whole | int") -> "Whole":
        """The quotient of numbers that are not negative."""
        return self._with(other, "Div")

    def least(self, other: "Whole | int") -> "Whole":
        """The smaller of both."""
        return self._with(other, "Min")

    def most(self, other: "Whole | int") -> "Whole":
        """The larger of both."""
        return self._with(other, "Max")

    def column(self) -> "Whole":
        """A row as a column."""
        return Whole(self.op, self.op.Unsqueeze(self.node, onnx_ops.ints(self.op, 1)))

    def range(self) -> "Whole":
        """The row of numbers from 0 up to this one, exclusively."""
        return Whole(self.op, self.op.Range(constant(self.op, 0), self.node, constant(self.op, 1)))


def constant(op: Any, value: int) -> Any:
    """An integer scalar."""
    return op.Constant(value=ir.tensor(np.array(value, np.int64)))


@dataclass(frozen=True)
class Cells:
    """The cells of each window along one axis: ``first + step j`` for each j from ``low`` to ``high``, inclusively.

    All are rows of one number per window; ``most`` is the largest number of cells, ``counts`` how many count as the
    divisor of a mean. ``length`` is that of the axis, ``axes`` the number of axes of the tensor.
    """

    axis: int
    axes: int
    length: Whole
    first: Whole
    step: Whole
    low: Whole
    high: Whole
    most: Whole
    counts: Whole


def pooled_cells(op: Any, x: Any, axis: int, sizes: Sequence[Any], ceil: bool, include_pad: bool = True) -> Cells:
    """The cells of pooling windows along ``axis`` of ``x``, ``sizes`` their kernel, stride, padding and dilation.

    :mod:`onnxpool.window` has the formulas.
    """
    kernel, stride, pad, dilation = (Whole(op, value) for value in sizes)
    n = length(op, x, axis)
    extent = dilation * (kernel - 1) + 1
    tail = pad.least(extent - stride) + stride - 1 if ceil else pad
    output = (n + pad + tail - extent) // stride + 1
    first = output.range() * stride - pad
    low = (dilation - 1 - first).most(0) // dilation  # the first cell that is no padding
    high = ((n - 1 - first) // dilation).least(kernel - 1)
    counts = (n + pad - first).least(kernel) if include_pad else high - low + 1
    return Cells(axis, len(x.shape), n, first, dilation, low, high, kernel, counts)


def adaptive_cells(op: Any, x: Any, axis: int, size: Any) -> Cells:
    """The cells of ``size`` windows that cut ``axis`` of ``x``, from floor(i n / size) to ceil((i + 1) n / size)."""
    count, n = Whole(op, size), length(op, x, axis)
    i = count.range()
    first = i * n // count
    lengths = ((i + 1) * n + count - 1) // count - first
    most = Whole(op, op.ReduceMax(lengths.node, keepdims=0))
    return Cells(axis, len(x.shape), n, first, Whole(op, 1), Whole(op, 0), lengths - 1, most, lengths)


def length(op: Any, x: Any, axis: int) -> Whole:
    """The length of an axis of ``x``."""
    known = x.shape[axis]
    return Whole(op, known if isinstance(known, int) else op.Squeeze(op.Shape(x, start=axis, end=axis + 1)))


def rows(cells: Cells) -> tuple[Whole, Whole]:
    """``first`` as a column, and the cells' numbers j as a row."""
    return cells.first.column(), cells.most.range()


def gathered_to_compare(op: Any, x: Any, cells: Cells) -> Any:
    """The cells in an axis after theirs; a window with fewer than others has some of its cells several times."""
    first, j = rows(cells)
    low = cells.low if cells.low.known else cells.low.column()
    inside = j.most(low).least(cells.high.column())
    return op.Gather(x, (first + inside * cells.step).node, axis=cells.axis)


def gathered_to_add(op: Any, x: Any, cells: Cells, dtype: ir.DataType) -> Any:
    """The cells in an axis after theirs, 0 where a window has fewer than others."""
    first, j = rows(cells)
    low = cells.low if cells.low.known else cells.low.column()
    inside = op.And(op.GreaterOrEqual(j.node, low.node), op.LessOrEqual(j.node, cells.high.column().node))
    places = op.Where(inside, (first + j * cells.step).node, cells.length.node)  # there stands 0
    amounts = [0] * (2 * cells.axes)
    amounts[cells.axes + cells.axis] = 1
    filled = op.Pad(x, onnx_ops.ints(op, *amounts), onnx_ops.number(op, 0, dtype))
    return op.Gather(filled, places, axis=cells.axis)


def largest(op: Any, x: Any, cells: Cells) -> Any:
    """The largest value of each window along one axis."""
    return op.ReduceMax(gathered_to_compare(op, x, cells), onnx_ops.ints(op, cells.axis + 1), keepdims=0)


def largest_and_where(op: Any, x: Any, index: Any, cells: Cells) -> tuple[Any, Any]:
    """The first largest value of each window along one axis, and what ``index``, as large as ``x``, holds there."""
    axis = cells.axis + 1
    values, j = op.TopK(gathered_to_compare(op, x, cells), onnx_ops.ints(op, 1), axis=axis)
    index = op.GatherElements(gathered_to_compare(op, index, cells), j, axis=axis)
    squeezed = onnx_ops.ints(op, axis)
    return op.Squeeze(values, squeezed), op.Squeeze(index, squeezed)


def total(op: Any, x: Any, cells: Cells, dtype: ir.DataType) -> Any:
    """The sum of each window along one axis."""
    return op.ReduceSum(gathered_to_add(op, x, cells, dtype), onnx_ops.ints(op, cells.axis + 1), keepdims=0)


def divided_by_counts(op: Any, x: Any, cells: Cells, dtype: ir.DataType) -> Any:
    """``x`` over the number of cells of each window along one axis."""
    counts = op.Reshape(cells.counts.node, onnx_ops.ints(op, -1, *[1] * (cells.axes - 1 - cells.axis)))
    return op.Div(x, op.Cast(counts, to=dtype))


def flat_index(op: Any, x: Any) -> Any:
    """Where each position of ``x`` ``(N, C, *spatial)`` lies in its plane: int64, as large as ``x``."""
    shape = op.Shape(x)
    plane = op.Shape(x, start=2)
    count = op.ReduceProd(plane, keepdims=0)
    index = op.Range(constant(op, 0), count, constant(op, 1))
    one = onnx_ops.ints(op, *[1] * 2)
    return op.Expand(op.Reshape(index, op.Concat(one, plane, axis=0)), shape)
