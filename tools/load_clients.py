"""Clients of tools/load: in processes of their own, each a loop of ask, wait, compare, ask again, by tritonclient.

Bounded in time and in number. A process that runs many clients is one event loop. Every answer is compared with the one
that ONNX Runtime gave for that input alone.
"""

import asyncio
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxpool.serve.codec import HEADER

Way: TypeAlias = Literal["binary", "json", "grpc"]
Ask: TypeAlias = Callable[[int], Awaitable[NDArray[Any]]]


@dataclass(frozen=True)
class Task:
    """What is asked: by which protocol, of whom, which inputs, what must come out how exactly, and for how long."""

    way: Way
    address: str
    model: str
    input: str
    output: str
    questions: list[NDArray[Any]]
    answers: list[NDArray[Any]]
    tolerance: float
    clients: int
    seconds: float
    most: int
    malformed: float = 0.0


@dataclass
class Outcome:
    """What came back: latencies in seconds, answers that differ, other bits within the tolerance, errors by kind."""

    latencies_s: list[float] = field(default_factory=list)
    wrong: int = 0
    other_bits: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, other: "Outcome") -> None:
        """Count these, too; they took place at the same time."""
        self.latencies_s += other.latencies_s
        self.wrong += other.wrong
        self.other_bits += other.other_bits
        self.errors += other.errors
        self.malformed += other.malformed
        self.seconds = max(self.seconds, other.seconds)


def run(task: Task, processes: int = 2) -> Outcome:
    """All clients of a task, spread over processes."""
    shares = [len(range(i, task.clients, processes)) for i in range(min(processes, task.clients))]
    outcome = Outcome()
    for one in _together([replace(task, clients=share) for share in shares]):
        outcome.add(one)
    return outcome


def run_all(tasks: Sequence[Task]) -> dict[str, Outcome]:
    """Several tasks at the same time, each in one process; what came back by the way of asking."""
    return dict(zip((task.way for task in tasks), _together(tasks), strict=True))


def _together(tasks: Sequence[Task]) -> list[Outcome]:
    """Each task in a process of its own; all begin at the same time."""
    start_at = time.time() + 3
    with ProcessPoolExecutor(len(tasks), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_drive, task, start_at, seed) for seed, task in enumerate(tasks)]
        return [job.result(timeout=task.seconds + 120) for job, task in zip(jobs, tasks, strict=True)]


def _drive(task: Task, start_at: float, seed: int) -> Outcome:
    return asyncio.run(_clients(task, start_at, seed))


async def _clients(task: Task, start_at: float, seed: int) -> Outcome:
    outcome = Outcome()
    async with _asking(task) as ask:
        await ask(0)
        await asyncio.sleep(max(0, start_at - time.time()))
        begin_s = time.perf_counter()
        loops = (_loop(task, ask, outcome, begin_s + task.seconds, seed * 1000 + i) for i in range(task.clients))
        await asyncio.gather(*loops)
        outcome.seconds = time.perf_counter() - begin_s
    return outcome


