"""The element types that pooling nodes pool, which onnx's inference does not know: it stops at each such node."""

import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import is_foreign
from onnxpool.dtypes import BY_CODE, POOLED
from onnxpool.errors import FormError
from onnxpool.graph.repair import pool_calls


def infer_dtypes(model: ir.Model) -> None:
    """Let every pooling node know the element type it pools: onnx's inference stops at each node it does not know."""
    nodes = list(pool_calls(model))
    unknown = len(nodes) + 1
    usual = _usual_dtype(model)
    while unknown:
        for node in nodes:
            if node.inputs[0].dtype is not None and node.outputs[0].dtype is None:  # type: ignore[union-attr]
                node.outputs[0].dtype = node.inputs[0].dtype  # type: ignore[union-attr]
        left = [node for node in nodes if node.outputs[0].dtype is None]
        if len(left) == unknown and usual is not None:
            left[0].outputs[0].dtype = usual
            continue
        if len(left) == unknown:
            raise FormError(
                f"the element type of {left[0].inputs[0]} is unknown; run onnx.shape_inference on the model"
            )
        unknown = len(left)
        if unknown:
            passes.ShapeInferencePass(strict_mode=False)(model)


def _usual_dtype(model: ir.Model) -> ir.DataType | None:
    """The floating point type that a model takes and gives, if it is one, and nobody can know what is within.

    Behind an operator of another library inference stops. A model for which this is wrong does not load.
    """
    if not any(is_foreign(node.domain) and node.op_identifier() not in model.functions for node in model.graph):
        return None
    known = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    floating = {dtype for dtype in known if dtype is not None and BY_CODE.get(int(dtype)) in POOLED}
    return floating.pop() if len(floating) == 1 else None


def pooled_dtype(node: ir.Node) -> ir.DataType:
    """The element type that it pools."""
    dtype = node.outputs[0].dtype
    if dtype is None or BY_CODE.get(int(dtype)) not in POOLED:
        raise FormError(f"node {node.name!r} pools {dtype}; pooling takes {', '.join(one.onnx for one in POOLED)}")
    return dtype
