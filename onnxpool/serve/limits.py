"""What the server may be told, how much a client may ask of it, and how it says no.

Every number that bounds memory, time or waiting stands here, and is checked before the memory or the time is spent:

    JSON           at most 4 MiB, and 512 KiB of that besides lists of numbers             413
    a body         at most ``max_body_bytes`` as it comes and after decompression          413
    compression    at most ``MOST_RATIO`` times the bytes that came, and 1 MiB             413
    all bodies     at most ``max_pending_bytes`` that came and are not answered yet        503, Retry-After
    a tensor       at most ``max_tensor_bytes``: declared shape times element size         413
    waiting        at most ``max_queue`` requests per model                                429, Retry-After
    time           at most ``timeout_s`` for a body to come (408), and for an answer       504
    a slow body    ``GRACE_S`` and then no slower than ``LEAST_BYTES_PER_S``               408
"""

import os
import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.run.session import Kernels, Runtime
from onnxpool.serve.processors import processors

OnMismatch: TypeAlias = Literal["refuse", "warn"]

MOST_JSON_BYTES = 4 << 20
"""Of one request; larger tensors go as binary data."""

MOST_OTHER_JSON_BYTES = 512 << 10
"""Of that besides lists of numbers, since nothing else is served while it is parsed."""

MOST_RATIO = 100
"""How many times its size a body may have after decompression, above the first MiB."""

GRACE_S = 10.0
"""How long a body may come at any rate."""

LEAST_BYTES_PER_S = 8 << 10
"""How fast it must come after that, on the whole."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a model may be called: never a path."""

VERSION = re.compile(r"[1-9][0-9]{0,8}")
"""What a version may be called: a number."""


class Refusal(OnnxpoolError):  # noqa: N818 - it is the answer, not a fault
    """A request that is not served: ``status`` as in HTTP; ``retry_after_s`` where trying again may help."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Options:
    """How models are run, and what clients may ask; times end in ``_s``, sizes in ``_bytes``.

    ``kernels``, ``runtime`` and ``threads`` as in :func:`onnxpool.run.session.load`, but for the default of
    ``threads``: the processors that this process may use (:mod:`onnxpool.serve.processors`) but one, which the protocol
    needs, shared by as many ``processes`` as serve the same models. ``workers`` is how many batches of one model run at
    the same time. Requests of one item shape are joined to at most ``max_batch`` rows; one that finds a free worker
    waits ``max_delay_s`` for others.

    ``poll_s`` is the time between two looks for replaced files; 0 never looks. ``on_mismatch`` says what becomes of a
    model whose golden answers do not come out on this machine. ``require_certificate`` refuses models without a
    certificate that matches, and that the key in ``public_key``, a PEM file, has signed if it is given. ``libraries``
    are files of custom operators by others, which every session registers, in this process. ``control`` lets clients
    load and unload. A server is ready when one of its models is; with ``strict_readiness`` when all are.
    ``access_log`` writes a line for each request to standard error, and ``tracing`` sends OpenTelemetry's spans
    (:mod:`onnxpool.serve.tracing`). With a ``token``, or several ``tokens`` of which
    any will do, every request but those for liveness, readiness and the page must carry one. ``hosts`` are the names
    under which the server may be called, None for any.

    Raises :class:`ArgumentError` for a value out of range.
    """

    kernels: Kernels = "auto"
    runtime: Runtime = "onnxruntime"
    threads: int | None = None
    workers: int = 1
    processes: int = 1
    max_batch: int = 8
    max_delay_s: float = 0.0
    max_queue: int = 256
    timeout_s: float = 30.0
    max_body_bytes: int = 16 << 20
    max_pending_bytes: int = 256 << 20
    max_tensor_bytes: int = 64 << 20
    poll_s: float = 1.0
    on_mismatch: OnMismatch = "refuse"
    require_certificate: bool = False
    public_key: str | os.PathLike[str] | None = None
    libraries: tuple[str | os.PathLike[str], ...] = ()
    control: bool = True
    strict_readiness: bool = False
    access_log: Literal["off", "text", "json"] = "off"
    tracing: bool = False
    token: str | None = field(default=None, repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        least = {
            "workers": 1,
            "processes": 1,
            "max_batch": 1,
            "max_queue": 1,
            "max_body_bytes": 1,
            "max_tensor_bytes": 1,
        }
        for name, lowest in (least | {"max_delay_s": 0, "poll_s": 0, "max_pending_bytes": self.max_body_bytes}).items():
            if getattr(self, name) < lowest:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be {lowest} or more")
        if self.timeout_s <= 0:
            raise ArgumentError(f"timeout_s={self.timeout_s!r} must be more than 0")
        if self.on_mismatch not in get_args(OnMismatch):
            raise ArgumentError(f"on_mismatch={self.on_mismatch!r} is unknown; use one of {get_args(OnMismatch)}")
        if self.runtime not in get_args(Runtime):
            raise ArgumentError(f"runtime={self.runtime!r} is unknown; use one of {get_args(Runtime)}")
        if self.runtime == "openvino" and self.libraries:
            raise ArgumentError(f"libraries={self.libraries!r} are for ONNX Runtime; runtime='openvino' has none")
        if self.public_key is not None and not self.require_certificate:
            raise ArgumentError(f"public_key={str(self.public_key)!r} is for require_certificate=True")
        if self.access_log not in ("off", "text", "json"):
            raise ArgumentError(f"access_log={self.access_log!r} is unknown; use off, text or json")
        if any(len(token) < 16 for token in self.secrets):
            raise ArgumentError("token is shorter than 16 characters; make one with: openssl rand -hex 32")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every token that will do; none where none is asked for."""
        return self.tokens if self.token is None else (self.token, *self.tokens)

    @property
    def session_threads(self) -> int:
        """Threads inside one operator."""
        return self.threads or max(1, (processors() - 1) // self.processes)
