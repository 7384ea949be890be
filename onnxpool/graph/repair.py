"""What other programs do to a file, undone when it is read.

    an initializer that is an input too     before version 4 of the format all were
    an axis of size -1, or called ?         as PaddlePaddle writes one that may change
    a node before those that it takes from  ONNX forbids that; converters to float16 do it
    an operator of ours with a prefix       as onnx.compose.add_prefix and merge_models leave it

Nothing else changes: what a file says otherwise is what it says.
"""

from collections.abc import Iterator

import onnx_ir as ir

from onnxpool.domain import DOMAIN

RENAMED = "onnxpool.renamed"
"""Key of :attr:`onnx_ir.Model.meta` where operators got their names back: no kernel runs in the file as it is."""


def repair(model: ir.Model) -> ir.Model:
    """The same model, repaired in place.

    Raises ValueError for what is not a graph: one that is empty, runs in a circle, or takes what nothing gives.
    """
    if not len(model.graph) and not model.graph.outputs:
        raise ValueError("it holds no graph")
    return _renamed(_ordered(_open_axes(_weights_apart(model))))


def _open_axes(model: ir.Model) -> ir.Model:
    """With axes of no name where one has a negative size, or a name that stands for any size, twice for two."""
    for value in (
        *model.graph.inputs,
        *model.graph.outputs,
        *(value for node in model.graph for value in node.outputs),
    ):
        if value.shape is not None and any(map(_is_open, value.shape)):
            value.shape = ir.Shape([None if _is_open(axis) else axis for axis in value.shape])
    return model


def _is_open(axis: int | ir.SymbolicDim) -> bool:
    return axis < 0 if isinstance(axis, int) else axis.value == "?"


def _weights_apart(model: ir.Model) -> ir.Model:
    """Before version 4 of the format every initializer was an input as well; later on, one that callers may give."""
    if model.ir_version < 4:
        for value in [value for value in model.graph.inputs if value.is_initializer()]:
            model.graph.inputs.remove(value)
        model.ir_version = 4
    return model


def _renamed(model: ir.Model) -> ir.Model:
    """With our operators called as they are, where one body is there for each: then nothing but names changes."""
    names = prefixed(model)
    bodies: dict[str, bytes] = {}
    for (domain, name, _), function in model.functions.items():
        known = names.get(name, name)
        if domain == DOMAIN and bodies.setdefault(known, _body(function)) != _body(function):
            return model
    for name, known in names.items():
        function = model.functions.pop((DOMAIN, name, ""))
        function.name = known
        model.functions[function.identifier()] = function
    for node in pool_calls(model):
        node.op_type = names.get(node.op_type, node.op_type)
    if names:
        model.meta[RENAMED] = True
    return model


def prefixed(model: ir.Model) -> dict[str, str]:
    """The names of functions that are a prefix and an operator of ours, whose formal inputs they still have."""
    from onnxpool.pools import OPERATORS

    return {
        name: known
        for (domain, name, _), function in model.functions.items()
        for known in OPERATORS
        if domain == DOMAIN and name != known and name.endswith(known)
        if all(str(value.name).startswith(f"{known.lower()}_") for value in function.inputs)
    }


def _body(function: ir.Function) -> bytes:
    """What it computes, as bytes: the same for functions that differ in name alone."""
    proto = ir.to_proto(function)
    proto.name = ""
    contents: bytes = proto.SerializeToString(deterministic=True)
    return contents


def _ordered(model: ir.Model) -> ir.Model:
    """With each node after those that it takes from: ONNX asks for that, and some programs do not do it."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        made: set[ir.Value] = set()
        for node in graph.all_nodes():
            for value in node.inputs:
                if (
                    value is not None
                    and value.producer() is None
                    and not value.is_graph_input() | value.is_initializer()
                ):
                    raise ValueError(f"node {node.name!r} ({node.op_type}) takes {value.name!r}, which nothing gives")
            if any(value is not None and value.producer() and value not in made for value in node.inputs):
                graph.sort()
                break
            made.update(node.outputs)
    return model


def pool_calls(model: ir.Model) -> Iterator[ir.Node]:
    """The bare pooling nodes, also those inside of If and Loop and of other functions."""
    for graph in (model.graph, *(f.graph for f in model.functions.values() if f.domain != DOMAIN)):
        yield from (node for node in graph.all_nodes() if node.domain == DOMAIN)
