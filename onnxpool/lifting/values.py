"""What can be said of a value in a graph before it is computed: constants, signs, and which values are the same.

>>> import onnx_ir as ir
>>> a = ir.node("Abs", [ir.Value(name="x")]).outputs[0]
>>> nonnegative(a), nonnegative(a.producer().inputs[0]), scalar(a)
(True, False, None)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

MOVES = {
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that only move the values of their first input, or of all inputs (Concat)."""

_LARGEST_CONSTANT = 1_000_000  # elements that are looked at


# --- how it was made


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that made this value, if it is a standard operator of one of these types; through Identity."""
    value = original(value)
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and not node.domain else None


def original(value: ir.Value | None) -> ir.Value | None:
    """The value that this is an Identity of; itself otherwise."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    return value


def base(value: ir.Value) -> ir.Value:
    """The value whose cells this one holds in other places; itself where no node moved it."""
    node = producer(value, *MOVES)
    moved = moved_by(node) if node is not None else []
    bases = [base(given) for given in moved]
    return bases[0] if bases and all(found is bases[0] for found in bases) else value


def depends(value: ir.Value, on: ir.Value) -> bool:
    """Whether this value is computed of another one, or is it."""
    seen: set[ir.Value] = set()
    left = [value]
    while left:
        if (one := left.pop()) is on:
            return True
        if one not in seen and (node := one.producer()) is not None:
            left += present(node.inputs)
        seen.add(one)
    return False


def moved_by(node: ir.Node) -> list[ir.Value]:
    """The inputs whose values such a node moves; the others say where to."""
    given = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [value for value in given if value is not None]


