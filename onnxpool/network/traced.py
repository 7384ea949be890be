"""What a PyTorch module computes on its way, by the names that these values have in the model exported from it.

PyTorch's exporter names values after the nodes of its traced program and notes that node, the modules around it and
the lines of code that it came from beside each ONNX node. So the program is run node by node, and a value counts as
known where name and operator are those noted in the model. What it does in one step and ONNX in several has values
between that PyTorch does not know: those are computed in float64 from the nodes of the model as it is exported.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.domain import OPSETS
from onnxpool.errors import ExportError
from onnxpool.golden.arrangement import Arrangement
from onnxpool.golden.collect import widen
from onnxpool.golden.file import Case
from onnxpool.golden.from_torch import arrangement, copied, from_torch, in_float64, to_torch
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.trace import MOST_AXES, Cells, Trace, of_values, places
from onnxpool.graph import subgraph
from onnxpool.network.passes import tidy

if TYPE_CHECKING:
    import torch

_NODE = "pkg.torch.onnx.fx_node"
_CALL = re.compile(r"%(?P<name>\w+) : .*?\[target=(?P<target>[^\]]+)\]")


def values(module: "torch.nn.Module", model: ir.Model, feeds: Feeds) -> Feeds:
    """The values of ``model`` that ``module``, in float64 and evaluation mode, computes too, by name.

    The module itself is left as it is; it takes ``feeds`` by the names of the model's inputs, or in their order.
    Raises :class:`ExportError` where PyTorch cannot trace the module.
    """
    from torch.utils._pytree import tree_leaves

    double = copied(module).cpu().double().eval()
    arranged = arrangement(module, model)
    args = {name: to_torch(array) for name, array in widen(feeds).items()}
    exported = _trace(double, arranged, args, model)
    program, right = exported.exported_program, exported.model
    found = tensors(program, [args[name] for name in tree_leaves(arranged)], model)
    known = _arrays(found)
    tidy(right)
    names = [str(value.name) for value in right.graph.inputs]
    if len(names) != len(tree_leaves(arranged)):
        return known
    theirs = {name: feeds[one] for name, one in zip(names, tree_leaves(arranged), strict=True)}
    every = filled(right, _arrays(tensors(program, [args[name] for name in tree_leaves(arranged)], right)), theirs)
    return {name: every[name] for name in _alike(right, model) if name in every} | known


def trace(program: "torch.export.ExportedProgram", model: ir.Model, case: Case) -> Trace | None:
    """The cells of every value of ``model``, which was just made of ``program``, that is known in ``case``.

    None where PyTorch cannot run the program in float64.
    """
    inputs = widen(case.inputs)
    args = [to_torch(inputs[str(value.name)]) for value in model.graph.inputs]
    large: dict[str, Cells] = {}

    def small(name: str, tensor: "torch.Tensor") -> bool:
        if tensor.numel() > MOST_CELLS and tensor.ndim <= MOST_AXES:
            shape = tuple(tensor.shape)
            cells = tensor.reshape(-1)[to_torch(places(shape))]
            large[name] = Cells(shape, np.asarray(from_torch(cells), np.float64))
        return tensor.numel() <= MOST_CELLS

    try:
        found = tensors(program, args, model, wide=True, keep=small)
    except Exception:  # whatever a network raises
        return None
    values = filled(model, _arrays(found), case.inputs, large)
    names = list(_names(model))
    known = of_values(case.name, {name: values[name] for name in names if name in values})
    return replace(known, values=known.values | {name: large[name] for name in names if name in large})


def tensors(
    program: "torch.export.ExportedProgram",
    args: "Sequence[torch.Tensor]",
    model: ir.Model,
    *,
    wide: bool = False,
    keep: "Callable[[str, torch.Tensor], bool]" = lambda _name, _tensor: True,
) -> "dict[str, torch.Tensor]":
    """The values of ``model`` that the ``program`` it was made of computes for ``args``, by name.

    In the types that it has, or in float64 where ``wide``. Those that ``keep`` says no to are let go at once.
    """
    import torch

    calls = {node.name: node for node in program.graph.nodes}
    wanted = set(_same(model, calls))
    known: dict[str, torch.Tensor] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted and isinstance(value, torch.Tensor) and keep(n.name, value):
                known[n.name] = value
            return value

    taken = list(_arguments(program, args))
    if wide:
        taken = [one.double() if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in taken]
    with torch.no_grad(), in_float64() if wide else nullcontext():
        Recorder(program.graph_module).run(*taken)
    return known


def _arrays(tensors: "Mapping[str, torch.Tensor]") -> Feeds:
    return widen({name: from_torch(tensor) for name, tensor in tensors.items()})


# --- values that PyTorch does not know

MOST_CELLS = 2**19
"""Elements of what a node takes, at most, that onnx's evaluator is given: it is slow. Larger values are not kept."""


