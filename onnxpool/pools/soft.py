"""SoftPool: the mean of a window weighted by the softmax of its own values.

    y = sum_i w_i x_i,   w_i = exp(x_i) / sum_j exp(x_j),   over the in-bounds cells of the window

Source: Stergiou, Poppe, Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021. Per channel, signed;
``mean <= y <= max``, ``y(x + c) = y(x) + c``. Everywhere computed as ``y = m + sum_i d_i exp(d_i) / sum_i exp(d_i)``
with ``d_i = x_i - m`` and ``m`` the window's maximum, which cannot overflow. A cell of -inf takes no part; a window
that holds NaN or +inf, or only -inf, gives NaN.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
3.4926527345951543
"""

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from onnxpool.pool import DOMAIN, Array, Node, Pool, over_windows
from onnxpool.torch_op import WindowModule, cells, operator, spread, torch, widen
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SoftPool1d", "SoftPool2d", "SoftPool3d"]


# --- what it computes: float64, plain


def reference(window: Window, x: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition that everything else is compared with."""
    return over_windows(_soft, window, x)


def _soft(x: Array) -> Array:
    x = np.where(x.max(-1, keepdims=True) == np.inf, np.nan, x)
    weights = np.exp(x - x.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    mean: Array = np.where(weights == 0, 0, weights * x).sum(-1)
    return mean


# --- how it looks in ONNX

_FLOOR = -1000
"""Distances below the maximum are cut here, so that -inf times its weight is 0: exp(-1000) is 0 even in float64."""

_ORDINARY = 60
"""Below this magnitude exp(x), and sums of more products x exp(x) than a tensor has cells, are normal float32."""


def function(opset: int, wide: str, dilated: bool) -> str:
    """The generic body: a ratio of two average pools where no value is large, else a loop over the window's cells.

    The ratio is out where a node is dilated (AveragePool learned that in opset 19, and ONNX Runtime wants its padding
    below the undilated kernel) and in float64 (ONNX Runtime's CPU provider has no AveragePool for it).
    """
    if dilated or wide == "double":
        body = f"{_exact(wide)} soft = Identity (exact)"
    else:
        same = "kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads"
        body = f"""
            magnitude = Abs (wide)
            largest = ReduceMax <keepdims = 0> (magnitude)
            limit = Constant <value = {wide} {{{_ORDINARY}}}> ()
            ordinary = Less (largest, limit)
            soft = If (ordinary) <
                then_branch = ratio () => ({wide}[] quotient) {{
                    weight = Exp (wide)
                    part = Mul (wide, weight)
                    mean_part = AveragePool <{same}, ceil_mode: int = @ceil_mode> (part)
                    mean_weight = AveragePool <{same}, ceil_mode: int = @ceil_mode> (weight)
                    quotient = Div (mean_part, mean_weight)
                }},
                else_branch = loop () => ({wide}[] exact) {{ {_exact(wide)} }}
            >"""
    return f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
        SoftPool <kernel_shape, strides, pads, dilations, ceil_mode> (softpool_x) => (softpool_y) {{
            wide = Cast <to = {_CODE[wide]}> (softpool_x)
            {body}
            softpool_y = CastLike (soft, softpool_x)
        }}"""


def _exact(wide: str) -> str:
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
        nothing = Constant <value = {wide} {{-inf}}> ()
        floor = Constant <value = {wide} {{{_FLOOR}}}> ()

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
        padded = Pad (wide, amounts, nothing, axes)
        lengths = Shape <start = 2> (padded)
        moves = Sub (lengths, extent)
        span = Add (moves, one)

        everywhere = ConstantOfShape <value = int64[1] {{1}}> (kernel)
        counted = NonZero (everywhere)
        dilation_column = Unsqueeze (dilation, one)
        offsets = Mul (counted, dilation_column)
        count = ReduceProd <keepdims = 0> (kernel)

        top = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations>
            (padded)
        shape = Shape (top)
        zeros = ConstantOfShape <value = {wide}[1] {{0}}> (shape)
        total, moment = Loop (count, true, zeros, zeros) <
            body = add (int64 index, bool go, {wide}[] total_before, {wide}[] moment_before)
                => (bool on, {wide}[] total_after, {wide}[] moment_after) {{
                on = Identity (go)
                start = Gather <axis = 1> (offsets, index)
                end = Add (start, span)
                cell = Slice (padded, start, end, axes, stride)
                distance = Sub (cell, top)
                weight = Exp (distance)
                depth = Max (distance, floor)
                part = Mul (depth, weight)
                total_after = Add (total_before, weight)
                moment_after = Add (moment_before, part)
            }}
        >
        below = Div (moment, total)
        exact = Add (top, below)
    """


def standard(window: Window, opset: int, dtype: str) -> str:
    """The body for one window, without control flow: one strided slice per cell of the window.

    The end of the padded input lies one position further than any window reaches, so that every slice can end at a
    negative index and none depends on the input's size.
    """
    wide = "double" if dtype == "double" else "float"
    offsets = list(window.offsets())
    lines = [
        f"wide = Cast <to = {_CODE[wide]}> (softpool_x)",
        f"amounts = Constant <value = {_ints(0, 0, *window.pad, 0, 0, *(tail + 1 for tail in window.tail))}> ()",
        f"nothing = Constant <value = {wide} {{-inf}}> ()",
        f"floor = Constant <value = {wide} {{{_FLOOR}}}> ()",
        f"axes = Constant <value = {_ints(*range(2, 2 + window.rank))}> ()",
        f"stride = Constant <value = {_ints(*window.stride)}> ()",
        "padded = Pad (wide, amounts, nothing)",
    ]
    for i, offset in enumerate(offsets):
        ends = (start - extent for start, extent in zip(offset, window.extent, strict=True))
        lines += [
            f"start_{i} = Constant <value = {_ints(*offset)}> ()",
            f"end_{i} = Constant <value = {_ints(*ends)}> ()",
            f"cell_{i} = Slice (padded, start_{i}, end_{i}, axes, stride)",
        ]
    lines.append(f"top = Max ({', '.join(f'cell_{i}' for i in range(len(offsets)))})")
    for i in range(len(offsets)):
        lines += [
            f"distance_{i} = Sub (cell_{i}, top)",
            f"weight_{i} = Exp (distance_{i})",
            f"depth_{i} = Max (distance_{i}, floor)",
            f"part_{i} = Mul (depth_{i}, weight_{i})",
            f"total_{i} = {f'Add (total_{i - 1}, weight_{i})' if i else 'Identity (weight_0)'}",
            f"moment_{i} = {f'Add (moment_{i - 1}, part_{i})' if i else 'Identity (part_0)'}",
        ]
    lines += [
        f"below = Div (moment_{i}, total_{i})",
        "soft = Add (top, below)",
        f"softpool_y = Cast <to = {_CODE[dtype]}> (soft)",
    ]
    body = "\n".join(lines)
    return f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]> SoftPool (softpool_x) => (softpool_y) {{ {body} }}'


_CODE = {"float": 1, "float16": 10, "double": 11, "bfloat16": 16}
"""``TensorProto.DataType`` of the dtypes that pooling takes."""


def _ints(*numbers: int) -> str:
    return f"int64[{len(numbers)}] {{{', '.join(map(str, numbers))}}}"


NODE = Node("SoftPool", ("x",), reference, function, standard)

POOL = Pool(
    name="SoftPool",
    summary="mean of the window weighted by the softmax of its values",
    formula="y = sum x_i exp(x_i) / sum exp(x_i)",
    source="Stergiou et al., ICCV 2021",
    modules=("SoftPool1d(3, 2, 1, 2)", "SoftPool2d(3, 2, 1)", "SoftPool2d(2, ceil_mode=True)", "SoftPool3d(2)"),
    node=NODE,
)


# --- how it trains


def _parts(window: Window, x: "Tensor") -> "tuple[Tensor, list[Tensor], list[Tensor], Tensor]":
    """Maximum ``m``, distances below it ``d_i``, weights ``exp(d_i)`` and their sum; lists in the order of cells."""
    views = list(cells(widen(x), window, fill=-torch.inf))
    top = reduce(torch.maximum, views)
    depths = [(view - top).clamp(min=_FLOOR) for view in views]
    weights = [depth.exp() for depth in depths]
    return top, depths, weights, sum(weights[1:], weights[0])


def _forward(window: Window, x: "Tensor") -> "Tensor":
    top, depths, weights, total = _parts(window, x)
    moment = sum(depth * weight for depth, weight in zip(depths, weights, strict=True))
    return (top + moment / total).to(x.dtype)


def _backward(window: Window, grad: "Tensor", x: "Tensor") -> "tuple[Tensor]":
    """``dy/dx_i = w_i (1 + x_i - y)``."""
    _, depths, weights, total = _parts(window, x)
    below = sum(depth * weight for depth, weight in zip(depths, weights, strict=True)) / total
    share = widen(grad) / total
    slopes = (share * weight * (1 + depth - below) for depth, weight in zip(depths, weights, strict=True))
    return (spread(slopes, widen(x), window).to(x.dtype),)


soft_pool = operator(NODE, "soft_pool", _forward, _backward)


class _SoftPool(WindowModule):
    def pool(self, x: "Tensor") -> "Tensor":
        return soft_pool(self.window, x)

    def reference(self, x: Array) -> Array:
        return reference(self.window, x)


class SoftPool1d(_SoftPool):
    """SoftPool over ``(N, C, L)``; arguments and errors as :class:`onnxpool.torch_op.WindowModule`."""

    rank = 1


class SoftPool2d(_SoftPool):
    """SoftPool over ``(N, C, H, W)``; arguments and errors as :class:`onnxpool.torch_op.WindowModule`.

    >>> import torch
    >>> SoftPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).item()
    3.4926527345951543
    """

    rank = 2


class SoftPool3d(_SoftPool):
    """SoftPool over ``(N, C, D, H, W)``; arguments and errors as :class:`onnxpool.torch_op.WindowModule`."""

    rank = 3
