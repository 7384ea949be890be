"""PyTorch's own poolings as operators for export: what its functions compute, for sizes that may be symbolic.

Where a call of a torch.nn pooling is what a method of this package computes, that method's operator takes it. Here are
the others: windows whose sizes are taken from a shape (``avg_pool2d(x, x.shape[2:])``), positions of maxima, unpooling,
and PyTorch's Lp pooling. To PyTorch's exporter each is one operator, which makes
no condition on any size.

A kernel size of :data:`WHOLE` takes the whole axis, of whatever length, and an adaptive size of it keeps the axis.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools import _windows_at_run_time as run_time
from onnxpool.pools import power_average
from onnxpool.pools._torch_ops import HAVE_TORCH, TRANSLATIONS, torch, window_from

if TYPE_CHECKING:
    from torch import Tensor

Outputs = Any
"""A tensor, or a tuple of them."""

WHOLE = 0
"""The kernel size that takes a whole axis, and the adaptive size that keeps the axis as it is."""

MOST_SLICES = 64
"""An Lp window of more cells is pooled along one axis after the other."""


def operator(
    name: str, schema: str, run: Callable[..., Outputs], fake: Callable[..., Outputs], write: Callable[..., Any]
) -> Any:
    """Register ``torch.ops.onnxpool.<name>``: ``run`` computes it, ``fake`` knows its shape, ``write`` exports it."""
    if not HAVE_TORCH:
        return None
    op = torch.library.custom_op(f"{DOMAIN}::{name}", run, mutates_args=(), schema=schema)
    op.register_fake(fake)
    overload = getattr(getattr(torch.ops, DOMAIN), name).default
    TRANSLATIONS[overload] = write
    return overload


def _function(name: str, x: "Tensor") -> Any:
    """``torch.nn.functional``'s function of this name for the rank of ``x``."""
    return getattr(torch.nn.functional, f"{name}{x.dim() - 2}d")


def whole(size: Any) -> bool:
    """Whether this size takes the axis as it is."""
    return isinstance(size, int) and size == WHOLE


def known(*lists: Sequence[Any]) -> bool:
    """Whether all sizes are Python's ints."""
    return all(isinstance(size, int) for sizes in lists for size in sizes)


def _kernel(x: "Tensor", kernel: Sequence[int]) -> list[int]:
    return [n if whole(size) else size for size, n in zip(kernel, x.shape[2:], strict=True)]


def _shape(
    x: "Tensor",
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> list[int]:
    """The output shape; :mod:`onnxpool.window` has the formula."""
    shape = list(x.shape[:2])
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, pad, dilation, strict=False):  # of 3, as many as axes
        extent = d * (k - 1) + 1
        tail = torch.sym_min(p, extent - s) + s - 1 if ceil else p  # type: ignore[no-untyped-call]
        shape.append(1 if whole(k) else (n + p + tail - extent) // s + 1)
    return shape


def _positions(x: "Tensor", shape: Sequence[int]) -> "tuple[Tensor, Tensor]":
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _axes(*lists: Sequence[Any]) -> list[tuple[int, tuple[Any, ...]]]:
    """The sizes along each axis, the last axis first, but for axes whose windows are their positions."""
    every = list(enumerate(zip(*lists, strict=True), start=2))
    return [(axis, sizes) for axis, sizes in reversed(every) if not (known(sizes[:3]) and sizes[:3] == (1, 1, 0))]


def _to_compare(dtype: ir.DataType) -> ir.DataType:
    """The type to compare in, which ONNX Runtime's CPU provider has TopK and ReduceMax for."""
    if dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64}:
        return dtype
    return ir.DataType.FLOAT if dtype.is_floating_point() else ir.DataType.INT32


# --- max


def _run_max(x: "Tensor", kernel: Sequence[int], *rest: Any) -> "Tensor":
    y: Tensor = _function("max_pool", x)(x, _kernel(x, kernel), *rest)
    return y.clone()


