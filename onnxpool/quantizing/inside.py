"""How large numbers may become inside of a node, whatever it takes in and gives: the sums that it makes on its way.

    a weighted sum (Conv, Gemm, MatMul)     at most the largest |x| times the largest sum of |w| of one output
    a mean or a sum                         the sum of |x| over what is reduced
    a mean of squares, a norm               the largest x^2, and for a norm their sum
    ReduceLogSumExp                         e^x, where a program does not shift

Programs make such sums in float32, most of them; others in the type of what they take. Pooling nodes of ours compute in
float32 in every form.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array


def largest_inside(node: ir.Node, arrays: Mapping[str, Array]) -> float:
    """The largest magnitude of such a number, for ``arrays`` of what it takes, by name; 0 where there is none."""
    found = [arrays.get(str(value.name)) for value in node.inputs if value is not None]
    if node.domain == DOMAIN or node.op_type not in _INSIDE or not found or found[0] is None or not found[0].size:
        return 0.0
    with np.errstate(over="ignore"):
        return float(_INSIDE[node.op_type](node, [np.abs(array) for array in found if array is not None]))


def _weighted(node: ir.Node, arrays: list[Array]) -> float:
    if len(arrays) < 2:
        return 0.0
    x, w = arrays[:2]
    if node.op_type == "Conv":
        sums = w.reshape(len(w), -1).sum(1)
    elif node.op_type == "ConvTranspose":
        group = node.attributes["group"].as_int() if "group" in node.attributes else 1
        sums = w.sum() / max(1, group) if w.ndim < 2 else w.sum(0)
    elif node.op_type == "Gemm":
        turned = "transB" in node.attributes and node.attributes["transB"].as_int()
        sums = w.sum(1 if turned else 0)
    else:
        sums = w.sum(-2 if w.ndim > 1 else 0)
    bias = float(arrays[2].max(initial=0)) if len(arrays) > 2 else 0.0
    return float(x.max()) * float(np.max(sums, initial=0)) + bias


def _contracted(node: ir.Node, arrays: list[Array]) -> float:  # noqa: ARG001 - as the others
    """Einsum: no more terms than the smallest array has elements."""
    return float(math.prod(float(array.max(initial=0)) for array in arrays)) * min(array.size for array in arrays)


def _axes(node: ir.Node, arrays: list[Array]) -> tuple[int, ...] | None:
    """Of a reduction; None for all."""
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is not None and value.const_value is not None:
        return tuple(int(axis) for axis in value.const_value.numpy().reshape(-1)) or None
    return tuple(range(2, arrays[0].ndim)) if node.op_type.startswith("Global") else None


def _summed(node: ir.Node, arrays: list[Array]) -> float:
    return float(np.max(arrays[0].sum(_axes(node, arrays)), initial=0))


def _squared(node: ir.Node, arrays: list[Array]) -> float:
    squares = arrays[0] * arrays[0]
    return float(np.max(squares.sum(_axes(node, arrays)), initial=0))


def _pooled(node: ir.Node, arrays: list[Array]) -> float:
    cells = math.prod(node.attributes["kernel_shape"].as_ints())
    top = float(arrays[0].max())
    return cells * (top * top if node.op_type == "LpPool" else top)


_INSIDE: dict[str, Callable[[ir.Node, list[Array]], float]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _weighted),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceL1", "GlobalAveragePool", "ReduceLogSum"), _summed),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "GlobalLpPool", "LpNormalization"), _squared),
    **dict.fromkeys(("AveragePool", "LpPool"), _pooled),
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LRN"),
        lambda _, arrays: float(arrays[0].max()) ** 2,
    ),
    "Einsum": _contracted,
    "ReduceLogSumExp": lambda _, arrays: math.exp(min(700.0, float(arrays[0].max()))),
}
