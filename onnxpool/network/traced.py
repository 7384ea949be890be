"""What a PyTorch module computes on its way, by the names that these values have in the model exported from it.

PyTorch's exporter names values after the nodes of its traced program and notes that node, the modules around it and
the lines of code that it came from beside each ONNX node. So the program is run node by node, and a value counts as
known where name and operator are those noted in the model.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ExportError
from onnxpool.golden.arrangement import Arrangement
from onnxpool.golden.collect import widen
from onnxpool.golden.from_torch import arrangement, copied, from_torch, to_torch
from onnxpool.golden.inputs import Feeds

if TYPE_CHECKING:
    import torch

_NODE = "pkg.torch.onnx.fx_node"
_CALL = re.compile(r"%(?P<name>\w+) : .*?\[target=(?P<target>[^\]]+)\]")


def values(module: "torch.nn.Module", model: ir.Model, feeds: Feeds) -> dict[str, Array]:
    """The values of ``model`` that ``module``, in float64 and evaluation mode, computes too, by name.

    The module itself is left as it is; it takes ``feeds`` by the names of the model's inputs, or in their order.
    Raises :class:`ExportError` where PyTorch cannot trace the module.
    """
    from torch.utils._pytree import tree_leaves

    double = copied(module).cpu().double().eval()
    arranged = arrangement(module, model)
    args = {name: to_torch(array) for name, array in widen(feeds).items()}
    program = _trace(double, arranged, args, model)
    found = tensors(program, [args[name] for name in tree_leaves(arranged)], model)
    return {name: np.asarray(from_torch(tensor), np.float64) for name, tensor in found.items()}


def tensors(
    program: "torch.export.ExportedProgram", args: "Sequence[torch.Tensor]", model: ir.Model
) -> "dict[str, torch.Tensor]":
    """The values of ``model`` that the ``program`` it was made of computes for ``args``, by name."""
    import torch

    known: dict[str, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            known[n.name] = super().run_node(n)
            return known[n.name]

    with torch.no_grad():
        Recorder(program.graph_module).run(*_arguments(program, args))
    calls = {node.name: node for node in program.graph.nodes}
    return {name: known[name] for name in _same(model, calls) if isinstance(known[name], torch.Tensor)}


# --- the traced program


def _trace(
    module: "torch.nn.Module", arranged: Arrangement, tensors: "Mapping[str, torch.Tensor]", model: ir.Model
) -> Any:
    """The program that the exporter sees; with axes that may change as in the model, where PyTorch lets it."""
    from torch.utils._pytree import tree_map

    from onnxpool.network.translate import translated

    axes = {
        str(value.name): {
            axis: dim.value for axis, dim in enumerate(value.shape or ()) if not isinstance(dim, int) and dim.value
        }
        for value in model.graph.inputs
    }
    args, kwargs = tree_map(tensors.__getitem__, arranged)
    positional, named = tree_map(axes.__getitem__, arranged)
    try:
        return translated(module, args, kwargs=kwargs, dynamic_shapes=named or positional).exported_program
    except ExportError:
        return translated(module, args, kwargs=kwargs).exported_program


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