def filled(model: ir.Model, known: Feeds, feeds: Feeds, large: Collection[str] = ()) -> Feeds:
    """What nodes of the main graph give in float64: ``known`` values, and what the nodes between make of these.

    Those called ``large`` are known too, and were let go.
    """
    from onnxpool.golden import from_model  # brings onnx's evaluator

    values: dict[str, Any] = {**widen(feeds), **known}
    for node in model.graph:
        names = [str(value.name) for value in node.outputs if value.name]
        if all(name in values or name in large for name in names) or any(True for _ in subgraph.bodies(node)):
            continue
        taken = {str(value.name): value for value in subgraph.taken(node)}
        for name, value in taken.items():
            if name not in values and (constant := ir.convenience.get_const_tensor(value)) is not None:
                values |= widen({name: constant.numpy()})
        if any(name not in values or np.size(values[name]) > MOST_CELLS for name in taken):
            continue
        with suppress(Exception):  # an operator that the evaluator does not know, or not in float64
            run = from_model.one_node(from_model.in_float64(node), model.opset_imports)
            values = {**run({name: values[name] for name in taken}), **values}
    return {name: array for name, array in values.items() if isinstance(array, np.ndarray)}


def _names(model: ir.Model) -> Iterator[str]:
    """Of numbers that are no constants, and no part of a shape."""
    for value in subgraph.made(model):
        if value.dtype is None or value.dtype.is_floating_point():
            yield str(value.name)


def _alike(right: ir.Model, model: ir.Model) -> Iterator[str]:
    """The names of values that ``model`` makes in the same steps of PyTorch as the one just exported."""
    ours = _steps(model)
    for step, names in _steps(right).items():
        if names <= ours.get(step, set()):
            yield from names


def _steps(model: ir.Model) -> dict[tuple[str, ...], set[str]]:
    """The values of each node in the traced program."""
    found: dict[tuple[str, ...], set[str]] = {}
    for node in model.graph:
        if noted := _CALL.match(node.metadata_props.get(_NODE, "")):
            found.setdefault(noted.groups(), set()).update(str(value.name) for value in node.outputs)
    return found


# --- the traced program


def _trace(
    module: "torch.nn.Module", arranged: Arrangement, tensors: "Mapping[str, torch.Tensor]", model: ir.Model
) -> Any:
    """What the exporter sees and writes, with axes that may change as in the model, where PyTorch lets them."""
    from torch.utils._pytree import tree_map

    from onnxpool.network.translate import translated

    axes = {
        str(value.name): {
            axis: dim.value for axis, dim in enumerate(value.shape or ()) if not isinstance(dim, int) and dim.value
        }
        for value in model.graph.inputs
    }
    known = model.opset_imports.get("", OPSETS[0])
    opset = known if known in OPSETS else OPSETS[0]
    args, kwargs = tree_map(tensors.__getitem__, arranged)
    positional, named = tree_map(axes.__getitem__, arranged)
    try:
        return translated(module, args, kwargs=kwargs, dynamic_shapes=named or positional, opset=opset)
    except ExportError:
        return translated(module, args, kwargs=kwargs, opset=opset)


def _arguments(program: "torch.export.ExportedProgram", args: "Sequence[torch.Tensor]") -> Iterator[Any]:
    """What the traced graph takes: parameters, buffers and constants, and the inputs."""
    given, held = iter(args), {**program.constants, **program.state_dict}
    for entry in program.graph_signature.input_specs:
        yield next(given) if entry.target is None else held[entry.target]


def _same(model: ir.Model, calls: Mapping[str, Any]) -> Iterator[str]:
    """The names of values whose node in the traced program is the one noted in the model."""
    for node in model.graph:
        if noted := _CALL.match(node.metadata_props.get(_NODE, "")):
            for name in (str(value.name) for value in node.outputs if value.name in calls):
                call: Any = calls[name] if name == noted["name"] else next(iter(calls[name].args), None)  # an item
                if getattr(call, "name", None) == noted["name"] and noted["target"] in call.format_node():
                    yield name