def _write_max(op: Any, x: Any, *window: Any) -> Any:
    *sizes, ceil = window

    def write(values: Any) -> Any:
        for axis, (kernel, *rest) in _axes(*sizes):
            if whole(kernel):
                values = op.ReduceMax(values, onnx_ops.ints(op, axis), keepdims=1)
            else:
                values = run_time.largest(op, values, run_time.pooled_cells(op, x, axis, (kernel, *rest), ceil))
        return values

    return onnx_ops.computed_in(op, x, _to_compare(x.dtype), write)


_WINDOW = "Tensor x, SymInt[] kernel, SymInt[] stride, SymInt[] pad, SymInt[] dilation, bool ceil"

max_windows = operator(
    "max_windows",
    f"({_WINDOW}) -> Tensor",
    _run_max,
    lambda x, *window: x.new_empty(_shape(x, *window)),
    _write_max,
)


def _run_max_indices(x: "Tensor", kernel: Sequence[int], *rest: Any) -> "tuple[Tensor, Tensor]":
    values, index = _function("max_pool", x)(x, _kernel(x, kernel), *rest, return_indices=True)
    return values.clone(), index.clone()


def _write_max_indices(op: Any, x: Any, *window: Any) -> Any:
    *sizes, ceil = window
    dtype = _to_compare(x.dtype)
    wide = x if x.dtype == dtype else op.Cast(x, to=dtype)
    if known(*sizes) and dtype.is_floating_point() and all(p < k for k, p in zip(sizes[0], sizes[2], strict=True)):
        attributes = window_from(window).attributes()  # where ONNX Runtime takes the padding
        values, index = op.MaxPool(wide, **attributes)
        index = op.Mod(index, op.ReduceProd(op.Shape(x, start=2), keepdims=0))  # they count through the whole tensor
    else:
        values, index = wide, run_time.flat_index(op, x)
        for axis, (kernel, stride, pad, dilation) in _axes(*sizes):
            if whole(kernel):
                cells = run_time.adaptive_cells(op, x, axis, 1)
            else:
                cells = run_time.pooled_cells(op, x, axis, (kernel, stride, pad, dilation), ceil)
            values, index = run_time.largest_and_where(op, values, index, cells)
    return _as(op, values, dtype, x.dtype), index


def _as(op: Any, x: Any, dtype: ir.DataType, wanted: ir.DataType) -> Any:
    return op.Identity(x) if dtype == wanted else op.Cast(x, to=wanted)


max_windows_with_indices = operator(
    "max_windows_with_indices",
    f"({_WINDOW}) -> (Tensor, Tensor)",
    _run_max_indices,
    lambda x, *window: _positions(x, _shape(x, *window)),
    _write_max_indices,
)


# --- average


def _run_average(
    x: "Tensor",
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    ceil: bool,
    include_pad: bool,
    divisor: int | None,
) -> "Tensor":
    given = () if divisor is None else (divisor,)
    y: Tensor = _function("avg_pool", x)(x, _kernel(x, kernel), stride, pad, ceil, include_pad, *given)
    return y


def _write_average(op: Any, x: Any, *window: Any) -> Any:
    *sizes, ceil, include_pad, divisor = window
    wide = onnx_ops.wide_for(x.dtype)

    def write(values: Any) -> Any:
        values, every = _added(op, x, values, sizes, (ceil, include_pad), wide, mean=divisor is None)
        if divisor is not None:
            return op.Div(values, op.Cast(run_time.Whole(op, divisor).node, to=wide))
        for cells in every:
            values = run_time.divided_by_counts(op, values, cells, wide)
        return values

    return onnx_ops.computed_in(op, x, wide, write)


