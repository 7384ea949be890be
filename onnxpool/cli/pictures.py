"""Commands for pictures: downscale."""

from pathlib import Path
from typing import Annotated

import typer

from onnxpool.cli import tables
from onnxpool.cli.application import Json, app, check_files, show, working
from onnxpool.cli.serving import picture_size


@app.command(rich_help_panel="Running")
def downscale(
    picture: Annotated[Path, typer.Argument(help="Picture file.", show_default=False)],
    size: Annotated[
        str,
        typer.Option(help="Width in pixels, or HEIGHTxWIDTH; the height follows from the width.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Picture file to write. Default: PICTURE.HEIGHTxWIDTH.png.", show_default=False
        ),
    ] = None,
    lambda_: Annotated[float, typer.Option("--lambda", help="How much of what differs is kept; 0 is the mean.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Make a picture smaller and keep its details, by detail-preserving downscaling (DPID).

    Example: onnxpool downscale photo.jpg --size 128 -o small.png
    """
    check_files(picture=picture)
    from onnxpool.run.downscale import downscale as downscaled

    height, width = (None, int(size)) if size.isdecimal() else picture_size(size) or (None, None)
    with working(f"Downscaling {picture}"):
        made = downscaled(picture, output, width=width, height=height, lambda_=lambda_)
    show(made, tables.downscaled, as_json)
