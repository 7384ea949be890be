"""What the commands share: the application, options that several of them take, and how values are shown."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import typer
from rich.console import Console
from typer.core import TyperGroup

from onnxpool import __version__
from onnxpool._files import complete, missing, named, similar, told, writable_folder
from onnxpool.cli import completion, layout
from onnxpool.cli.complaint import complain
from onnxpool.cli.layout import Page
from onnxpool.domain import OPSETS, Form
from onnxpool.errors import ArgumentError, FormError, OnnxpoolError


class Printable(Protocol):
    """What the library returns to a command."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``."""


_Value = TypeVar("_Value", bound=Printable)


class _Commands(TyperGroup):
    """Commands that end with status 2 and one sentence after a usage error; the help has them by what they are for."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (OnnxpoolError, OSError) as error:
            complain(told(error) if isinstance(error, OSError) else str(error))
            raise typer.Exit(2) from error

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with the first sentence of its help."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None)
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(
                (name, command.get_short_help_str(limit=1000))
            )
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


app = typer.Typer(
    name="onnxpool",
    cls=_Commands,
    help="PyTorch pooling layers in production: exported to ONNX, proven equal, run natively.",
    epilog="Every command has --help with an example, and --json.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # boxes cut long options off, and break words
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxpool {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version, and stop."),
    ] = False,
) -> None:
    """What the program takes without a command."""


Source = "SoftPool2d(3,stride=2,padding=1), lip_resnet50, package.module:name or file.py:name"
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of PyTorch's generator: weights made in SOURCE, and example inputs.")]
ModelFile = Annotated[Path, typer.Argument(help="ONNX file, in any form.", show_default=False)]
OutputFile = Annotated[Path, typer.Argument(help="ONNX file to write.", show_default=False)]
SourceName = Annotated[
    str, typer.Argument(help=f"The network: {Source}.", show_default=False, autocompletion=completion.sources)
]
Shapes = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        help="Shape of an example input, such as 1x3x224x224, or with name and type: mask:1x128:bool; once per input.",
    ),
]
DType = Annotated[
    Literal["float32", "float16", "bfloat16", "float64"],
    typer.Option(help="Element type of the network and its inputs."),
]
Dynamic = Annotated[
    list[str] | None,
    typer.Option(help="Axes that may change: batch,height,width, or of one input by number: x:0=batch,2=time."),
]
FormWanted = Annotated[Form, typer.Option(help="What the file holds; see onnxpool form --help.")]
OutputFolder = Annotated[Path, typer.Argument(help="Folder to write: a new or an empty one.", show_default=False)]
ReferenceName = Annotated[
    str | None,
    typer.Option(
        help=f"What is right: a golden file (.npz), another model (.onnx: for a quantised one its float original), or "
        f"the network: {Source}. Default: the golden file."
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="File of the network's parameters: its state_dict, as torch.save writes it.")
]
Libraries = Annotated[
    list[Path] | None,
    typer.Option(
        "--library", help="Library of custom operators by others that ONNX Runtime registers; may be repeated."
    ),
]
Case = Annotated[
    str | None,
    typer.Option(help="The only case to run, such as nan; see validate's report.", autocompletion=completion.cases),
]
Opset = Annotated[int, typer.Option(help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}.")]


Check = Annotated[
    bool, typer.Option("--check/--no-check", help="Run the model in ONNX Runtime beside the network before it is kept.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Where export fails, print PyTorch's own text too.")]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the last line, the verdict, alone.")]


def show(value: _Value, table: Callable[[_Value], Page], as_json: bool, quiet: bool = False) -> None:
    """Print what a command has to say: the value as JSON, or as its function in :mod:`onnxpool.cli.tables` has it.

    ``quiet`` prints the last block of the page alone.
    """
    if as_json:
        typer.echo(json.dumps(value.to_json(), indent=2, allow_nan=False))
    else:
        page = table(value)
        layout.show(page[-1:] if quiet else page)


def check_model(model: Path) -> None:
    """Raise :class:`FormError` for a model file that is not there."""
    if not model.exists():
        raise FormError(missing(model))


def check_files(**files: Path | Sequence[Path] | None) -> None:
    """Raise :class:`ArgumentError` for a file or folder that is not there; ``files`` are by the names of options."""
    for name, given in files.items():
        for file in [given] if isinstance(given, Path) else given or ():
            if not file.exists():
                raise ArgumentError(f"{name}={str(file)!r}: there is no such file or folder{similar(file)}")


def new_folder(folder: Path) -> None:
    """Raise :class:`ArgumentError` where a folder holds anything, and OSError where it cannot be written."""
    writable_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ArgumentError(f"folder={str(folder)!r} holds something already; give a new one")


def working(what: str) -> AbstractContextManager[Any]:
    """A sign of life on standard error, where that is a terminal."""
    return Console(stderr=True, markup=False).status(f"{what} ...")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error, where that is a terminal; what it gives is told how many are done, of how many."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:  # Rich below 15 ends even a bar that it does not show with an empty line
        yield lambda _done, _total, _name: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name or what)


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders that it stands in."""
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    complete(path, lambda file: file.write_text(text, encoding="utf-8"))
