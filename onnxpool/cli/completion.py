"""What a shell offers after Tab, beside commands and options: names of layers, networks, methods, runtimes and cases.

A shell asks at each Tab, so that nothing heavy is imported: names are read from the source, cases from a golden file's
list of arrays.
"""

import ast
import importlib.util
import json
import re
import zipfile
from functools import cache
from pathlib import Path

import typer

_NOT_NETWORKS = ("NETWORKS", "load_checkpoint")


@cache
def layer_names() -> tuple[str, ...]:
    """The modules of :mod:`onnxpool.nn`, without importing it: that takes PyTorch, and seconds."""
    return _public("onnxpool.nn")


@cache
def network_names() -> tuple[str, ...]:
    """The networks of :mod:`onnxpool.models`, likewise."""
    return tuple(name for name in _public("onnxpool.models") if name not in _NOT_NETWORKS)


@cache
def method_names() -> tuple[str, ...]:
    """The pooling methods, likewise: each file of :mod:`onnxpool.pools` names its own."""
    files = sorted((_file("onnxpool").parent / "pools").glob("[a-z]*.py"))
    found = (
        re.search(r'^METHOD = Method\(\s*name="(\w+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
        for file in files
    )
    return tuple(name[1] for name in found if name)


def sources(incomplete: str) -> list[str]:
    """Layers and networks; a shell completes files itself."""
    return _that_begin((*layer_names(), *network_names()), incomplete)


def methods(incomplete: str) -> list[str]:
    """Pooling methods."""
    return _that_begin(method_names(), incomplete)


def runtimes(incomplete: str) -> list[str]:
    """Where validate can run a model."""
    from onnxpool.runtimes import RUNTIMES

    return _that_begin(["all", *RUNTIMES], incomplete)


def cases(ctx: typer.Context, incomplete: str) -> list[str]:
    """The cases of the golden file beside the model."""
    given = (ctx.params.get("model"), *ctx.args)  # what is parsed, or left where the option has no value yet
    model = next((str(one) for one in given if str(one).endswith(".onnx")), "")
    return _that_begin(case_names(Path(model).with_suffix(".golden.npz")), incomplete) if model else []


def case_names(golden: Path) -> tuple[str, ...]:
    """The cases of a golden file, without reading any array; none where it is not one."""
    try:
        with zipfile.ZipFile(golden) as arrays, arrays.open("header.npy") as file:
            content = file.read()
        header = json.loads(content[content.index(b"{", content.index(b"\n")) :])
        return tuple(str(case["name"]) for case in header["cases"])
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return ()


def _that_begin(names: tuple[str, ...] | list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def _public(module: str) -> tuple[str, ...]:
    """``__all__`` of a module that is not imported."""
    for node in ast.parse(_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
        ):
            return tuple(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def _file(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)
