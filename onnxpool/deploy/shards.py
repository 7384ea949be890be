"""The shards of a batch: which rows of the input each output file answers, and files that are whole or not there.

A plan is a folder's own: its model, input, shards and options, in ``_plan.json``, whose name readers of a folder of
Parquet pass over. Shards follow the order of names, so that the same input gives the same ones at every call; those
whose pictures or rows have changed since are done again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxpool._files import complete
from onnxpool.errors import ArgumentError, MissingExtra
from onnxpool.graph import forms

VERSION = 2
"""Version of a plan, and of the columns of the files that follow it; a folder of another version is refused."""

PLAN = "_plan.json"

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of files that are taken for pictures, in any case."""


@dataclass(frozen=True)
class Shard:
    """An output file, and what it answers: pictures, or rows ``start`` to ``stop`` of one Parquet file."""

    name: str
    sources: tuple[str, ...]
    start: int = 0
    stop: int = 0

    @property
    def of_pictures(self) -> bool:
        """Whether ``sources`` are pictures."""
        return not self.stop


def shards(source: str | os.PathLike[str], rows: int) -> tuple[Shard, ...]:
    """A folder of pictures, a folder of Parquet files, or one of these, ``rows`` of it at a time.

    Raises :class:`ArgumentError` for a source that is missing, empty, or neither of these.
    """
    path = Path(source)
    if not path.exists():
        raise ArgumentError(f"source={str(path)!r}: there is no such file or folder")
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in found if file.suffix == ".parquet" and file.is_file()]
    pictures = [str(file.resolve()) for file in found if file.suffix.lower() in SUFFIXES and file.is_file()]
    if files and pictures:
        raise ArgumentError(f"source={str(path)!r} holds pictures and Parquet files; give a folder of one kind")
    pieces = list(_slices(len(pictures), rows))
    parts = [(tuple(pictures[begin:end]), 0, 0) for begin, end in pieces]
    parts += [((str(file.resolve()),), *piece) for file in files for piece in _slices(_rows_of(file), rows)]
    if not parts:
        raise ArgumentError(f"source={str(path)!r} has no row: give Parquet, or pictures: {', '.join(SUFFIXES)}")
    return tuple(Shard(f"part-{number:05}.parquet", *part) for number, part in enumerate(parts))


def _slices(total: int, rows: int) -> Iterator[tuple[int, int]]:
    yield from ((begin, min(begin + rows, total)) for begin in range(0, total, rows))


def _rows_of(file: Path) -> int:
    try:
        return int(parquet().ParquetFile(file).metadata.num_rows)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"source: {file} cannot be read as Parquet: {error}") from error


def plan(
    folder: Path, model: str | os.PathLike[str], planned: Sequence[Shard], options: Mapping[str, Any]
) -> list[Shard]:
    """The shards that ``folder`` lacks, when its plan is this one; the first call writes the plan.

    A shard whose sources have changed is taken away, and so lacks.

    Raises :class:`ArgumentError` where the folder has another.
    """
    fixed = {
        "version": VERSION,
        "model": {path.name: _sha256(path) for path in _files_of(Path(model))},
        "shards": hashlib.sha256(json.dumps([asdict(shard) for shard in planned]).encode()).hexdigest(),
        "options": json.loads(json.dumps(dict(options))),
    }
    path = folder / PLAN
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else fixed
    if {name: before.get(name) for name in fixed} != fixed:
        raise ArgumentError(f"{folder} holds the answers of another model, input or options; give another folder")
    digests = {source: _sha256(Path(source)) for source in {source for shard in planned for source in shard.sources}}
    contents = {shard.name: _joined(digests[source] for source in shard.sources) for shard in planned}
    for shard in planned:
        if before.get("contents", contents)[shard.name] != contents[shard.name]:
            (folder / shard.name).unlink(missing_ok=True)
    text = json.dumps({**fixed, "contents": contents}, indent=2)
    complete(path, lambda file: file.write_text(text, encoding="utf-8"))
    return [shard for shard in planned if not (folder / shard.name).exists()]


def _files_of(model: Path) -> list[Path]:
    """A model, and the files beside it that hold weights of it."""
    if forms.is_ort_format(model):
        return [model]
    tensors = (value.const_value for graph in forms.read(model).graphs() for value in graph.initializers.values())
    beside = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return [model, *(model.parent / name for name in sorted(beside))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def parquet() -> Any:
    """The module ``pyarrow.parquet``."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "ray", "reading Parquet") from error
    return parquet
