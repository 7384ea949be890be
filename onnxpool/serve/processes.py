"""Several processes that serve the same models on the same ports, and one that watches over them.

    parent      opens the ports, starts the processes, starts one again that has died, passes signals on
    process i   a whole server: its own sessions, queues, limits and look-out for replaced files

REST's connections go to whichever process takes them first from the socket that all inherit; gRPC's are spread by the
system over one socket for each process (SO_REUSEPORT). A client stays with the process that has its connection.
Readiness is that of the process that answers. What is counted is asked of every process, whichever answers:
``/metrics`` has the series of each, with ``process="i"``; statistics are their sums. Clients may not load or unload
models, since one process would not tell the others; each finds replaced files by itself.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import orjson

from onnxpool.errors import ArgumentError, SessionError
from onnxpool.serve.limits import Options
from onnxpool.serve.listening import Listen, Listening

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from onnxpool.serve.service import Service

_ASKED_S = 1.0
"""How long another process may take to tell what it has counted; one that is about to start tells nothing."""

_AGAIN_S = 1.0
"""How long a process that has died is not started again."""

_SPARE_S = 2.0
"""After a process should have ended by itself, it is killed."""


log = logging.getLogger("onnxpool.serve")


class Siblings:
    """What the processes of one server tell each other, by Unix sockets in a folder that is theirs alone."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self._folder = folder
        self._number = number
        self._count = count

    @contextlib.asynccontextmanager
    async def telling(self, service: "Service") -> Any:
        """Tell the others what this process has counted."""

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told = {"metrics": service.metrics_text().decode(), "statistics": service.statistics()["model_stats"]}
            writer.write(orjson.dumps(told))
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

        path = self._folder / str(self._number)
        path.unlink(missing_ok=True)  # of the process that was here before
        async with await asyncio.start_unix_server(tell, path):
            yield

    async def ask(self) -> dict[int, dict[str, Any]]:
        """What each has counted, by its number; without those that do not answer."""
        found = await asyncio.gather(*map(self._ask, range(self._count)))
        return {number: one for number, one in enumerate(found) if one is not None}

    async def _ask(self, number: int) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_ASKED_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / str(number))
                try:
                    told: dict[str, Any] = orjson.loads(await reader.read())
                    return told
                finally:
                    writer.close()
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None