def _added(
    op: Any,
    x: Any,
    values: Any,
    sizes: Sequence[Sequence[Any]],
    counting: tuple[bool, bool],
    dtype: ir.DataType,
    mean: bool,
) -> tuple[Any, list[run_time.Cells]]:
    """The sums of windows, kernel, stride and padding in ``sizes``, but the means of whole axes with ``mean``.

    ``values`` is as large as ``x``, ``counting`` says ``ceil`` and ``include_pad``. The cells are of axes that were
    added up.
    """
    every = []
    for axis, (kernel, stride, pad) in _axes(*sizes):
        if whole(kernel):
            reduced = op.ReduceMean if mean else op.ReduceSum
            values = reduced(values, onnx_ops.ints(op, axis), keepdims=1)
            continue
        every.append(run_time.pooled_cells(op, x, axis, (kernel, stride, pad, 1), *counting))
        values = run_time.total(op, values, every[-1], dtype)
    return values, every


average_windows = operator(
    "average_windows",
    "(Tensor x, SymInt[] kernel, SymInt[] stride, SymInt[] pad, bool ceil, bool include_pad, SymInt? divisor)"
    " -> Tensor",
    _run_average,
    lambda x, kernel, stride, pad, ceil, *_: x.new_empty(_shape(x, kernel, stride, pad, [1] * 3, ceil)),
    _write_average,
)


# --- Lp, as PyTorch computes it


def _run_lp(x: "Tensor", p: float, kernel: Sequence[int], stride: Sequence[int], ceil: bool) -> "Tensor":
    y: Tensor = _function("lp_pool", x)(x, p, _kernel(x, kernel), stride, ceil)
    return y


def _write_lp(op: Any, x: Any, p: float, kernel: Sequence[Any], stride: Sequence[Any], ceil: bool) -> Any:
    """``(K mean x^p)^(1/p)`` with K cells in a whole window: without a magnitude, clipped windows inflated."""
    wide, double = onnx_ops.wide_for(x.dtype), ir.DataType.DOUBLE
    rank, nothing = len(kernel), [0] * len(kernel)

    def by_slices(x: Any) -> Any:
        window = window_from((kernel, stride, nothing, [1] * rank, ceil))
        share = None
        if ceil:
            counts = onnx_ops.count(op, x, window, wide, include_pad=True)
            share = op.Div(counts, onnx_ops.number(op, math.prod(kernel), wide))
        power, root = (onnx_ops.number(op, number, wide) for number in (p, 1 / p))
        return power_average.write_windows(op, x, window, power, root, share, wide)

    def by_axes(values: Any) -> Any:
        """In float64, whose range leaves room for powers of any float32, and which keeps the sign of a small sum."""
        powers = op.Pow(values, onnx_ops.number(op, p, double))
        total, every = _added(op, x, powers, (kernel, stride, nothing), (ceil, True), double, mean=False)
        for cells in every if ceil else ():
            total = op.Mul(total, op.Cast(cells.most.node, to=double))
            total = run_time.divided_by_counts(op, total, cells, double)
        return op.Pow(total, onnx_ops.number(op, 1 / p, double))

    if p > 0 and p % 2 == 0 and known(kernel, stride) and 0 < math.prod(kernel) <= MOST_SLICES:
        return onnx_ops.computed_in(op, x, wide, by_slices)
    return onnx_ops.computed_in(op, x, double, by_axes)


lp_windows = operator(
    "lp_windows",
    "(Tensor x, float p, SymInt[] kernel, SymInt[] stride, bool ceil) -> Tensor",
    _run_lp,
    lambda x, _, kernel, stride, ceil: x.new_empty(_shape(x, kernel, stride, [0] * 3, [1] * 3, ceil)),
    _write_lp,
)


# --- adaptive


def _adapted(x: "Tensor", sizes: Sequence[int]) -> list[int]:
    """The output shape."""
    return [*x.shape[:2], *(n if whole(size) else size for size, n in zip(sizes, x.shape[2:], strict=True))]


def _run_adaptive(x: "Tensor", sizes: Sequence[int], largest: bool) -> "Tensor":
    y: Tensor = _function("adaptive_max_pool" if largest else "adaptive_avg_pool", x)(x, _adapted(x, sizes)[2:])
    return y.clone()


