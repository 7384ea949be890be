"""Adaptive max pooling: the largest values of windows that cut the input into a given number of parts.

    y_i = max of x from floor(i n / o) to ceil((i + 1) n / o), exclusively   along each axis of length n, for o outputs

Source: PyTorch's ``AdaptiveMaxPool``. Any output size will do: no factor of the input's, or larger than it; None keeps
that of the input. The gradient goes to the first maximum in row-major order. A window that holds NaN gives NaN.

In ONNX ``GlobalMaxPool`` where every output size is 1, and ``MaxPool`` where input sizes are fixed and output sizes
divide them. Else the windows are computed from the input's size at run time: per axis each window's cells are gathered,
and the largest taken. ONNX Runtime's CPU provider may drop NaN in all of these.

>>> import numpy as np
>>> reference(np.array([[[1.0, 2.0, 6.0]]]), (2,))
array([[[2., 6.]]])
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import standard_operator, torch
from onnxpool.pools.adaptive_average import (
    AdaptiveModule,
    adapted_shape,
    axis_by_axis,
    divides,
    free_parts,
    has_free_sizes,
    over_parts,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d"]


def reference(x: Array, sizes: Sequence[int | None]) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *sizes)``: the definition that everything else is compared with."""
    return over_parts(lambda cells: cells.max(-1), x, sizes)


METHOD = Method(
    name="AdaptiveMaxPool",
    summary="largest values of as many windows as asked for",
    formula="y_i = max of x from floor(i n / o) to ceil((i + 1) n / o)",
    source="PyTorch's AdaptiveMaxPool",
    modules=("AdaptiveMaxPool1d(5)", "AdaptiveMaxPool2d((3, 4))", "AdaptiveMaxPool2d(1)", "AdaptiveMaxPool3d(2)"),
)


def _forward(x: "Tensor", sizes: Sequence[int]) -> "Tensor":
    if has_free_sizes(x):
        largest: Tensor = axis_by_axis(_largest_along, x, sizes)
        return largest
    functions = torch.nn.functional
    pools: tuple[Any, ...] = (
        functions.adaptive_max_pool1d,
        functions.adaptive_max_pool2d,
        functions.adaptive_max_pool3d,
    )
    y: Tensor = pools[len(sizes) - 1](x, adapted_shape(x, sizes)[2:])
    return y


def _largest_along(x: "Tensor", axis: int, size: int) -> "Tensor":
    if size == 1:
        return x.amax(axis, keepdim=True)
    cells, _, _ = free_parts(x, axis, size)
    return cells.amax(axis + 1)


def _translate(op: Any, x: Any, sizes: Sequence[int]) -> Any:
    spatial, dtype = x.shape[2:], onnx_ops.pooling_type(x.dtype)

    def along(x: Any, axis: int, size: int) -> Any:
        if size == 1:
            return op.ReduceMax(x, onnx_ops.ints(op, axis), keepdims=1)
        cells, _ = onnx_ops.parts(op, x, axis, size, len(sizes), -math.inf, dtype)
        return op.ReduceMax(cells, onnx_ops.ints(op, axis + 1), keepdims=0)

    def write(x: Any) -> Any:
        if set(sizes) == {1} and len(sizes) == 2 and x.dtype != ir.DataType.DOUBLE:
            return op.GlobalMaxPool(
                x
            )  # of two axes alone the ReferenceEvaluator's is right; of float64 ONNX Runtime has none
        if divides(sizes, spatial):
            kernel = [n // (size or n) for size, n in zip(sizes, spatial, strict=True)]
            return onnx_ops.max_pool(op, x, kernel_shape=kernel, strides=kernel)
        return axis_by_axis(along, x, sizes)

    return onnx_ops.computed_in(op, x, dtype, write)


adaptive_max_pool = standard_operator("adaptive_max_pool", "Tensor x, int[] sizes", _forward, adapted_shape, _translate)


class _AdaptiveMaxPool(AdaptiveModule):
    def pool(self, x: "Tensor") -> "Tensor":
        return adaptive_max_pool(x, self.sizes)

    def reference(self, x: Array) -> Array:
        return reference(x, self.output_size)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Adaptive max pooling over ``(N, C, L)``.

    Argument and errors as :class:`onnxpool.pools.adaptive_average.AdaptiveModule`.
    """

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Adaptive max pooling over ``(N, C, H, W)``.

    Argument and errors as :class:`onnxpool.pools.adaptive_average.AdaptiveModule`.

    >>> import torch
    >>> AdaptiveMaxPool2d((1, 2))(torch.tensor([[[[1.0, 2.0, 6.0]]]]))
    tensor([[[[2., 6.]]]])
    """

    rank = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Adaptive max pooling over ``(N, C, D, H, W)``.

    Argument and errors as :class:`onnxpool.pools.adaptive_average.AdaptiveModule`.
    """

    rank = 3
