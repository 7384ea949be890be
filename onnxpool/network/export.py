"""From a PyTorch module to an ONNX model: PyTorch's own exporter, with pooling kept as nodes of our own domain.

>>> onnxpool.export(network, (image,), "network.onnx", dynamic_shapes=({0: "batch", 2: "height", 3: "width"},))
"""  # doctest: +SKIP

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION, Form
from onnxpool.dtypes import POOLED
from onnxpool.errors import ArgumentError, ExportError, MissingExtra
from onnxpool.golden import file as golden_file
from onnxpool.golden import from_torch
from onnxpool.graph.forms import to_form, write
from onnxpool.pools._method import Operator
from onnxpool.window import Window

if TYPE_CHECKING:
    import torch


def export(
    module: "torch.nn.Module",
    args: Sequence[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    form: Form = "function",
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSETS[0],
    golden: bool = True,
    evaluate: bool = True,
) -> ir.Model:
    """Export ``module``, called with ``args`` and ``kwargs``, and write it to ``path`` if given.

    The module is put in evaluation mode and back, unless ``evaluate`` is False; layers that would draw at random in the
    mode they are in are refused.

    ``dynamic_shapes`` says which axes may change, as in ``torch.export``: for each argument a mapping from axis to a
    name; other axes are fixed at the sizes in ``args``. ``opset`` is 18 to 26. Weights beyond 2 GB go to
    ``<path>.data``. Names of inputs and outputs follow the module's signature unless given. With ``golden``, the
    module's answers in float64 to ordinary and adversarial inputs are written beside the model, so that
    :func:`onnxpool.validate` can judge it anywhere (:mod:`onnxpool.golden.file`).

    Raises :class:`ArgumentError` for an opset out of range, :class:`MissingExtra` without PyTorch or onnxscript,
    :class:`ExportError` for a layer that draws at random and where PyTorch cannot trace or translate the module, and,
    once the model is written, :class:`GoldenError` where no answer could be had.
    """
    if opset not in OPSETS:
        raise ArgumentError(f"opset={opset!r} is out of range; use {OPSETS[0]} to {OPSETS[-1]}")
    program = translated(
        module,
        args,
        kwargs=kwargs,
        dynamic_shapes=dynamic_shapes,
        input_names=input_names,
        output_names=output_names,
        opset=opset,
        evaluate=evaluate,
    )
    program.model.ir_version = IR_VERSION
    model = to_form(program.model, form)
    if path is not None:
        write(model, path)
        beside = golden_file.path_for(path)
        beside.unlink(missing_ok=True)  # the answers of another network
        if golden:
            golden_file.save(from_torch.record(module, model, args, kwargs, evaluate=evaluate), beside)
    return model


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
    """What PyTorch's exporter makes of ``module``, pooling nodes bare: its traced program, and the model made of that.

    Arguments and errors as of :func:`export`.
    """
    try:
        import torch

        translations = _translations()
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "export", "export") from error
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"module={module!r:.80} is no torch.nn.Module; wrap a function in one")

    with _settled(module, evaluate), _quiet():
        try:
            program = torch.onnx.export(
                module,
                tuple(args),
                kwargs=dict(kwargs or {}),
                dynamo=True,
                custom_translation_table=translations,
                dynamic_shapes=dynamic_shapes,
                input_names=input_names,
                output_names=output_names,
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"PyTorch could not export {type(module).__name__}: {error}") from error
    assert program is not None
    return program


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How PyTorch's exporter writes each of our operators: as standard ones, or as one bare node.

    (The node's function comes later: the exporter inlines every function that it knows of.)
    """
    from onnxscript import opset18

    import onnxpool.pools  # noqa: F401 - registers the operators
    from onnxpool.pools._torch_ops import EXPORTED_AS, TRANSLATIONS

    def standard(translate: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: translate(opset18, *args)

    return {
        **{overload: _translation(operator) for overload, operator in EXPORTED_AS.items()},
        **{overload: standard(translate) for overload, translate in TRANSLATIONS.items()},
    }


def _translation(operator: Operator) -> Callable[..., Any]:
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    from onnxpool.pools._torch_ops import window_from

    types = [f"tensor({element.onnx})" for element in POOLED]
    attributes = Window.of(1, 1).attributes()
    schema = OpSchema(
        operator.op_type,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(name, "T") for name in operator.inputs],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", types, "")],
        attributes=[
            OpSchema.Attribute(
                name, OpSchema.AttrType.INTS if isinstance(value, list) else OpSchema.AttrType.INT, required=True
            )
            for name, value in attributes.items()
        ],
    )
    op = Op(Opset(DOMAIN, VERSION), operator.op_type, schema)

    def translate(*args: Any) -> Any:
        tensors, fields = args[: len(operator.inputs)], args[len(operator.inputs) :]
        return op(*tensors, **window_from(fields).attributes())

    return translate


@contextmanager
def _settled(module: "torch.nn.Module", evaluate: bool) -> Iterator[None]:
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
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
