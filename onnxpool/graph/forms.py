"""The three forms of one ONNX model, and the moves between them.

    function   each pooling node calls a function whose body, standard operators, is in the file: runs on ONNX Runtime
               anywhere, natively where the library is registered
    standard   those bodies, specialised to each node and inlined: only standard operators, for every other runtime;
               faster ones where inputs are promised to stay within a range
    custom     the bare nodes: smallest, and runs only with the library

Every move goes through the bare nodes: a model is stripped to them, then dressed in the form asked for. Nodes that were
inlined carry a tag (ONNX metadata, which runtimes ignore) that says which pooling node they came from, so that
the standard form can be folded back exactly. Models are :class:`onnx_ir.Model`, which leaves external weights on disk.

>>> to_form("model.onnx", "standard")  # doctest: +SKIP
"""

import json
import logging
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool._files import hidden, missing, named
from onnxpool.domain import DOMAIN, OPSETS, VERSION, Form
from onnxpool.errors import ArgumentError, FormError, nearest
from onnxpool.graph.blocks import BLOCK_SIZE, nodes_in_blocks
from onnxpool.graph.element_types import infer_dtypes, pooled_dtype
from onnxpool.graph.glance import glance
from onnxpool.graph.repair import pool_calls, prefixed, repair
from onnxpool.graph.tags import TAG, fold, groups, names
from onnxpool.window import Window

Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
"""What every function here takes: a path, a serialized model, or a model in memory."""

RANGE = "onnxpool.range"
"""Metadata key of a model in standard form that is right for pooling inputs within a range: the largest magnitude."""

_LARGE_BYTES = 1 << 20
"""Files above this are worth a look without their weights."""

_EXTERNAL_FROM_BYTES = 1_900_000_000  # a protobuf message ends at 2 GiB


@dataclass(frozen=True)
class PoolNode:
    """One pooling node of a model: its name, operator, window, and the names of its values."""

    name: str
    op_type: str
    window: Window
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


# --- files


def read(model: Model, *, in_place: bool = False) -> ir.Model:
    """The model in memory, external weights left on disk; an :class:`onnx_ir.Model` is returned as it is.

    What other programs do to a file is undone: nodes that stand before what they take from, and operators of ours that
    ``onnx.compose.add_prefix`` gave another name, where the model holds one body for each.
    With ``in_place`` the weights of a large file stay there, too, for who needs the model only until the file changes.
    Raises :class:`FormError` for a missing file and for what is not an ONNX model.
    """
    if isinstance(model, ir.Model):
        return model
    name = str(model) if isinstance(model, str | os.PathLike) else "these bytes"
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it would remark on comes as an error below
    try:
        if isinstance(model, onnx.ModelProto):
            return repair(ir.from_proto(model))
        if isinstance(model, bytes):
            return repair(ir.from_proto(onnx.load_model_from_string(model)))
        return repair(_glanced(Path(model)) if in_place and _is_large(Path(model)) else ir.load(model))
    except FileNotFoundError as error:
        raise FormError(f"there is no model file {name}" if isinstance(model, bytes) else missing(name)) from error
    except Exception as error:
        raise FormError(f"cannot read {name} as an ONNX model: {_why_unreadable(model, error)}") from error
    finally:
        logger.setLevel(level)


def _is_large(path: Path) -> bool:
    return path.suffix == ".onnx" and path.stat().st_size > _LARGE_BYTES


