"""One worker process of a batch: reads the rows of a shard, runs them, and writes their answers.

A row of the output says where it comes from (``picture``, or ``file`` and ``row``), has for each output its values in C
order and its shape (``NAME`` and ``NAME.shape``), and ``error``: why this one could not be run, while others were.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxpool._files import complete
from onnxpool.deploy.shards import Shard, parquet
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.run.picture import Preparation
from onnxpool.run.session import load

Place: TypeAlias = dict[str, Any]
"""Where a row comes from: the first columns of the output."""

Item: TypeAlias = NDArray[Any] | OnnxpoolError
"""A row as the model's input, or why there is none."""

Row: TypeAlias = tuple[Place, Item]

Answer: TypeAlias = dict[str, NDArray[Any]] | OnnxpoolError


@dataclass(frozen=True)
class Done:
    """A shard that was finished, by the process ``worker``; ``errors`` counts the rows that have one."""

    name: str
    rows: int
    errors: int
    worker: int


@dataclass(frozen=True)
class Setting:
    """What a worker is told: ``picture`` holds the arguments of :meth:`Preparation.of`."""

    model: str
    folder: str
    column: str | None
    threads: int
    max_batch: int
    picture: Mapping[str, Any]


class Worker:
    """A session, and how rows are read for it. Raises what :func:`onnxpool.load` raises."""

    def __init__(self, setting: Setting) -> None:
        self.session = load(setting.model, threads=setting.threads)
        if len(self.session.inputs) != 1:
            names = [info.name for info in self.session.inputs]
            raise ArgumentError(f"model={setting.model!r} takes {len(names)} inputs, {names}; a row gives one")
        (self.input,) = self.session.inputs
        self.folder = Path(setting.folder)
        self.column = setting.column or self.input.name
        self.max_batch = setting.max_batch if self.session.batched else 1
        self.picture = setting.picture
        self._group: tuple[str, int] | None = None
        self._column: Any = None

    def check(self, shard: Shard) -> None:
        """Raises :class:`ArgumentError` for what is wrong with every row of a shard."""
        if shard.of_pictures or self._encoded(shard):
            self._preparation()

    def write(self, shard: Shard) -> Done:
        """Run the rows of a shard, one batch in memory at a time, and write its file."""
        places: list[Place] = []
        answers: list[Answer] = []
        for rows in _neighbours(self._rows(shard), self.max_batch):
            places += [place for place, _ in rows]
            answers += self._run([item for _, item in rows])
        errors = [str(answer) if isinstance(answer, OnnxpoolError) else None for answer in answers]
        complete(
            self.folder / shard.name, lambda file: parquet().write_table(self._table(places, answers, errors), file)
        )
        return Done(shard.name, len(errors), len(errors) - errors.count(None), os.getpid())

    # --- in

    def _rows(self, shard: Shard) -> Iterator[Row]:
        """Where each row comes from, and the model's input."""
        read: Callable[[Any], NDArray[Any]] = self._numbers
        if shard.of_pictures:
            read = self._preparation().array
        elif self._encoded(shard):
            read = partial(_picture, self._preparation().array, Path(shard.sources[0]).parent)
        if shard.of_pictures:
            yield from (({"picture": source}, _tried(read, source)) for source in shard.sources)
            return
        for row, value in enumerate(self._values(shard), start=shard.start):
            yield {"file": shard.sources[0], "row": row}, _tried(read, value)

    def _preparation(self) -> Preparation:
        return Preparation.of([self.input], **self.picture)

    def _encoded(self, shard: Shard) -> bool:
        """Whether the column holds the bytes of pictures."""
        schema = parquet().ParquetFile(shard.sources[0]).schema_arrow
        if self.column not in schema.names:
            raise ArgumentError(
                f"column={self.column!r} is not in {shard.sources[0]}; it has {', '.join(schema.names)}"
            )
        kind = schema.field(self.column).type
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "binary" in str(kind.field("bytes").type if "bytes" in names else kind)

    def _values(self, shard: Shard) -> Iterator[Any]:
        """The column in the shard's rows; other groups of rows are not read, and the last one is kept for the next."""
        file, begin = parquet().ParquetFile(shard.sources[0]), 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            first, last = max(begin, shard.start), min(end, shard.stop)
            if first < last:
                if self._group != (shard.sources[0], group):
                    self._column = file.read_row_group(group, columns=[self.column])[self.column]
                    self._group = (shard.sources[0], group)
                yield from self._column.slice(first - begin, last - first).to_pylist()
            begin = end

    def _numbers(self, value: Any) -> NDArray[Any]:
        """A list as a batch of one: nested as the input is, or flat where the input's sizes are fixed."""
        sizes = [size for size in self.input.shape[1:] if isinstance(size, int)]
        try:
            array = np.asarray(value, self.input.dtype)
            flat = array.ndim == 1 and len(sizes) == len(self.input.shape) - 1
            return (array.reshape(sizes) if flat else array)[None]
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"column={self.column!r} does not fit input {self.input.name!r} of shape {self.input.shape}"
            ) from error

    # --- through the model

    def _run(self, items: Sequence[Item]) -> Iterator[Answer]:
        """The outputs of each item, or its error: items that fail together run one by one."""
        arrays = [item for item in items if not isinstance(item, OnnxpoolError)]
        joined: Any = _tried(self.session.run, {self.input.name: np.concatenate(arrays)}) if arrays else items[0]
        if not isinstance(joined, OnnxpoolError):
            yield from ({name: array[i : i + 1] for name, array in joined.items()} for i in range(len(items)))
        elif len(items) == 1:
            yield joined
        else:
            yield from (answer for item in items for answer in self._run([item]))

    # --- out

    def _table(self, places: Sequence[Place], answers: Sequence[Answer], errors: list[str | None]) -> Any:
        import pyarrow

        columns = {name: pyarrow.array([place[name] for place in places]) for name in places[0]}
        for info in self.session.outputs:
            dtype = np.dtype(np.float32) if info.dtype == ml_dtypes.bfloat16 else info.dtype  # Arrow has none
            arrays = [None if isinstance(answer, OnnxpoolError) else answer[info.name] for answer in answers]
            values = [None if array is None else array.astype(dtype).ravel() for array in arrays]
            sizes = [None if array is None else array.shape for array in arrays]
            columns[info.name] = pyarrow.array(values, pyarrow.list_(pyarrow.from_numpy_dtype(dtype)))
            columns[f"{info.name}.shape"] = pyarrow.array(sizes, pyarrow.list_(pyarrow.int64()))
        return pyarrow.table(columns | {"error": pyarrow.array(errors, pyarrow.string())})


def _picture(read: Callable[[Any], NDArray[Any]], folder: Path, value: Any) -> NDArray[Any]:
    """A picture from its bytes, from its bytes beside a path, or, without bytes, from its path."""
    if not isinstance(value, Mapping):
        return read(value)
    if value.get("bytes") is not None:
        return read(value["bytes"])
    if not value.get("path"):
        raise ArgumentError("there are neither bytes nor a path in this row")
    return read(folder / value["path"])


def _tried(make: Callable[[Any], Any], value: Any) -> Any:
    """What is made of a value, or why that cannot be."""
    if value is None:
        return ArgumentError("there is no value in this row")
    try:
        return make(value)
    except OnnxpoolError as error:
        return error


def _neighbours(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Neighbours of one shape, at most so many at a time; an error stands alone."""
    found: list[Row] = []
    for row in rows:
        if found and (len(found) == most or not _alike(found[-1][1], row[1])):
            yield found
            found = []
        found.append(row)
    if found:
        yield found


def _alike(one: Item, other: Item) -> bool:
    return not isinstance(one, OnnxpoolError) and not isinstance(other, OnnxpoolError) and one.shape == other.shape
