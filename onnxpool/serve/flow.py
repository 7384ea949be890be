"""What one connection of REST reads and writes through, and what is answered where there are too many."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from onnxpool.serve.guard import HEALTH
from onnxpool.serve.limits import Refusal
from onnxpool.serve.responses import refusal


class Flow(FlowControl):
    """Reads nothing where enough came that is not parsed yet, whoever asks for more."""

    _held = False

    def hold(self, held: bool) -> None:
        """Read nothing from now on, or again."""
        if held:
            self.pause_reading()
        self._held, freed = held, self._held and not held
        if freed:
            self.resume_reading()

    def resume_reading(self) -> None:
        """Read, unless it is held."""
        if not self._held:
            super().resume_reading()


class Whole:
    """The transport of one answer, which sends its head together with the body that follows."""

    __slots__ = ("_close", "_cycle", "_head", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle, close: Callable[[], None]) -> None:
        self._close = close
        self._transport = transport
        self._cycle = cycle
        self._head: bytes | None = None
        self.is_closing: Callable[[], bool] = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send this, unless it is the head, or nothing is sent any more."""
        if self.is_closing():
            return
        if self._head is None and self._cycle.response_started:
            self._head = data
        elif self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing follows."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """No more will be sent."""
        self.flush()
        self._close()


class Full:
    """An application that answers for its health alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        full = Refusal(503, "the server has as many connections as it can; try again later", 1)
        app = self.app if scope["path"] in HEALTH else refusal(full)
        await app(scope, receive, send)