def _write_adaptive(op: Any, x: Any, sizes: Sequence[Any], largest: bool) -> Any:
    dtype = _to_compare(x.dtype) if largest else onnx_ops.wide_for(x.dtype)

    def write(values: Any) -> Any:
        for axis, size in reversed(list(enumerate(sizes, start=2))):
            if whole(size):
                continue
            if isinstance(size, int) and size == 1:
                reduced = op.ReduceMax if largest else op.ReduceMean
                values = reduced(values, onnx_ops.ints(op, axis), keepdims=1)
                continue
            cells = run_time.adaptive_cells(op, x, axis, size)
            if largest:
                values = run_time.largest(op, values, cells)
            else:
                values = run_time.total(op, values, cells, dtype)
                values = run_time.divided_by_counts(op, values, cells, dtype)
        return values

    return onnx_ops.computed_in(op, x, dtype, write)


adaptive_windows = operator(
    "adaptive_windows",
    "(Tensor x, SymInt[] sizes, bool largest) -> Tensor",
    _run_adaptive,
    lambda x, sizes, _: x.new_empty(_adapted(x, sizes)),
    _write_adaptive,
)


def _run_adaptive_indices(x: "Tensor", sizes: Sequence[int]) -> "tuple[Tensor, Tensor]":
    values, index = _function("adaptive_max_pool", x)(x, _adapted(x, sizes)[2:], return_indices=True)
    return values.clone(), index.clone()


def _write_adaptive_indices(op: Any, x: Any, sizes: Sequence[Any]) -> Any:
    dtype = _to_compare(x.dtype)
    values, index = x if x.dtype == dtype else op.Cast(x, to=dtype), run_time.flat_index(op, x)
    for axis, size in reversed(list(enumerate(sizes, start=2))):
        if not whole(size):
            cells = run_time.adaptive_cells(op, x, axis, size)
            values, index = run_time.largest_and_where(op, values, index, cells)
    return _as(op, values, dtype, x.dtype), op.Identity(index)


adaptive_max_with_indices = operator(
    "adaptive_max_with_indices",
    "(Tensor x, SymInt[] sizes) -> (Tensor, Tensor)",
    _run_adaptive_indices,
    lambda x, sizes: _positions(x, _adapted(x, sizes)),
    _write_adaptive_indices,
)


# --- unpooling


def _run_unpool(x: "Tensor", indices: "Tensor", sizes: Sequence[int]) -> "Tensor":
    flat = x.new_zeros((*x.shape[:2], math.prod(sizes)))
    return flat.scatter(2, indices.flatten(2), x.flatten(2)).reshape(*x.shape[:2], *sizes)


def _write_unpool(op: Any, x: Any, indices: Any, sizes: Sequence[Any]) -> Any:
    one = onnx_ops.ints(op, -1)
    lengths = [op.Reshape(run_time.Whole(op, size).node, one) for size in sizes]
    planes, flat = op.Shape(x, start=0, end=2), onnx_ops.ints(op, 0, 0, -1)
    shape = op.Concat(planes, *lengths, axis=0)
    cells = op.ReduceProd(op.Concat(*lengths, axis=0), keepdims=1)

    def write(x: Any) -> Any:
        zeros = op.Expand(onnx_ops.number(op, 0, dtype), op.Concat(planes, cells, axis=0))
        full = op.ScatterElements(zeros, op.Reshape(indices, flat), op.Reshape(x, flat), axis=2)
        return op.Reshape(full, shape)

    dtype = onnx_ops.pooling_type(x.dtype)
    return onnx_ops.computed_in(op, x, dtype, write)


unpool = operator(
    "unpool",
    "(Tensor x, Tensor indices, SymInt[] sizes) -> Tensor",
    _run_unpool,
    lambda x, _, sizes: x.new_empty((*x.shape[:2], *sizes)),
    _write_unpool,
)
