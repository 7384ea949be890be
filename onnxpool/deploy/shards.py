"""The shards of a batch: which rows of the input each output file answers, and files that are whole or not there.

A plan is a folder's own: its model, input, shards and options, in ``plan.json``. Shards follow the order of names, so
that the same input gives the same ones at every call.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxpool._files import complete
from onnxpool.errors import ArgumentError, MissingExtra

VERSION = 1
"""Version of a plan, and of the columns of the files that follow it; a folder of another version is refused."""

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

    Raises :class:`ArgumentError` where the folder has another.
    """
    text = json.dumps(
        {
            "version": VERSION,
            "model": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
            "shards": hashlib.sha256(json.dumps([asdict(shard) for shard in planned]).encode()).hexdigest(),
            "options": dict(options),
        },
        indent=2,
    )
    path = folder / "plan.json"
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ArgumentError(f"{folder} holds the answers of another model, input or options; give another folder")
    complete(path, lambda file: file.write_text(text, encoding="utf-8"))
    return [shard for shard in planned if not (folder / shard.name).exists()]


def parquet() -> Any:
    """The module ``pyarrow.parquet``."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "ray", "reading Parquet") from error
    return parquet
