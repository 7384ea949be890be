"""Commands about onnxpool itself and the machine: pools, doctor."""

import typer

from onnxpool.cli import tables
from onnxpool.cli.application import Json, app, show


@app.command(rich_help_panel="This installation")
def pools(as_json: Json = False) -> None:
    """List the pooling methods, their modules, and the types that native kernels pool here.

    Example: onnxpool pools
    """
    from onnxpool.about.methods import catalog

    show(catalog(), tables.catalog, as_json)


@app.command(rich_help_panel="This installation")
def doctor(as_json: Json = False) -> None:
    """Look at this machine: versions, providers, the native library, and what is broken, with the remedy.

    Example: onnxpool doctor
    """
    from onnxpool.about.machine import diagnose

    diagnosis = diagnose()
    show(diagnosis, tables.diagnosis, as_json)
    raise typer.Exit(0 if diagnosis.healthy else 1)
