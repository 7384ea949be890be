"""What was asked and answered: a line for each request, as text or JSON, and an id by which both sides can find it.

    2026-11-29T00:12:01.123Z rest 127.0.0.1 POST /v2/models/soft/infer 200 1.9ms 215B id=5f3a9c01 trace=4bf92f35...
    {"time": "2026-11-29T00:12:01.123Z", "protocol": "rest", "client": "127.0.0.1", "method": "POST", ...}

A request may bring its id (``X-Request-Id``); else it gets one. The answer has it, too. The trace is that of W3C's
``traceparent``. Lines are written by a thread, and where they come faster than it writes, some are left out, and
counted. Health and metrics are not worth a line while they are answered well.
"""

import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias
from urllib.parse import quote

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnxpool.serve.tracing import Tracing

Form: TypeAlias = Literal["off", "text", "json"]

_HELD = 10_000
"""Lines that wait to be written."""

_EVERY_S = 0.2

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_DULL = ("/v2/health/", "/metrics", "ServerLive", "ServerReady")


@dataclass(slots=True)
class Line:
    """One request, and its answer; ``status`` is HTTP's, or the name of gRPC's."""

    time_s: float
    protocol: str
    client: str
    method: str
    path: str
    request_id: str
    trace_id: str
    status: int | str = 499
    seconds: float = 0.0
    size_bytes: int = 0
    begun: float = field(default_factory=time.perf_counter, repr=False)
    span: Any = field(default=None, repr=False)

    def headers(self, own: Iterable[tuple[bytes, bytes]], *, closing: bool) -> list[tuple[bytes, bytes]]:
        """Those of an answer of REST: its own, its id, not to guess its type, and where its connection ends, that."""
        told = [*own, (b"x-request-id", self.request_id.encode()), (b"x-content-type-options", b"nosniff")]
        return [*told, (b"connection", b"close")] if closing else told

    @property
    def dull(self) -> bool:
        """Whether nobody would look for it."""
        return self.status in (200, "OK") and self.path.startswith(_DULL)

    @property
    def at(self) -> str:
        """When it came, in UTC."""
        return datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def to_text(self) -> str:
        """For people."""
        trace = f" trace={self.trace_id}" if self.trace_id else ""
        return (
            f"{self.at} {self.protocol} {self.client} {self.method} {self.path} {self.status} "
            f"{self.seconds * 1e3:.1f}ms {self.size_bytes}B id={self.request_id}{trace}\n"
        )

    def to_json(self) -> str:
        """For machines."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.repr}
        return orjson.dumps({"time": self.at, **values}).decode() + "\n"


class AccessLog:
    """Writes lines to a stream, in a thread that begins with the first of them."""

    def __init__(self, form: Form, stream: TextIO | None = None, tracing: Tracing | None = None) -> None:
        self.form = form
        self.tracing = tracing
        self.lost = 0
        self._stream = stream or sys.stderr
        self._lines: deque[Line] = deque()
        self._thread: threading.Thread | None = None
        self._writing = threading.Lock()

    def add(self, line: Line) -> None:
        """Have a line written."""
        if self.form == "off" or line.dull:
            return
        if len(self._lines) >= _HELD:
            self.lost += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_on, name="onnxpool-access", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Write all that is there now."""
        with self._writing:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            told = [line.to_json() if self.form == "json" else line.to_text() for line in lines]
            if self.lost and self.form == "text":
                told.append(f"{self.lost} lines were left out\n")
            elif self.lost:
                told.append(orjson.dumps({"lost": self.lost}).decode() + "\n")
            self.lost = 0
            self._stream.write("".join(told))
            self._stream.flush()

    def _write_on(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            if self._lines:
                self.flush()

    @contextmanager
    def line(self, protocol: str, client: str, method: str, path: str, given_id: str, parent: str) -> Iterator[Line]:
        """A line to be filled in, which is written when the request is over."""
        line = self.begin(protocol, client, method, path, given_id, parent)
        try:
            yield line
        finally:
            self.end(line)

    def begin(self, protocol: str, client: str, method: str, path: str, given_id: str, parent: str) -> Line:
        """A line to be filled in, and given to :meth:`end`."""
        known = given_id if given_id and _ID.fullmatch(given_id) else f"{random.getrandbits(64):016x}"
        trace = _TRACE.fullmatch(parent) if parent else None
        line = Line(time.time(), protocol, client, method, path, known, trace.group(1) if trace else "")
        if self.tracing is not None:
            line.span = self.tracing.begin(line, parent)
        return line

    def end(self, line: Line) -> None:
        """The request is over."""
        line.seconds = time.perf_counter() - line.begun
        if self.tracing is not None:
            self.tracing.end(line.span, line)
        self.add(line)


def client_of(scope: Scope) -> str:
    """The address of who asks."""
    return (scope.get("client") or ("",))[0]


def path_of(scope: Scope) -> str:
    """The path as it was written."""
    return (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")


class Told:
    """ASGI middleware: a line for each request, and headers for every answer: its id, and not to guess its type.

    While the server is ``closing``, an answer also says that its connection ends.
    """

    def __init__(self, app: ASGIApp, access: AccessLog, closing: Callable[[], bool]) -> None:
        self.app = app
        self.access = access
        self.closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given, parent = headers.get("x-request-id", ""), headers.get("traceparent", "")
        with self.access.line("rest", client_of(scope), scope["method"], path_of(scope), given, parent) as line:

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    line.status = message["status"]
                    message["headers"] = line.headers(message.get("headers", ()), closing=self.closing())
                else:
                    line.size_bytes += len(message.get("body", b""))
                await send(message)

            await self.app(scope, receive, counted)
