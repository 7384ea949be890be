"""Pooling nodes in blocks of channels: the layout NCHWc, in which ONNX Runtime keeps tensors between convolutions.

A tensor of ``C`` channels is there ``(N, ceil(C / block), H, W, block)`` in memory, with a block of 8 or 16 channels,
as the processor has it; its shape is written ``(N, C, H, W)``, with ``C`` rounded up. ONNX Runtime knows no operator
of others in that layout: before each of ours it puts a ``ReorderOutput``, and a ``ReorderInput`` after it. Here these
are taken away, in a model that it has optimised. Nothing moves but reorders, past nodes that do the same to every
channel, so that no answer changes by more than rounding.
"""

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import BLOCKS_DOMAIN, DOMAIN, VERSION

BLOCK_SIZE = "block_size"
"""Attribute of nodes in blocks, beside those of the window: how many channels a block has."""

OPERATORS = ("SoftPool", "LocalImportancePool", "StochasticPool")
"""The operators that the native library has in blocks, for two spatial axes and float32."""

THEIRS = "com.microsoft.nchwc"
"""ONNX Runtime's own domain of operators in blocks."""


def nodes_in_blocks(model: ir.Model) -> Iterator[ir.Node]:
    """The pooling nodes that are in blocks."""
    return (node for node in model.graph.all_nodes() if node.domain == BLOCKS_DOMAIN)


def into_blocks(model: ir.Model, size: int) -> None:
    """Put each pooling node of an optimised model into blocks of this size whose inputs are in blocks already."""
    for node in list(model.graph):
        reorders = [_reorder(value) for value in node.inputs]
        sources = [(one.inputs[0], one.attributes["channels"].as_int()) for one in reorders if one is not None]
        if not sources or len(sources) < len(node.inputs):
            continue
        values, channels = zip(*sources, strict=True)
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            attributes = [*node.attributes.values(), ir.AttrInt64(BLOCK_SIZE, size)]
            made = ir.Node(BLOCKS_DOMAIN, node.op_type, values, attributes, name=node.name, version=VERSION)
            _put(made, channels[0], node)
        elif _joins_channels(node) and all(count % size == 0 for count in channels):  # whole blocks, one after another
            made = ir.Node("", node.op_type, values, list(node.attributes.values()), name=node.name)
            _put(made, sum(channels), node)
        elif node.op_type == "ReorderInput" and _of_channels(node):  # back to what it was
            _become(node, values[0])
    if any(nodes_in_blocks(model)):
        model.opset_imports[BLOCKS_DOMAIN] = VERSION
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)


def _reorder(value: ir.Value | None) -> ir.Node | None:
    """The node that reorders a value from blocks, where one does."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "ReorderOutput" and _of_channels(node) else None


def _of_channels(node: ir.Node) -> bool:
    """Whether a reorder of ONNX Runtime's is from or to ``(N, C, H, W)``, not ``(N, H, W, C)``."""
    last = node.attributes.get("channels_last")
    return node.domain == THEIRS and (last is None or last.as_int() == 0)


def _joins_channels(node: ir.Node) -> bool:
    return not node.domain and node.op_type == "Concat" and node.attributes["axis"].as_int() == 1


def _put(made: ir.Node, channels: int, node: ir.Node) -> None:
    """``made``, which gives so many channels in blocks, and a reorder in place of a node."""
    assert node.graph is not None
    (out,), name = made.outputs, node.outputs[0].name
    out.name, out.type = f"{name}/blocks", node.outputs[0].type
    back = ir.Node(THEIRS, "ReorderOutput", [out], [ir.AttrInt64("channels", channels)], name=f"{name}/reorder")
    node.graph.insert_before(node, [made, back])
    _become(node, back.outputs[0])


def _become(node: ir.Node, value: ir.Value) -> None:
    """``value`` in place of what a node gives, whose name and place among the model's outputs it takes."""
    (old,) = node.outputs
    if old.is_graph_output():
        value.type, value.shape, value.name, old.name = old.type, old.shape, old.name, None
    old.replace_all_uses_with(value, replace_graph_outputs=True)
