"""Several processes that serve the same models on the same ports, and one that watches over them.

    parent      opens the ports, starts the processes, starts one again that has died, passes signals on
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
from dataclasses import replace
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
"""How long a process that has died is not started again."""

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
