"""Max pooling: the largest value of the window.

    y = max_i x_i   over the in-bounds cells of the window

The standard operator of PyTorch and of ONNX, ``MaxPool``, in every form of a model. The gradient goes to the first
maximum in row-major order. A window that holds NaN gives NaN; ONNX Runtime's CPU provider drops NaN instead, and may
give the lowest finite number for a window of -inf.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
4.0
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method, over_windows
from onnxpool.pools._torch_ops import WindowModule, padded, pooled_shape, standard_operator, torch
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MaxPool1d", "MaxPool2d", "MaxPool3d"]


def reference(window: Window, x: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition that everything else is compared with."""
    return over_windows(lambda cells: cells.max(-1), window, x)


METHOD = Method(
    name="MaxPool",
    summary="largest value of the window",
    formula="y = max x_i",
    source="standard operator MaxPool",
    modules=("MaxPool1d(3, 2, 1, 2)", "MaxPool2d(3, 2, 1)", "MaxPool2d(2, ceil_mode=True)", "MaxPool3d(2)"),
)


def _forward(window: Window, x: "Tensor") -> "Tensor":
    if any(pad > kernel // 2 for pad, kernel in zip(window.pad, window.kernel, strict=True)):
        x, window = padded(x, window, -torch.inf)  # PyTorch's CPU kernels refuse such pads, however wide the window
    functions = torch.nn.functional
    pool = (functions.max_pool1d, functions.max_pool2d, functions.max_pool3d)[window.rank - 1]
    largest: Tensor = pool(x, window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    return largest


def _translate(op: Any, window: Window, x: Any) -> Any:
    dtype = onnx_ops.pooling_type(x.dtype)

    def write(x: Any) -> Any:
        inside = window
        pads = window.pad + window.tail
        refused = any(pad >= kernel for pad, kernel in zip(pads, window.kernel * 2, strict=True))  # by ONNX Runtime
        uneven = len(set(pads)) > 1 or (window.rank == 1 and any(pads))
        misread = uneven and set(window.stride + window.dilation) == {1}  # by onnx's ReferenceEvaluator
        if refused or misread:
            x, inside = onnx_ops.padded(op, x, window, -np.inf, dtype)
        return onnx_ops.max_pool(op, x, **onnx_ops.attributes(inside))

    return onnx_ops.computed_in(op, x, dtype, write)


max_pool = standard_operator("max_pool", "Window window, Tensor x", _forward, pooled_shape, _translate)


class _MaxPool(WindowModule):
    def pool(self, x: "Tensor") -> "Tensor":
        return max_pool(self.window, x)

    def reference(self, x: Array) -> Array:
        return reference(self.window, x)


class MaxPool1d(_MaxPool):
    """Max pooling over ``(N, C, L)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`."""

    rank = 1


class MaxPool2d(_MaxPool):
    """Max pooling over ``(N, C, H, W)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`.

    >>> import torch
    >>> MaxPool2d(2)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item()
    4.0
    """

    rank = 2


class MaxPool3d(_MaxPool):
    """Max pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`."""

    rank = 3
