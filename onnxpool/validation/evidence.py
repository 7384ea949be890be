"""Which files a validation ran and who judged it: taken before the first run, and compared after the last one.

>>> watch = Watch("network.onnx")  # before the model is read  # doctest: +SKIP
>>> digests = watch.digests()  # before the first run  # doctest: +SKIP
>>> watch.touched()  # after the last run  # doctest: +SKIP
()

A file belongs to a validation where a change of it could change what ran or what was expected: the model, every file
that a tensor anywhere in it (initializers, attributes, bodies, functions) keeps its data in, the golden file, the
native library and the one for CUDA that it loads, and other libraries of custom operators.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from onnxpool.golden import file as golden_file
from onnxpool.golden.file import Golden
from onnxpool.run.native_library import CUDA_FILE_NAME, library_path, why_missing
from onnxpool.validation.quantized import is_model


@dataclass(frozen=True)
class Digests:
    """The SHA-256 of each of these files, by name where there may be several; None, or "" there, for a missing one."""

    model: str
    weights: dict[str, str]
    golden: str | None
    library: str | None
    cuda_library: str | None
    libraries: dict[str, str]


@dataclass(frozen=True)
class Evidence:
    """What a certificate needs to know of a validation.

    ``judge`` says who gave the answers, ``itself`` that it was the model. ``form`` is the form that the file is in,
    ``case`` the only case that ran, if it was one, ``libraries`` are the paths of other libraries of custom operators.
    ``touched`` names the files that were written or replaced meanwhile.
    """

    digests: Digests
    judge: str
    itself: bool
    form: str
    case: str | None
    libraries: tuple[str, ...]
    touched: tuple[str, ...]


class Watch:
    """Watches the files of a validation, from when it is made."""

    def __init__(self, model: Any, libraries: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.model: Path | None = Path(model) if isinstance(model, str | os.PathLike) else None
        self.libraries: list[Path] = [Path(library) for library in libraries]
        self._stamps: dict[Path, tuple[int, ...] | None] = {self.model: _stamp(self.model)} if self.model else {}

    def digests(self) -> Digests | None:
        """Of the files as they are now; None where the model is not a file."""
        if self.model is None:
            return None
        beside = [self.model.parent / name for name in external_files(self.model)]
        own = [] if why_missing() else [library_path(), library_path().with_name(CUDA_FILE_NAME)]
        for path in (*beside, golden_file.path_for(self.model), *own, *self.libraries):
            self._stamps.setdefault(path, _stamp(path))
        return digests_of(self.model, self.libraries)

    def touched(self) -> tuple[str, ...]:
        """The names of the files that were written, replaced or removed since."""
        return tuple(path.name for path, stamp in self._stamps.items() if _stamp(path) != stamp)


def gather(
    watch: Watch, digests: Digests | None, form: str, golden: Golden, reference: object, case: str | None
) -> Evidence | None:
    """What is known after the last run; ``reference`` and ``case`` as in :func:`onnxpool.validate`."""
    if digests is None:
        return None
    judge, itself = golden.source, golden.by_the_model
    if isinstance(reference, str | os.PathLike) and is_model(reference):
        judge, itself = f"{Path(reference).name} ({judge})", sha256(Path(reference)) == digests.model
    libraries = tuple(str(library) for library in watch.libraries)
    return Evidence(digests, judge, itself, form, case, libraries, watch.touched())


def digests_of(model: Path, libraries: Sequence[Path] = ()) -> Digests:
    """The digests of a model file and of all that belongs to it here. Raises OSError where a file cannot be read."""
    return Digests(
        model=sha256(model),
        weights={name: sha256_if_there(model.parent / name) or "" for name in external_files(model)},
        golden=sha256_if_there(golden_file.path_for(model)),
        library=library_digest(),
        cuda_library=cuda_library_digest(),
        libraries={library.name: sha256(library) for library in libraries},
    )


def external_files(model: Path) -> list[str]:
    """The files beside a model that hold data of its tensors, wherever in it these are."""
    found: set[str] = set()
    queue: list[Message] = [onnx.load(model, load_external_data=False)]
    while queue:
        message = queue.pop()
        if isinstance(message, onnx.TensorProto):
            found |= {entry.value for entry in message.external_data if entry.key == "location"}
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                queue += [value] if isinstance(value, Message) else value
    return sorted(found)


def library_digest() -> str | None:
    """Of the native library here."""
    return None if why_missing() else sha256(library_path())


def cuda_library_digest() -> str | None:
    """Of the library beside it that holds the kernels for CUDA."""
    return None if why_missing() else sha256_if_there(library_path().with_name(CUDA_FILE_NAME))


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_if_there(path: Path) -> str | None:
    """The same; None where there is no such file."""
    return sha256(path) if path.is_file() else None


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes with every write and replacement, also where the bytes are as before."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
