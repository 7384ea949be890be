"""Commands about onnxpool itself and the machine: pools, doctor, build."""

from dataclasses import replace
from typing import Annotated, Literal

import typer

from onnxpool.cli import tables
from onnxpool.cli.application import Json, app, show, working
from onnxpool.cli.completion import method_names, methods
from onnxpool.errors import ArgumentError, nearest


@app.command(rich_help_panel="This installation")
def pools(
    method: Annotated[
        list[str] | None,
        typer.Argument(help="All about this one, such as SoftPool.", show_default=False, autocompletion=methods),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the pooling methods and the types that native kernels pool here; of one, its formula, source and modules.

    Example: onnxpool pools SoftPool
    """
    known = method_names()
    for name in method or ():
        if name not in known:
            raise ArgumentError(f"method={name!r} is unknown{nearest(name, known)}; use one of {', '.join(known)}")
    from onnxpool.about.methods import catalog

    every = catalog()
    if method:
        chosen = tuple(one for one in every.methods if one.name in method)
        show(replace(every, methods=chosen), tables.methods, as_json)
    else:
        show(every, tables.catalog, as_json)


@app.command(rich_help_panel="This installation")
def doctor(as_json: Json = False) -> None:
    """Look at this machine: versions, providers, the native library, and what is broken, with the remedy.

    Example: onnxpool doctor
    """
    from onnxpool.about.machine import diagnose

    diagnosis = diagnose()
    show(diagnosis, tables.diagnosis, as_json)
    raise typer.Exit(0 if diagnosis.healthy else 1)


@app.command(rich_help_panel="This installation")
def build(
    host: Annotated[Literal["openvino"], typer.Argument(help="What the native kernels are to run in.")],
    anew: Annotated[bool, typer.Option("--anew", help="Even where it has been built for this release.")] = False,
    as_json: Json = False,
) -> None:
    """Compile the extension that runs pooling natively in OpenVINO, for the release that is installed here.

    Needs a C++ compiler (CXX names another), and takes some seconds. It is kept in the user's cache.

    Example: onnxpool build openvino
    """
    from onnxpool.openvino import build_extension

    with working(f"Building for {host}"):
        made = build_extension(anew=anew)
    show(made, tables.built, as_json)
