"""The pieces of ONNX's text format that the bodies of pooling operators are made of.

A generic body knows its window only as attributes, so it computes the geometry of :mod:`onnxpool.window` at run time
and loops over the cells of the window. A standard body is written for one window: one strided slice per cell, no
control flow. Both see padding as a value that the method chooses, in inputs that are already in the wide type.

>>> ints(3, 3)
'int64[2] {3, 3}'
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import BY_ONNX
from onnxpool.window import Window

LARGEST = {"float": 2.0**128 - 2.0**104, "double": 1.7976931348623157e308}
"""The largest finite number of the types that pooling computes in."""

SMALLEST = {"float": 2.0**-149, "double": 5e-324}
"""Their smallest positive number, which is subnormal."""

AVERAGE = (
    "kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads, ceil_mode: int = @ceil_mode"
)
"""The attributes of an AveragePool over the node's own window, where that has no dilation."""


def ints(*numbers: int) -> str:
    """A list of integers as an ONNX tensor."""
    return f"int64[{len(numbers)}] {{{', '.join(map(str, numbers))}}}"


def constants(wide: str, **numbers: float) -> str:
    """Numbers of the wide type under these names."""
    return "\n".join(f"{name} = Constant <value = {wide} {{{number!r}}}> ()" for name, number in numbers.items())


# --- generic bodies: the window stands in attributes


def function(
    opset: int, op_type: str, inputs: Sequence[str], wide: str, body: str, subnormal: Mapping[str, float] | None = None
) -> ir.Function:
    """The function ``op_type``: casts each of ``inputs`` to the wide type, and what ``body`` calls ``y`` back.

    ``subnormal`` are numbers of the wide type under these names that onnx below 1.23 cannot read in decimals.
    Formal names are unlike any in a network: TensorRT's parser takes equal ones for the same tensor.
    """
    prefix = op_type.lower()
    formal = [f"{prefix}_{name}" for name in inputs]
    casts = "\n".join(f"{name} = Cast <to = {BY_ONNX[wide].code}> ({prefix}_{name})" for name in inputs)
    text = f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
        {op_type} <kernel_shape, strides, pads, dilations, ceil_mode> ({", ".join(formal)}) => ({prefix}_y) {{
            {casts}
            {body}
            {prefix}_y = CastLike (y, {formal[0]})
        }}"""
    return _parsed(text, wide, subnormal or {})


def _parsed(text: str, wide: str, numbers: Mapping[str, float]) -> ir.Function:
    proto = onnx.parser.parse_function(text)
    for name, number in numbers.items():
        tensor = onnx.numpy_helper.from_array(np.array(number, BY_ONNX[wide].dtype))
        proto.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=tensor))
    function: ir.Function = ir.from_proto(proto)  # type: ignore[assignment]
    return function


def guarded(ordinary: str, ratio: str, exact: str, wide: str) -> str:
    """``y`` by ``ratio`` where ``ordinary``, else by ``exact``: three texts, which name ``is_ordinary``, ``quotient``
    and ``exact``.
    """
    return f"""
        {ordinary}
        y = If (is_ordinary) <
            then_branch = ratio () => ({wide}[] quotient) {{ {ratio} }},
            else_branch = loop () => ({wide}[] exact) {{ {exact} }}
        >"""


def geometry(wide: str, fills: Mapping[str, float], top: str) -> str:
    """What a loop over cells needs: each input of ``fills`` padded with its number, ``top``'s maximum per window as
    ``top``, the number of cells as ``count``, and zeros of the output's shape as ``zeros``.
    """
    first, *_ = fills
    padded = "\n".join(f"padded_{name} = Pad ({name}, amounts, fill_{name}, axes)" for name in fills)
    return f"""
        kernel = Constant <value_ints: ints = @kernel_shape> ()
        stride = Constant <value_ints: ints = @strides> ()
        pads = Constant <value_ints: ints = @pads> ()
        dilation = Constant <value_ints: ints = @dilations> ()
        ceil_mode = Constant <value_int: int = @ceil_mode> ()
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64 {{1}}> ()
        two = Constant <value = int64 {{2}}> ()
        true = Constant <value = bool {{1}}> ()

        rank_axis = Shape (kernel)
        rank = Squeeze (rank_axis)
        end_axis = Add (rank, two)
        axes = Range (two, end_axis, one)

        steps = Sub (kernel, one)
        reach = Mul (steps, dilation)
        extent = Add (reach, one)
        pad = Slice (pads, zero, rank_axis)
        room = Sub (extent, stride)
        inside = Min (pad, room)
        more = Sub (stride, one)
        overhang = Add (inside, more)
        ceil = Cast <to = 9> (ceil_mode)
        tail = Where (ceil, overhang, pad)
        amounts = Concat <axis = 0> (pad, tail)
        {constants(wide, **{f"fill_{name}": fill for name, fill in fills.items()})}
        {padded}
        lengths = Shape <start = 2> (padded_{first})
        moves = Sub (lengths, extent)
        span = Add (moves, one)

        everywhere = ConstantOfShape <value = int64[1] {{1}}> (kernel)
        counted = NonZero (everywhere)
        dilation_column = Unsqueeze (dilation, one)
        offsets = Mul (counted, dilation_column)
        count = ReduceProd <keepdims = 0> (kernel)

        top = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations>
            (padded_{top})
        shape = Shape (top)
        zeros = ConstantOfShape <value = {wide}[1] {{0}}> (shape)
    """


def loop(wide: str, inputs: Sequence[str], update: str) -> str:
    """``total`` and ``moment``, summed over the cells of the windows.

    ``update`` makes ``weight#`` and ``part#`` of ``<input>#``, where ``#`` stands for a cell.
    """
    cells = "\n".join(f"{name}_cell = Slice (padded_{name}, start, end, axes, stride)" for name in inputs)
    return f"""
        total, moment = Loop (count, true, zeros, zeros) <
            body = add (int64 index, bool go, {wide}[] total_before, {wide}[] moment_before)
                => (bool on, {wide}[] total_after, {wide}[] moment_after) {{
                on = Identity (go)
                start = Gather <axis = 1> (offsets, index)
                end = Add (start, span)
                {cells}
                {update.replace("#", "_cell")}
                total_after = Add (total_before, weight_cell)
                moment_after = Add (moment_before, part_cell)
            }}
        >
    """


# --- standard bodies: the window is known


def standard(
    opset: int, op_type: str, inputs: Sequence[str], dtype: str, body: str, subnormal: Mapping[str, float] | None = None
) -> ir.Function:
    """The function ``op_type`` for one element type: as :func:`function`, without attributes."""
    prefix, wide = op_type.lower(), wide_of(dtype)
    formal = ", ".join(f"{prefix}_{name}" for name in inputs)
    casts = "\n".join(f"{name} = Cast <to = {BY_ONNX[wide].code}> ({prefix}_{name})" for name in inputs)
    text = f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]> {op_type} ({formal}) => ({prefix}_y) {{
            {casts}
            {body}
            {prefix}_y = Cast <to = {BY_ONNX[dtype].code}> (y)
        }}"""
    return _parsed(text, wide, subnormal or {})


