"""What a PyTorch module computes on its way, by the names that these values have in the model exported from it.

PyTorch's exporter names values after the nodes of its traced program and notes that node, the modules around it and
the lines of code that it came from beside each ONNX node. So the program is run node by node, and a value counts as
known where name and operator are those noted in the model.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ExportError
from onnxpool.golden.collect import widen
from onnxpool.golden.from_torch import from_torch, to_torch
from onnxpool.golden.inputs import Feeds

if TYPE_CHECKING:
    import torch

_NODE = "pkg.torch.onnx.fx_node"
_CALL = re.compile(r"%(?P<name>\w+) : .*?\[target=(?P<target>[^\]]+)\]")


def values(module: "torch.nn.Module", model: ir.Model, feeds: Feeds) -> dict[str, Array]:
    """The values of ``model`` that ``module``, in float64 and evaluation mode, computes too, by name.

    The module itself is left as it is; it takes ``feeds`` in the order of the model's inputs.
    Raises :class:`ExportError` where PyTorch cannot trace the module.
    """
    double = copy.deepcopy(module).cpu().double().eval()
    args = [to_torch(widen(feeds)[str(value.name)]) for value in model.graph.inputs]
    program = _trace(double, args, model)
    found = tensors(program, args, model)
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


def _trace(module: "torch.nn.Module", args: list[Any], model: ir.Model) -> Any:
    """The program that the exporter sees; with axes that may change as in the model, where PyTorch lets it."""
    from onnxpool.network.translate import translated

    dynamic = tuple(
        {axis: dim.value for axis, dim in enumerate(value.shape or ()) if not isinstance(dim, int) and dim.value}
        for value in model.graph.inputs
    )
    try:
        return translated(module, args, dynamic_shapes=dynamic).exported_program
    except ExportError:
        return translated(module, args).exported_program


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
