"""Global average pooling: the mean over all positions, whatever the size of the input.

    y[n, c] = mean over every position of x[n, c]

Source: Lin, Chen, Yan, "Network in Network", ICLR 2014. The standard operator of ONNX, ``GlobalAveragePool``, in every
form of a model (``ReduceMean`` for float64, for which ONNX Runtime's CPU provider has no ``GlobalAveragePool``). NaN
anywhere gives NaN. Sums are float32, or float64 for float64: one beyond 3.4e38 overflows.

>>> import numpy as np
>>> reference(np.array([[[[1.0, 2.0], [3.0, 6.0]]]])).item()
3.0
"""

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import PoolModule, has_known_sizes, standard_operator, widen

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GlobalAvgPool1d", "GlobalAvgPool2d", "GlobalAvgPool3d"]


def reference(x: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, 1, ...)``: the definition that everything else is compared with."""
    mean: Array = x.mean(tuple(range(2, x.ndim)), keepdims=True)
    return mean


METHOD = Method(
    name="GlobalAvgPool",
    summary="mean over all positions",
    formula="y = mean x_i",
    source="Lin et al., ICLR 2014",
    modules=("GlobalAvgPool1d()", "GlobalAvgPool2d()", "GlobalAvgPool2d(flatten=True)", "GlobalAvgPool3d()"),
)


def _forward(x: "Tensor") -> "Tensor":
    return widen(x).mean(tuple(range(2, x.dim())), keepdim=True).to(x.dtype)


def _shape(x: "Tensor") -> tuple[int, ...]:
    if has_known_sizes(x) and 0 in x.shape[2:]:
        raise ArgumentError(f"x has shape {tuple(x.shape)}, which has no position to average; use at least one")
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


def translate(op: Any, x: Any) -> Any:
    """The operator in ONNX, for a value ``x`` of known type and rank."""
    if x.dtype == ir.DataType.DOUBLE:
        return op.ReduceMean(x, onnx_ops.ints(op, *range(2, len(x.shape))), keepdims=1)
    return onnx_ops.computed_in(op, x, onnx_ops.pooling_type(x.dtype), op.GlobalAveragePool)


global_average_pool = standard_operator("global_average_pool", "Tensor x", _forward, _shape, translate)


class _GlobalAvgPool(PoolModule):
    def __init__(self, flatten: bool = False) -> None:
        super().__init__()
        if not isinstance(flatten, bool):
            raise ArgumentError(f"flatten={flatten!r} is not a bool; use True or False")
        self.flatten: bool = flatten

    def pool(self, x: "Tensor") -> "Tensor":
        y = global_average_pool(x)
        return y.flatten(1) if self.flatten else y

    def reference(self, x: Array) -> Array:
        y = reference(x)
        return y.reshape(x.shape[:2]) if self.flatten else y

    def extra_repr(self) -> str:
        return "flatten=True" * self.flatten


class GlobalAvgPool1d(_GlobalAvgPool):
    """Mean over ``(N, C, L)``; arguments and errors as :class:`GlobalAvgPool2d`."""

    rank = 1


class GlobalAvgPool2d(_GlobalAvgPool):
    """Mean over ``(N, C, H, W)``: to ``(N, C, 1, 1)``, or to ``(N, C)`` with ``flatten``, for a classifier's head.

    Without a batch ``(C, H, W)`` to ``(C, 1, 1)`` or ``(C,)``. Raises :class:`ArgumentError` for a ``flatten`` that is
    no bool, and in ``forward`` for a wrong rank, an integer dtype, and an input without positions.

    >>> import torch
    >>> GlobalAvgPool2d(flatten=True)(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    tensor([[3.]])
    """

    rank = 2


class GlobalAvgPool3d(_GlobalAvgPool):
    """Mean over ``(N, C, D, H, W)``; arguments and errors as :class:`GlobalAvgPool2d`."""

    rank = 3
