"""Whether a server could listen, asked before it imports anything and loads its models."""

import errno
import socket

from onnxpool.errors import ArgumentError


def check(host: str, **ports: int | None) -> None:
    """Raise :class:`ArgumentError` for a port that is taken or not allowed; ``ports`` are by the names of options.

    0 and None are not tried. Somebody may take a port after this: the server then says so itself.
    """
    for option, port in ports.items():
        if port is not None and not 0 <= port <= 65535:
            raise ArgumentError(f"{option}={port!r} must be from 0, for a free one, to 65535")
        if port and (reason := _why_not(host, port)):
            raise ArgumentError(f"{option}={port!r}: {reason}")


def _why_not(host: str, port: int) -> str:
    """Why nobody can listen there now, with the remedy; or nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
            tried.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"another program listens on {host}:{port}; name another port, 0 for a free one, or stop it"
            if error.errno == errno.EACCES:
                return f"you may not listen on {host}:{port}; ports from 1024 on need no permission"
            return f"nobody can listen on {host}:{port}: {error.strerror or error}; name an address of this machine"
    return ""
