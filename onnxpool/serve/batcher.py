"""Dynamic batching: requests that wait for one model run together, and each gets its own rows or its own error.

Only requests whose inputs have equal types and equal shapes, but for the first axis, are joined, to at most
``max_batch`` rows; nothing is padded and nothing is split. A batch starts when a worker is free and it is full, or its
first request has waited ``max_delay_s``: with 0, those run together that came while every worker was busy. Where a
joined run fails, its requests run one by one, so that a bad one never
harms its neighbours.

A model that cannot be joined (``joins`` is False), a request without rows and one of more than ``max_batch`` rows run
alone. The batcher belongs to the event loop that submits; runs take place in threads of its own, which end with it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxpool.serve.limits import Options, Refusal
from onnxpool.serve.tensors import Tensors

Run: TypeAlias = Callable[[Tensors], Tensors]
Outcome: TypeAlias = "Tensors | Exception"
Observe: TypeAlias = Callable[["Ran"], None]


@dataclass(frozen=True)
class Ran:
    """One batch that was run: how many rows, how long each request waited, and how long the run took."""

    rows: int
    waited_s: tuple[float, ...]
    run_s: float


@dataclass(eq=False, slots=True)
class _Request:
    feeds: Tensors
    rows: int
    answer: "asyncio.Future[Tensors]"
    arrived_s: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs requests for one model; :meth:`submit` from one event loop."""

    def __init__(self, run: Run, options: Options, *, joins: bool, observe: Observe = lambda _: None) -> None:
        self._run = run
        self._options = options
        self.joined_rows: int = options.max_batch if joins and options.max_batch > 1 else 0
        self._observe = observe
        self._groups: dict[Any, deque[_Request]] = {}
        self._free = options.workers
        self._threads = ThreadPoolExecutor(options.workers, thread_name_prefix="onnxpool-run")
        self._timer: asyncio.TimerHandle | None = None
        self.waiting: int = 0

    async def submit(self, feeds: Tensors) -> Tensors:
        """The outputs for these inputs, which fit the model; raises what the model raises, or 429 where too many wait.

        A caller that is cancelled gives up its place.
        """
        if self.waiting >= self._options.max_queue:
            raise Refusal(429, f"{self.waiting} requests wait for this model already; try again later", 1)
        key, rows = self._group(feeds)
        request = _Request(feeds, rows, asyncio.get_running_loop().create_future())
        self._groups.setdefault(key, deque()).append(request)
        self.waiting += 1
        self._start()
        return await request.answer

    def _group(self, feeds: Tensors) -> tuple[Any, int]:
        """What a request can be joined by, and its rows; one that runs alone counts as a full batch."""
        sizes = {tensor.shape[0] for tensor in feeds.values() if tensor.ndim} if self.joined_rows else set()
        if len(sizes) != 1 or not 0 < (rows := sizes.pop()) < self._options.max_batch:
            return object(), self._options.max_batch
        return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in feeds.items()), rows

    def _start(self) -> None:
        """Start every batch that is due while a worker is free; come back when the next one is."""
        if self._timer:
            self._timer.cancel()
            self._timer = None  # it holds this batcher, which would outlive its model
        while self._free and self._groups:
            due_s, key = min((self._due_s(group), i, key) for i, (key, group) in enumerate(self._groups.items()))[::2]
            if due_s > time.monotonic():
                self._come_back(due_s)
                return
            if batch := self._take(key):
                self._free -= 1
                running = asyncio.get_running_loop().run_in_executor(self._threads, _outcomes, self._run, batch)
                running.add_done_callback(lambda done, batch=batch: self._finish(batch, done))  # type: ignore[misc]

    def _due_s(self, group: deque[_Request]) -> float:
        full = sum(request.rows for request in group) >= self._options.max_batch
        return group[0].arrived_s + (0 if full else self._options.max_delay_s)

    def _come_back(self, due_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0, due_s - time.monotonic()), self._start)

    def _take(self, key: Any) -> list[_Request]:
        """The next batch of a group, without those who have given up."""
        group, rows = self._groups[key], 0
        batch: list[_Request] = []
        while group and (not batch or rows + group[0].rows <= self._options.max_batch):
            request = group.popleft()
            self.waiting -= 1
            if not request.answer.done():
                batch.append(request)
                rows += request.rows
        if not group:
            del self._groups[key]
        return batch

    def _finish(self, batch: list[_Request], done: "asyncio.Future[tuple[list[Outcome], float, float]]") -> None:
        self._free += 1
        outcomes, begin_s, run_s = done.result()
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.answer.done():
                continue
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)
        self._observe(Ran(sum(map(_rows, batch)), tuple(begin_s - request.arrived_s for request in batch), run_s))
        self._start()


def _rows(request: _Request) -> int:
    return max((tensor.shape[0] for tensor in request.feeds.values() if tensor.ndim), default=1)


# --- in a worker's thread


def _outcomes(run: Run, batch: Sequence[_Request]) -> tuple[list[Outcome], float, float]:
    """What each request gets, when the run began, and how long it took."""
    begin_s = time.monotonic()
    outcomes = _joined(run, batch) if len(batch) > 1 else None
    outcomes = outcomes or [_alone(run, request) for request in batch]
    return outcomes, begin_s, time.monotonic() - begin_s


def _joined(run: Run, batch: Sequence[_Request]) -> list[Outcome] | None:
    """The rows of each request from one run; None where that run fails."""
    names = batch[0].feeds
    ends = np.cumsum([request.rows for request in batch]).tolist()
    try:
        outputs = run({name: np.concatenate([request.feeds[name] for request in batch]) for name in names})
    except Exception:  # whose fault it was shows when they run one by one
        return None
    if any(tensor.shape[:1] != (ends[-1],) for tensor in outputs.values()):
        return None
    begins = [0, *ends[:-1]]
    return [
        {name: tensor[begin:end] for name, tensor in outputs.items()} for begin, end in zip(begins, ends, strict=True)
    ]


def _alone(run: Run, request: _Request) -> Outcome:
    try:
        return run(request.feeds)
    except Exception as error:  # belongs to the request, not to the worker
        return error
