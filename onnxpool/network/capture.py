"""A PyTorch module as a traced program, in which each pooling of torch.nn is an operator of ours.

PyTorch shows every call of a function, by a layer or by somebody's forward, while it runs the module with symbolic
sizes. Where it cannot run a module and reads its code instead, poolings go by unseen: a program that still holds one is
refused.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from onnxpool.errors import ExportError, OnnxpoolError
from onnxpool.network.arguments import untranslated
from onnxpool.network.functional import POOLINGS
from onnxpool.network.symbolic import LIBRARIES, FixedSizeError, symbolic_numbers


class Poolings(TorchFunctionMode):
    """While it is open, poolings of torch.nn are operators of ours; ``module`` is only asked for its layers' names.

    Raises :class:`ExportError`, which says where, for a pooling that draws at random, one of numbers that ONNX Runtime
    does not pool, and one that does not fit its input.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.paths = {id(part): path for path, part in module.named_modules()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        known = POOLINGS.get(func) if callable(func) else None
        if known is None:
            return func(*args, **named)
        pool, rank = known
        if "self" in named:
            named["input"] = named.pop("self")
        try:
            y = pool(rank, *args, **named)
        except OnnxpoolError as error:
            raise ExportError(f"{getattr(func, '__name__', func)}{self._place()}: {error}") from error
        return func(*args, **named) if y is NotImplemented else y

    def _place(self) -> str:
        """The layer and the line of the module's own code that is calling."""
        layer, line, frame = "", "", inspect.currentframe()
        while frame is not None and not (layer and line):
            owner, file = frame.f_locals.get("self"), frame.f_code.co_filename
            if not layer and self.paths.get(id(owner)):
                layer = f" in layer {self.paths[id(owner)]!r}"
            if not line and not file.startswith(LIBRARIES):
                line = f" at {file}:{frame.f_lineno}"
            frame = frame.f_back
        return layer + line


def captured(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any
) -> "torch.export.ExportedProgram":
    """The program that PyTorch makes of ``module``, its poolings operators of ours.

    Arguments as of :func:`onnxpool.export`. Raises :class:`ExportError` where PyTorch cannot capture the module, and
    where it would come by poolings unseen.
    """
    from torch.onnx._internal.exporter import _capture_strategies as strategies
    from torch.onnx._internal.exporter._dynamic_shapes import convert_str_to_export_dim

    shapes = convert_str_to_export_dim(dynamic_shapes)[0]

    def capture(strategy: Any) -> Any:
        return strategy(verbose=False)(module, tuple(args), dict(kwargs or {}), shapes)

    with Poolings(module), symbolic_numbers() as spell:
        result = capture(strategies.TorchExportNonStrictStrategy)
        while isinstance(result.exception, FixedSizeError) and spell(result.exception):
            result = capture(strategies.TorchExportNonStrictStrategy)
    if isinstance(result.exception, ExportError):
        raise result.exception
    error = result.exception
    if not result.success:
        result = capture(strategies.TorchExportStrictStrategy)
    program: torch.export.ExportedProgram | None = result.exported_program
    if program is None:
        assert error is not None
        raise untranslated(module, error) from error
    for name in sorted(_unseen(program)):
        reason = f"; PyTorch could not run the module: {error!s:.300}" if error else ""
        raise ExportError(
            f"{type(module).__name__} calls {name} where export cannot follow it, such as in a branch of torch.cond or "
            f"in a scripted function; move the pooling out of there{reason}"
        ) from error
    return program


def _unseen(program: "torch.export.ExportedProgram") -> set[str]:
    """PyTorch's own poolings that a program holds."""
    return {
        str(node.target)
        for part in program.graph_module.modules()
        if isinstance(part, torch.fx.GraphModule)
        for node in part.graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
        if node.target.namespace == "aten" and "pool" in node.target._schema.name
    }