def _glanced(path: Path) -> ir.Model:
    model = ir.from_proto(glance(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _why_unreadable(model: Model, error: Exception) -> str:
    """A line about what the file is, or what its reader said."""
    if isinstance(model, str | os.PathLike) and Path(model).is_dir():
        return "it is a folder"
    if is_ort_format(model):
        return "it is in ONNX Runtime's own format, which onnxpool.load runs; take the ONNX model that it was made from"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def is_ort_format(model: Model) -> bool:
    """Whether it is in ONNX Runtime's own format, ``.ort``: FlatBuffers with this identifier."""
    if isinstance(model, bytes):
        return model[4:8] == b"ORTM"
    if not isinstance(model, str | os.PathLike) or not Path(model).is_file():
        return False
    with Path(model).open("rb") as file:
        return file.read(8)[4:] == b"ORTM"


def write(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write the model to ``path``, weights beside it in ``<path>.data`` where they exceed one protobuf message.

    The files get their names only when they are complete, the weights first. Weights that ``model`` had on disk are in
    memory afterwards, where they fit into one message. Raises OSError, with ``path``, where nothing can be written.
    """
    path = Path(path)
    weights = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    size_bytes = sum(weight.nbytes for weight in weights if weight)
    data = f"{path.name}.data" if size_bytes > _EXTERNAL_FROM_BYTES else None
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=hidden(path), dir=path.parent))
        try:
            if not data:
                model = ir.external_data.load_to_model(model)  # weights that were beside another file come along
            ir.save(model, folder / path.name, external_data=data)
            if data:
                (folder / data).replace(path.with_name(data))
            (folder / path.name).replace(path)
        finally:
            shutil.rmtree(folder)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model, such as :func:`to_form` or ``onnxpool.lift`` returns, to ``path``; the argument stays as it is.

    Weights of more than 1.9 GB stand in ``<path>.data`` beside it, since a protobuf message ends at 2 GiB; move both
    files together. Each file gets its name only when it is complete, so that nobody reads half of one.

    >>> save(to_form("network.onnx", "standard"), "network-standard.onnx")  # doctest: +SKIP

    Raises :class:`FormError` for what is not a model, and OSError, with ``path``, where nothing can be written.
    """
    write(read(model).clone(), path)


# --- what a model holds


def form_of(model: Model) -> Form:
    """The form that the model is in; a model without pooling nodes is in standard form, an optimised one in custom."""
    model = read(model)
    if any(nodes_in_blocks(model)):
        return "custom"
    bare = list(pool_calls(model))
    if not bare:
        return "standard"
    carried = all((DOMAIN, node.op_type, "") in model.functions for node in bare)
    return "function" if carried else "custom"


def pool_nodes(model: Model) -> list[PoolNode]:
    """The pooling nodes of a model in any form, in the order of execution."""
    model = read(model)
    called = prefixed(model)
    found = [
        PoolNode(
            node.name or "",
            called.get(node.op_type, node.op_type),
            _window(node),
            names(node.inputs),
            names(node.outputs),
        )
        for node in (*pool_calls(model), *nodes_in_blocks(model))
    ]
    for graph in model.graphs():
        found += [
            PoolNode(group.name, group.op_type, group.window, names(group.inputs), names(group.outputs))
            for group in groups(graph)
        ]
    return found


def _window(node: ir.Node) -> Window:
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if name != BLOCK_SIZE}
    try:
        return Window.from_attributes(attributes)
    except ArgumentError as error:
        raise FormError(f"node {node.name!r} ({DOMAIN}::{node.op_type}): {error}") from error


# --- the moves


def to_form(model: Model, form: Form, *, within: float | None = None) -> ir.Model:
    """The same model in another form, in memory; the argument is left as it is. ``onnxpool.save`` writes it to a file.

    ``within`` asks for the bounded standard form: SoftPool and local importance pooling as exponentials and two average
    poolings, which is faster and runs in more runtimes, and is right where no element of their inputs has a larger
    magnitude than this. It is kept in the model (:func:`range_of`), and :func:`onnxpool.validate` heeds it. Other
    pooling nodes are as in the standard form.

    Raises :class:`ArgumentError` for an unknown form, for a ``within`` that is larger than the exponentials of a node
    allow, or that no node needs, and :class:`FormError` for a pooling node that is malformed,
    unknown to this version, of unknown element type, or whose inlined nodes another program has rewritten, and for a
    model that :func:`onnxpool.optimize` made.
    """
    if form not in get_args(Form):
        known = get_args(Form)
        raise ArgumentError(f"form={form!r} is unknown{nearest(str(form), known)}; use one of {', '.join(known)}")
    if within is not None and (form != "standard" or not 0 < within < math.inf):
        raise ArgumentError(f"within={within!r} must be a positive number, and is for form='standard' alone")
    model = read(model).clone()
    if any(nodes_in_blocks(model)):
        raise FormError("the model is optimised for one kind of processor; convert the one that it was made from")
    _strip(model)
    _check(model)
    if form == "function":
        _attach(model)
    elif form == "standard":
        _inline(model, within)
    return model


def range_of(model: Model) -> float | None:
    """The largest magnitude of pooling inputs that the model is right for; None where it has no limit.

    Raises :class:`FormError` where that is written as something else than a number.
    """
    written = read(model).metadata_props.get(RANGE)
    try:
        return None if written is None else float(written)
    except ValueError as error:
        raise FormError(f"the model's metadata {RANGE} is {written!r}, not a number; convert it again") from error


def _strip(model: ir.Model) -> None:
    """Down to bare nodes, each with a name of its own."""
    model.metadata_props.pop(RANGE, None)
    for graph in list(model.graphs()):
        for group in groups(graph):
            fold(graph, group)
        for node in graph:
            node.metadata_props.pop(TAG, None)
    called = prefixed(model)
    for identifier in [identifier for identifier in model.functions if identifier[0] == DOMAIN]:
        del model.functions[identifier]
    callers = {
        function.identifier()
        for function in model.functions.values()
        if any(node.domain == DOMAIN for node in function.all_nodes())
    }
    if callers:  # element types inside a function are known only where it is called
        passes.InlinePass(lambda function: function.identifier() in callers)(model)
    taken = {node.name for node in model.graph.all_nodes()}
    for node in pool_calls(model):
        node.op_type = called.get(node.op_type, node.op_type)
        if not node.name:
            node.name = next(name for i in range(len(taken) + 1) if (name := f"{node.op_type}_{i}") not in taken)
            taken.add(node.name)


def _check(model: ir.Model) -> None:
    from onnxpool.pools import OPERATORS

    opset = model.opset_imports.get("", 0)
    nodes = list(pool_calls(model))
    if nodes and opset not in OPSETS:
        raise FormError(
            f"the model has opset {opset}; pooling nodes need {OPSETS[0]} to {OPSETS[-1]}: convert it first, for "
            "example with onnx.version_converter, or export it again"
        )
    for node in nodes:
        if node.op_type not in OPERATORS:
            raise FormError(
                f"node {node.name!r} calls {DOMAIN}::{node.op_type}, which this version does not know; it has "
                f"{', '.join(OPERATORS)}"
            )
        attributes = ir.convenience.convert_attributes(_window(node).attributes())
        node.attributes.clear()  # the same order in every model: equal nodes have equal bytes
        node.attributes.update({attribute.name: attribute for attribute in attributes})
        if len(node.inputs) != len(OPERATORS[node.op_type].inputs) or len(node.outputs) != 1:
            raise FormError(
                f"node {node.name!r} ({DOMAIN}::{node.op_type}) has {len(node.inputs)} inputs and {len(node.outputs)} "
                f"outputs; it takes {', '.join(OPERATORS[node.op_type].inputs)} and gives one"
            )
    infer_dtypes(model)
    if nodes:
        model.opset_imports[DOMAIN] = VERSION


def _attach(model: ir.Model) -> None:
    """Give each operator in use its function, ahead of every function that may call it."""
    from onnxpool.pools import OPERATORS
    from onnxpool.pools._method import Calls

    opset, every = model.opset_imports[""], list(pool_calls(model))
    for op_type in sorted({node.op_type for node in every}):
        nodes = [node for node in every if node.op_type == op_type]
        dtypes = {pooled_dtype(node) for node in nodes}
        wide = ir.DataType.DOUBLE if ir.DataType.DOUBLE in dtypes else ir.DataType.FLOAT
        dilated = any(set(_window(node).dilation) != {1} for node in nodes)
        function = OPERATORS[op_type].function(Calls(opset, wide, dtypes != {wide}, dilated))
        model.functions[function.identifier()] = function


def _inline(model: ir.Model, within: float | None) -> None:
    """Write standard operators for its own window in place of each pooling node, tagged, and tidy up."""
    nodes = list(pool_calls(model))
    if within is not None:
        _check_range(nodes, within)
        model.metadata_props[RANGE] = repr(float(within))
    for node in nodes:
        _replace(node, bounded=within is not None)
    if not nodes:
        return
    for tidy in (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
    ):
        tidy(model)


def _check_range(nodes: list[ir.Node], within: float) -> None:
    from onnxpool.pools import OPERATORS
    from onnxpool.pools._bounded import largest_range
    from onnxpool.pools._onnx_ops import wide_for

    bounded = [node for node in nodes if OPERATORS[node.op_type].bounded]
    if not bounded:
        names = ", ".join(name for name, operator in OPERATORS.items() if operator.bounded)
        raise ArgumentError(f"within={within!r} is for {names}, of which the model has none")
    for node in bounded:
        window, dtype = _window(node), pooled_dtype(node)
        if within > (limit := largest_range(window, dtype)):
            raise ArgumentError(
                f"within={within!r}: node {node.name!r} pools {window} in {wide_for(dtype).numpy()}, where sums of "
                f"exponentials stay in range up to {limit:g} only"
            )


def _replace(node: ir.Node, *, bounded: bool) -> None:
    from onnxpool.pools import OPERATORS
    from onnxpool.pools._onnx_ops import Builder, wide_for

    window, dtype = _window(node), pooled_dtype(node)
    op, wide = Builder(f"{node.name}/"), wide_for(dtype)
    inputs = [value if dtype == wide else op.Cast(value, to=wide) for value in node.inputs]
    operator = OPERATORS[node.op_type]
    write = operator.bounded if bounded and operator.bounded else operator.standard
    made = write(op, window, dtype, *inputs)
    old, new = node.outputs[0], made if dtype == wide else op.Cast(made, to=dtype)
    new.name, new.type, new.shape = old.name, old.type, old.shape
    tag = {
        "name": node.name,
        "op_type": node.op_type,
        "attributes": window.attributes(),
        "inputs": names(node.inputs),
        "outputs": names(node.outputs),
    }
    for written in op.nodes:
        written.metadata_props.update({**node.metadata_props, TAG: json.dumps(tag)})
    graph = node.graph
    assert graph is not None
    ir.convenience.replace_nodes_and_values(graph, node, [node], op.nodes, [old], [new])
