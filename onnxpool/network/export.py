"""From a PyTorch module to an ONNX model that is proven equal to it.

>>> onnxpool.export(network, (image,), "network.onnx", dynamic_shapes=({0: "batch", 2: "height", 3: "width"},))
"""  # doctest: +SKIP

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxpool.domain import IR_VERSION, Form
from onnxpool.errors import GoldenError
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import to_form, write
from onnxpool.network.translate import settled, translated, translations_for

if TYPE_CHECKING:
    import torch

    from onnxpool.network.arguments import DynamicAxes


def export(
    module: "torch.nn.Module",
    args: "Sequence[Any] | torch.Tensor",
    path: str | os.PathLike[str] | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    form: Form = "function",
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    golden: bool = True,
    check: bool = True,
    evaluate: bool = True,
    dynamic_axes: "DynamicAxes | None" = None,
    opset_version: int | None = None,
) -> ir.Model:
    """Export ``module``, called with ``args`` and ``kwargs``, and write it to ``path`` if given.

    The module is put in evaluation mode and back, unless ``evaluate`` is False; layers that would draw at random in the
    mode they are in are refused. It runs once on the example first. One tensor may stand for a tuple of it.

    ``dynamic_shapes`` says which axes may change, as in ``torch.export``: for each argument a mapping from axis to a
    name; other axes are fixed at the sizes in ``args``. ``opset`` is 18 to 26, and 18 if not given. Weights beyond 2 GB
    go to ``<path>.data``. Names of inputs and outputs follow the module's signature unless given, for all of them.
    ``dynamic_axes`` and ``opset_version`` are what ``torch.onnx.export`` calls ``dynamic_shapes`` and ``opset``.

    With ``check``, the model runs in ONNX Runtime before it is written, on the example and on two other sizes where
    axes may change, and must give what the module gives (:mod:`onnxpool.network.prove`). What was checked stands in
    ``model.meta["onnxpool.proof"]``; a warning tells where nothing could be, as without onnxruntime. With ``golden``,
    the module's answers in float64 to ordinary and adversarial inputs are written beside the model, so that
    :func:`onnxpool.validate` can judge it anywhere (:mod:`onnxpool.golden.file`).

    Raises :class:`ArgumentError` for an argument that cannot be used, :class:`MissingExtra` without PyTorch or
    onnxscript, :class:`ExportError` for a layer that draws at random, where the module does not run on the example,
    where PyTorch cannot trace or translate it and where the check fails, and, once the model is written,
    :class:`GoldenError` where no answer could be had.
    """
    translations_for(module)
    from onnxpool.golden import from_torch
    from onnxpool.network import arguments, prove, traced
    from onnxpool.network.passes import tidy

    chosen = arguments.opset_of(opset, opset_version)
    call = arguments.arranged(module, args, kwargs, dynamic_shapes, dynamic_axes, input_names, output_names)
    with settled(module, evaluate):
        arguments.tried(module, call, output_names)
    program = translated(
        module,
        call.args,
        kwargs=call.kwargs,
        dynamic_shapes=call.dynamic_shapes,
        input_names=input_names,
        output_names=output_names,
        opset=chosen,
        evaluate=evaluate,
    )
    tidy(program.model)
    program.model.ir_version = IR_VERSION
    model = to_form(program.model, form)
    wanted = golden and path is not None
    answering, answers, refused = None, None, None
    try:
        if wanted or check:
            answering = from_torch.answers(module, model, call.args, call.kwargs, evaluate=evaluate)
        if wanted:
            answers = from_torch.record(module, model, call.args, call.kwargs, evaluate=evaluate, answering=answering)
    except GoldenError as error:  # the model is written all the same
        refused = error
    exported = program.exported_program
    assert exported is not None
    unproven = prove.why_not(answering)
    asked = None
    if check and answering is not None and not unproven:
        asked = prove.cases_of(model, exported, answering, answers)
    answering = None  # with its copies of the module, which hold three times its weights
    if answers is not None and answers.cases[0].name == "example":
        answers = replace(answers, trace=traced.trace(exported, model, answers.cases[0]))
    if check:
        proof = prove.prove(model, exported, *asked) if asked is not None else prove.Proof((), (unproven,))
        model.meta[prove.KEY] = proof
        if not proof.cases:
            warnings.warn(f"{type(module).__name__}: {'; '.join(proof.sentences())}", stacklevel=2)
    if path is not None:
        write(model, path)
        beside = golden_file.path_for(path)
        beside.unlink(missing_ok=True)  # the answers of another network
        if answers is not None:
            golden_file.save(answers, beside)
        elif golden and refused is not None:
            raise refused
    return model
