"""Pooling nodes in blocks of channels: the layout NCHWc, in which ONNX Runtime keeps tensors between convolutions.

A tensor of ``C`` channels is there ``(N, ceil(C / block), H, W, block)`` in memory, with a block of 8 or 16 channels,
as the processor has it; its shape is written ``(N, C, H, W)``, with ``C`` rounded up. ONNX Runtime knows no operator
of others in that layout: before each of ours it puts a ``ReorderOutput``, and a ``ReorderInput`` after it. Here these
are taken away, in a model that it has optimised. Nothing moves but reorders, past nodes that do the same to every
channel, so that no answer changes by more than rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import BLOCKS_DOMAIN, DOMAIN, VERSION

BLOCK_SIZE = "block_size"
"""Attribute of nodes in blocks, beside those of the window: how many channels a block has."""

OPERATORS = ("SoftPool", "LocalImportancePool", "StochasticPool")
"""The operators that the native library has in blocks, for two spatial axes and float32."""

THEIRS = "com.microsoft.nchwc"
"""ONNX Runtime's own domain of operators in blocks."""

_CELL_BY_CELL = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Add", "Sub", "Mul", "Sum")
"""Operators that reorders move past. All are finite for the zeros that fill up the last block."""

_WHOLE = 4
"""ONNX Runtime reorders multiples of so many channels into blocks."""


def nodes_in_blocks(model: ir.Model) -> Iterator[ir.Node]:
    """The pooling nodes that are in blocks."""
    return (node for node in model.graph.all_nodes() if node.domain == BLOCKS_DOMAIN)


def into_blocks(model: ir.Model, size: int) -> None:
    """Put each pooling node of an optimised model into blocks of this size that takes anything from blocks."""
    for node in list(model.graph):
        found = [_source(value) for value in node.inputs]
        sources = [one for one in found if one is not None]
        if not sources:
            continue
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            _pool_in_blocks(node, found, sources[0].channels, size)
        elif len(sources) < len(found):
            continue
        elif node.op_type == "ReorderInput" and _of_channels(node):  # back to what it was
            _become(node, sources[0].value)
        elif node.domain:
            continue
        elif node.op_type == "Concat" and node.attributes["axis"].as_int() == 1:
            if all(one.channels % size == 0 for one in sources):  # whole blocks follow each other as channels do
                _put(_copied(node, sources), sum(one.channels for one in sources), node)
        elif node.op_type in _CELL_BY_CELL and _alike(node.inputs):
            _put(_copied(node, sources), sources[0].channels, node)
    if any(nodes_in_blocks(model)):
        model.opset_imports[BLOCKS_DOMAIN] = VERSION
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)


@dataclass(frozen=True)
class _Source:
    """A value in blocks, and how many channels it has, without those that fill up the last block."""

    value: ir.Value
    channels: int


def _source(value: ir.Value | None) -> _Source | None:
    """What a value is reordered from, where that is in blocks."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "ReorderOutput" or not _of_channels(node):
        return None
    (taken,) = node.inputs
    return None if taken is None else _Source(taken, node.attributes["channels"].as_int())


def _of_channels(node: ir.Node) -> bool:
    """Whether a reorder of ONNX Runtime's is from or to ``(N, C, H, W)``, not ``(N, H, W, C)``."""
    last = node.attributes.get("channels_last")
    return node.domain == THEIRS and (last is None or last.as_int() == 0)


def _pool_in_blocks(node: ir.Node, found: Sequence[_Source | None], channels: int, size: int) -> None:
    """The node in blocks, with a reorder for an input that is not: one, where there were two."""
    assert node.graph is not None
    if None in found and channels % _WHOLE != 0:
        return
    values = []
    for source, given in zip(found, node.inputs, strict=True):
        if source is not None:
            values.append(source.value)
            continue
        into = ir.Node(THEIRS, "ReorderInput", [given], name=f"{node.name}/reorder")
        into.outputs[0].name, into.outputs[0].dtype = f"{node.outputs[0].name}/logits", ir.DataType.FLOAT
        node.graph.insert_before(node, into)
        values.append(into.outputs[0])
    attributes = [*node.attributes.values(), ir.AttrInt64(BLOCK_SIZE, size)]
    _put(ir.Node(BLOCKS_DOMAIN, node.op_type, values, attributes, name=node.name, version=VERSION), channels, node)


def _alike(values: Sequence[ir.Value | None]) -> bool:
    """Whether values are known to have one shape."""
    first, *others = (value.shape if value is not None else None for value in values)
    if not others:
        return True
    known = first is not None and all(isinstance(axis, int) or axis.value is not None for axis in first)
    return known and all(other == first for other in others)


def _copied(node: ir.Node, sources: Sequence[_Source]) -> ir.Node:
    return ir.Node("", node.op_type, [one.value for one in sources], [*node.attributes.values()], name=node.name)


def _put(made: ir.Node, channels: int, node: ir.Node) -> None:
    """``made``, which gives so many channels in blocks, and a reorder in place of a node."""
    assert node.graph is not None
    (out,), (old,) = made.outputs, node.outputs
    out.name, out.type = f"{old.name}/blocks", old.type
    back = ir.Node(THEIRS, "ReorderOutput", [out], [ir.AttrInt64("channels", channels)], name=f"{old.name}/reorder")
    back.outputs[0].name, back.outputs[0].type, back.outputs[0].shape = f"{old.name}/planes", old.type, old.shape
    node.graph.insert_before(node, [made, back])
    _become(node, back.outputs[0])


def _become(node: ir.Node, value: ir.Value) -> None:
    """``value`` in place of what a node gives, whose name and place among the model's outputs it takes."""
    (old,) = node.outputs
    if old.is_graph_output():
        value.name, old.name = old.name, None
    old.replace_all_uses_with(value, replace_graph_outputs=True)
