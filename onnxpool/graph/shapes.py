"""The shapes that a model declares, inferred when it was exported, against those that come out.

>>> size_of("(h - 1)//2 + 1", {"h": 8})
4
>>> size_of("unknown", {"h": 8}) is None
True

An axis is a number, a name, or an expression of names, as PyTorch's exporter writes them. Names get their sizes from
the inputs; where one has two sizes, or an axis is not what its expression gives, the model declares what is not so.
ONNX Runtime plans its memory by these names.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"Max": max, "Min": min, "max": max, "min": min}


def size_of(axis: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size that a declared axis has, or None where names or signs in it are not known."""
    if isinstance(axis, int):
        return axis
    try:
        return int(_value(ast.parse(axis, mode="eval").body, sizes))
    except (SyntaxError, KeyError, ValueError, ZeroDivisionError):
        return None


def sizes_of(values: Iterable[ir.Value], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of each name among the axes of ``values``, whose ``shapes`` are known; the first counts."""
    sizes: dict[str, int] = {}
    for value in values:
        axes = zip(_axes(value), shapes.get(str(value.name), ()), strict=False)
        sizes = {axis: size for axis, size in axes if isinstance(axis, str)} | sizes
    return sizes


def contradiction(what: str, value: ir.Value, shape: tuple[int, ...], sizes: Mapping[str, int]) -> str:
    """How ``what``, a value of this ``shape``, differs from what the model declares for it, or nothing."""
    if value.shape is None:
        return ""
    axes = _axes(value)
    if len(axes) != len(shape):
        return f"{what} has {len(shape)} axes; the model declares {len(axes)}"
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        wanted = size_of(axis, sizes)
        if wanted not in (None, size):
            told = f"{axis}, which is {wanted} here" if isinstance(axis, str) else str(axis)
            return f"axis {i} of {what} has {size} cells; the model declares {told}"
    return ""


def fits(shape: Sequence[int], declared: Iterable[object]) -> bool:
    """Whether a shape has as many axes as are declared, and the declared size where that is a number."""
    wanted = tuple(declared)
    return len(shape) == len(wanted) and all(
        size == want for size, want in zip(shape, wanted, strict=True) if isinstance(want, int)
    )


def _axes(value: ir.Value) -> list[int | str]:
    return [axis if isinstance(axis, int) else str(axis.value or "") for axis in value.shape or ()]


def _value(node: ast.AST, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp):
        return int(_OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes)))
    if isinstance(node, ast.UnaryOp):
        return int(_OPERATORS[type(node.op)](_value(node.operand, sizes)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return int(_FUNCTIONS[node.func.id](*(_value(argument, sizes) for argument in node.args)))
    raise ValueError(ast.dump(node))
