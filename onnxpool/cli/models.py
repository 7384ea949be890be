"""Commands that make models and look into them: export, swap, form, lift, optimize, inspect."""

import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import onnxpool
from onnxpool._files import writable
from onnxpool.cli import tables
from onnxpool.cli.application import (
    Check,
    Checkpoint,
    DType,
    Dynamic,
    FormWanted,
    Json,
    ModelFile,
    Opset,
    OutputFile,
    Seed,
    Shapes,
    SourceName,
    Verbose,
    app,
    check_files,
    check_model,
    show,
    working,
)
from onnxpool.cli.complaint import complain
from onnxpool.domain import OPSETS, Form
from onnxpool.errors import ArgumentError, ExportError, FormError
from onnxpool.network import KINDS

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

_SPELLED = {"PowerAverage": "a power mean, such as GeM's,"}
_MOST_HINTS = 3

Golden = Annotated[
    bool, typer.Option("--golden/--no-golden", help="Write float64 answers beside the model, to validate it by.")
]


@app.command(rich_help_panel="Models")
def export(
    source: SourceName,
    output: OutputFile,
    input: Shapes,  # noqa: A002 - the option is called --input
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    checkpoint: Checkpoint = None,
    check: Check = True,
    golden: Golden = True,
    verbose: Verbose = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export a PyTorch module to ONNX, with answers to validate it by.

    Example: onnxpool export nets.py:resnet resnet.onnx --input 1x3x224x224 --dynamic batch,height,width
    """
    _ready(source, output, input, opset, checkpoint)
    from onnxpool.cli import spelling

    with working(f"Exporting {source}"):
        module = spelling.module(source, seed)
        if checkpoint:
            onnxpool.models.load_checkpoint(module, checkpoint)
        example = _example(module, input, dtype, dynamic, seed)
        _export(module, example, output, form, opset, check, golden, verbose)
        from onnxpool.about.model import describe

        description = describe(output)
    show(description, tables.description, as_json)


@app.command(rich_help_panel="Models")
def swap(
    source: SourceName,
    output: OutputFile,
    input: Shapes,  # noqa: A002 - the option is called --input
    rule: Annotated[
        list[str],
        typer.Option(
            help=f"LAYERS=POOLING. LAYERS: {', '.join(KINDS)}, all (poolings), or a path such as layer1.*. POOLING: "
            "SoftPool, PowerAvgPool(p=3), ..., same (what it is, by onnxpool.nn), keep. The first that fits counts."
        ),
    ],
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    checkpoint: Checkpoint = None,
    strict: Annotated[bool, typer.Option(help="Refuse where a layer that a rule chooses cannot be replaced.")] = False,
    check: Check = True,
    golden: Golden = True,
    verbose: Verbose = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Replace pooling layers of a PyTorch module, keep its weights, and export it; prints what became of each layer.

    Example: onnxpool swap nets.py:resnet resnet.onnx --input 1x3x224x224 --rule max=SoftPool
    """
    rules = _rules(rule)
    _ready(source, output, input, opset, checkpoint)
    from onnxpool.cli import spelling

    with working(f"Swapping layers of {source}"):
        module = spelling.module(source, seed)
        if checkpoint:
            onnxpool.models.load_checkpoint(module, checkpoint)
        example = _example(module, input, dtype, dynamic, seed)
        swapped = onnxpool.swap(module, rules, example=example.call, strict=strict)
        if not swapped.replaced:
            reasons = swapped.sentences() + [f"{one.layer} is kept: {one.reason}" for one in swapped.kept]
            raise ArgumentError("; ".join([f"nothing in {source} was replaced by {', '.join(rule)}", *reasons]))
        _export(swapped.network, example, output, form, opset, check, golden, verbose)
    show(swapped, tables.swapped, as_json)


@app.command(rich_help_panel="Models")
def form(
    model: ModelFile,
    output: OutputFile,
    to: Annotated[Form, typer.Option(help="function, standard or custom.")],
    within: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="NUMBER|golden",
            help="With --to standard: the largest magnitude of pooling inputs; golden: twice that of the golden file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rewrite a model: function (runs on ONNX Runtime), standard (runs anywhere), custom (needs the native library).

    With --range, SoftPool and local importance pooling become plain exponentials and average poolings: faster, for
    more runtimes, and wrong beyond that range, which is kept in the model and heeded by validate.

    Example: onnxpool form resnet.onnx resnet-standard.onnx --to standard
    """
    check_model(model)
    writable(output)
    from onnxpool.about.model import describe
    from onnxpool.golden import file as golden_file
    from onnxpool.graph import forms

    with working(f"Writing {output} in {to} form"):
        forms.write(forms.to_form(model, to, within=None if within is None else _range(model, within)), output)
        golden_file.follow(model, output)
        description = describe(output)
    show(description, tables.description, as_json)


def _range(model: Path, text: str) -> float:
    """The number of ``--range``, or what the golden file says."""
    from onnxpool.golden import file as golden_file
    from onnxpool.validation.within import range_from

    if text == "golden":
        return range_from(model, golden_file.load(golden_file.path_for(model)))
    try:
        return float(text)
    except ValueError:
        raise ArgumentError(f"--range {text!r} is neither a number nor 'golden'") from None


@app.command(rich_help_panel="Models")
def lift(model: ModelFile, output: OutputFile, as_json: Json = False) -> None:
    """Put one node in place of each pooling that a model spells out in standard operators; prints what became of which.

    Exit status 1, and no file, where the model has none.

    Example: onnxpool lift network.onnx network-lifted.onnx
    """
    check_model(model)
    writable(output)
    from onnxpool.graph import forms

    with working(f"Lifting {model}"):
        lifted = onnxpool.lift(model)
        if lifted.folds:
            forms.write(lifted.model, output)
    show(lifted, tables.lifted, as_json)
    raise typer.Exit(0 if lifted.folds else 1)


@app.command(rich_help_panel="Models")
def optimize(model: ModelFile, output: OutputFile, as_json: Json = False) -> None:
    """Write a model as ONNX Runtime optimises it for this processor, with pooling nodes in its layout; prints which.

    Exit status 1, and no file, where none can be. The file is for processors with the same blocks of channels, and
    needs the native library: keep the model that it was made from.

    Example: onnxpool optimize resnet.onnx resnet-here.onnx
    """
    check_model(model)
    if output.exists() and output.samefile(model):
        raise ArgumentError(
            f"output={str(output)!r} is the model itself, which is for every processor: name another file"
        )
    writable(output)
    from onnxpool.golden import file as golden_file
    from onnxpool.graph import forms

    with working(f"Optimising {model}"):
        optimized = onnxpool.optimize(model)
        if optimized.in_blocks:
            forms.write(optimized.model, output)
            golden_file.follow(model, output)
    show(optimized, tables.optimized, as_json)
    raise typer.Exit(0 if optimized.in_blocks else 1)


@app.command(rich_help_panel="Models")
def inspect(model: ModelFile, as_json: Json = False) -> None:
    """Show what a model holds, and how each of its pooling nodes would run here.

    Example: onnxpool inspect resnet.onnx
    """
    check_model(model)
    from onnxpool.about.model import describe

    show(describe(model), tables.description, as_json)


def _ready(source: str, output: Path, inputs: list[str], opset: int, checkpoint: Path | None) -> None:
    """Refuse what cannot be, before PyTorch loads and anything is traced."""
    from onnxpool.cli import spelling

    spelling.check(source, inputs)
    if opset not in OPSETS:
        raise ArgumentError(f"opset={opset!r} is out of range; use {OPSETS[0]} to {OPSETS[-1]}")
    check_files(checkpoint=checkpoint)
    writable(output)


@dataclass(frozen=True)
class _Example:
    """What a module is called with, by place or by name, and which axes of these may change."""

    call: Any
    axes: Any


def _example(module: "torch.nn.Module", texts: list[str], dtype: str, dynamic: list[str] | None, seed: int) -> _Example:
    """The inputs that are spelled, and the module in the type that the network is to have."""
    import torch

    from onnxpool.cli import spelling

    inputs = spelling.inputs(texts, dtype, seed)
    names = spelling.named(texts, module)
    axes = spelling.axes(dynamic or [], module, inputs, names)
    call = spelling.call(texts, module, inputs)
    module.to(getattr(torch, dtype))
    return _Example(call, dict(zip(names, axes, strict=True)) if isinstance(call, dict) else axes)


def _export(
    module: "torch.nn.Module",
    example: _Example,
    output: Path,
    form: Form,
    opset: int,
    check: bool,
    golden: bool,
    verbose: bool,
) -> None:
    """Export, and say on standard error what was not checked, and PyTorch's own text where that is asked for."""
    args, kwargs = ((), example.call) if isinstance(example.call, dict) else (example.call, {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the proof says it below
            model = onnxpool.export(
                module,
                args,
                output,
                kwargs=kwargs,
                dynamic_shapes=example.axes,
                form=form,
                opset=opset,
                check=check,
                golden=golden,
            )
    except ExportError as error:
        if verbose and error.__cause__ is not None:
            typer.echo("".join(traceback.format_exception(error.__cause__)), err=True)
        raise
    proof = model.meta.get("onnxpool.proof")
    told = ["nothing was checked: --no-check"] if proof is None else proof.notes if proof.cases else proof.sentences()
    for sentence in (*told, *_hints(model)):
        complain(sentence)


def _hints(model: "ir.Model") -> list[str]:
    """What to do about poolings that the network spells out in other operators, as SoftPool's and GeM's often are."""
    from onnxpool.lifting.lift import spelled_out
    from onnxpool.lifting.match import label

    try:
        found = [f"{_SPELLED.get(one.op_type, one.op_type)} at {label(one.node)}" for one in spelled_out(model)]
    except FormError:  # the model is written, and right: there is only nothing to add
        return []
    if not found:
        return []
    more = [f"{len(found) - _MOST_HINTS} more"] if len(found) > _MOST_HINTS else []
    return [
        f"the network spells out {' and '.join([', '.join(found[:_MOST_HINTS]), *more])} in standard operators, which "
        "may overflow where the pooling does not: 'onnxpool lift' puts nodes in their place; a layer of its own is "
        "replaced by 'onnxpool swap'"
    ]


def _rules(texts: list[str]) -> dict[str, str]:
    rules: dict[str, str] = {}
    for text in texts:
        layers, _, pooling = text.partition("=")
        if not layers or not pooling or layers in rules:
            raise ArgumentError(f"rule={text!r}: write LAYERS=POOLING, such as max=SoftPool, once for the same layers")
        rules[layers] = pooling
    return rules
