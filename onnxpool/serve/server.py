"""Both protocols on their ports, on one event loop, until SIGTERM or Ctrl-C.

Then readiness turns false, and after ``drain_delay_s`` no new connection is taken; every request that has arrived is
answered before the process ends, for ``drain_s`` at most. Answers say ``Connection: close`` from the signal on, and
SIGHUP is a SIGTERM; a Ctrl-C after either waits for nothing. Loopback is the default; a server on loopback answers only
to its usual names.
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import FrameType
from typing import Any, TypeAlias

from starlette.applications import Starlette

from onnxpool.errors import MissingExtra
from onnxpool.serve.app import application
from onnxpool.serve.listening import Listen, Listening, describe
from onnxpool.serve.repository import Repository
from onnxpool.serve.service import Service
from onnxpool.serve.siblings import Siblings
from onnxpool.serve.tls import Certificates

try:
    import uvicorn

    from onnxpool.serve.connections import ACCEPTED, Connection, Connections, room
except ModuleNotFoundError as error:
    raise MissingExtra((error.name or "uvicorn").partition(".")[0], "serve", "serving") from error

_WAITING = 1024
"""Connections that the system holds until they are taken."""

_REFUSING_S = 0.3
"""How long refusals may take that end a drain."""

_TRIM_S = 10
"""How often freed memory goes back to the system; it takes some milliseconds."""

Announce: TypeAlias = Callable[[Listening], None]

log = logging.getLogger("onnxpool.serve")


class _Limit:
    """Ends the process some time after it was asked to stop, even where a thread never ends."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def start(self, seconds: float) -> None:
        """Begin to count, once."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._end)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """It ended by itself."""
        if self._timer:
            self._timer.cancel()

    @staticmethod
    def _end() -> None:
        log.warning("something goes on that does not stop; the process ends without it")
        logging.shutdown()
        os._exit(0)


def serve(
    repository: Repository,
    listen: Listen,
    announce: Announce = lambda _: None,
    *,
    shared: socket.socket | None = None,
    siblings: Siblings | None = None,
) -> None:
    """Serve until a signal says stop; ``announce`` is called when requests are answered.

    ``shared`` is REST's socket where ``siblings``, other processes, take connections from it, too. The process ends a
    second after the drain at the latest, even where a run or a load never ends.

    Raises :class:`MissingExtra` for gRPC without grpcio, and OSError where a port is taken or a TLS file is no good.
    """
    gc.set_threshold(20_000)  # a request makes no cycles, but many objects
    gc.freeze()  # what is there now stays, so that collecting garbage after a load does not stop the event loop
    limit = _Limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        service = runner.run(_serve(repository, listen, announce, limit, shared, siblings))
    service.access.flush()
    if service.access.tracing is not None:
        service.access.tracing.close()
    if not service.busy():
        limit.cancel()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where that is installed; None for asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@asynccontextmanager
async def _returning_memory() -> AsyncIterator[None]:
    """Give the system back what is freed, where the C library is glibc: else large bodies would make the process grow.

    Blocks of 1 MiB and more are mapped, and so returned when they are freed; by itself glibc soon takes them from its
    heaps. What it keeps in gaps of the heaps goes back every few seconds.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
        trim = libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return

    async def regularly() -> None:
        while True:
            await asyncio.sleep(_TRIM_S)
            await asyncio.to_thread(trim, 0)

    trimming = asyncio.create_task(regularly())
    try:
        yield
    finally:
        trimming.cancel()


async def _serve(
    repository: Repository,
    listen: Listen,
    announce: Announce,
    limit: _Limit,
    shared: socket.socket | None,
    siblings: Siblings | None,
) -> Service:
    app = application(repository, listen.named(repository.options), siblings)
    with bound(listen) if shared is None else shared as rest_socket:
        server = _Server(app, listen, limit)
        server.config.load()
        grpc_port = await server.start_rpc(shared=shared is not None)
        ports = (rest_socket.getsockname()[1], grpc_port)
        server.on_ready = lambda: announce(describe(repository, listen, *ports))
        async with _returning_memory(), siblings.telling(server.service) if siblings else nullcontext():
            await server.serve(sockets=[rest_socket])
    return server.service


