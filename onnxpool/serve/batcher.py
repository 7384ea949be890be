"""Dynamic batching: requests that wait for one model run together, and each gets its own rows or its own error.

Only requests whose inputs have equal types and equal shapes, but for the first axis, are joined, to at most
``max_batch`` rows; nothing is padded and nothing is split. A batch starts when a worker is free and it is full, or its
first request has waited ``max_delay_s``: with 0, those run together that came while every worker was busy. Where a
joined run fails, its requests run one by one, so that a bad one never harms its neighbours.

A model that cannot be joined (``joins`` is False), a request without rows and one of more than ``max_batch`` rows run
alone. The batcher belongs to the event loop that submits; runs take place in threads of its own, which end with it.

Handing a run to a thread and back takes 0.2 ms. A model that is ``straight``, so that sizes alone decide how long it
runs, does without: once some runs of a shape were brief (``BRIEF_S``), others of that shape take place on the event
loop, one at a time, and everything else gets its turn between two.

A run that nobody waits for any more is told to stop, which ONNX Runtime does between two nodes. A model whose every
worker is in a run that did not stop is ``stuck``: it refuses (503) what comes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from onnxpool.serve.limits import Options, Refusal
from onnxpool.serve.tensors import Tensors

Run: TypeAlias = Callable[..., Tensors]
"""Outputs for inputs; with what :class:`Stop` tells it as a second argument where the batcher makes stops."""

Outcome: TypeAlias = "Tensors | Exception"
Finish: TypeAlias = Callable[[list[Outcome], float, float], object]
Observe: TypeAlias = Callable[["Ran"], None]


@dataclass(frozen=True)
class Ran:
    """One batch that was run: how many rows, how long each request waited, and how long the run took."""

    rows: int
    waited_s: tuple[float, ...]
    run_s: float


class Stop(Protocol):
    """What ends a run: it is called from another thread than the run's."""

    def __call__(self) -> None:
        """End it as soon as possible."""


STUCK_S = 1.0
"""A run that goes on for so long after it was told to stop is stuck."""


BRIEF_S = 0.001
"""A run that is known to take no longer keeps the event loop as little as reading a request does."""

_KNOWN = 8
"""Runs of a shape, after which it is known."""

_SHAPES = 64
"""That are known at a time; clients choose them."""


@dataclass(slots=True)
class _Pace:
    """Of requests that can be joined: how often they ran, the least time of a row and of a run, and how many late."""

    runs: int = 0
    row_s: float = float("inf")
    late: int = 0
    run_s: float = float("inf")


@dataclass(eq=False, slots=True)
class _Request:
    feeds: Tensors
    rows: int
    key: Any
    answer: "asyncio.Future[Tensors]"
    arrived_s: float = field(default_factory=time.monotonic)
    running: "_Running | None" = None


@dataclass(eq=False, slots=True)
class _Running:
    """A batch that a worker has; ``left_s`` is when its last request gave up."""

    batch: list[_Request]
    stop: Stop | None
    left_s: float | None = None

    def leave(self) -> None:
        """One gave up; when all have, the run should end."""
        if self.left_s is None and all(request.answer.done() for request in self.batch):
            self.left_s = time.monotonic()
            if self.stop:
                self.stop()


