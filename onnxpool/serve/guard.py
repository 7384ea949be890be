"""Who may ask: the first thing that a request meets.

- The name under which the server is called must be one of ``hosts``, so that no web page reaches a server on loopback
  through a name of its own (421); health is told to probes that know an address alone.
- A request that a web page of another site makes is refused (403).
- With a token, ``Authorization: Bearer TOKEN`` (401), but for liveness, readiness and the page, which tell nothing.
"""

import hmac
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from onnxpool.errors import ArgumentError
from onnxpool.serve.limits import Options, Refusal
from onnxpool.serve.responses import refusal

HEALTH = ("/v2/health/live", "/v2/health/ready")
"""Paths that are answered under every name, and however many connections there are."""

OPEN = ("/", *HEALTH)
"""Paths that need no token."""


class Guard:
    """ASGI middleware that answers what it does not let through."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self.app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        app = self.app
        if scope["type"] == "http":
            try:
                self.check(scope["path"], Headers(scope=scope))
            except Refusal as refused:
                app = refusal(refused)
        await app(scope, receive, send)

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Refuse a request with these headers, whose names are in lower case."""
        host = headers.get("host", "")
        hosts = self.options.hosts
        if hosts is not None and path not in HEALTH and _part(f"//{host}", "hostname") not in hosts:
            raise Refusal(421, f"Host: {host:.80} is not served here; this server is called {', '.join(hosts)}")
        origin = headers.get("origin")
        if origin is not None and _part(origin, "netloc") != host:
            raise Refusal(403, f"Origin: {origin:.80} is another site")
        if path not in OPEN:
            authorize(headers.get("authorization"), self.options)


def authorize(given: str | None, options: Options) -> None:
    """Refuse (401) a request that does not carry the token; ``given`` is its Authorization header."""
    if not options.secrets:
        return
    same = [hmac.compare_digest((given or "").encode(), f"Bearer {secret}".encode()) for secret in options.secrets]
    if not any(same):  # after all were compared, so that the time tells nothing
        raise Refusal(401, "this server needs a token: Authorization: Bearer TOKEN")


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line; lines that are empty or begin with # are none.

    Raises :class:`ArgumentError` for a file that other users may read, or without a token.
    """
    if os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
        raise ArgumentError(f"{path} can be read by every user of this machine: chmod o-r {path}")
    lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise ArgumentError(f"{path} holds no token; make one with: openssl rand -hex 32")
    return tokens


@lru_cache(1024)
def _part(url: str, part: str) -> str | None:
    try:
        found: str | None = getattr(urlsplit(url), part)
    except ValueError:  # such as an unclosed bracket
        return None
    return found