def bound(listen: Listen) -> socket.socket:
    """The socket of REST, which does not listen yet.

    Its protocol is named, since asyncio turns Nagle's algorithm off for named ones only.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not refused for a connection of a server before
    try:
        bound.bind((listen.host, listen.port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {listen.netloc}:{listen.port}: {error.strerror}; name another port") from error
    return bound


class _Server(uvicorn.Server):
    """uvicorn's server with a gRPC server beside it; a signal stops both, and is not raised again afterwards."""

    def __init__(self, app: Starlette, listen: Listen, limit: _Limit) -> None:
        self.service: Service = app.state.service
        self.listen = listen
        self.limit = limit
        cert, key = listen.tls_cert, listen.tls_key
        self.certificates = Certificates(cert, key, listen.tls_client_ca) if cert and key else None
        self.rpc: Any = None
        self.on_ready: Callable[[], None] = lambda: None
        most, self.most_grpc = room(listen.grpc_port is not None)
        self.connections = Connections(most, listen.head_s)
        self.service.metrics.watch(self.connections)
        super().__init__(_config(app, listen))

    async def start_rpc(self, *, shared: bool) -> int | None:
        """Start gRPC where it is wanted; its port, which other processes may have, too, where it is ``shared``."""
        listen = self.listen
        if listen.grpc_port is None:
            return None
        try:
            from onnxpool.serve import rpc
        except ModuleNotFoundError as error:
            raise MissingExtra("grpcio", "grpc", "serving gRPC") from error
        self.rpc = rpc.server(self.service, self.most_grpc, shared=shared)
        address = f"{listen.netloc}:{listen.grpc_port}"
        try:
            if self.certificates:
                port: int = self.rpc.add_secure_port(address, self.certificates.credentials())
            else:
                port = self.rpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from error
        await self.rpc.start()
        return port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await self.lifespan.startup()
        limit_s = self.listen.head_s if self.config.ssl else None
        self.servers = []
        for bound in sockets or []:
            opened = await asyncio.get_running_loop().create_server(
                self._connection, sock=bound, ssl=self.config.ssl, backlog=ACCEPTED, ssl_handshake_timeout=limit_s
            )
            bound.listen(_WAITING)
            self.servers.append(opened)
        self.started = True
        self.on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, in uvicorn's main loop."""
        every = max(1, round(self.listen.renew_s * 10))
        if self.certificates and self.config.ssl and counter % every == every - 1:
            self.certificates.renew(self.config.ssl)
        return await super().on_tick(counter)

    def _connection(self) -> Connection:
        return Connection(self.connections, self.config, self.server_state, self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that it will stop, take nothing new on either side, wait for what is there, and stop what is left."""
        self.service.draining = True
        end_s = time.monotonic() + self.listen.drain_delay_s
        while time.monotonic() < end_s and not self.force_exit:
            await asyncio.sleep(0.02)
        for server in self.servers:
            server.close()
        for bound in sockets or []:
            bound.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.gather(self._drain(), *([self.rpc.stop(self.listen.drain_s)] if self.rpc else []))
        await self.lifespan.shutdown()

    async def _drain(self) -> None:
        """Wait for connections that are busy, then refuse what they wait for."""
        state = self.server_state
        for seconds, then in ((self.listen.drain_s, self.service.stop), (_REFUSING_S, self._cancel)):
            try:
                async with asyncio.timeout(seconds):
                    while (state.connections or state.tasks) and not self.force_exit:
                        await asyncio.sleep(0.02)
            except TimeoutError:
                log.warning("%d requests were not answered within %g s", len(state.tasks), seconds)
                then()
            else:
                return

    def _cancel(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the process ends, whatever happens on the way."""
        self.limit.start(self.listen.drain_delay_s + self.listen.drain_s + 1)
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without ending by the signal: a server that was asked to stop ends with status 0."""
        before = {wanted: signal.signal(wanted, self.handle_exit) for wanted in stopping_signals()}
        try:
            yield
        finally:
            for wanted, handler in before.items():
                signal.signal(wanted, handler)


def stopping_signals() -> list[signal.Signals]:
    """Those that stop a server: SIGHUP, too, but where it is ignored, as nohup wants it."""
    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def _config(app: Starlette, listen: Listen) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=listen.idle_s,  # type: ignore[arg-type] # asyncio takes any number
        ssl_certfile=listen.tls_cert,
        ssl_keyfile=listen.tls_key,
        ssl_ca_certs=None if listen.tls_client_ca is None else str(listen.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if listen.tls_client_ca is None else ssl.CERT_REQUIRED,
    )