async def _loop(task: Task, ask: Ask, outcome: Outcome, end_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(task.most):
        begin_s = time.perf_counter()
        if begin_s >= end_s:
            return
        if rng.random() < task.malformed:
            await _misask(task, rng, outcome)
            continue
        i = int(rng.integers(len(task.questions)))
        try:
            given = await ask(i)
        except Exception as error:
            outcome.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            continue
        outcome.latencies_s.append(time.perf_counter() - begin_s)
        _compare(task, given, task.answers[i], outcome)


def _compare(task: Task, given: NDArray[Any], answer: NDArray[Any], outcome: Outcome) -> None:
    if given.shape != answer.shape or given.dtype != answer.dtype or not np.abs(given - answer).max() <= task.tolerance:
        outcome.wrong += 1
    elif given.tobytes() != answer.tobytes():
        outcome.other_bits += 1


# --- by protocol


@asynccontextmanager
async def _asking(task: Task) -> AsyncIterator[Ask]:
    """Asking by tritonclient in the task's way; over gRPC one channel for all clients of this process."""
    if task.way == "grpc":
        import tritonclient.grpc.aio as triton

        client, how = triton.InferenceServerClient(task.address), {}
    else:
        import tritonclient.http.aio as triton

        client = triton.InferenceServerClient(task.address, conn_limit=task.clients)
        how = {"binary_data": task.way == "binary"}
    inputs = [_filled(triton.InferInput, task, array, **how) for array in task.questions]
    outputs = [triton.InferRequestedOutput(task.output, **how)]

    async def ask(i: int) -> NDArray[Any]:
        answer = await client.infer(task.model, [inputs[i]], outputs=outputs)
        return answer.as_numpy(task.output)

    try:
        yield ask
    finally:
        await client.close()


def _filled(kind: Any, task: Task, array: NDArray[Any], **how: bool) -> Any:
    made = kind(task.input, list(array.shape), "FP32")
    made.set_data_from_numpy(array, **how)
    return made


# --- malformed requests


async def _misask(task: Task, rng: np.random.Generator, outcome: Outcome) -> None:
    """One malformed request; anything but its own refusal is an error."""
    kinds = _MALFORMED_RPC if task.way == "grpc" else _MALFORMED
    name = str(rng.choice(list(kinds)))
    wanted, make = kinds[name]
    came = await (_status_rpc if task.way == "grpc" else _status)(task, *make(task))
    if came == wanted:
        outcome.malformed[f"{name}: {came}"] += 1
    else:
        outcome.errors[f"malformed, {name}: {came} where {wanted} is right"] += 1


def _entry(task: Task, **changes: Any) -> dict[str, Any]:
    shape = list(task.questions[0].shape)
    return {"name": task.input, "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": 4}} | changes


def _json(task: Task, **changes: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"inputs": [_entry(task, **changes)]}).encode(), {}


_MALFORMED: dict[str, tuple[int, Callable[[Task], tuple[bytes, dict[str, str]]]]] = {
    "no JSON": (400, lambda _: (b"{", {})),
    "truncated binary": (400, lambda task: (body := _json(task)[0], {HEADER: str(len(body))})),
    "length beyond the body": (400, lambda _: (b"{}", {HEADER: "999"})),
    "NaN": (400, lambda task: (_json(task)[0].replace(b"4}", b"NaN}"), {})),
    "another type": (400, lambda task: _json(task, datatype="FP64")),
    "another rank": (400, lambda task: _json(task, shape=[1])),
    "a huge shape": (413, lambda task: _json(task, shape=[2**40, *task.questions[0].shape[1:]])),
    "an unknown input": (400, lambda task: _json(task, name="nix")),
    "strings as data": (400, lambda task: _json(task, parameters={}, data=["a"])),
    "a compressed bomb": (413, lambda _: (_BOMB, {"Content-Encoding": "gzip"})),
    "a large body": (413, lambda _: (bytes(17 << 20), {})),
}
_BOMB = gzip.compress(bytes(20 << 20))


async def _status(task: Task, body: bytes, headers: dict[str, str]) -> int:
    import aiohttp

    url = f"http://{task.address}/v2/models/{task.model}/infer"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        await answer.read()
        return answer.status


_MALFORMED_RPC: dict[str, tuple[str, Callable[[Task], tuple[str, NDArray[Any]]]]] = {
    "an unknown model": ("NOT_FOUND", lambda task: ("nix", task.questions[0])),
    "another rank": ("INVALID_ARGUMENT", lambda task: (task.model, task.questions[0][0])),
    "a large message": ("RESOURCE_EXHAUSTED", lambda task: (task.model, np.zeros((5 << 20, 1), np.float32))),
}


async def _status_rpc(task: Task, model: str, array: NDArray[Any]) -> str:
    import tritonclient.grpc.aio as triton

    async with triton.InferenceServerClient(task.address) as client:
        try:
            await client.infer(model, [_filled(triton.InferInput, task, array)])
        except triton.InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode.")
    return "OK"
