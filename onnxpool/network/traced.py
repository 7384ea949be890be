"""What a PyTorch module computes on its way, by the names that these values have in the model exported from it.

PyTorch's exporter names values after the nodes of its traced program and notes that node, the modules around it and
the lines of code that it came from beside each ONNX node. So the program is run node by node, and a value counts as
known where name and operator are those noted in the model. What it does in one step and ONNX in several has values
between that PyTorch does not know: those are computed in float64 from the nodes of the model as it is exported
(:mod:`onnxpool.network.untraced`).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import OPSETS
from onnxpool.errors import ExportError
from onnxpool.golden.arrangement import Arrangement
from onnxpool.golden.collect import widen
from onnxpool.golden.file import Case
from onnxpool.golden.from_torch import arrangement, copied, from_torch, in_float64, to_torch
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.perturbed import each
from onnxpool.golden.trace import MOST_AXES, Cells, Trace, of_array
from onnxpool.graph import subgraph
from onnxpool.network.passes import tidy
from onnxpool.network.untraced import Between

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
    computed = _arrays(tensors(program, [args[name] for name in tree_leaves(arranged)], right))
    every = dict(computed)
    between = Between(right, {*every}, {str(value.name) for value in subgraph.made(right)}, every.__setitem__)
    between.start(theirs)
    for name, array in computed.items():
        between.give(name, array)
    return {name: every[name] for name in _alike(right, model) if name in every} | known


def trace(program: "torch.export.ExportedProgram", model: ir.Model, case: Case) -> Trace | None:
    """The cells of every value of ``model``, which was just made of ``program``, that is known in ``case``.

    None where PyTorch cannot run the program in float64. Values are held whole only as long as others are made of them
    (:mod:`onnxpool.network.untraced`, which says what is left out).
    """
    inputs = widen(case.inputs)
    args = [to_torch(inputs[str(value.name)]) for value in model.graph.inputs]
    names = dict.fromkeys(_names(model))
    cells: dict[str, Cells] = {}

    def found(name: str, array: NDArray[Any]) -> None:
        if name in names and array.ndim <= MOST_AXES and array.dtype.kind in "fiub":
            cells[name] = of_array(array)

    between = Between(model, {*_same(model, program)}, names, found)

    def see(name: str, tensor: "torch.Tensor") -> None:
        array = tensor.detach().cpu().numpy()
        found(name, array)
        between.give(name, array)

    try:
        between.start(case.inputs)
        _run(program, args, model, see, wide=True)
    except Exception:  # whatever a network raises
        return None
    return Trace(case.name, {name: cells[name] for name in names if name in cells})


def tensors(
    program: "torch.export.ExportedProgram", args: "Sequence[torch.Tensor]", model: ir.Model, *, wide: bool = False
) -> "dict[str, torch.Tensor]":
    """The values of ``model`` that the ``program`` it was made of computes for ``args``, by name.

    In the types that it has, or in float64 where ``wide``. Complex values, which are real ones in ONNX, are left out.
    """
    known: dict[str, torch.Tensor] = {}
    _run(program, args, model, known.__setitem__, wide=wide)
    return known


def _run(
    program: "torch.export.ExportedProgram",
    args: "Sequence[torch.Tensor]",
    model: ir.Model,
    see: "Callable[[str, torch.Tensor], None]",
    *,
    wide: bool,
) -> None:
    """Run a program node by node, and show each value that is also one of ``model``.

    Where ``wide``, weights are widened for each node that takes them, and let go after it.
    """
    import torch

    wanted = set(_same(model, program))

    def widened(one: Any) -> Any:
        """One copy: what an operator takes is in float64 already here, where ``double`` would copy it again."""
        return one.detach() if isinstance(one, torch.Tensor) else one

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                see(n.name, value)
            return value

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if wide:
                args, kwargs = each(widened, args), {name: each(widened, one) for name, one in kwargs.items()}
            return super().call_function(target, args, kwargs)

    with torch.no_grad(), in_float64() if wide else nullcontext():
        Recorder(program.graph_module).run(*_arguments(program, args))


def _arrays(tensors: "Mapping[str, torch.Tensor]") -> Feeds:
    return widen({name: from_torch(tensor) for name, tensor in tensors.items()})


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


def _same(model: ir.Model, program: "torch.export.ExportedProgram") -> Iterator[str]:
    """The names of values whose node in the traced program is the one noted in the model, and gives a real tensor."""
    import torch

    calls: dict[str, Any] = {node.name: node for node in program.graph.nodes}
    for node in model.graph:
        if noted := _CALL.match(node.metadata_props.get(_NODE, "")):
            for name in (str(value.name) for value in node.outputs if value.name in calls):
                made = calls[name].meta.get("val")
                if not isinstance(made, torch.Tensor) or made.is_complex():
                    continue
                call: Any = calls[name] if name == noted["name"] else next(iter(calls[name].args), None)  # an item
                if getattr(call, "name", None) == noted["name"] and noted["target"] in call.format_node():
                    yield name
