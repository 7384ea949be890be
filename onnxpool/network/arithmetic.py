"""What a network computes of sizes, such as ``-(-h // 2)`` or ``math.ceil(h / 3)``, in ONNX: as Python computes it.

PyTorch's own translations truncate where Python floors, so that ``-(-7 // 2)`` becomes 3, and divide in float32. Here
whole numbers are int64, and others float64 from one operation to the next. PyTorch's exporter declares the latter
float32, so each result is also cast to that, for whoever takes it but these operators.
"""

import builtins
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

_FLOATING = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How each operation on symbolic numbers is written in ONNX, for PyTorch's exporter."""
    import torch
    from onnxscript import opset18

    op: Any = opset18

    def constant(value: float, dtype: Any) -> Any:
        return op.Constant(value=ir.tensor(np.array(value, dtype)))

    def whole(value: Any) -> Any:
        return constant(value, np.int64) if isinstance(value, int) else value

    def double(value: Any) -> Any:
        if isinstance(value, int | float):
            return constant(value, np.float64)
        cast = value.producer()
        if cast in casts:
            return cast.inputs[0]
        return op.Cast(value, to=ir.DataType.DOUBLE)

    casts: set[Any] = set()
    """From float64 to float32, for others."""

    def single(value: Any) -> Any:
        cast: Any = op.Cast(value, to=ir.DataType.FLOAT)
        casts.add(cast.producer())
        return cast

    def fractional(*values: Any) -> bool:
        return any(isinstance(value, float) or getattr(value, "dtype", None) in _FLOATING for value in values)

    def both(of_whole: Callable[..., Any], of_double: Callable[..., Any]) -> Callable[..., Any]:
        def write(*values: Any) -> Any:
            if fractional(*values):
                return single(of_double(*map(double, values)))
            return of_whole(*map(whole, values))

        return write

    def rounding(name: str) -> Callable[..., Any]:
        def write(value: Any, digits: Any = None) -> Any:
            if digits is not None:
                raise NotImplementedError(f"round(size, {digits}) has no translation; use round(size)")
            if not fractional(value):
                return op.Identity(value)
            rounded = double(value) if name == "Trunc" else getattr(op, name)(double(value))
            return op.Cast(rounded, to=ir.DataType.INT64)

        return write

    def floor_of_quotient(a: Any, b: Any) -> Any:
        return op.Div(op.Sub(a, op.Mod(a, b)), b)  # ONNX's Div truncates, its Mod has the sign of b like Python's

    def remainder(a: Any, b: Any) -> Any:
        return op.Sub(a, op.Mul(op.Floor(op.Div(a, b)), b))

    return {
        operator.add: both(op.Add, op.Add),
        operator.sub: both(op.Sub, op.Sub),
        operator.mul: both(op.Mul, op.Mul),
        operator.neg: both(op.Neg, op.Neg),
        operator.pow: both(op.Pow, op.Pow),
        operator.floordiv: both(floor_of_quotient, lambda a, b: op.Floor(op.Div(a, b))),
        operator.mod: both(op.Mod, remainder),
        operator.truediv: lambda a, b: single(op.Div(double(a), double(b))),
        torch.sym_float: lambda value: single(double(value)),
        torch.sym_max: both(op.Max, op.Max),
        torch.sym_min: both(op.Min, op.Min),
        math.floor: rounding("Floor"),
        math.ceil: rounding("Ceil"),
        math.trunc: rounding("Trunc"),
        builtins.round: rounding("Round"),
    }
