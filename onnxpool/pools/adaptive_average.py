"""Adaptive average pooling: means of windows that cut the input into a given number of parts.

    y_i = mean of x from floor(i n / o) to ceil((i + 1) n / o), exclusively   along each axis of length n, for o outputs

Source: PyTorch's ``AdaptiveAvgPool``. Any output size will do: no factor of the input's, or larger than it; None keeps
that of the input. NaN in a window gives NaN. Sums are float32, or float64 for float64: one beyond 3.4e38 overflows.

In ONNX ``GlobalAveragePool`` where every output size is 1, and ``AveragePool`` where input sizes are fixed and output
sizes divide them. Else the windows are computed from the input's size at run time: per axis each window's cells are
gathered, and their sum divided by their number. (Matrices of weights, one per axis, would be shorter, but there NaN and
infinity times 0 spread to all windows; differences of cumulative sums lose accuracy.)

>>> import numpy as np
>>> reference(np.array([[[1.0, 2.0, 6.0]]]), (2,))
array([[[1.5, 4. ]]])
"""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools import global_average
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import PoolModule, has_known_sizes, standard_operator, torch, widen

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"]

OutputSize = int | None | Sequence[int | None]
"""One size for every axis, or one per axis; None is that of the input."""


def reference(x: Array, sizes: Sequence[int | None]) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *sizes)``: the definition that everything else is compared with."""
    return over_parts(lambda cells: cells.mean(-1), x, sizes)


def over_parts(formula: Callable[[Array], Array], x: Array, sizes: Sequence[int | None]) -> Array:
    """Apply ``formula``, ``(N, C, cells) -> (N, C)``, to every window; the plain way."""
    lengths = [n if size is None else size for size, n in zip(sizes, x.shape[2:], strict=True)]
    output = np.empty((*x.shape[:2], *lengths))
    every = (slice(None), slice(None))
    for position in product(*map(range, lengths)):
        axes = zip(position, x.shape[2:], lengths, strict=True)
        inside = tuple(slice(i * n // size, -(-(i + 1) * n // size)) for i, n, size in axes)
        cells = x[every + inside]
        output[every + position] = formula(cells.reshape(*x.shape[:2], math.prod(cells.shape[2:])))
    return output


METHOD = Method(
    name="AdaptiveAvgPool",
    summary="means of as many windows as asked for",
    formula="y_i = mean of x from floor(i n / o) to ceil((i + 1) n / o)",
    source="PyTorch's AdaptiveAvgPool",
    modules=("AdaptiveAvgPool1d(5)", "AdaptiveAvgPool2d((3, 4))", "AdaptiveAvgPool2d(1)", "AdaptiveAvgPool3d(2)"),
)


# --- how it trains


def _forward(x: "Tensor", sizes: Sequence[int]) -> "Tensor":
    if has_free_sizes(x):
        means: Tensor = axis_by_axis(_mean_along, widen(x), sizes).to(x.dtype)
        return means
    functions = torch.nn.functional
    pools: tuple[Any, ...] = (
        functions.adaptive_avg_pool1d,
        functions.adaptive_avg_pool2d,
        functions.adaptive_avg_pool3d,
    )
    y: Tensor = pools[len(sizes) - 1](widen(x), adapted_shape(x, sizes)[2:])
    return y.to(x.dtype)


def has_free_sizes(x: "Tensor") -> bool:
    """Whether sizes are symbolic in a program: exporters write PyTorch's own operator for the example's, silently."""
    return not torch.compiler.is_dynamo_compiling() and any(isinstance(n, torch.SymInt) for n in x.shape[2:])


def _mean_along(x: "Tensor", axis: int, size: int) -> "Tensor":
    if size == 1:
        return x.mean(axis, keepdim=True)
    cells, inside, counts = free_parts(x, axis, size)
    return (torch.where(inside, cells, 0) / counts).sum(axis + 1)  # a sum of cells could leave float32's range


def free_parts(x: "Tensor", axis: int, size: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Each window's cells along an axis of any length, in an axis after it; whether they count; and how many do.

    A window with fewer cells than others has its last one several times.
    """
    n, after = x.shape[axis], [1] * (x.dim() - 1 - axis)
    i = torch.arange(size, device=x.device)
    first = i * n // size
    counts = ((i + 1) * n + (size - 1)) // size - first
    place = torch.arange((n + size - 1) // size + 1, device=x.device)
    last = (counts - 1)[:, None]
    index = first[:, None] + torch.minimum(place, last)
    cells = x.index_select(axis, index.flatten()).unflatten(axis, (size, -1))  # type: ignore[no-untyped-call]
    inside = place <= last
    return cells, inside.reshape(*inside.shape, *after), counts.reshape(-1, 1, *after)


def adapted_shape(x: "Tensor", sizes: Sequence[int]) -> tuple[int, ...]:
    """The output shape; while PyTorch traces it makes no condition on the sizes of ``x``, else it refuses bad ones."""
    if has_known_sizes(x) and 0 in x.shape[2:]:
        raise ArgumentError(f"x has shape {tuple(x.shape)}, which has an axis without positions; use at least one")
    return (*x.shape[:2], *(size or n for size, n in zip(sizes, x.shape[2:], strict=True)))


# --- how it looks in ONNX


def _translate(op: Any, x: Any, sizes: Sequence[int]) -> Any:
    spatial, wide = x.shape[2:], onnx_ops.wide_for(x.dtype)

    def along(x: Any, axis: int, size: int) -> Any:
        if size == 1:
            return op.ReduceMean(x, onnx_ops.ints(op, axis), keepdims=1)
        cells, counts = onnx_ops.parts(op, x, axis, size, len(sizes), 0, wide)
        return op.Div(op.ReduceSum(cells, onnx_ops.ints(op, axis + 1), keepdims=0), op.Cast(counts, to=wide))

    def pooled(x: Any) -> Any:
        kernel = [n // (size or n) for size, n in zip(sizes, spatial, strict=True)]
        return op.AveragePool(x, kernel_shape=kernel, strides=kernel)

    if set(sizes) == {1}:
        return global_average.translate(op, x)
    if divides(sizes, spatial) and wide != ir.DataType.DOUBLE:  # which ONNX Runtime has no AveragePool for
        return onnx_ops.computed_in(op, x, onnx_ops.pooling_type(x.dtype), pooled)
    return onnx_ops.computed_in(op, x, wide, lambda x: axis_by_axis(along, x, sizes))


def divides(sizes: Sequence[int], spatial: Sequence[Any]) -> bool:
    """Whether input sizes are fixed, and parts of them are equal."""
    return all(isinstance(n, int) and n % (size or n) == 0 for size, n in zip(sizes, spatial, strict=True))


def axis_by_axis(along: Callable[[Any, int, int], Any], x: Any, sizes: Sequence[int]) -> Any:
    """Apply ``along(x, axis, size)`` to every axis that has a size."""
    for axis, size in enumerate(sizes, start=2):
        x = along(x, axis, size) if size else x
    return x


adaptive_average_pool = standard_operator(
    "adaptive_average_pool", "Tensor x, int[] sizes", _forward, adapted_shape, _translate
)


# --- modules


class AdaptiveModule(PoolModule):
    """Base of the adaptive poolings: one argument, the output size, an int or None, or one of these per axis.

    Raises :class:`ArgumentError` for sizes that are not positive ints, and in ``forward`` for a wrong rank, an integer
    dtype, and an input with an axis of length 0.
    """

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        sizes: tuple[Any, ...] = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * self.rank
        if len(sizes) != self.rank or any(size is not None and (type(size) is not int or size < 1) for size in sizes):
            raise ArgumentError(f"output_size={output_size!r} must be a positive int or None, or {self.rank} of these")
        self.output_size: tuple[int | None, ...] = sizes

    @property
    def sizes(self) -> list[int]:
        """``output_size`` with 0 for None, as operators take it."""
        return [size or 0 for size in self.output_size]

    def extra_repr(self) -> str:
        """The output size."""
        return "x".join(str(size or "same") for size in self.output_size)


class _AdaptiveAvgPool(AdaptiveModule):
    def pool(self, x: "Tensor") -> "Tensor":
        return adaptive_average_pool(x, self.sizes)

    def reference(self, x: Array) -> Array:
        return reference(x, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Adaptive average pooling over ``(N, C, L)``; argument and errors as :class:`AdaptiveModule`."""

    rank = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Adaptive average pooling over ``(N, C, H, W)``; argument and errors as :class:`AdaptiveModule`.

    >>> import torch
    >>> AdaptiveAvgPool2d((1, 2))(torch.tensor([[[[1.0, 2.0, 6.0]]]]))
    tensor([[[[1.5000, 4.0000]]]])
    """

    rank = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Adaptive average pooling over ``(N, C, D, H, W)``; argument and errors as :class:`AdaptiveModule`."""

    rank = 3
