"""A model repository for NVIDIA's Triton Inference Server, whose onnxruntime backend runs every form.

    FOLDER/NAME/config.pbtxt          inputs, outputs, batching, library, warm-up
    FOLDER/NAME/1/model.onnx          and model.golden.npz, to validate it by where it arrives
    FOLDER/NAME/1/libonnxpool.so      the native library: the custom form needs it, the function form is faster with it
    FOLDER/NAME/warmup/               the golden input that the server runs before it says that it is ready

Fields are those of Triton's model_config.proto. The backend hands ``op_library_filename`` to ONNX Runtime as it is, so
the path is the one inside of the server, below ``root``, where the server finds the repository.
A model is batched where the first axis of each of its inputs and outputs has one and the same name. Triton's container
has ONNX Runtime 1.24 from release 26.02 on, which the native library needs.

>>> package("network.onnx", "repository").needs  # doctest: +SKIP
('ONNX Runtime 1.24 or newer in the server, on Linux x86_64', ...)
"""

import json
import os
import platform
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from onnxpool._files import hidden, named
from onnxpool.domain import Form
from onnxpool.dtypes import BY_NAME
from onnxpool.errors import ArgumentError, KernelError
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms
from onnxpool.run import native_library
from onnxpool.run.session import Session, TensorInfo, load

ROOT = "/models"
"""Where Triton's documentation mounts a repository."""

RELEASE = "26.07"
"""Triton's release that packages are written for, with ONNX Runtime 1.27; 26.02 is the first with 1.24."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Package:
    """What was written: ``files`` below ``folder``; ``needs`` is what the server must hold, ``notes`` what to know.

    ``run`` is a line for the shell that starts the server.
    """

    folder: str
    name: str
    form: Form
    files: tuple[str, ...]
    needs: tuple[str, ...]
    notes: tuple[str, ...]
    run: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def package(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    root: str = ROOT,
    native: bool | None = None,
    max_batch: int = 32,
    delay_s: float = 0.001,
    instances: int | None = None,
    threads: int | None = None,
    cuda: bool = False,
) -> Package:
    """Write the model, in its own form, into the repository ``folder``, which may hold other models.

    ``name`` is the file's without it. ``native`` puts the native library of this machine beside the model; None: where
    there is one and the form can use it; ``cuda`` takes the one for CUDA along, too. Up to ``max_batch`` items are
    joined; none waits longer than ``delay_s``. ``instances`` run at the same time, each with ``threads`` inside one
    operator; None leaves both to the server.

    Raises :class:`ArgumentError` for a name that is taken or malformed and for numbers out of range,
    :class:`onnxpool.errors.KernelError` where the library is needed and there is none, and what
    :func:`onnxpool.load` raises.
    """
    name = Path(model).stem if name is None else name
    _check(name, root, max_batch, delay_s, {"instances": instances, "threads": threads})
    target = Path(folder, name)
    if target.exists():
        raise ArgumentError(f"{target} exists; remove it, or give another name")
    source = forms.read(model)
    form = forms.form_of(source)
    libraries = _libraries(form, native, cuda)
    session = load(model, kernels="auto" if libraries else "off")
    if unknown := [str(value.name) for value in source.graph.outputs if value.shape is None]:
        raise ArgumentError(f"the shapes of outputs {unknown} are unknown; run onnx.shape_inference on the model")
    joined = max_batch > 1 and session.batched
    warm = _warm_up(model, joined)
    place = PurePosixPath(root, name, "1")
    registered = [str(place / library.name) for library in libraries[:1]]
    text = config(name, session, joined and max_batch, delay_s, registered, warm)
    text += "".join(_execution(instances, threads, cuda))
    _write(model, target, libraries, warm, text)
    return Package(
        folder=os.fspath(folder),
        name=name,
        form=form,
        files=tuple(sorted(str(file.relative_to(folder)) for file in target.rglob("*") if file.is_file())),
        needs=tuple(_needs(form, libraries, place)),
        notes=tuple(_notes(joined, max_batch, warm)),
        run=_docker(folder, root, cuda),
    )


def _docker(folder: str | os.PathLike[str], root: str, cuda: bool) -> str:
    """A line that serves the repository on this machine."""
    mounted = shlex.quote(f"{Path(folder).resolve()}:{root}:ro")
    devices = "--gpus all " if cuda else ""
    return (
        f"docker run --rm {devices}-p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -v {mounted} "
        f"nvcr.io/nvidia/tritonserver:{RELEASE}-py3 tritonserver --model-repository={shlex.quote(root)}"
    )


def _check(name: str, root: str, max_batch: int, delay_s: float, counts: dict[str, int | None]) -> None:
    if not NAME.fullmatch(name):
        raise ArgumentError(f"name={name!r} must be letters, digits, '.', '_' and '-', with a letter or digit first")
    if not PurePosixPath(root).is_absolute():
        raise ArgumentError(f"root={root!r} must be an absolute path inside of the server, such as {ROOT}")
    if max_batch < 1:
        raise ArgumentError(f"max_batch={max_batch!r} must be at least 1; 1 joins nothing")
    if not 0 <= delay_s <= 10:
        raise ArgumentError(f"delay_s={delay_s!r} must be from 0 to 10 seconds")
    if wrong := {count: value for count, value in counts.items() if value is not None and value < 1}:
        raise ArgumentError(f"{', '.join(f'{count}={value!r}' for count, value in wrong.items())} must be at least 1")


def _write(model: str | os.PathLike[str], target: Path, libraries: Sequence[Path], warm: Feeds, text: str) -> None:
    """The folder gets its name only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with named(target), tempfile.TemporaryDirectory(prefix=hidden(target), dir=target.parent) as temporary:
        complete = Path(temporary, target.name)
        (complete / "1").mkdir(parents=True)
        forms.write(forms.read(model), complete / "1" / "model.onnx")
        golden_file.follow(model, complete / "1" / "model.onnx")
        for library in libraries:
            shutil.copyfile(library, complete / "1" / library.name)
        for i, array in enumerate(warm.values()):
            (complete / "warmup").mkdir(exist_ok=True)
            (complete / "warmup" / str(i)).write_bytes(array.tobytes())
        (complete / "config.pbtxt").write_text(text, encoding="utf-8")
        complete.rename(target)


