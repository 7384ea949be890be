"""Surgery on graphs, for looking at single nodes: open every value, cut a graph at values, take a segment out of it.

    flat       functions inlined, but for those of pooling nodes; every node has a name of its own
    opened     the same graph, giving the value of every node
    cut        the same nodes, each taking given values in place of what other nodes make
    segment    a few nodes in the order of execution, as a model of their own
    pick       some cells of an output in its place

Each but the last takes and returns an :class:`onnx_ir.Model`, and leaves its argument as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from onnxpool.domain import DOMAIN
from onnxpool.errors import FormError

OWN = "#own"
"""Suffix of the values that nodes of a :func:`cut` graph make, beside those of the same name that they are given."""


def flat(model: ir.Model) -> ir.Model:
    """The model with all functions inlined but those of pooling nodes, and with a name for every node."""
    model = model.clone()
    passes.InlinePass(lambda function: function.domain != DOMAIN)(model)
    taken = {node.name for node in model.graph}
    for i, node in enumerate(model.graph):
        if not node.name:
            node.name = next(name for n in range(len(taken) + 1) if (name := f"{node.op_type}_{i + n}") not in taken)
            taken.add(node.name)
    return model


def bare(model: ir.Model) -> ir.Model:
    """The model without functions of pooling nodes."""
    model = model.clone()
    for identifier in [identifier for identifier in model.functions if identifier[0] == DOMAIN]:
        del model.functions[identifier]
    return model


def made(model: ir.Model) -> list[ir.Value]:
    """What the nodes of the main graph make, constants left out, in the order of execution."""
    return [value for node in model.graph if node.op_type != "Constant" for value in node.outputs if value.name]


def opened(model: ir.Model, arrays: Mapping[str, NDArray[Any]]) -> ir.Model:
    """The model with every value that is in ``arrays`` as an output too, of the element type that it has there."""
    model = model.clone()
    outputs = {value.name for value in model.graph.outputs}
    for value in made(model):
        if value.name in arrays and value.name not in outputs:
            model.graph.outputs.append(_typed(value, arrays[str(value.name)]))
    return model


def cut(model: ir.Model, arrays: Mapping[str, NDArray[Any]]) -> ir.Model:
    """The model with each value that is in ``arrays`` as an input; what its node makes is called like it, and `OWN`.

    Every value that a node makes is an output. Nodes are independent of each other where all values are cut.
    """
    model = model.clone()
    graph = model.graph
    graph.outputs.clear()
    for value in made(model):
        name = str(value.name)
        if name not in arrays:
            graph.outputs.append(value)
            continue
        given = ir.Value(name=name, type=ir.TensorType(_dtype(arrays[name])), shape=ir.Shape(arrays[name].shape))
        value.name, value.shape = name + OWN, None
        if value.uses():
            ir.convenience.replace_all_uses_with(value, given)
            graph.inputs.append(given)
        graph.outputs.append(_typed(value, arrays[name]))
    return model


def segment(model: ir.Model, names: Iterable[str], arrays: Mapping[str, NDArray[Any]]) -> ir.Model:
    """The nodes called ``names`` as a model of their own, with functions and weights that they need.

    It takes what they take from elsewhere, and gives what nodes elsewhere take from them, or what the model gives.
    ``arrays`` holds a value of each, for its type; shapes are left open but for their rank. Raises :class:`FormError`
    where one is missing.
    """
    model = model.clone()
    graph, wanted = model.graph, set(names)
    inside = [node for node in graph if node.name in wanted]
    constants = {value for node in graph if node.op_type == "Constant" for value in node.outputs}
    members = set(_within(inside))
    outputs = [
        value
        for node in inside
        for value in node.outputs
        if value.is_graph_output() or any(user not in members for user in value.consumers())
    ]
    kept = {value for node in inside for value in node.outputs} | constants
    takes = dict.fromkeys(value for node in inside for value in taken(node) if value not in kept)
    inputs = [value for value in takes if not value.is_initializer()]
    unknown = [str(value.name) for value in (*outputs, *inputs) if str(value.name) not in arrays]
    if unknown:
        raise FormError(f"what these nodes take and give is not known: {', '.join(map(repr, unknown[:4]))}")
    graph.outputs.clear()
    graph.outputs.extend(_typed(value, arrays[str(value.name)]) for value in outputs)
    for value in inputs:
        entry = ir.Value(name=value.name, type=ir.TensorType(_dtype(arrays[str(value.name)])))
        entry.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(arrays[str(value.name)].ndim)])
        ir.convenience.replace_all_uses_with(value, entry)
        graph.inputs.append(entry)
    for entry in list(graph.inputs)[: len(graph.inputs) - len(inputs)]:
        graph.inputs.remove(entry)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    passes.RemoveUnusedOpsetsPass()(model)
    return model


def pick(model: ir.Model, name: str, places: NDArray[np.int64]) -> None:
    """Let the output of that name be the cells at ``places`` alone, flat indices; it keeps its name."""
    graph = model.graph
    value = next(one for one in graph.outputs if one.name == name)
    whole = f"{name}{OWN}"
    constants = []
    for kind, array in (("flat", np.array([-1])), ("places", places)):
        constants.append(ir.Value(name=f"{name}#{kind}", const_value=ir.tensor(array, name=f"{name}#{kind}")))
        constants[-1].type, constants[-1].shape = ir.TensorType(ir.DataType.INT64), ir.Shape(array.shape)
        graph.register_initializer(constants[-1])
    value.name = whole
    flat = ir.node("Reshape", [value, constants[0]])
    picked = ir.node("Gather", [flat.outputs[0], constants[1]], {"axis": 0})
    picked.outputs[0].name, picked.outputs[0].type = name, value.type
    picked.outputs[0].shape = ir.Shape([len(places)])
    graph.extend([flat, picked])
    graph.outputs[list(graph.outputs).index(value)] = picked.outputs[0]


def prune(graph: ir.Graph) -> None:
    """Remove the nodes and initializers that no output needs.

    (onnx_ir's own pass keeps what a branch or loop body took that is gone itself.)
    """
    needed = set(graph.outputs)
    for node in reversed(list(graph)):
        if needed.isdisjoint(node.outputs):
            graph.remove(node)
        else:
            needed.update(taken(node))
    for name, value in list(graph.initializers.items()):
        if value not in needed:
            del graph.initializers[name]


def taken(node: ir.Node) -> list[ir.Value]:
    """What a node takes, also inside of its branches and loop bodies."""
    inner = [part for graph in bodies(node) for part in graph.all_nodes()]
    within = [part for graph in bodies(node) for part in (graph, *graph.subgraphs())]
    local = {value for part in inner for value in part.outputs}
    local |= {value for graph in within for value in (*graph.inputs, *graph.initializers.values())}
    found = (*node.inputs, *(value for part in inner for value in part.inputs))
    return [value for value in found if value is not None and value not in local]


def _within(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """These nodes and all that are in their branches and loop bodies."""
    for node in nodes:
        yield node
        for graph in bodies(node):
            yield from graph.all_nodes()


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The branches and loop bodies of a node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.value
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.value


def _typed(value: ir.Value, array: NDArray[Any]) -> ir.Value:
    value.type = ir.TensorType(_dtype(array))
    return value


def _dtype(array: NDArray[Any]) -> ir.DataType:
    return ir.DataType.from_numpy(array.dtype)