def joined(texts: dict[int, str]) -> str:
    """Prometheus' text of several processes as one, each series with the number of its process."""
    families: dict[str, list[str]] = defaultdict(list)
    for number, text in texts.items():
        label, family, fresh = f'process="{number}"', "", False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                fresh = family not in families
            if line.startswith("#"):
                families[family] += [line] if fresh else []
            elif line:
                name, brace, rest = line.partition("{")
                name, space, value = (name, "", "") if brace else line.partition(" ")
                families[family].append(f"{name}{{{label},{rest}" if brace else f"{name}{{{label}}}{space}{value}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def summed(statistics: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Statistics of the same models in several processes: numbers are added, but for the time of the last one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in (model for process in statistics for model in process):
        key = (one["name"], one["version"])
        found[key] = _added(found[key], one) if key in found else one
    return list(found.values())


def _added(one: Any, other: Any, name: str = "") -> Any:
    if isinstance(one, dict):
        return {key: _added(one[key], other[key], key) for key in one}
    if isinstance(one, int):
        return max(one, other) if name == "last_inference" else one + other
    return one


# --- the parent


def serve(
    path: str | os.PathLike[str], options: Options, listen: Listen, announce: Callable[[Listening], None]
) -> None:
    """Serve with ``options.processes`` processes until a signal says stop; ``announce`` is called when all answer.

    Raises :class:`ArgumentError` where the system cannot share a port, and what
    :func:`onnxpool.serve.server.serve` and :class:`onnxpool.serve.repository.Repository` raise: as
    :class:`SessionError` where a process did not start.
    """
    if not hasattr(socket, "SO_REUSEPORT") or not hasattr(socket, "AF_UNIX"):
        raise ArgumentError(f"processes={options.processes}: this system has no ports that processes can share; use 1")
    from onnxpool.serve.server import bound

    with contextlib.ExitStack() as stack:
        rest = stack.enter_context(bound(listen))
        if listen.grpc_port is not None:
            held = stack.enter_context(_held(listen))
            listen = replace(listen, grpc_port=held.getsockname()[1])
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxpool-")))
        family = _Family(path, replace(options, control=False), listen, rest, folder)
        with family.signals():
            family.run(announce)


def _held(listen: Listen) -> socket.socket:
    """The port of gRPC, kept from others and refused where another has it; it takes no connections itself."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((listen.host, listen.grpc_port))
        port = probe.getsockname()[1]
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((listen.host, port))
    return held


class _Family:
    """Processes, each with a pipe over which it says that it listens, or why not; it ends when the pipe does."""

    def __init__(
        self, path: str | os.PathLike[str], options: Options, listen: Listen, rest: socket.socket, folder: Path
    ) -> None:
        self._given = (os.fspath(path), options, listen, rest, folder, logging.getLogger().level)
        self._count = options.processes
        self._ends_s = listen.drain_delay_s + listen.drain_s + 1
        self._there: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._stopping = False
        self._spawn = get_context("spawn")

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Signals that stop a server are passed on."""

        def stop(_: int, __: FrameType | None) -> None:
            self._stopping = True
            self._given[3].close()  # so that nobody connects to what has no process
            self._terminate()

        from onnxpool.serve.server import stopping_signals

        before = {one: signal.signal(one, stop) for one in stopping_signals()}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def run(self, announce: Callable[[Listening], None]) -> None:
        """Start them, then start those again that die, until all are to stop."""
        try:
            for number in range(self._count):
                self._start(number)
            listening = [self._said(number) for number in range(self._count)]
            if not self._stopping and listening[0] is not None:
                announce(listening[0])
            while not self._stopping:
                self._watch()
        finally:
            self._stopping = True
            self._terminate()
            end_s = time.monotonic() + self._ends_s + _SPARE_S
            for process, pipe in self._there.values():
                process.join(max(0, end_s - time.monotonic()))
                process.kill()
                process.join()
                pipe.close()

    def _start(self, number: int) -> None:
        here, there = self._spawn.Pipe()
        process = self._spawn.Process(target=_process, args=(*self._given, number, there), name=f"onnxpool-{number}")
        process.start()
        there.close()
        self._there[number] = (process, here)

    def _said(self, number: int) -> Listening | None:
        process, pipe = self._there[number]
        try:
            said = pipe.recv()
        except EOFError:
            if self._stopping:
                return None
            process.join()
            raise SessionError(f"process {number} ended with status {process.exitcode} before it listened") from None
        if isinstance(said, str):
            raise SessionError(said)
        listening: Listening = said
        return listening

    def _watch(self) -> None:
        """Wait until one has died; start it again."""
        sentinels = {process.sentinel: number for number, (process, _) in self._there.items()}
        dead = wait(list(sentinels), 0.2)
        for sentinel in dead if not self._stopping else ():
            number = sentinels[sentinel]  # type: ignore[index]
            process, pipe = self._there[number]
            process.join()
            pipe.close()
            log.warning("process %d ended with status %s; it is started again", number, process.exitcode)
            time.sleep(_AGAIN_S)
            if not self._stopping:
                self._start(number)

    def _terminate(self) -> None:
        for process, _ in self._there.values():
            with contextlib.suppress(ValueError, OSError):
                process.terminate()


# --- a process


def _process(
    path: str,
    options: Options,
    listen: Listen,
    rest: socket.socket,
    folder: Path,
    log_level: int,
    number: int,
    pipe: Connection,
) -> None:
    logging.basicConfig(format=f"onnxpool {number}: %(message)s", level=log_level)
    from onnxpool.serve.repository import Repository
    from onnxpool.serve.server import serve

    def end_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        repository = Repository(path, options)
        threading.Thread(target=end_with_parent, daemon=True).start()
        serve(repository, listen, pipe.send, shared=rest, siblings=Siblings(folder, number, options.processes))
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(str(error))
        raise SystemExit(1) from None
