"""REST's connections: how long one may be silent, how large a head may be, and which are closed where there are many.

    a head         within ``head_s`` after the connection, or after its first byte        408, or nothing was said
    TLS            agreed upon within ``head_s``
    between two    ``idle_s`` after an answer
    headers        at most 64 KiB together with the address                               431
                   one Host, and no CONNECT                                               400
    an answer      something of it is read every ``idle_s``, once the connection should be closed every ``head_s``
    others         some 200 requests wait behind one; what follows them is not parsed yet
    half closed    what is whole is answered, each within 1 s after the last or after its client closed its side
    connections    as many as the process may open files, less what it needs itself

Above that number the connection that has been silent for longest is closed: first those that have never asked anything,
then those that wait for another request. Where every one has a request in flight, what comes is answered 503, but for
health, which is always answered.

No request becomes another protocol: ``Upgrade``, by which Java and curl ask for HTTP/2, is ignored. What follows a body
in chunks is no header.
"""

import asyncio
import logging
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from onnxpool.serve.flow import Flow, Full, Whole

MOST_HEAD_BYTES = 64 << 10
"""Address and headers of one request."""

MOST = 1024
"""Connections of REST, where as many files can be opened."""

ACCEPTED = 32
"""Connections taken at once, before any of them is known and counted."""

MOST_WAITING = 16
"""Requests of one connection that wait for the answer to another, before no more of them are parsed."""

_PIECE_BYTES = 4 << 10
"""So much is parsed at once where it is no body: some 200 requests at most, beside those that wait."""

_HALF_S = 1.0
"""A client that says no more may still read, or have left, which looks the same until it is written to."""

_SPARE = 5 * ACCEPTED
"""Files for what is taken and not yet counted, for models that are loaded, and to answer health."""


_log = logging.getLogger("onnxpool.serve.http")
_log.setLevel(logging.ERROR)  # what strangers send is theirs, and fills no log


