"""Tags of inlined pooling nodes: ONNX metadata, which runtimes ignore, on each standard operator that one became.

A tag tells the node's name, operator, attributes, inputs and outputs. Where another program exchanged nodes that have
one, or put others between them, it tells what is no longer so, and counts for nothing.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import POOLED
from onnxpool.errors import FormError
from onnxpool.window import Window

if TYPE_CHECKING:
    from onnxpool.pools._method import Operator

TAG = "onnxpool.node"
"""Metadata key: the pooling node that a node came from, as JSON."""


def groups(graph: ir.Graph) -> "Iterator[Group]":
    """What inlined pooling nodes of this graph became, where it is still what was written.

    Each is looked for when it is asked for, so that those before may have been folded: their values are others then.
    """
    members: dict[str, list[ir.Node]] = {}
    for node in graph:
        if TAG in node.metadata_props:
            members.setdefault(node.metadata_props[TAG], []).append(node)
    for tag, nodes in members.items():
        if group := _group(tag, nodes):
            yield group


@dataclass(frozen=True)
class Group:
    """The nodes that an inlined pooling node became, what it was, and what they take and give."""

    name: str
    op_type: str
    window: Window
    nodes: list[ir.Node]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]


def _group(tag: str, nodes: list[ir.Node]) -> Group | None:
    """None where the tag is stale: another program exchanged nodes, or put others between."""
    from onnxpool.pools import OPERATORS

    told = json.loads(tag)
    window = Window.from_attributes(told["attributes"])
    nodes = _with_casts(nodes)
    members, made = set(nodes), {value for node in nodes for value in node.outputs}
    used = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and value not in made)
    constants = tuple(value for value in used if _is_constant(value))
    inputs = _called(told["inputs"], {str(value.name): value for value in used if value not in constants})
    outputs = tuple(
        value for value in made if value.is_graph_output() or any(user not in members for user in value.consumers())
    )
    operator = OPERATORS.get(told["op_type"])
    if operator is None or inputs is None or not outputs or _kinds(nodes) not in _written(operator, window):
        return None
    return Group(told["name"], told["op_type"], window, nodes, inputs, outputs, constants)


def _with_casts(nodes: list[ir.Node]) -> list[ir.Node]:
    """These nodes and the casts that a converter to another type put between them, or between a constant and them."""
    members = set(nodes)
    casts: list[ir.Node] = []
    for node in (chain := [*nodes]):  # grows
        for value in node.inputs:
            made = None if value is None else value.producer()
            if made is None or made in members or made.op_type != "Cast" or made.outputs[0].is_graph_output():
                continue
            if all(user in members for user in made.outputs[0].consumers()):
                members.add(made)
                casts.append(made)
                chain.append(made)
    for cast in reversed(casts):  # those before others first
        given = cast.inputs[0]
        if given is None or not (_is_constant(given) or given.producer() in members):
            members.discard(cast)
    return [*(cast for cast in casts if cast in members), *nodes]


def _is_constant(value: ir.Value) -> bool:
    """Whether this is an initializer, or one of another type, which several nodes may share."""
    made = value.producer()
    given = None if made is None or made.op_type != "Cast" else made.inputs[0]
    return value.is_initializer() or (given is not None and given.is_initializer())


def _called(names: Sequence[str], values: Mapping[str, ir.Value]) -> tuple[ir.Value, ...] | None:
    """The values of these names, in order, and no others: as they are, behind a prefix, or a single one by any name."""
    if len(values) == len(set(names)) == 1:
        return tuple(values.values()) * len(names)
    for name in values:
        prefix = name.removesuffix(names[0])
        if name.endswith(names[0]) and {prefix + known for known in names} == set(values):
            return tuple(values[prefix + known] for known in names)
    return None


def _kinds(nodes: Iterable[ir.Node]) -> Counter[str]:
    """How many there are of each operator that computes something."""
    return Counter(node.op_type for node in nodes if node.op_type not in ("Cast", "Constant", "Identity"))


def _written(operator: "Operator", window: Window) -> Iterator[Counter[str]]:
    """What such a node is inlined to, of each type, with and without a range of its inputs."""
    from onnxpool.pools._onnx_ops import Builder, wide_for

    for element in POOLED:
        dtype = ir.DataType(element.code)
        for write in (operator.standard, operator.bounded):
            if write is not None:
                op, wide = Builder(), ir.TensorType(wide_for(dtype))
                write(op, window, dtype, *(ir.Value(name=name, type=wide) for name in operator.inputs))
                yield _kinds(op.nodes)


def fold(graph: ir.Graph, group: Group) -> None:
    """Put the pooling node back in place of the nodes that it was inlined to."""
    if len(group.outputs) > 1:
        raise FormError(
            f"the nodes of {group.op_type} {group.name!r} were rewritten by another program after they were inlined: "
            f"they join {sorted(names(group.inputs))} to {sorted(names(group.outputs))}; convert the model from its "
            "original file"
        )
    (old,) = group.outputs
    node = ir.node(
        group.op_type,
        group.inputs,
        group.window.attributes(),
        domain=DOMAIN,
        outputs=[ir.Value(name=old.name, type=old.type, shape=old.shape)],
        name=group.name,
    )
    ir.convenience.replace_nodes_and_values(graph, group.nodes[-1], group.nodes, [node], [old], node.outputs)
    for value in group.constants:
        _drop(graph, value)


def _drop(graph: ir.Graph, constant: ir.Value) -> None:
    """Remove a constant that nobody uses any more, and its cast if it has one."""
    cast = constant.producer()
    if constant.uses():
        return
    if cast is None:
        graph.initializers.pop(str(constant.name), None)
        return
    given = cast.inputs[0]
    graph.remove(cast, safe=True)
    if given is not None:
        _drop(graph, given)


def names(values: Iterable[ir.Value | None]) -> tuple[str, ...]:
    """What they are called; nothing where an optional input is left out."""
    return tuple("" if value is None else str(value.name) for value in values)
