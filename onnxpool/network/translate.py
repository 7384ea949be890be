"""PyTorch's own exporter, with pooling kept as nodes of our own domain, and sizes computed as Python does."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.dtypes import POOLED
from onnxpool.errors import ArgumentError, ExportError, MissingExtra, OnnxpoolError
from onnxpool.graph.forms import to_form
from onnxpool.network import arithmetic
from onnxpool.pools._method import Operator
from onnxpool.window import Window

if TYPE_CHECKING:
    import torch


def translated(
    module: "torch.nn.Module",
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSETS[0],
    evaluate: bool = True,
) -> "torch.onnx.ONNXProgram":
    """What PyTorch's exporter makes of ``module``, pooling nodes bare and nothing optimized: program and model.

    Arguments as of :func:`onnxpool.export`. Raises :class:`ArgumentError` for what is not a module,
    :class:`MissingExtra` without PyTorch or onnxscript, and :class:`ExportError` where PyTorch fails.
    """
    translations = translations_for(module)
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from onnxpool.network.arguments import untranslated
    from onnxpool.network.capture import captured

    def attempt() -> "torch.onnx.ONNXProgram | None":
        return torch.onnx.export(
            captured(module, args, kwargs, dynamic_shapes),
            dynamo=True,
            custom_translation_table=translations,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            opset_version=opset,
            optimize=False,
            verbose=False,
        )

    with settled(module, evaluate), _quiet():
        try:
            try:
                program = attempt()
            except Exception as error:
                if "Cannot view a tensor" not in str(error):
                    raise
                # PyTorch traces its fast attention with another order in memory than it then decomposes it to
                with sdpa_kernel(SDPBackend.MATH):
                    program = attempt()
        except OnnxpoolError:
            raise
        except Exception as error:
            raise untranslated(module, error) from error
    assert program is not None
    return program


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How poolings are written in ONNX, for your own call of ``torch.onnx.export``; :func:`finish` makes it complete.

        program = torch.onnx.export(
            network, (x,), dynamo=True, custom_translation_table=onnxpool.translations()
        )
        onnxpool.finish(program).save("network.onnx")

    With it SoftPool ``sum x exp(x) / sum exp(x)``, local importance pooling ``sum x exp(l) / sum exp(l)`` and
    stochastic pooling ``sum a^2 / sum a``, ``a = max(x, 0)``, are one node each, which the native library runs, and
    every other pooling of :mod:`onnxpool.nn` is what :func:`onnxpool.export` writes, for free sizes too. Without it
    PyTorch takes them apart: the file is right as well, longer, and without nodes to run natively.

    Returns a new mapping from PyTorch's operator to a function that writes it, which may be merged with your own.
    Raises :class:`MissingExtra` without PyTorch or onnxscript.
    """
    try:
        return _ours()
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "export", "translations") from error


def finish(program: "torch.onnx.ONNXProgram") -> "torch.onnx.ONNXProgram":
    """Give a program that was exported with :func:`translations` the function of each pooling node in it.

    Then the file that it saves is complete: ONNX Runtime loads it without this package. The program is changed, and
    returned; once more changes nothing. What ``torch.onnx.export`` has written to a file itself lacks the functions:
    save again, or use ``onnxpool.to_form``.

    Raises :class:`ArgumentError` for what is not an ``ONNXProgram``, and :class:`FormError` for a pooling node that is
    malformed, and for an opset that pooling nodes do not have (:data:`onnxpool.domain.OPSETS`).
    """
    try:
        from torch.onnx import ONNXProgram
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "export", "finish") from error
    if not isinstance(program, ONNXProgram):
        raise ArgumentError(
            f"program={program!r:.80} is not a torch.onnx.ONNXProgram; use what torch.onnx.export gives"
        )
    program.model = to_form(program.model, "function")
    program.model.ir_version = min(program.model.ir_version, IR_VERSION)
    return program


def translations_for(module: "torch.nn.Module") -> dict[Callable[..., Any], Callable[..., Any]]:
    """How PyTorch's exporter writes operators that it does not know, or not right; errors as of :func:`translated`."""
    try:
        import torch

        translations = _translations()
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "export", "export") from error
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"module={module!r:.80} is not a torch.nn.Module; wrap a function in one")
    if isinstance(module, torch.jit.ScriptModule):
        raise ArgumentError("module is TorchScript; export the Python module that torch.jit made it from")
    return translations


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    return {**arithmetic.translations(), **_ours()}


def _ours() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How PyTorch's exporter writes each of our operators: as standard ones, or as one bare node.

    (The node's function comes later: the exporter inlines every function that it knows of.)
    """
    from onnxscript import opset18

    import onnxpool.pools
    import onnxpool.pools._as_torch  # noqa: F401 - both register operators
    from onnxpool.pools._torch_ops import EXPORTED_AS, TRANSLATIONS

    def standard(translate: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: translate(opset18, *args)

    return {
        **{overload: _translation(ours) for overload, ours in EXPORTED_AS.items()},
        **{overload: standard(translate) for overload, translate in TRANSLATIONS.items()},
    }


def _translation(ours: Operator) -> Callable[..., Any]:
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    from onnxpool.pools._torch_ops import window_from

    types = [f"tensor({element.onnx})" for element in POOLED]
    attributes = Window.of(1, 1).attributes()
    schema = OpSchema(
        ours.op_type,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(name, "T") for name in ours.inputs],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", types, "")],
        attributes=[
            OpSchema.Attribute(
                name, OpSchema.AttrType.INTS if isinstance(value, list) else OpSchema.AttrType.INT, required=True
            )
            for name, value in attributes.items()
        ],
    )
    op = Op(Opset(DOMAIN, VERSION), ours.op_type, schema)

    def translate(*args: Any) -> Any:
        tensors, fields = args[: len(ours.inputs)], args[len(ours.inputs) :]
        return op(*tensors, **window_from(fields).attributes())

    return translate


@contextmanager
def settled(module: "torch.nn.Module", evaluate: bool) -> Iterator[None]:
    """Evaluation mode if asked for, each layer's choices made, and everything as it was afterwards."""
    from onnxpool.pools._torch_ops import PoolModule

    modes = [(part, part.training) for part in module.modules()]
    if evaluate:
        module.eval()
    try:
        with ExitStack() as choices:
            for name, part in module.named_modules():
                if not isinstance(part, PoolModule):
                    continue
                if part.draws:
                    raise ExportError(
                        f"layer {name!r} ({part}) draws at random in this mode, so that no two runs agree; export "
                        "in evaluation mode (evaluate=True), and make the layer without sample_in_eval"
                    )
                choices.enter_context(part.settled())
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself (torchvision not installed, its own deprecations)."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        said = io.StringIO()  # it prints graphs that it fails on
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
