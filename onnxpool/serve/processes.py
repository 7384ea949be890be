"""Several processes that serve the same models on the same ports, and one that watches over them.

    parent      opens the ports, starts the processes, passes signals on, and starts one again that has died: after a
                second, and ever later where it dies before it listens; it gives up when none listens
    process i   a whole server: its own sessions, queues, limits and look-out for replaced files

REST's connections go to whichever process takes them first from the socket that all inherit; gRPC's are spread by the
system over one socket for each process (SO_REUSEPORT). A client stays with the process that has its connection.
Readiness is that of the process that answers. What is counted is asked of every process, whichever answers:
``/metrics`` has the series of each, with ``process="i"``; statistics are their sums. Clients may not load or unload
models, since one process would not tell the others; each finds replaced files by itself.
"""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from onnxpool.errors import ArgumentError, SessionError
from onnxpool.serve.limits import Options
from onnxpool.serve.listening import Listen, Listening
from onnxpool.serve.siblings import Siblings

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_AGAIN_S = 1.0
"""How long a process that has died is not started again; twice as long each time that it was not started well."""

_MOST_AGAIN_S = 60.0

_STEADY_S = 60.0
"""A process that has listened for so long was started well, whatever ends it."""

_TRIES = 5
"""So many starts in a row of every process, and none was started well: that is the end."""

_MOST_PATH_BYTES = 90
"""Of the folder of Unix sockets, whose paths have some 100 bytes at most."""

_SPARE_S = 2.0
"""After a process should have ended by itself, it is killed."""


log = logging.getLogger("onnxpool.serve")


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
        if len(os.fsencode(folder)) > _MOST_PATH_BYTES:
            raise ArgumentError(f"processes meet in sockets, whose paths are short, and {folder} is not: set TMPDIR")
        family = _Family(path, replace(options, control=False), listen, rest, folder)
        with family.signals():
            family.run(announce)


def _held(listen: Listen) -> socket.socket:
    """The port of gRPC, kept from others and refused where another has it; it takes no connections itself."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.grpc_port))
            port = probe.getsockname()[1]
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((listen.host, port))
    except OSError as error:
        held.close()
        place = f"{listen.netloc}:{listen.grpc_port}"
        raise OSError(f"gRPC cannot listen on {place}: {error.strerror}; name another port") from error
    return held


@dataclass(eq=False, slots=True)
class _Child:
    """A process, and a pipe over which it says that it listens, or why not; it ends when the pipe does."""

    process: "SpawnProcess"
    pipe: Connection
    failed: int
    listening: Listening | None = None
    since_s: float = float("inf")
    """When it said that it listens."""
    reason: str = ""
    again_s: float | None = None
    """When another takes its place, since it has died."""

    def hear(self) -> None:
        """Take what it says; wait until it does, or has ended."""
        with contextlib.suppress(EOFError, OSError):
            said = self.pipe.recv()
            if isinstance(said, str):
                self.reason = said
            else:
                self.listening, self.since_s = said, time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether it is not there, and too many starts in a row came to nothing."""
        return self.failed >= _TRIES and (self.listening is None or self.again_s is not None)

    def end(self) -> float:
        """It has died; how long it is not started again."""
        self.process.join()
        for _ in range(2):  # that it listens, and why it does no longer
            self.hear()
        self.pipe.close()
        steady = time.monotonic() - self.since_s >= _STEADY_S
        return self.put_off(0 if steady else self.failed + 1)

    def put_off(self, failed: int) -> float:
        """So many starts have failed in a row; how long there is no other."""
        self.failed = failed
        wait_s: float = min(_AGAIN_S * 2**failed, _MOST_AGAIN_S)
        self.again_s = time.monotonic() + wait_s
        return wait_s


class _Family:
    """Processes that are started again until all are to stop."""

    def __init__(
        self, path: str | os.PathLike[str], options: Options, listen: Listen, rest: socket.socket, folder: Path
    ) -> None:
        self._given = (os.fspath(path), options, listen, rest, folder, logging.getLogger().level)
        self._count = options.processes
        self._ends_s = listen.drain_delay_s + listen.drain_s + 1
        self._there: dict[int, _Child] = {}
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
            for child in self._there.values():
                child.process.join(max(0, end_s - time.monotonic()))
                child.process.kill()
                child.process.join()
                child.pipe.close()

    def _start(self, number: int, failed: int = 0) -> None:
        here, there = self._spawn.Pipe()
        process = self._spawn.Process(target=_process, args=(*self._given, number, there), name=f"onnxpool-{number}")
        try:
            process.start()
        except (OSError, ValueError):
            here.close()
            if not self._stopping:  # where all are to stop, the port was closed
                raise
        else:
            self._there[number] = _Child(process, here, failed)
        finally:
            there.close()

    def _said(self, number: int) -> Listening | None:
        child = self._there.get(number)
        if child is not None:
            child.hear()
        if child is None or self._stopping:
            return None
        if child.listening is None:
            child.process.join()
            ended = f"process {number} ended with status {child.process.exitcode} before it listened"
            raise SessionError(child.reason or ended)
        return child.listening

    def _watch(self) -> None:
        """Wait until something happens; start those again that have died, unless none would stay."""
        alive = {child.process.sentinel: number for number, child in self._there.items() if child.again_s is None}
        pipes = [child.pipe for child in self._there.values() if child.again_s is None and child.listening is None]
        for happened in wait([*alive, *pipes], 0.2):
            if isinstance(happened, int) and not self._stopping:
                child = self._there[alive[happened]]
                wait_s = child.end()
                why = f": {child.reason}" if child.reason else ""
                status = child.process.exitcode
                log.warning(
                    "process %d ended with status %s%s; started again in %g s", alive[happened], status, why, wait_s
                )
        for child in self._there.values():
            if child.again_s is None and child.listening is None and child.pipe.poll():
                child.hear()
        if not self._stopping and all(child.lost for child in self._there.values()):
            raise SessionError(self._lost())
        for number, child in list(self._there.items()):
            if child.again_s is not None and child.again_s <= time.monotonic() and not self._stopping:
                try:
                    self._start(number, child.failed)
                except OSError as error:  # such as too little memory, which does not end the others
                    child.reason = str(error)
                    wait_s = child.put_off(child.failed + 1)
                    log.warning("process %d cannot be started: %s; tried again in %g s", number, error, wait_s)

    def _lost(self) -> str:
        there = self._there.values()
        reasons = {child.reason or f"the last ended with status {child.process.exitcode}" for child in there}
        listened = any(child.listening for child in there)
        what = f"each died {_TRIES} times within {_STEADY_S:g} s of its start" if listened else "none starts any more"
        return f"the server's processes are gone, {what}: {'; '.join(sorted(reasons))}"

    def _terminate(self) -> None:
        for child in list(self._there.values()):
            with contextlib.suppress(ValueError, OSError):
                child.process.terminate()


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