def config(name: str, session: Session, max_batch: int, delay_s: float, libraries: Sequence[str], warm: Feeds) -> str:
    """The text of ``config.pbtxt``; ``max_batch`` is 0 for a model that is not batched."""
    lines = [f"name: {_text(name)}", 'backend: "onnxruntime"', f"max_batch_size: {int(max_batch)}"]
    lines += [_tensor("input", info, bool(max_batch)) for info in session.inputs]
    lines += [_tensor("output", info, bool(max_batch)) for info in session.outputs]
    if max_batch:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {round(delay_s * 1e6)} }}")
    lines += [f"model_operations {{ op_library_filename: {_text(library)} }}" for library in libraries]
    if warm:
        items = "".join(_warm_input(i, name, array) for i, (name, array) in enumerate(warm.items()))
        lines.append(f'model_warmup {{\n  name: "golden"\n  batch_size: 1\n{items}}}')
    return "\n".join(lines) + "\n"


def _execution(instances: int | None, threads: int | None, cuda: bool) -> Iterator[str]:
    if instances is not None:
        yield f"instance_group {{ count: {instances} kind: KIND_{'GPU' if cuda else 'CPU'} }}\n"
    if threads is not None:
        value = f'value {{ string_value: "{threads}" }}'
        yield f'parameters {{ key: "intra_op_thread_count" {value} }}\n'


def _tensor(kind: str, info: TensorInfo, joined: bool) -> str:
    sizes = info.sizes[joined:]
    empty = "dims: [1] reshape { shape: [] }" if joined else "dims: [1]"  # Triton has no rank 0, and takes 1 for it
    shape = f"dims: {sizes}" if sizes else empty
    return f"{kind} {{ name: {_text(info.name)} data_type: {_type(info.dtype)} {shape} }}"


def _warm_input(i: int, name: str, array: "np.ndarray[Any, Any]") -> str:
    value = f'data_type: {_type(array.dtype)} dims: {list(array.shape) or [1]} input_data_file: "{i}"'
    return f"  inputs {{ key: {_text(name)} value {{ {value} }} }}\n"


def _type(dtype: np.dtype[Any]) -> str:
    return f"TYPE_{BY_NAME[dtype.name].protocol}"


def _text(value: str) -> str:
    """A string of protobuf's text format; JSON's quotes and backslashes are the same."""
    return json.dumps(value, ensure_ascii=False)


def _warm_up(model: str | os.PathLike[str], joined: bool) -> Feeds:
    """The inputs of the first golden case, one item of them where items are joined; none without a golden file."""
    if not golden_file.path_for(model).exists():
        return {}
    cases = golden_file.load(golden_file.path_for(model)).cases
    inputs = cases[0].inputs if cases else {}
    return {name: array[0] if joined else array for name, array in inputs.items()}


def _libraries(form: Form, native: bool | None, cuda: bool) -> list[Path]:
    """The native library, then that for CUDA, which it loads from beside itself, where asked for; empty without it."""
    if native and form == "standard":
        raise ArgumentError("native=True, but a standard form has no node of the library; convert it, or leave it out")
    if native is False and form == "custom":
        raise ArgumentError("native=False, but a custom form needs the library; convert it to the function form")
    wanted = (
        native or form == "custom" or (native is None and form == "function" and native_library.why_missing() is None)
    )
    if not wanted:
        if cuda:
            raise ArgumentError("cuda=True, but the package takes no native library, which that for CUDA needs")
        return []
    path = native_library.library_path()
    beside = path.with_name(native_library.CUDA_FILE_NAME)
    if cuda and not beside.is_file():
        raise KernelError(f"cuda=True, but {beside} is not there; build it with -DONNXPOOL_CUDA=ON")
    return [path, *([beside] if cuda else [])]


def _needs(form: Form, libraries: Sequence[Path], place: PurePosixPath) -> Iterator[str]:
    if not libraries:
        yield f"a server of any platform, for a {form} form without native kernels"
        return
    here = f"{platform.system()} {platform.machine()}"
    yield f"ONNX Runtime 1.24 or newer (Triton 26.02) in the server, on {here} as here"
    yield f"{libraries[0].name} at {place}, where config.pbtxt names it; nothing else of onnxpool"


def _notes(joined: bool, max_batch: int, warm: Feeds) -> Iterator[str]:
    if not joined and max_batch > 1:
        yield "requests are not joined: inputs and outputs do not begin with one axis of the same name"
    if not warm:
        yield "no warm-up: there is no golden file beside the model"