def room(grpc: bool) -> tuple[int, int]:
    """How many connections REST and gRPC may have; a quarter is gRPC's."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where the number of sockets is another matter
        return MOST, MOST
    here = Path("/proc/self/fd")
    used = sum(1 for _ in here.iterdir()) if here.is_dir() else _SPARE
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = 4 * MOST if limit == resource.RLIM_INFINITY else max(limit - used - _SPARE, 16)
    return min(MOST, free * 3 // 4 if grpc else free), min(MOST, free // 4)


class Connections:
    """Every connection of one server."""

    def __init__(self, most: int, head_s: float) -> None:
        self.most = most
        self.head_s = head_s
        self.all: set[Connection] = set()
        self.silent: dict[Connection, None] = {}
        """Those that have not asked anything yet, the oldest first."""
        self.idle: dict[Connection, None] = {}
        """Those that wait for another request, the longest first."""

    @property
    def busy(self) -> int:
        """How many have a request in flight."""
        return len(self.all) - len(self.silent) - len(self.idle)

    @property
    def full(self) -> bool:
        """Whether there is no room for another request."""
        return len(self.all) > self.most

    def enter(self, connection: "Connection") -> None:
        """Count one more, and close another where they are too many."""
        self.all.add(connection)
        self.silent[connection] = None
        while len(self.all) > self.most:
            oldest = next((one for one in chain(self.silent, self.idle) if one is not connection), None)
            if oldest is None:
                break
            self.end(oldest)
        if len(self.all) > self.most + ACCEPTED:
            self.end(connection)

    def end(self, connection: "Connection") -> None:
        """Close one at once."""
        connection.transport.abort()
        self.leave(connection)

    def leave(self, connection: "Connection") -> None:
        """Count one less."""
        self.all.discard(connection)
        self.silent.pop(connection, None)
        self.idle.pop(connection, None)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits."""

    def __init__(self, connections: Connections, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, state, app_state)
        self.logger = _log
        self._of = connections
        self._app = self.app
        self._refused = 0
        self._again = self._rest = b""
        self._left = 0
        self._deaf = self._half = False
        self._unread: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for its first head."""
        super().connection_made(transport)
        self.flow = self._flow = Flow(transport)
        self._of.enter(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it, and tell the request that is being answered, where others have come after it."""
        self._stop_waiting()
        self._stop_looking()
        self._rest = b""
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._of.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that has begun must end."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._rest += data
        self._take()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client says no more: what is whole is answered, unless TLS ends with it or it takes long."""
        if self.scheme == "https" or not self._in_flight:
            return False
        self._refuse(400)  # what is not whole
        self._half = self._deaf
        if self._half:
            self._wait_half()
        return self._half

    def _wait_half(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(_HALF_S, self._of.end, self)

    def _take(self) -> None:
        """Parse what came, until enough requests wait."""
        rest, begin = memoryview(self._rest), 0
        while begin < len(rest) and len(self.pipeline) < MOST_WAITING:
            size = _PIECE_BYTES if self._in_head else max(self._left, _PIECE_BYTES)
            piece = rest[begin : begin + size]
            begin += size
            if self._in_head:
                self._head_bytes += len(piece)
            else:
                self._left -= len(piece)
            try:
                self._parse(piece)
            except httptools.HttpParserError as error:
                self.send_400_response(str(error))
            if self._in_head and self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431)
            if self._deaf or self.transport.is_closing():
                begin = len(rest)
        self._rest = bytes(rest[begin:])
        self._flow.hold(bool(self._rest))
        if not self.transport.is_closing() and not self._in_flight and self._deadline is None:
            self._wait()

    def _parse(self, data: bytes | memoryview) -> None:
        """Parse this; a head with Upgrade, after which the parser would not read a body, is parsed again without it."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                (end,) = upgrade.args
                data, self._again = self._again + data[end:], b""
                self.parser = httptools.HttpRequestParser(self)  # which knows of no head that was the last
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            else:
                return

    # --- what the parser found

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._size = self._hosts = self._left = 0

    def on_url(self, url: bytes) -> None:
        """A part of its address."""
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers, or of what follows its body."""
        self._grow(len(name) + len(value) + 4)
        if self._in_head:
            kind = name.lower()
            self._hosts += kind == b"host"
            if kind == b"content-length":
                self._left = int(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is whole; two names of the server are refused, as HTTP has it, and a tunnel."""
        method = self.parser.get_method()
        if self._hosts > 1 or method == b"CONNECT":
            raise ValueError("a head that means two things")  # the parser stops, as above
        if self.parser.should_upgrade():
            head = b"%s %s HTTP/%s\r\n" % (method, self.url, self.parser.get_http_version().encode())
            kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self._again = b"".join([head, *kept, b"\r\n"])
            return
        self._in_head = False
        self._stop_waiting()
        self._of.silent.pop(self, None)
        self._of.idle.pop(self, None)
        self.app = Full(self._app) if self._of.full else self._app
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle
        self.cycle.transport = Whole(self.transport, self.cycle, self._close)  # type: ignore[assignment] # as much as it asks for

    def on_message_complete(self) -> None:
        """It is whole, unless it is parsed again."""
        if self._again:
            return
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def on_response_complete(self) -> None:
        """It is answered; where its body has not come, that is not waited for much longer."""
        if self._answering is not None:
            self._answering.transport.flush()  # type: ignore[attr-defined] # it is a Whole
        self._answering = self.pipeline[-1][0] if self.pipeline else None  # which begins now
        super().on_response_complete()
        if self._rest and len(self.pipeline) < MOST_WAITING and not self.transport.is_closing():
            self._take()
        if self._half:
            self._wait_half()
            if self.transport.is_closing():
                self._stop_waiting()
        if not self.transport.is_closing() and not self._in_flight:
            self._of.idle[self] = None
            if not self._in_head:
                self._wait()

    # --- limits

    @property
    def _in_flight(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _grow(self, more: int) -> None:
        self._size += more
        if self._size > MOST_HEAD_BYTES:
            self._refused = 431
            raise ValueError("the headers are too large")  # the parser stops, and says so in send_400_response

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """What cannot be parsed, or is too much."""
        self._refuse(self._refused or 400)

    def _refuse(self, status: int) -> None:
        """Say so, and close; whole requests that came before are answered first, and nothing is said after that."""
        last = self.cycle if self._in_flight else None
        if last is not None and last.more_body and self.pipeline:  # it is the one that is refused, and not begun
            self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self._answering
            assert last is not None
            self.cycle = last
        if last is not None and not last.more_body:
            last.keep_alive = False
            last.default_headers = [*last.default_headers, (b"connection", b"close")]  # of itself uvicorn 0.54 says so
            self._deaf = True
            self.flow.pause_reading()
            return
        if last is None or not last.response_started:
            line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
            self.transport.write(f"{line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        if last is not None:
            last.disconnected = True
            last.message_event.set()
        self._close()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for too long."""
        self._close()

    def shutdown(self) -> None:
        """Close it when its request is answered."""
        super().shutdown()
        if self.transport.is_closing():
            self._close()

    def pause_writing(self) -> None:
        """More was said than the client has read; it must read on."""
        super().pause_writing()
        self._look_on(self.timeout_keep_alive)

    def resume_writing(self) -> None:
        """It has read most of it."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_looking()

    def _close(self) -> None:
        """Close when all is sent that was said, which a client that reads nothing would keep from ever happening."""
        self.transport.close()
        self._look_on(self._of.head_s)

    def _look_on(self, every_s: float) -> None:
        """End it where so much is still left after a while."""
        self._stop_looking()
        left_bytes = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() >= left_bytes:
                self.transport.abort()
            else:
                self._look_on(every_s)

        if left_bytes:
            self._unread = self.loop.call_later(every_s, look)

    def _stop_looking(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self._of.head_s, self._late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._in_head and self._head_bytes:
            self._refuse(408)
        else:
            self._close()