def wide_of(dtype: str) -> str:
    """The type to compute in."""
    return "double" if dtype == "double" else "float"


def taps(window: Window, wide: str, fills: Mapping[str, float]) -> str:
    """``<input>_<i>``: cell ``i`` of every window, for each input of ``fills``, padded with its number.

    The end of the padded input lies one position further than any window reaches, so that every slice can end at a
    negative index and none depends on the input's size.
    """
    lines = [
        constants(wide, **{f"fill_{name}": fill for name, fill in fills.items()}),
        f"amounts = Constant <value = {ints(0, 0, *window.pad, 0, 0, *(tail + 1 for tail in window.tail))}> ()",
        f"axes = Constant <value = {ints(*range(2, 2 + window.rank))}> ()",
        f"stride = Constant <value = {ints(*window.stride)}> ()",
    ]
    lines += [f"padded_{name} = Pad ({name}, amounts, fill_{name})" for name in fills]
    for i, offset in enumerate(window.offsets()):
        ends = (start - extent for start, extent in zip(offset, window.extent, strict=True))
        lines += [
            f"start_{i} = Constant <value = {ints(*offset)}> ()",
            f"end_{i} = Constant <value = {ints(*ends)}> ()",
        ]
        lines += [f"{name}_{i} = Slice (padded_{name}, start_{i}, end_{i}, axes, stride)" for name in fills]
    return "\n".join(lines)


def largest(window: Window, name: str) -> str:
    """``top``, the maximum of that input over the cells of each window."""
    return f"top = Max ({', '.join(f'{name}_{i}' for i in range(math.prod(window.kernel)))})"


def across(window: Window, update: str) -> str:
    """``total`` and ``moment`` over the cells, as :func:`loop` gives them."""
    lines = []
    for i in range(math.prod(window.kernel)):
        lines += [
            update.replace("#", f"_{i}"),
            f"total_{i} = {f'Add (total_{i - 1}, weight_{i})' if i else 'Identity (weight_0)'}",
            f"moment_{i} = {f'Add (moment_{i - 1}, part_{i})' if i else 'Identity (part_0)'}",
        ]
    return "\n".join([*lines, f"total = Identity (total_{i})", f"moment = Identity (moment_{i})"])
