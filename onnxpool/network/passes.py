"""The graph that PyTorch's exporter gives, made smaller by rewritings that are exact: in place of its own optimizer.

That one takes numbers near 0 and 1 for 0 and 1: it deletes ``x + 1e-8`` and ``x * 1.000001``, so that
``a / (b + 1e-8)`` becomes 0/0. Here a graph gives the same numbers as before for every input:

    evaluated   what is made of constants alone, but no arithmetic in floating point
    removed     identities, expansions to the same shape, copies, biases that are all 0, what nobody uses, the second
                of two equal nodes
    joined      reshapes, transposes and slices that follow each other; zeros padded in front of a convolution

One rewriting rounds: a batch normalization becomes part of the convolution in front of it, as every runtime would do,
with weights that are computed in float64 and rounded once.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from onnxpool.dtypes import Array

_MOVES = frozenset(
    {"Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze", "Where"}
)
"""Operators that leave numbers as they are, or convert them as IEEE 754 says."""

_FLOATING = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_ROUNDS = 2
"""How often folding and joining alternate: what is joined can make others constant."""


def tidy(model: ir.Model) -> None:
    """Make ``model`` smaller, in place."""
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    joined = RewritePass(
        (
            rules.cast_constant_of_shape_rule,
            rules.cast_constant_of_shape_without_value_rule,
            rules.no_op_cast_rule,
            rules.no_op_expand_rule,
            rules.no_op_transpose_rule,
            rules.no_op_static_scatter_nd_rule,
            rules.reshape_reshape_rule,
            rules.transpose_transpose_rule,
            rules.unsqueeze_unsqueeze_rule,
            rules.squeeze_reshape_1d_rule,
            rules.collapse_slice_rule,
            rules.collapse_slice2_rule,
            rules.normalize_pad_format_conv_rule,
            rules.fuse_pad_into_conv_rule,
            rules.remove_optional_bias_from_conv_rule,
            rules.remove_optional_bias_from_conv_transpose_rule,
            rules.remove_optional_bias_from_gemm_rule,
        )
    )
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True, should_fold=_moves)
        truncate_what_is_positive(model)
        joined(model)
        common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    fold_batch_normalizations(model)
    for last in (
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        last(model)


def _moves(node: ir.Node) -> bool | None:
    """Whether constants may be evaluated here; None leaves that to onnxscript, which has limits of size."""
    computes = any(value.dtype is None or value.dtype in _FLOATING for value in node.outputs)
    return False if computes and node.op_type not in _MOVES else None


# --- floor division


def truncate_what_is_positive(model: ir.Model) -> None:
    """``(a - a mod b) / b``, by which export writes ``a // b``, becomes ``a / b`` where ``a`` and ``b`` are sizes.

    (ONNX's division of integers truncates; the two differ for negative ``a`` only.)
    """
    for node in model.graph.all_nodes():
        if node.op_type == "Div" and (difference := _made_by(node.inputs[0], "Sub")):
            a, b = difference.inputs[0], node.inputs[1]
            rest = _made_by(difference.inputs[1], "Mod")
            if rest and list(rest.inputs) == [a, b] and _never_negative(a) and _never_negative(b):
                node.replace_input_with(0, a)


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def _never_negative(value: ir.Value | None) -> bool:
    """Whether an integer is a size, or made of sizes and such numbers without a subtraction."""
    if value is None:
        return False
    if (constant := ir.convenience.get_const_tensor(value)) is not None:
        return constant.dtype in (ir.DataType.INT64, ir.DataType.INT32) and bool((constant.numpy() >= 0).all())
    node = value.producer()
    op_type = None if node is None else node.op_type
    inputs = () if node is None else node.inputs
    if op_type in _MOVED:
        return _never_negative(inputs[0])
    return op_type in ("Shape", "Size") or (op_type in _SUMS and all(map(_never_negative, inputs)))


_MOVED = ("Gather", "Squeeze", "Unsqueeze", "Reshape", "Slice", "Identity")
_SUMS = ("Add", "Mul", "Div", "Mod", "Max", "Concat")
"""What gives no negative number if it takes none."""


# --- batch normalization


def fold_batch_normalizations(model: ir.Model) -> None:
    """Let one convolution, or Gemm, do what it and a batch normalization behind it do, where its weights stay finite.

    ``gamma (w x + b - mean) / sqrt(var + eps) + beta`` has the weights ``w s`` with ``s = gamma / sqrt(var + eps)`` and
    the bias ``(b - mean) s + beta``.
    """
    for node in list(model.graph):
        given = node.inputs[0] if node.op_type == "BatchNormalization" else None
        if given is None or (layer := given.producer()) is None or len(node.outputs) > 1:
            continue
        axis = _output_axis(layer)
        if axis is not None and len(given.uses()) == 1 and not given.is_graph_output():
            _fold(model.graph, layer, node, axis)


def _output_axis(layer: ir.Node) -> int | None:
    """The axis of a layer's weights that counts what it gives; None for what nothing is folded into."""
    attributes = {name: attribute.value for name, attribute in layer.attributes.items()}
    match layer.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if attributes.get("group", 1) == 1 else None
        case "Gemm":
            plain = attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
            return (0 if attributes.get("transB") else 1) if plain else None
    return None


def _fold(graph: ir.Graph, layer: ir.Node, norm: ir.Node, axis: int) -> None:
    weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    if weight is None or len(weight.uses()) > 1:
        return
    numbers = [_number(value) for value in (weight, *norm.inputs[1:])]
    shift = np.zeros(1) if bias is None else _number(bias)
    if shift is None or any(array is None for array in numbers):
        return
    w, gamma, beta, mean, variance = (array for array in numbers if array is not None)
    attribute = norm.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (_EPSILON if attribute is None else attribute.as_float()))
    along = [-1 if i == axis else 1 for i in range(w.ndim)]
    name = str(weight.name)
    new = [_rounded(w * scale.reshape(along), weight, name)]
    new += [_rounded((shift - mean) * scale + beta, weight, f"{name}.bias" if bias is None else str(bias.name))]
    if not all(np.isfinite(value.const_value.numpy().astype(np.float64)).all() for value in new if value.const_value):
        return
    layer.resize_inputs(3)
    for place, value in enumerate(new, start=1):
        old = layer.inputs[place]
        layer.replace_input_with(place, value)
        if old is not None and not old.uses():
            graph.initializers.pop(str(old.name), None)
        if value.name in graph.initializers:
            value.name = f"{value.name}_{layer.name}"
        graph.register_initializer(value)
    output, result = layer.outputs[0], norm.outputs[0]
    layer.metadata_props.update(norm.metadata_props)  # the value is now what the normalization makes
    ir.convenience.replace_all_uses_with(result, output, replace_graph_outputs=True)
    output.name, output.shape, output.type = result.name, result.shape, result.type
    graph.remove(norm, safe=True)


_EPSILON = 1e-5
"""What ONNX adds to the variance where a node does not say."""


def _number(value: ir.Value | None) -> Array | None:
    """What a value is, in float64, if it is a constant of this graph alone."""
    if value is None or value.const_value is None or value.is_graph_input() or not value.is_initializer():
        return None
    return value.const_value.numpy().astype(np.float64)


def _rounded(array: Array, like: ir.Value, name: str) -> ir.Value:
    assert like.dtype is not None
    with np.errstate(over="ignore"):
        rounded: NDArray[np.generic] = array.astype(like.dtype.numpy())
    tensor = ir.tensor(rounded, dtype=like.dtype, name=name)
    return ir.Value(name=name, type=ir.TensorType(like.dtype), shape=ir.Shape(rounded.shape), const_value=tensor)
