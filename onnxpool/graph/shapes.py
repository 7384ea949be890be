"""The shapes that a model declares, inferred when it was exported, against those that come out.

>>> size_of("(h - 1)//2 + 1", {"h": 8})
4
>>> size_of("floor(h / 3) + Mod(h, 3)", {"h": 8})
4
>>> size_of("unknown", {"h": 8}) is None
True

An axis is a number, a name, or an expression of names, as PyTorch's exporter writes them. Names get their sizes from
the inputs; where one has two sizes, or an axis is not what its expression gives, the model declares what is not so.
ONNX Runtime plans its memory by these names.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

_POWER = re.compile(r"\*\*(?!\s*[0-9](?![0-9*.]))")
"""A power that is not of one digit: numbers of millions of digits can be written that way."""

_MOST_POWERS = 4
"""Together they raise to no more than 9^4, which is a moment's work."""

_EXTREME = re.compile(r"\b(max|min)\b", re.IGNORECASE)

_NAME = re.compile(r"([^\W\d][\w.]*)?\Z")
"""A name alone, or nothing."""


def size_of(axis: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size that a declared axis has, or None where names or signs in it are not known, or it is not a whole number.

    :meth:`onnx_ir.SymbolicDim.evaluate` takes every name for a positive number, so that a maximum or minimum is not
    known where one is 0.
    """
    if isinstance(axis, int):
        return axis
    if axis in sizes:
        return sizes[axis]
    if not axis:
        return None
    if _POWER.search(axis) or axis.count("**") > _MOST_POWERS or (0 in sizes.values() and _EXTREME.search(axis)):
        return None
    try:
        size = ir.SymbolicDim(axis).evaluate(sizes)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return size if isinstance(size, int) else None


def unchecked(values: Iterable[ir.Value], every: Iterable[Mapping[str, int]]) -> list[str]:
    """The expressions among the axes of ``values`` that have a size for none of ``every``, each once.

    A name alone is not among them: it may have any size.
    """
    expressions = {axis for value in values for axis in _axes(value) if isinstance(axis, str) and not _NAME.match(axis)}
    for sizes in every:
        expressions = {axis for axis in expressions if size_of(axis, sizes) is None}
    return sorted(expressions)


def sizes_of(values: Iterable[ir.Value], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of each name among the axes of ``values``, whose ``shapes`` are known; the first counts."""
    sizes: dict[str, int] = {}
    for value in values:
        axes = zip(_axes(value), shapes.get(str(value.name), ()), strict=False)
        sizes = {axis: size for axis, size in axes if isinstance(axis, str) and axis} | sizes
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
            return f"axis {i} of {what} has size {size}; the model declares {told}"
    return ""


def fits(shape: Sequence[int], declared: Iterable[object]) -> bool:
    """Whether a shape has as many axes as are declared, and the declared size where that is a number."""
    wanted = tuple(declared)
    return len(shape) == len(wanted) and all(
        size == want for size, want in zip(shape, wanted, strict=True) if isinstance(want, int)
    )


def _axes(value: ir.Value) -> list[int | str]:
    return [axis if isinstance(axis, int) else str(axis.value or "") for axis in value.shape or ()]
