"""Pooling nodes that another program wrote out (:mod:`onnxpool.graph.inlined`), made certain: operator, inputs, window.

How a function computes is not read, since bodies change from release to release. The window is that of its MaxPool and
Pad. Then the nodes between are run alone, in ONNX Runtime, and the value that is what an operator's float64 reference
gives, on ordinary, large and equal inputs, is what the node gave.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import BY_CODE, POOLED, Array
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.graph.inlined import Inlined
from onnxpool.graph.subgraph import prune, taken
from onnxpool.lifting.match import Match, Refused
from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.tracing import attempt
from onnxpool.lifting.values import constant, original, producer
from onnxpool.pools import OPERATORS
from onnxpool.pools._method import Operator
from onnxpool.run.session import load
from onnxpool.window import Window

SPELLING = "the function of the node, written out"

_RESERVED = "_inlfunc_"
"""What the names of values begin with that ONNX Runtime takes out of a function: it does not expect them before."""

LIKENESS = "pooling node written out"

_MOST_VALUES = 24
"""So many values after the loop are looked at: the functions have fewer than ten nodes there."""

_SCALES = (1.0, 30.0, 1e4)
"""Of the inputs tried: ordinary ones, and larger ones than a ratio of sums of exponentials takes in float32."""


def restore(model: ir.Model, found: Inlined) -> Match | Refused:
    """The node that was written out; element types and shapes in ``model`` are inferred."""
    try:
        window = _window(found, model.opset_imports.get("", 0))
        main = {*model.graph.inputs, *(value for node in model.graph for value in node.outputs)}
        if not main.issuperset(map(_source, found.padded)):
            return Refused(found.name, LIKENESS, "it stands inside of an If or Loop, where nodes are not run alone")
        for operator, inputs in _candidates(found):
            output = _output(model, found, operator, window, inputs)
            if output is not None:
                made = output.producer()
                assert made is not None
                return Match(operator.op_type, SPELLING, made, inputs, window, name=operator.op_type)
    except Mismatch as reason:
        return Refused(found.name, LIKENESS, str(reason))
    return Refused(found.name, LIKENESS, "it computes none of the poolings that this version knows")


def tidy(model: ir.Model) -> None:
    """Names that ONNX Runtime would give when it writes functions out again are changed; casts that do nothing go."""
    for graph in model.graphs():
        values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        for value in values:
            if str(value.name).startswith(_RESERVED) and not (graph is model.graph and value.is_graph_output()):
                value.name = f"inlined_{str(value.name).removeprefix(_RESERVED)}"
    _without_idle_casts(model)


def _without_idle_casts(model: ir.Model) -> None:
    """CastLike becomes Cast where its type is known, and a Cast to the type that a value has goes."""
    for graph in model.graphs():
        for node in list(graph):
            if node.domain or node.op_type not in ("Cast", "CastLike") or node.inputs[0] is None:
                continue
            like = node.inputs[-1]
            dtype = like.dtype if node.op_type == "CastLike" and like is not None else _target(node)
            if dtype is None:
                continue
            if dtype == node.inputs[0].dtype and not node.outputs[0].is_graph_output():
                ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
                graph.remove(node)
            elif node.op_type == "CastLike":
                cast = ir.node("Cast", node.inputs[:1], {"to": dtype}, name=node.name)
                old, new = node.outputs[0], cast.outputs[0]
                new.name, new.type, new.shape = old.name, old.type, old.shape
                ir.convenience.replace_nodes_and_values(graph, node, [node], [cast], [old], [new])


def _target(node: ir.Node) -> ir.DataType | None:
    return ir.DataType(node.attributes["to"].as_int()) if "to" in node.attributes else None


# --- the window


def _window(found: Inlined, opset: int) -> Window:
    attributes = {name: attribute.value for name, attribute in found.largest.attributes.items()}
    kernel = tuple(attributes["kernel_shape"])
    ones = (1,) * len(kernel)
    stride, dilation = tuple(attributes.get("strides", ones)), tuple(attributes.get("dilations", ones))
    amounts = _amounts(found.padded[0], len(kernel), opset)
    for ceil in (False, True):
        try:
            window = Window(kernel, stride, amounts[: len(kernel)], dilation, ceil)
        except ArgumentError as error:
            raise Mismatch(str(error)) from error
        if (*window.pad, *window.tail) == amounts:
            return window
    raise Mismatch(f"it is padded by {amounts}, as no window is")


def _amounts(padded: ir.Value, rank: int, opset: int) -> tuple[int, ...]:
    """By how much a tensor was padded along its spatial axes: at each begin, then at each end."""
    node = producer(padded, "Pad")
    if node is None:
        return (0,) * 2 * rank
    amounts = tuple(int(amount) for amount in _computed(node.inputs[1], opset))
    if len(amounts) == 2 * rank + 4:  # of all axes
        return (*amounts[2 : rank + 2], *amounts[rank + 4 :])
    return amounts


def _computed(value: ir.Value | None, opset: int) -> NDArray[Any]:
    """What a value is that does not depend on inputs of the model; the nodes that make it are run alone."""
    copies: dict[ir.Value, ir.Value] = {}
    nodes: list[ir.Node] = []

    def copy(value: ir.Value) -> ir.Value:
        if value in copies:
            return copies[value]
        node, tensor = value.producer(), constant(value)
        if tensor is not None:
            made = ir.node("Constant", [], {"value": ir.tensor(tensor.numpy())})
        elif node is None or any(one.type == ir.AttributeType.GRAPH for one in node.attributes.values()):
            raise Mismatch("its padding is not a constant of the model")
        else:
            inputs = [None if given is None else copy(given) for given in node.inputs]
            made = ir.node(node.op_type, inputs, domain=node.domain, num_outputs=len(node.outputs))
            made.attributes.update({one.name: one for one in node.attributes.values()})
        nodes.append(made)
        for i, (old, new) in enumerate(
            zip(node.outputs if tensor is None and node else [value], made.outputs, strict=True)
        ):
            new.name = f"value_{len(nodes)}_{i}"
            copies[old] = new
        return copies[value]

    if value is None:
        raise Mismatch("its padding is not a constant of the model")
    if (tensor := constant(value)) is not None:
        array: NDArray[Any] = tensor.numpy()
        return array
    output = copy(value)
    output.type = ir.TensorType(ir.DataType.INT64)
    graph = ir.Graph([], [output], nodes=nodes, opset_imports={"": opset}, name="constants")
    (computed,) = load(ir.Model(graph, ir_version=10), kernels="off", threads=1).run({}).values()
    return computed


# --- operator, inputs, output


def _candidates(found: Inlined) -> Iterator[tuple[Operator, tuple[ir.Value, ...]]]:
    """Every operator with what its inputs may be: what was padded, or what that was rectified from."""
    sources = [_source(value) for value in found.padded]
    for operator in OPERATORS.values():
        if len(operator.inputs) == len(sources):
            for inputs in permutations(sources):
                yield operator, inputs
        if len(operator.inputs) == len(sources) == 1 and (node := producer(sources[0], "Max", "Relu", "Where", "Clip")):
            rectified = [value for value in node.inputs if value is not None and constant(value) is None]
            yield from ((operator, (value,)) for value in rectified)


def _source(padded: ir.Value) -> ir.Value:
    """What a tensor was before it was padded."""
    node = producer(padded, "Pad")
    return original(node.inputs[0] if node is not None else padded) or padded


def _output(
    model: ir.Model, found: Inlined, operator: Operator, window: Window, inputs: Sequence[ir.Value]
) -> ir.Value | None:
    """The value that is what the operator gives for these inputs, or None."""
    outputs = _after(model.graph, found.node, inputs)
    dtype = BY_CODE.get(int(inputs[0].dtype)) if inputs[0].dtype is not None else None
    if not outputs or dtype not in POOLED or len({value.dtype for value in inputs}) != 1:
        return None
    assert dtype is not None
    try:
        session = load(_alone(model, inputs, outputs), kernels="off", threads=1)
    except OnnxpoolError:
        return None
    left = list(outputs)
    for arrays in _tried(inputs, window):
        feeds = {str(value.name): array.astype(dtype.dtype) for value, array in zip(inputs, arrays, strict=True)}
        exact = [feeds[str(value.name)].astype(np.float64) for value in inputs]
        answer = operator.reference(window, *exact)
        bound = bounds.pooling(window, exact[0], answer, dtype.dtype, native=False)
        try:
            given = dict(zip(outputs, attempt(session, {**feeds}), strict=True))
        except Exception:  # whatever ONNX Runtime raises where these are not its inputs
            return None
        left = [value for value in left if _is(given[value], answer, bound)]
        if not left:
            return None
    return _last(left[0], left)


def _last(value: ir.Value, equal: Sequence[ir.Value]) -> ir.Value:
    """The last of equal values that are made one of the other: functions end with steps that NaN alone needs."""
    users = list(value.consumers())
    after = [output for user in users for output in user.outputs if output in equal]
    return _last(after[0], equal) if len(users) == len(after) == 1 and not value.is_graph_output() else value


def _is(array: NDArray[Any], answer: Array, bound: bounds.Bound) -> bool:
    return (
        array.shape == answer.shape
        and bounds.is_floating(array.dtype)
        and bounds.measure(array, answer, bound.allowed).within
    )


def _after(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value]) -> list[ir.Value]:
    """The values from ``node`` on that depend on ``inputs`` and constants alone, in the order of execution."""
    known, reached = set(inputs), set[ir.Value]()
    for one in graph:
        needed = taken(one)
        if any(value not in known and constant(value) is None for value in needed):
            continue
        known.update(one.outputs)
        if one is node or reached.intersection(needed):
            reached.update(one.outputs)
    return [value for one in graph for value in one.outputs if value in reached][:_MOST_VALUES]


def _alone(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """The nodes from ``inputs`` to ``outputs`` as a model of their own."""
    alone = model.clone()
    graph = alone.graph
    values = {value.name: value for node in graph for value in node.outputs} | {
        value.name: value for value in graph.inputs
    }
    wanted = [values[value.name] for value in outputs]
    entries = []
    for given in dict.fromkeys(inputs):
        old = values[given.name]
        entry = ir.Value(name=given.name, type=old.type, shape=old.shape)
        old.name = f"{given.name}#"
        ir.convenience.replace_all_uses_with(old, entry, replace_graph_outputs=True)
        entries.append(entry)
    graph.inputs.clear()
    graph.inputs.extend(entries)
    graph.outputs.clear()
    graph.outputs.extend(wanted)
    prune(graph)
    return alone


def _tried(inputs: Sequence[ir.Value], window: Window) -> Iterator[list[Array]]:
    """Inputs to compare on, in the shape that the model gives them, and in one of free choice where it gives none."""
    random = np.random.default_rng(0)
    roomy = (2, 3, *(extent + 2 * stride + 1 for extent, stride in zip(window.extent, window.stride, strict=True)))
    known: Mapping[int, Any] = dict(enumerate(inputs[0].shape or ()))
    shape = [size if isinstance(size := known.get(axis), int) else free for axis, free in enumerate(roomy)]
    for scale in _SCALES:
        yield [random.standard_normal(shape) * scale for _ in inputs]
    yield [np.full(shape, -3.25) for _ in inputs]