class Batcher:
    """Runs requests for one model; :meth:`submit` from one event loop."""

    def __init__(
        self,
        run: Run,
        options: Options,
        *,
        joins: bool,
        observe: Observe = lambda _: None,
        make_stop: Callable[[], Stop] | None = None,
        straight: bool = False,
    ) -> None:
        self._run = run
        self._straight = straight
        self._paces: dict[Any, _Pace] = {}
        self._soon = False
        self._make_stop = make_stop
        self._running: set[_Running] = set()
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

        A caller that is cancelled gives up its place; a run is stopped when all that it is for have given up.
        """
        if self.stuck:
            raise Refusal(503, "the model is in a run that does not end", 5)
        if self.waiting >= self._options.max_queue:
            raise Refusal(429, f"{self.waiting} requests wait for this model already; try again later", 1)
        key, rows = self._group(feeds)
        request = _Request(feeds, rows, key, asyncio.get_running_loop().create_future())
        self._groups.setdefault(key, deque()).append(request)
        self.waiting += 1
        pace = self._paces.get(key)
        if pace is not None and pace.runs >= _KNOWN:
            self._start_soon()  # when those have come that are on their way
        else:
            self._start()
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._leave(request)
            raise

    @property
    def stuck(self) -> bool:
        """Whether every worker is in a run that was told to stop and goes on."""
        latest_s = time.monotonic() - STUCK_S
        return not self._free and all(one.left_s is not None and one.left_s < latest_s for one in self._running)

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return bool(self._running)

    def stop(self) -> None:
        """Refuse (503) all that waits or runs, and tell the runs to stop."""
        there = [request for group in self._groups.values() for request in group]
        there += [request for running in self._running for request in running.batch]
        for request in there:
            if not request.answer.done():
                request.answer.set_exception(Refusal(503, "the server stops"))
            self._leave(request)

    def _leave(self, request: _Request) -> None:
        if request.running:
            request.running.leave()
        elif request in self._groups.get(request.key, ()):
            self._groups[request.key].remove(request)
            self.waiting -= 1
            if not self._groups[request.key]:
                del self._groups[request.key]

    def _group(self, feeds: Tensors) -> tuple[Any, int]:
        """What a request can be joined by, and its rows; one that runs alone counts as a full batch."""
        sizes = {tensor.shape[0] for tensor in feeds.values() if tensor.ndim} if self.joined_rows else set()
        if len(sizes) != 1 or not 0 < (rows := sizes.pop()) < self._options.max_batch:
            return object(), self._options.max_batch
        return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in feeds.items()), rows

    def _start(self) -> None:
        """Start every batch that is due while a worker is free; come back when the next one is."""
        self._soon = False
        if self._timer:
            self._timer.cancel()
            self._timer = None  # it holds this batcher, which would outlive its model
        while self._free and self._groups:
            due_s, key = min((self._due_s(group), i, key) for i, (key, group) in enumerate(self._groups.items()))[::2]
            if due_s > time.monotonic():
                self._come_back(due_s)
                return
            if batch := self._take(key):
                if self._is_brief(key, batch):
                    self._run_here(key, batch)
                    if self._groups:
                        self._start_soon()
                    return
                self._free -= 1
                stop = self._make_stop() if self._make_stop else None
                running = _Running(batch, stop)
                self._running.add(running)
                for request in batch:
                    request.running = running
                run = partial(self._run, stop=stop) if stop else self._run
                self._threads.submit(_outcomes, run, batch, asyncio.get_running_loop(), partial(self._finish, running))

    def _start_soon(self) -> None:
        """Start, when everybody else has had a turn."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._start)

    def _is_brief(self, key: Any, batch: list[_Request]) -> bool:
        pace = self._paces.get(key)
        if pace is None or pace.runs < _KNOWN:
            return False
        return max(pace.run_s, pace.row_s * sum(map(_rows, batch))) <= BRIEF_S  # one row takes no eighth of eight

    def _run_here(self, key: Any, batch: list[_Request]) -> None:
        outcomes, begin_s, run_s = _run_all(self._run, batch)
        pace = self._paces[key]
        pace.late = pace.late + 1 if run_s > 4 * BRIEF_S else 0
        if pace.late == 3 or run_s > 20 * BRIEF_S:  # it has changed, and shows itself in a thread again
            del self._paces[key]
        self._tell(batch, outcomes, begin_s, run_s)

    def _pace(self, key: Any, batch: list[_Request], run_s: float) -> None:
        """Learn from a run in a thread, which waits for the interpreter, too: the least of several is near it."""
        if self._straight and type(key) is tuple:
            if key not in self._paces and len(self._paces) >= _SHAPES:
                self._paces.clear()
            pace = self._paces.setdefault(key, _Pace())
            pace.runs += 1
            pace.run_s = min(pace.run_s, run_s)
            pace.row_s = min(pace.row_s, run_s / sum(map(_rows, batch)))

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

    def _finish(self, running: _Running, outcomes: list[Outcome], begin_s: float, run_s: float) -> None:
        self._free += 1
        self._running.discard(running)
        if not any(isinstance(outcome, Exception) for outcome in outcomes):  # which may come sooner than an answer
            self._pace(running.batch[0].key, running.batch, run_s)
        self._tell(running.batch, outcomes, begin_s, run_s)
        self._start()

    def _tell(self, batch: list[_Request], outcomes: list[Outcome], begin_s: float, run_s: float) -> None:
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.answer.done():
                continue
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)
        self._observe(Ran(sum(map(_rows, batch)), tuple(begin_s - request.arrived_s for request in batch), run_s))


def _rows(request: _Request) -> int:
    return max((tensor.shape[0] for tensor in request.feeds.values() if tensor.ndim), default=1)


# --- in a worker's thread


def _outcomes(run: Run, batch: Sequence[_Request], loop: asyncio.AbstractEventLoop, finish: Finish) -> None:
    """Run, and tell the loop."""
    ran = _run_all(run, batch)
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(finish, *ran)


def _run_all(run: Run, batch: Sequence[_Request]) -> tuple[list[Outcome], float, float]:
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
    if request.answer.done():
        return Refusal(499, "the client went away")
    try:
        return run(request.feeds)
    except Exception as error:  # belongs to the request, not to the worker
        return error
