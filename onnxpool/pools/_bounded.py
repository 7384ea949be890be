"""The standard form for inputs that stay within a stated range: exponentials as they are, and two sums.

    y = sum_i x_i exp(l_i) / sum_i exp(l_i)   where |x_i| and |l_i| are at most R

It reads each input once, in operators that every runtime has, where the exact form reads it once per cell of the
window. What is beyond R may overflow, or be 0 / 0: R is part of the model, and of what validation says about it.
"""

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.window import Window


def largest_range(window: Window, dtype: ir.DataType) -> float:
    """The largest R for this window, in 1/16.

    No sum of ``cells`` products overflows, ``cells R exp(R) <= max``, and no mean of weights is denormal,
    ``exp(-R) / cells >= smallest normal number``, in the type that is computed in; with a factor of 2 to spare for what
    runtimes round.

    >>> largest_range(Window.of(2, 3), ir.DataType.FLOAT), largest_range(Window.of(2, 3), ir.DataType.DOUBLE)
    (81.375, 700.3125)
    """
    info = np.finfo(onnx_ops.wide_for(dtype).numpy())
    cells = math.prod(window.kernel)
    most = math.log(float(info.max)) - math.log(2 * cells)
    least = -math.log(float(info.smallest_normal)) - math.log(2 * cells)
    steps = int(min(most, least) * 16)
    while steps > 0 and steps / 16 + math.log(max(steps / 16, 1)) > most:
        steps -= 1
    return steps / 16


def ratio(op: Any, window: Window, dtype: ir.DataType, x: Any, logit: Any) -> Any:
    """The mean of ``x`` weighted with ``exp(logit)``."""
    wide = onnx_ops.wide_for(dtype)
    weight = op.Exp(logit)

    def mean(values: Any) -> Any:
        if set(window.dilation) != {1} or wide == ir.DataType.DOUBLE:  # which AveragePool has not, or not everywhere
            return op.Sum(*onnx_ops.cells(op, values, window, 0, wide))
        attributes = onnx_ops.attributes(window)
        del attributes["dilations"]
        return op.AveragePool(values, **attributes, count_include_pad=0)

    return op.Div(mean(op.Mul(x, weight)), mean(weight))
