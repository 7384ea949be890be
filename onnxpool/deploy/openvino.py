"""A folder that runs a model in OpenVINO, natively: nothing else of onnxpool is needed there.

    FOLDER/NAME/model.onnx                  and model.golden.npz, to validate it by where it arrives
    FOLDER/NAME/libonnxpool_openvino.so     the extension, for one release of OpenVINO (:mod:`onnxpool.openvino`)
    FOLDER/NAME/libonnxpool.so              the kernels, which the extension loads from its own folder
    FOLDER/NAME/run.py                      how to run it: python run.py x.npy

Without the extension the model is in standard form, which OpenVINO takes as it is, and slower.

>>> package("network.onnx", "packages").needs  # doctest: +SKIP
('OpenVINO 2026.4.1 on Linux x86_64: the extension is for this release alone',)
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import onnx_ir as ir

from onnxpool import openvino
from onnxpool._files import hidden, named
from onnxpool.deploy.triton import NAME, Package
from onnxpool.domain import Form
from onnxpool.errors import ArgumentError
from onnxpool.golden import file as golden_file
from onnxpool.graph import forms
from onnxpool.run import native_library

_PROGRAM = '''"""Runs the model beside this file: python run.py INPUT.npy ... (one for each input, in their order)."""

import sys
from pathlib import Path

import numpy as np
import openvino

here, core = Path(__file__).resolve().parent, openvino.Core()
EXTENSION# told to compute in float32: some processors would take bfloat16 otherwise
model = core.compile_model(here / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for output, values in model([np.load(file) for file in sys.argv[1:]]).items():
    print(output.any_name, values.shape, values, sep="\\n")
'''


def package(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    native: bool | None = None,
) -> Package:
    """Write the model into ``folder/name``; ``name`` is the file's without it.

    ``native`` puts the extension of this machine beside the model, which keeps its form; without it the standard form
    is written. None: where there is an extension, and the form can use it.

    Raises :class:`ArgumentError` for a name that is taken or malformed, :class:`onnxpool.errors.KernelError` where the
    extension is wanted and there is none, and :class:`onnxpool.errors.FormError` for what is not a model.
    """
    name = Path(model).stem if name is None else name
    if not NAME.fullmatch(name):
        raise ArgumentError(f"name={name!r} must be letters, digits, '.', '_' and '-', with a letter or digit first")
    target = Path(folder, name)
    if target.exists():
        raise ArgumentError(f"{target} exists; remove it, or give another name")
    source = forms.read(model)
    form: Form = forms.form_of(source)
    if native and form == "standard":
        raise ArgumentError(
            "native=True, but a standard form has no node for the extension; convert it, or leave it out"
        )
    missing = openvino.why_missing()
    libraries = _libraries() if native or (native is None and form != "standard" and missing is None) else []
    if not libraries:
        source, form = forms.to_form(source, "standard"), "standard"
    _write(model, source, target, libraries)
    return Package(
        folder=os.fspath(folder),
        name=name,
        form=form,
        files=tuple(sorted(str(file.relative_to(folder)) for file in target.rglob("*"))),
        needs=(_needs(bool(libraries)),),
        notes=(f"standard operators: {missing}",) if missing and native is None else (),
    )


def _libraries() -> list[Path]:
    extension = openvino.extension_path()
    return [extension, extension.with_name(native_library.FILE_NAME)]


def _write(model: str | os.PathLike[str], source: ir.Model, target: Path, libraries: Sequence[Path]) -> None:
    """The folder gets its name only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with named(target), tempfile.TemporaryDirectory(prefix=hidden(target), dir=target.parent) as temporary:
        complete = Path(temporary, target.name)
        complete.mkdir()
        forms.write(source, complete / "model.onnx")
        golden_file.follow(model, complete / "model.onnx")
        for library, name in zip(libraries, (openvino.EXTENSION, native_library.FILE_NAME), strict=False):
            shutil.copyfile(library, complete / name)
        added = f'core.add_extension(here / "{openvino.EXTENSION}")\n' if libraries else ""
        (complete / "run.py").write_text(_PROGRAM.replace("EXTENSION", added), encoding="utf-8")
        complete.rename(target)


def _needs(native: bool) -> str:
    if not native:
        return "any release of OpenVINO, for a standard form without native kernels"
    place = f"{platform.system()} {platform.machine()}"
    return f"OpenVINO {metadata.version('openvino')} on {place}: the extension is for this release alone"
