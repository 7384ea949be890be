"""A folder that shows anybody what a model gives and what it should give, without onnxpool.

    model.onnx                             the model, weights beside it where they are large
    test_data_set_0/input_0.pb, ...        one case, as ONNX's own tests lay it out: TensorProto files
    test_data_set_0/output_0.pb, ...       the answers, in the types of the outputs
    allowed.json                           by output, the largest error that is allowed
    versions.json                          of this layout and of what ran here; the command to run; which libraries
    their.so, ...                          of custom operators by others, if the model needs any
    reproduce.py                           runs the model in ONNX Runtime and compares; needs numpy, onnx, onnxruntime

>>> write(Path("folder"), model, case, {"y": 1e-6})  # doctest: +SKIP
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxpool._files import hidden, named
from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case
from onnxpool.graph import forms
from onnxpool.graph.forms import Model
from onnxpool.validation.foreign import Foreign
from onnxpool.validation.model import HeldModel
from onnxpool.validation.validate import Reference, answers_for

VERSION = 1
"""Version of the layout above, in versions.json."""

COMMAND = "python reproduce.py"

REPRODUCE = Path(__file__).with_name("reproduce.py")
"""The script that goes along: it imports nothing of this package."""


@dataclass(frozen=True)
class Bundle:
    """A folder that was written: which case it holds, and its files."""

    folder: str
    case: str
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"folder": self.folder, "case": self.case, "files": [*self.files], "command": COMMAND}


def write_bundle(
    model: Model,
    folder: str | os.PathLike[str],
    reference: Reference = None,
    case: str | None = None,
    *,
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> Bundle:
    """Write ``model`` and one of its cases, by default the first, to ``folder``.

    ``reference`` as in :func:`onnxpool.validate`. Bare pooling nodes get their functions, so that ONNX Runtime can run
    the model without the native library; ``libraries`` of other custom operators go along. Raises
    :class:`ArgumentError` for a case that there is none of, and for a folder that holds anything.
    """
    held = HeldModel(model)
    with Foreign(libraries).known(held.bare) as theirs:
        golden = answers_for(held, reference, case)
    chosen = golden.case(case)
    allowed: dict[str, float | dict[str, float]] = {}
    for name, answer in chosen.answers.items():
        dtype = golden.dtypes.get(name, "float32")
        bound = bounds.network(answer, dtype, chosen.yardstick[name], golden.yardstick)
        allowed[name] = _by_exponent(answer, bound.allowed) if bound.allowed.ndim else float(bound.allowed)
    return write(folder, held.runnable.clone(), chosen, allowed, golden.dtypes, theirs.libraries)


def _by_exponent(answer: Array, allowed: Array) -> dict[str, float]:
    """What answers of one binary exponent may err, at most."""
    with np.errstate(invalid="ignore"):
        exponents = np.frexp(np.where(np.isfinite(answer), answer, 0))[1]
    return {str(one): float(allowed[exponents == one].max()) for one in np.unique(exponents).tolist()}


def write(
    folder: str | os.PathLike[str],
    model: ir.Model,
    case: Case,
    allowed: Mapping[str, float | dict[str, float]],
    dtypes: Mapping[str, str],
    libraries: Sequence[str] = (),
) -> Bundle:
    """Write a bundle of ``model`` and ``case``, with ``libraries``; ``allowed`` errors and ``dtypes`` are by output.

    An allowed error is one number, or one for each binary exponent of an answer.

    The folder gets its name only when it is complete.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(f"folder={str(folder)!r} holds something already; give a new one")
    with named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        complete = Path(tempfile.mkdtemp(prefix=hidden(folder), dir=folder.parent))
    try:
        forms.write(model, complete / "model.onnx")
        data = complete / "test_data_set_0"
        data.mkdir()
        for i, value in enumerate(model.graph.inputs):
            _save(data / f"input_{i}.pb", case.inputs[str(value.name)], str(value.name))
        for i, value in enumerate(model.graph.outputs):
            name = str(value.name)
            with np.errstate(over="ignore"):
                _save(data / f"output_{i}.pb", case.answers[name].astype(dtypes.get(name, "float32")), name)
        for library in libraries:
            shutil.copy(library, complete)
        names = [Path(library).name for library in libraries]
        about = {"format": VERSION, "command": COMMAND, "case": case.name, **_versions(), "libraries": names}
        (complete / "versions.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        (complete / "allowed.json").write_text(json.dumps(dict(allowed), indent=1), encoding="utf-8")
        (complete / "reproduce.py").write_text(REPRODUCE.read_text(encoding="utf-8"), encoding="utf-8")
        complete.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        complete.replace(folder)
    except BaseException:
        shutil.rmtree(complete, ignore_errors=True)
        raise
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Bundle(str(folder), case.name, tuple(files))


def _save(path: Path, array: NDArray[Any], name: str) -> None:
    path.write_bytes(numpy_helper.from_array(np.asarray(array, order="C"), name).SerializeToString())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("onnxpool", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
