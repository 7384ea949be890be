"""Nodes in place of what was recognised: a pooling node of our domain, or standard operators that cannot overflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.lifting import logits
from onnxpool.lifting.match import Match, label
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools import power_average
from onnxpool.pools._onnx_ops import Builder


@dataclass(frozen=True)
class Fold:
    """What became a pooling node: its name, operator, window, inputs, and how it was spelled."""

    node: str
    op_type: str
    window: str
    inputs: tuple[str, ...]
    spelling: str


def fold(matches: Sequence[tuple[ir.Graph, Match]]) -> tuple[Fold, ...]:
    """Put nodes in place of the last node of each spelling; what nobody needs then goes later."""
    folds = []
    new: dict[ir.Value, ir.Value] = {}
    for graph, match in matches:
        inputs = [new.get(value, value) for value in match.inputs]
        name = _name(graph, match)
        op = Builder(f"{name}/")
        if match.write is not None:
            made = match.write(op, *inputs)
        else:
            made = _power(op, match, inputs[0]) if match.op_type == "PowerAverage" else _pool(op, match, inputs, name)
        if match.last[1] and match.window is not None:
            made = op.Transpose(made, perm=(0, *range(2, match.window.rank + 2), 1))
        if match.shape is not None:
            made = op.Reshape(made, onnx_ops.ints(op, *match.shape))
        old = match.node.outputs[0]
        new[old] = made
        made.name, made.shape = name if match.name and not old.is_graph_output() else old.name, old.shape
        ir.convenience.replace_nodes_and_values(graph, match.node, [match.node], op.nodes, [old], [made])
        if match.write is not None and old.dtype is not None:
            made.dtype = old.dtype
        elif inputs[0].dtype is not None:
            made.dtype = inputs[0].dtype  # another one than before where casts went
        window = "all" if match.window is None else str(match.window)
        folds.append(Fold(name, match.op_type, window, tuple(str(value.name) for value in inputs), match.spelling))
    return tuple(folds)


def _pool(op: Builder, match: Match, inputs: list[ir.Value], name: str) -> ir.Value:
    """The node itself, of that name."""
    assert match.window is not None
    if match.last[0]:
        inputs = [_channels_first(op, value, match.window.rank) for value in inputs]
    if match.logits:
        inputs = [inputs[0], logits.write(op, inputs[0], match.logits, match.window.rank)]
    if match.expand:
        inputs = [inputs[0], op.Expand(inputs[1], op.Shape(inputs[0]))]
    (made,) = op.write(match.op_type, inputs, match.window.attributes(), domain=DOMAIN)
    node = op.nodes[-1]
    node.name = name
    node.metadata_props.update(match.node.metadata_props)
    if inputs[0].dtype is not None:
        made.dtype = inputs[0].dtype
    return made


def _channels_first(op: Builder, value: ir.Value, rank: int) -> ir.Value:
    """Of a value whose last axis is that of channels."""
    turned: ir.Value = op.Transpose(value, perm=(0, rank + 1, *range(1, rank + 1)))
    if value.dtype is not None:
        turned.dtype = value.dtype
    return turned


def _power(op: Builder, match: Match, x: ir.Value) -> ir.Value:
    """A power mean times the factor, as PowerAvgPool computes it."""
    wide = onnx_ops.wide_for(ir.DataType.FLOAT if x.dtype is None else x.dtype)

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def write(x: Any) -> Any:
        p, inverse = number(match.exponent), number(1 / match.exponent)
        if match.window is None:
            y = power_average.write_whole(op, x, match.spatial, p, inverse, wide)
        else:
            count = onnx_ops.count(op, x, match.window, wide, include_pad=match.padded)
            y = power_average.write_windows(op, x, match.window, p, inverse, count, wide)
        return y if match.factor == 1 else op.Mul(y, number(match.factor))

    return cast(ir.Value, onnx_ops.computed_in(op, x, wide, write))


def _name(graph: ir.Graph, match: Match) -> str:
    """The name of the node that goes, with its operator's name exchanged, and unlike any other."""
    old = match.node
    stem, slash, last = label(old).rpartition("/")
    wanted = match.name or (f"{stem}{slash}{match.op_type}" if last.startswith(old.op_type) else label(old))
    taken = {node.name for node in graph.all_nodes() if node is not old}
    return next(name for name in (wanted, *(f"{wanted}_{i}" for i in range(len(taken) + 1))) if name not in taken)
