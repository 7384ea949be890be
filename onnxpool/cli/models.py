"""Commands that make models and look into them: export, swap, form, lift, inspect."""

from pathlib import Path
from typing import Annotated

import typer

import onnxpool
from onnxpool.cli import tables
from onnxpool.cli.application import (
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
    app,
    show,
    working,
)
from onnxpool.domain import OPSETS, Form
from onnxpool.errors import ArgumentError
from onnxpool.network import KINDS


@app.command(rich_help_panel="Models")
def export(
    source: SourceName,
    output: OutputFile,
    input: Shapes,  # noqa: A002 - the option is called --input
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    checkpoint: Annotated[
        Path | None, typer.Option(help="File of the network's parameters: its state_dict, as torch.save writes it.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export a PyTorch module to ONNX, with answers to validate it by.

    Example: onnxpool export nets.py:resnet resnet.onnx --input 1x3x224x224 --dynamic batch,height,width
    """
    from onnxpool.about.model import describe
    from onnxpool.cli import spelling

    with working(f"Exporting {source}"):
        module = spelling.module(source, seed)
        if checkpoint:
            onnxpool.models.load_checkpoint(module, checkpoint)
        inputs = spelling.inputs(input, dtype, seed)
        axes = spelling.axes(dynamic or [], module, inputs)
        module.to(inputs[0].dtype)
        onnxpool.export(module, inputs, output, dynamic_shapes=axes, form=form, opset=opset)
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
            help=f"LAYERS=POOLING. LAYERS: {', '.join(KINDS)}, or a path such as layer1.*. POOLING: SoftPool, "
            "PowerAvgPool(p=3), ..., same (for official), keep. The first that fits a layer counts."
        ),
    ],
    dtype: DType = "float32",
    dynamic: Dynamic = None,
    form: FormWanted = "function",
    opset: Opset = OPSETS[0],
    strict: Annotated[bool, typer.Option(help="Refuse where a layer that a rule chooses cannot be replaced.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Replace pooling layers of a PyTorch module, keep its weights, and export it; prints what became of each layer.

    Example: onnxpool swap nets.py:resnet resnet.onnx --input 1x3x224x224 --rule max=SoftPool
    """
    from onnxpool.cli import spelling

    rules = _rules(rule)
    with working(f"Swapping layers of {source}"):
        module = spelling.module(source, seed)
        inputs = spelling.inputs(input, dtype, seed)
        axes = spelling.axes(dynamic or [], module, inputs)
        swapped = onnxpool.swap(module.to(inputs[0].dtype), rules, example=inputs, strict=strict)
        if not swapped.replaced:
            reasons = swapped.sentences() + [f"{one.layer} is kept: {one.reason}" for one in swapped.kept]
            raise ArgumentError("; ".join([f"nothing in {source} was replaced by {', '.join(rule)}", *reasons]))
        onnxpool.export(swapped.network, inputs, output, dynamic_shapes=axes, form=form, opset=opset)
    show(swapped, tables.swapped, as_json)


@app.command(rich_help_panel="Models")
def form(
    model: ModelFile,
    output: OutputFile,
    to: Annotated[Form, typer.Option(help="function, standard or custom.")],
    as_json: Json = False,
) -> None:
    """Rewrite a model: function (runs on ONNX Runtime), standard (runs anywhere), custom (needs the native library).

    Example: onnxpool form resnet.onnx resnet-standard.onnx --to standard
    """
    from onnxpool.about.model import describe
    from onnxpool.golden import file as golden_file
    from onnxpool.graph import forms

    with working(f"Writing {output} in {to} form"):
        forms.write(forms.to_form(model, to), output)
        golden_file.follow(model, output)
        description = describe(output)
    show(description, tables.description, as_json)


@app.command(rich_help_panel="Models")
def lift(model: ModelFile, output: OutputFile, as_json: Json = False) -> None:
    """Put one node in place of each pooling that a model spells out in standard operators; prints what became of which.

    Exit status 1, and no file, where the model has none.

    Example: onnxpool lift network.onnx network-lifted.onnx
    """
    from onnxpool.graph import forms

    with working(f"Lifting {model}"):
        lifted = onnxpool.lift(model)
        if lifted.folds:
            forms.write(lifted.model, output)
    show(lifted, tables.lifted, as_json)
    raise typer.Exit(0 if lifted.folds else 1)


@app.command(rich_help_panel="Models")
def inspect(model: ModelFile, as_json: Json = False) -> None:
    """Show what a model holds, and how each of its pooling nodes would run here.

    Example: onnxpool inspect resnet.onnx
    """
    from onnxpool.about.model import describe

    show(describe(model), tables.description, as_json)


def _rules(texts: list[str]) -> dict[str, str]:
    rules: dict[str, str] = {}
    for text in texts:
        layers, _, pooling = text.partition("=")
        if not layers or not pooling or layers in rules:
            raise ArgumentError(f"rule={text!r}: write LAYERS=POOLING, such as max=SoftPool, once for the same layers")
        rules[layers] = pooling
    return rules
