"""Every picture of a folder, or every row of Parquet files, through a model, by worker processes of Ray Data.

    FOLDER/_plan.json             what is done: model, input, shards; another plan needs another folder
    FOLDER/part-00000.parquet     the answers of one shard, row by row in the input's order; see rows.py

A shard's file is there when it is complete, so that a run that was stopped goes on where it stood, and a worker that
dies loses nothing: Ray gives its shard to another.

>>> run_batch("network.onnx", "photos", "answers", workers=4).rows  # doctest: +SKIP
81234
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from onnxpool.deploy.cluster import cluster
from onnxpool.deploy.rows import Done, Setting, Worker
from onnxpool.deploy.shards import Shard, plan, shards
from onnxpool.errors import ArgumentError


@dataclass(frozen=True)
class Batch:
    """What :func:`run_batch` did.

    ``skipped`` shards were there already; ``errors`` counts rows that could not be run.
    """

    folder: str
    shards: int
    skipped: int
    rows: int
    errors: int
    time_s: float

    @property
    def summary(self) -> str:
        """A line about the shards, and one about the rows and how fast they were run."""
        a_second = self.rows / max(self.time_s, 1e-9)
        digits = 0 if a_second >= 10 else 1 if a_second >= 1 else 2
        speed = f", {a_second:.{digits}f} a second" if self.rows else ""
        there = f"; {self.skipped} {'was' if self.skipped == 1 else 'were'} there already" if self.skipped else ""
        return (
            f"{self.shards - self.skipped} of {self.shards} shards written to {self.folder}{there}\n"
            f"{self.rows} rows in {self.time_s:.1f} s{speed}; {self.errors} could not be run"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def run_batch(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    column: str | None = None,
    workers: int = 2,
    threads: int = 1,
    shard: int = 256,
    max_batch: int = 8,
    size: tuple[int, int] | None = None,
    crop: float = 0.875,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    address: str | None = None,
    progress: Callable[[int, int, Done | None], None] = lambda _finished, _shards, _done: None,
) -> Batch:
    """Run ``model`` on ``source``: a folder of pictures, a Parquet file, or a folder of Parquet files.

    ``column`` of the Parquet files holds encoded pictures, structures of ``bytes`` and ``path`` as data sets of Hugging
    Face have them, or lists of numbers; by default it is the one named as the input.
    ``workers`` processes of ``threads`` threads take shards of ``shard`` rows, and join up to ``max_batch`` of equal
    shape where the model allows. The next four are those of :mod:`onnxpool.run.picture`. ``address`` is that of a Ray
    cluster that runs already, whose machines all see the files; by default one is started here, on loopback.
    ``progress`` is told how many shards are finished, of how many, and what the last one was.

    Raises :class:`ArgumentError` for arguments out of range, an input without rows, and a folder of another plan, and
    what :func:`onnxpool.load` raises.
    """
    for name, number in {"workers": workers, "threads": threads, "shard": shard, "max_batch": max_batch}.items():
        if number < 1:
            raise ArgumentError(f"{name}={number!r} must be at least 1")
    start = perf_counter()
    pictures = {"size": size, "crop": crop, "mean": mean, "std": std}
    places = str(Path(model).resolve()), str(Path(folder).resolve())
    setting = Setting(*places, column, threads, max_batch, pictures)
    planned = shards(source, shard)
    Worker(setting).check(planned[0])
    left = plan(Path(folder), model, planned, {"column": column, **pictures})
    skipped = len(planned) - len(left)
    done: list[Done] = []
    progress(skipped, len(planned), None)
    for one in _finished(setting, left, workers, address):
        done.append(one)
        progress(skipped + len(done), len(planned), one)
    rows, errors = sum(one.rows for one in done), sum(one.errors for one in done)
    return Batch(os.fspath(folder), len(planned), skipped, rows, errors, perf_counter() - start)


def _finished(setting: Setting, left: Sequence[Shard], workers: int, address: str | None) -> Iterator[Done]:
    """Each shard as it is finished."""
    if not left:
        return
    with cluster(address, processors=workers * setting.threads) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = ray.data.from_items([asdict(shard) for shard in left], override_num_blocks=len(left))
        pool = ray.data.ActorPoolStrategy(size=min(workers, len(left)))
        done = items.map(_Process, fn_constructor_args=(setting,), compute=pool, num_cpus=setting.threads)
        yield from (Done(**row) for row in done.iter_rows())


class _Process:
    """What Ray Data makes once in each worker process, and calls for each shard."""

    def __init__(self, setting: Setting) -> None:
        self.worker = Worker(setting)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return asdict(self.worker.write(Shard(row["name"], tuple(row["sources"]), row["start"], row["stop"])))