def made(value: ir.Value | None) -> str:
    """The value's name and what made it, for messages."""
    node = None if value is None else value.producer()
    name = "nothing" if value is None else repr(value.name)
    return f"{name} (made by {node.op_type})" if node is not None else name


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The attribute as a plain value."""
    return node.attributes[name].value if name in node.attributes else default


def present(values: Sequence[ir.Value | None]) -> tuple[ir.Value, ...]:
    """The inputs that a node was given."""
    return tuple(value for value in values if value is not None)


# --- what it holds


def constant(value: ir.Value | None) -> Any:
    """The tensor of a constant that no caller of the model can replace, or None."""
    value = original(value)
    return None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    tensor = constant(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def nonnegative(value: ir.Value | None, depth: int = 16) -> bool:
    """Whether no value of this tensor can be negative, whatever the inputs of the model are."""
    tensor = constant(value)
    if tensor is not None:
        return tensor.size <= _LARGEST_CONSTANT and bool((tensor.numpy() >= 0).all())
    if value is not None and value.dtype in _UNSIGNED:
        return True
    node = None if value is None else value.producer()
    rule = _SIGNS.get(node.op_type) if node is not None and not node.domain and depth else None
    return rule(node, depth - 1) if rule is not None and node is not None else False


def before_rectifying(value: ir.Value) -> ir.Value:
    """``v`` where this is ``max(v, 0)``; else the value."""
    node = producer(value, "Relu", "Max", "Clip", "Where")
    if node is None or node.inputs[0] is None:
        return value
    given = present(node.inputs)
    if node.op_type == "Where":
        less = producer(given[0], "Less")
        negative = less is not None and scalar(less.inputs[1]) == 0 and same(less.inputs[0], given[2])
        return given[2] if negative and scalar(given[1]) == 0 else value
    rectifies = node.op_type == "Relu" or (len(given) == 2 and scalar(given[1]) == 0)
    return node.inputs[0] if rectifies else value


_UNSIGNED = {ir.DataType.BOOL, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}


def _always(_: ir.Node, __: int) -> bool:
    return True


def _first(node: ir.Node, depth: int) -> bool:
    return nonnegative(node.inputs[0], depth)


def _all(node: ir.Node, depth: int) -> bool:
    return all(nonnegative(given, depth) for given in node.inputs if given is not None)


def _clipped(node: ir.Node, _: int) -> bool:
    given = [*node.inputs[1:], None, None]
    limits = [scalar(limit) for limit in given[:2]]
    least = attribute(node, "min", None) if limits[0] is None else limits[0]
    most = attribute(node, "max", None) if limits[1] is None else limits[1]
    return least is not None and least >= 0 and (most is None or most >= 0)


def _padded(node: ir.Node, depth: int) -> bool:
    return _first(node, depth) and (len(node.inputs) < 3 or node.inputs[2] is None or nonnegative(node.inputs[2]))


_SIGNS: dict[str, Callable[[ir.Node, int], bool]] = {
    **dict.fromkeys(("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"), _always),
    **dict.fromkeys(
        (
            "AveragePool", "Cast", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool",
            "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze",
            "Transpose", "Unsqueeze",
        ),
        _first,
    ),
    **dict.fromkeys(("Add", "Sum", "Min", "Concat"), _all),
    "Clip": _clipped,
    "Max": lambda node, depth: any(nonnegative(given, depth) for given in node.inputs),
    "Mul": lambda node, depth: same(node.inputs[0], node.inputs[1]) or _all(node, depth),
    "Pad": _padded,
    "Where": lambda node, depth: before_rectifying(node.outputs[0]) is not node.outputs[0]
    or all(nonnegative(given, depth) for given in node.inputs[1:]),
    "Pow": lambda node, depth: (scalar(node.inputs[1]) or 1) % 2 == 0 or _first(node, depth),
}  # fmt: skip
"""When each operator gives no negative value; all others may."""


# --- the same value twice


def same(a: ir.Value | None, b: ir.Value | None, depth: int = 8) -> bool:
    """Whether two values are one, or were made in the same way from the same."""
    a, b = original(a), original(b)
    if a is b or a is None or b is None:
        return a is b
    first, second = constant(a), constant(b)
    if first is not None and second is not None:
        return first.size <= _LARGEST_CONSTANT and _equal(first, second)
    left, right = a.producer(), b.producer()
    if left is None or right is None or not depth or a.index() != b.index() or not _alike(left, right):
        return False
    return all(same(x, y, depth - 1) for x, y in zip(left.inputs, right.inputs, strict=True))


_DRAWS = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
_DRAWS |= {"RandomUniformLike"}


def _alike(a: ir.Node, b: ir.Node) -> bool:
    """Whether two nodes do the same."""
    if (a.op_type, a.domain, len(a.inputs)) != (b.op_type, b.domain, len(b.inputs)) or a.op_type in _DRAWS:
        return False
    return set(a.attributes) == set(b.attributes) and all(
        _equal_attributes(a.attributes[name], b.attributes[name]) for name in a.attributes
    )


def _equal_attributes(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type == b.type == ir.AttributeType.TENSOR:
        return _equal(a.as_tensor(), b.as_tensor())
    return a.type == b.type and bool(a.value == b.value)


def _equal(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a.numpy(), b.numpy()))


# --- shapes


def rank_of(value: ir.Value) -> int:
    """Number of axes; 0 where it is unknown."""
    return 0 if value.shape is None else len(value.shape)


def sizes_of(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of the spatial axes, where all are fixed."""
    sizes = () if value.shape is None else value.shape.dims[2:]
    fixed = tuple(size for size in sizes if isinstance(size, int))
    return fixed if fixed and len(fixed) == len(sizes) else None


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that a Reduce operator reduces, from the front and sorted; an attribute in older opsets."""
    given = attribute(node, "axes", None)
    if given is None and len(node.inputs) > 1 and (tensor := constant(node.inputs[1])) is not None:
        given = tensor.numpy().reshape(-1).tolist()
    rank = 0 if node.inputs[0] is None else rank_of(node.inputs[0])
    return tuple(sorted(int(axis) % rank for axis in given)) if given is not None and rank else None


def constant_over(value: ir.Value | None, axes: Sequence[int], rank: int) -> bool:
    """Whether broadcasting makes this value constant along these axes of a tensor of this rank."""
    if scalar(value) is not None:
        return True
    if value is None or value.shape is None:
        return False
    missing = rank - len(value.shape)
    return all(axis < missing or value.shape[axis - missing] == 1 for axis in axes)
