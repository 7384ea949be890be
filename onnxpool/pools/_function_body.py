"""The function that an operator of our domain calls: its body is generic, since it knows its window only as attributes.

So it computes the geometry of :mod:`onnxpool.window` at run time, and loops over the cells of the window. A method
writes what it does with the cells once, for these :class:`LoopedWindows` and for those of known sizes,
:class:`onnxpool.pools._onnx_ops.SlicedWindows`: both have ``largest`` and ``sums``.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.pools._method import Calls
from onnxpool.pools._onnx_ops import Builder, SlicedWindows, ints, number
from onnxpool.window import Window

_TYPES = {
    name: ir.AttributeType.INTS if isinstance(value, list) else ir.AttributeType.INT
    for name, value in Window.of(1, 1).attributes().items()
}


def function(calls: Calls, op_type: str, inputs: Sequence[str], write: Callable[..., ir.Value]) -> ir.Function:
    """The function ``op_type``: what ``write(op, *inputs)`` makes of its inputs, cast to the wide type and back.

    Where all nodes pool the wide type, there are no casts: some runtimes refuse one that does nothing.

    Formal names are unlike any in a network: TensorRT's parser takes equal ones for the same tensor.
    """
    prefix, op = op_type.lower(), Builder()
    formal = [ir.Value(name=f"{prefix}_{name}") for name in inputs]
    if calls.narrow:
        y = op.CastLike(write(op, *(op.Cast(value, to=calls.wide) for value in formal)), formal[0])
    else:
        y = write(op, *formal)
    y.name = f"{prefix}_y"
    graph = ir.Graph(formal, [y], nodes=op.nodes, opset_imports={"": calls.opset}, name=op_type)
    attributes = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in _TYPES]
    return ir.Function(DOMAIN, op_type, graph=graph, attributes=attributes)


def within(op: Builder, value: ir.Value) -> ir.Value:
    """An input of the function, for a branch that ``op`` writes: with a cast of its own, where it was cast.

    ONNX Runtime takes casts away that do nothing, and warns where a branch takes what such a one gives, and its input.
    """
    cast = value.producer()
    if cast is None or cast in op.nodes:
        return value
    again: ir.Value = op.Cast(cast.inputs[0], to=cast.attributes.get_int("to"))
    return again


Branch: TypeAlias = Callable[[Builder], ir.Value]
"""Writes nodes and gives the last one's output."""


def either(op: Builder, condition: ir.Value, then: Branch, otherwise: Branch, dtype: ir.DataType) -> ir.Value:
    """What ``then`` writes where the condition is true, else what ``otherwise`` writes: both of this type."""
    branches = {}
    for name, write in (("then_branch", then), ("else_branch", otherwise)):
        inner = Builder(f"{name}_")
        branches[name] = _graph(inner, name, [], [write(inner)], [dtype])
    y: ir.Value = op.If(condition, **branches)
    return y


def _graph(
    op: Builder, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], dtypes: Sequence[ir.DataType]
) -> ir.Graph:
    """The nodes of ``op`` as the body of an If or Loop, which must know the types of its outputs."""
    for value, dtype in zip(outputs, dtypes, strict=True):
        value.type = ir.TensorType(dtype)
    return ir.Graph(inputs, outputs, nodes=op.nodes, name=name)


def own(*names: str, **renamed: str) -> dict[str, ir.Attr]:
    """Attributes that are those of the pooling node, under the same name or, as in ``value_ints="pads"``, another."""
    pairs = {name: name for name in names} | renamed
    return {name: ir.RefAttr(name, source, _TYPES[source]) for name, source in pairs.items()}


def average(op: Builder, x: ir.Value) -> ir.Value:
    """The mean over the node's own window, where that has no dilation."""
    mean: ir.Value = op.AveragePool(x, **own("kernel_shape", "strides", "pads", "ceil_mode"))
    return mean


class LoopedWindows:
    """The windows of the pooling node over inputs of the wide type, each padded with its own number."""

    def __init__(self, op: Builder, dtype: ir.DataType, *inputs: tuple[ir.Value, float]) -> None:
        self._op, self._dtype = op, dtype
        kernel, stride, pads, dilation = (
            op.Constant(**own(value_ints=name)) for name in ("kernel_shape", "strides", "pads", "dilations")
        )
        ceil = op.Cast(op.Constant(**own(value_int="ceil_mode")), to=ir.DataType.BOOL)
        one, two = (op.Constant(value=ir.tensor(np.array(value, np.int64))) for value in (1, 2))
        rank = op.Shape(kernel)
        self._axes, self._stride = op.Range(two, op.Add(op.Squeeze(rank), two), one), stride

        extent = op.Add(op.Mul(op.Sub(kernel, one), dilation), one)
        pad = op.Slice(pads, ints(op, 0), rank)
        overhang = op.Add(op.Min(pad, op.Sub(extent, stride)), op.Sub(stride, one))
        amounts = op.Concat(pad, op.Where(ceil, overhang, pad), axis=0)
        self._padded = [op.Pad(x, amounts, number(op, fill, dtype), self._axes) for x, fill in inputs]
        self._span = op.Add(op.Sub(op.Shape(self._padded[0], start=2), extent), one)

        everywhere = op.ConstantOfShape(kernel, value=ir.tensor(np.ones(1, np.int64)))
        self._offsets = op.Mul(op.NonZero(everywhere), op.Unsqueeze(dilation, one))
        self.count = op.ReduceProd(kernel, keepdims=0)
        """How many cells a window has: int64."""

    def largest(self) -> ir.Value:
        """The maximum of the first input in each window."""
        top: ir.Value = self._op.MaxPool(self._padded[0], **own("kernel_shape", "strides", "dilations"))
        return top

    def sums(self, like: ir.Value, cell: Callable[..., tuple[ir.Value, ir.Value]]) -> tuple[ir.Value, ir.Value]:
        """The sums over the cells of both values that ``cell(op, *inputs)`` gives, which are of the shape of ``like``.

        ``op`` writes into the body of a Loop there.
        """
        op, inner = self._op, Builder("cell_")
        zeros = op.ConstantOfShape(op.Shape(like), value=ir.tensor(np.zeros(1, self._dtype.numpy())))
        true = op.Constant(value=ir.tensor(np.array(True)))
        scalar, wide = ir.Shape([]), ir.TensorType(self._dtype)
        index = ir.Value(name="cell_index", shape=scalar, type=ir.TensorType(ir.DataType.INT64))
        go = ir.Value(name="cell_go", shape=scalar, type=ir.TensorType(ir.DataType.BOOL))
        before = [ir.Value(name=f"cell_{name}_before", type=wide) for name in ("first", "second")]
        on = inner.Identity(go)
        start = inner.Gather(self._offsets, index, axis=1)
        end = inner.Add(start, self._span)
        cells = [inner.Slice(padded, start, end, self._axes, self._stride) for padded in self._padded]
        after = [inner.Add(*pair) for pair in zip(before, cell(inner, *cells), strict=True)]
        dtypes = [ir.DataType.BOOL, self._dtype, self._dtype]
        body = _graph(inner, "add", [index, go, *before], [on, *after], dtypes)
        on.shape = scalar
        first, second = op.write("Loop", [self.count, true, zeros, zeros], {"body": body}, outputs=2)
        return first, second


Windows: TypeAlias = LoopedWindows | SlicedWindows
