"""Commands that narrow a model: precision, quantize."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import onnxpool
from onnxpool._files import writable
from onnxpool.cli import tables
from onnxpool.cli.application import Json, ModelFile, app, check_files, check_model, progress_bar, show
from onnxpool.cli.serving import PictureCrop, PictureMean, PictureSize, PictureStd, numbers, picture_size


@app.command(rich_help_panel="Models")
def precision(
    model: ModelFile,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="ONNX file to write, of what is safe. Default: advice alone."),
    ] = None,
    to: Annotated[Literal["float16", "int8"], typer.Option(help="The narrower type.")] = "float16",
    budget: Annotated[
        float | None,
        typer.Option(help="What outputs may be off, as a share of the answer. Default: 0.01, and 0.25 for int8."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Samples, as of onnxpool quantize. Default: the golden inputs beside the model."),
    ] = None,
    size: PictureSize = None,
    crop: PictureCrop = 0.875,
    mean: PictureMean = None,
    std: PictureStd = None,
    as_json: Json = False,
) -> None:
    """Say of each node of a float32 model whether it may compute in float16 or int8, and write the model that does.

    A node is safe, needs float32, or overflows, which names the value. What is written has passed validation by the
    golden file beside it.

    Example: onnxpool precision network.onnx -o network-float16.onnx --calibration photos
    """
    check_model(model)
    if output:
        writable(output)
    check_files(calibration=calibration)
    with progress_bar(f"Trying the nodes of {model}") as progress:
        advice = onnxpool.precision(
            model,
            output,
            calibration,
            to=to,
            budget=budget,
            size=picture_size(size),
            crop=None if crop == 0.875 else crop,
            mean=numbers("mean", mean),
            std=numbers("std", std),
            progress=progress,
        )
    show(advice, tables.precision, as_json)


@app.command(rich_help_panel="Models")
def quantize(
    model: ModelFile,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures, npy or npz files, or an npz file with an array for each input. Default: the "
            "golden inputs beside the model, which are drawn; real data are better."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="ONNX file to write. Default: MODEL-int8.onnx.")
    ] = None,
    method: Annotated[
        Literal["minmax", "percentile", "entropy"], typer.Option(help="How ranges are taken from the samples.")
    ] = "minmax",
    per_channel: Annotated[
        bool, typer.Option("--per-channel/--per-tensor", help="Whether each channel of a weight has its own scale.")
    ] = True,
    activations: Annotated[Literal["uint8", "int8"], typer.Option(help="What activations are stored as.")] = "uint8",
    weights: Annotated[
        Literal["int8", "uint8"] | None,
        typer.Option(help="What weights are stored as. Default: int8; uint8 where this processor adds int8 wrongly."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Node that stays in float; may be given again.")] = None,
    size: PictureSize = None,
    crop: PictureCrop = 0.875,
    mean: PictureMean = None,
    std: PictureStd = None,
    as_json: Json = False,
) -> None:
    """Quantise a float32 model to 8 bits, by ONNX Runtime; pooling nodes stay as they are, between integers.

    It is judged before it is written: by itself, weight by weight, and in ONNX Runtime against its own float64 answers.

    Example: onnxpool quantize resnet.onnx --calibration photos
    """
    check_model(model)
    output = output or model.with_name(f"{model.stem}-int8.onnx")
    writable(output)
    check_files(calibration=calibration)
    with progress_bar(f"Quantising {model}") as progress:
        quantized = onnxpool.quantize(
            model,
            output,
            calibration,
            method=method,
            per_channel=per_channel,
            activations=activations,
            weights=weights,
            exclude=exclude or (),
            size=picture_size(size),
            crop=crop,
            mean=numbers("mean", mean),
            std=numbers("std", std),
            progress=progress,
        )
    show(quantized, tables.quantized, as_json)
