"""Both protocols on their ports, on one event loop, until SIGTERM or Ctrl-C.

Then no new connection is taken, readiness turns false, and every request that has arrived is answered before the
process ends, for ``drain_s`` at most. Loopback is the default; a server on loopback answers only to its usual names.
"""

import asyncio
import ctypes
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from onnxpool.errors import MissingExtra
from onnxpool.serve.app import application
from onnxpool.serve.listening import Listen, Listening, describe
from onnxpool.serve.repository import Repository
from onnxpool.serve.service import Service

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise MissingExtra("uvicorn", "serve", "serving") from error

_CONNECTIONS = 1024
"""Connections at the same time; one more is answered 503."""

_TRIM_S = 10
"""How often freed memory goes back to the system; it takes some milliseconds."""

_KEEP_ALIVE_S = 75
"""How long an idle connection stays open: longer than clients and proxies keep it, since one that is closed just as a
client writes to it loses that request."""


def serve(repository: Repository, listen: Listen, announce: Callable[[Listening], None] = lambda _: None) -> None:
    """Serve until a signal says stop; ``announce`` is called when requests are answered.

    Raises :class:`MissingExtra` for gRPC without grpcio, and OSError where a port is taken or a TLS file is no good.
    """
    asyncio.run(_serve(repository, listen, announce))


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


async def _serve(repository: Repository, listen: Listen, announce: Callable[[Listening], None]) -> None:
    app = application(repository, listen.named(repository.options))
    with _bound(listen) as rest_socket:
        server = _Server(_config(app, listen), app.state.service, listen.drain_s)
        server.config.load()
        grpc_port = await server.start_rpc(listen)
        ports = (rest_socket.getsockname()[1], grpc_port)
        server.on_ready = lambda: announce(describe(repository, listen, *ports))
        async with _returning_memory():
            await server.serve(sockets=[rest_socket])


def _bound(listen: Listen) -> socket.socket:
    """The socket of REST. Its protocol is named, since asyncio turns Nagle's algorithm off for named ones only."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not refused for a connection of a server before
    try:
        bound.bind((listen.host, listen.port))
    except OSError:
        bound.close()
        raise
    return bound


def _config(app: Any, listen: Listen) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        backlog=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(listen.drain_s),
        ssl_certfile=listen.tls_cert,
        ssl_keyfile=listen.tls_key,
    )


class _Server(uvicorn.Server):
    """uvicorn's server with a gRPC server beside it; a signal stops both, and is not raised again afterwards."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self.service = service
        self.drain_s = drain_s
        self.rpc: Any = None
        self.on_ready: Callable[[], None] = lambda: None

    async def start_rpc(self, listen: Listen) -> int | None:
        """Start gRPC where it is wanted; its port."""
        if listen.grpc_port is None:
            return None
        try:
            import grpc

            from onnxpool.serve import rpc
        except ModuleNotFoundError as error:
            raise MissingExtra("grpcio", "grpc", "serving gRPC") from error
        self.rpc = rpc.server(self.service)
        address = f"{listen.netloc}:{listen.grpc_port}"
        try:
            if listen.tls_cert and listen.tls_key:
                pair = (listen.tls_key.read_bytes(), listen.tls_cert.read_bytes())
                port: int = self.rpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                port = self.rpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on {address}: {error}") from error
        await self.rpc.start()
        return port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new on either side, and wait for what is there."""
        self.service.draining = True
        stops = [super().shutdown(sockets)]
        if self.rpc:
            stops.append(self.rpc.stop(self.drain_s))
        await asyncio.gather(*stops)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without ending by the signal: a server that was asked to stop ends with status 0."""
        before = {wanted: signal.signal(wanted, self.handle_exit) for wanted in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for wanted, handler in before.items():
                signal.signal(wanted, handler)
