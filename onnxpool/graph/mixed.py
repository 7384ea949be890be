"""A model that computes in float16 in some of its nodes, and in float32 in the others.

A node in float16 takes its inputs and weights in that type and gives its outputs in it; Casts stand where nodes of both
types meet, and nowhere else: what goes from one node in float16 to another stays in float16, and from one in float32 to
another in float32. Inputs and outputs of the model keep their types.

(ONNX Runtime's ``transformers.float16`` and onnxconverter-common, which it comes from, do not fit: what goes between
two nodes that stay in float32 is cast to float16 and back there, so that it overflows all the same
(microsoft/onnxruntime issue 21345); constants beyond the range are clipped to 65504 without a word, a weight that nodes
of both types share is rounded for both, and Casts of what branches take are put outside of them. NVIDIA's ModelOpt
AutoCast decides by ranges alone, and brings PyTorch.)
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import DOMAIN
from onnxpool.graph import forms, subgraph
from onnxpool.graph.forms import Model

LARGEST = 65504.0
"""The largest number of float16."""

_SUFFIX = "/float16"

_KEPT = {"Cast", "CastLike", "Constant", "ConstantOfShape", "QuantizeLinear", "DequantizeLinear"}
"""Operators whose types are what they are for."""


def prepared(model: Model) -> ir.Model:
    """With bare pooling nodes, all other functions inlined, names for all nodes, and the types that can be inferred.

    Raises :class:`FormError` as :func:`onnxpool.graph.forms.to_form` does.
    """
    flat = subgraph.flat(forms.to_form(model, "custom"))
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(flat)
    passes.NameFixPass()(flat)
    passes.ShapeInferencePass(strict_mode=False)(flat)
    for node in flat.graph:  # onnx knows nothing of our operators
        given = node.inputs[0] if node.domain == DOMAIN else None
        if given is not None and given.dtype is not None and node.outputs[0].dtype is None:
            node.outputs[0].dtype = given.dtype
    return flat


def places(node: ir.Node, opsets: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Which inputs and outputs of a float32 node would be of float16; no outputs for a node that has no such form."""
    floats = [i for i, value in enumerate(node.inputs) if value is not None and value.dtype == ir.DataType.FLOAT]
    given = [i for i, value in enumerate(node.outputs) if value.name and value.dtype == ir.DataType.FLOAT]
    if node.domain == DOMAIN:
        return floats, given
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT or any(True for _ in subgraph.bodies(node)):
        return [], []
    if any(value.name and value.dtype is None for value in node.outputs):
        return [], []
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get("", 0), "")
    except onnx.defs.SchemaError:
        return [], []
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in schema.type_constraints}
    kinds = {i: schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in floats}
    narrow = [i for i in floats if "tensor(float16)" in allowed.get(kinds[i], set())]
    tied = {kinds[i] for i in narrow}
    return narrow, [i for i in given if schema.outputs[min(i, len(schema.outputs) - 1)].type_str in tied]


def lowered(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A :func:`prepared` model with the nodes called ``names`` in float16; it stays as it is."""
    model = model.clone()
    graph, narrow = model.graph, dict[ir.Value, ir.Value]()
    for node in list(graph):
        if node.name not in names:
            continue
        inputs, outputs = places(node, model.opset_imports)
        for i in inputs:
            value = node.inputs[i]
            assert value is not None
            if value not in narrow:
                narrow[value] = _narrow(graph, value, node)
            node.replace_input_with(i, narrow[value])
        for i in outputs:
            wide = _widened(graph, node.outputs[i], node)
            narrow[wide] = node.outputs[i]
    passes.RemoveUnusedNodesPass()(model)
    return model


def _narrow(graph: ir.Graph, value: ir.Value, user: ir.Node) -> ir.Value:
    """The same value in float16, for ``user`` and those behind it."""
    name = f"{value.name}{_SUFFIX}"
    if value.is_initializer() and value.const_value is not None:
        with np.errstate(over="ignore"):
            array = value.const_value.numpy().astype(np.float16)
        made = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        made.type, made.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape(array.shape)
        graph.register_initializer(made)
        return made
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)}, name=f"{name}/Cast")
    made = cast.outputs[0]
    made.name, made.type, made.shape = name, ir.TensorType(ir.DataType.FLOAT16), value.shape
    graph.insert_before(user, cast)
    return made


def _widened(graph: ir.Graph, value: ir.Value, maker: ir.Node) -> ir.Value:
    """What a node gives in float16 from now on, in float32, under the old name, for all that take it."""
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}/Cast")
    wide = cast.outputs[0]
    wide.name, value.name = value.name, f"{value.name}{_SUFFIX}"
    wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    graph.insert_after(maker, cast)
    for user, place in list(value.uses()):
        if user is not cast:
            user.replace_input_with(place, wide)
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = wide
    return wide
