"""Where a server listens, and what it tells its operator: models, addresses, a line for the shell, and warnings."""

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxpool.errors import ArgumentError
from onnxpool.serve.codec import HEADER
from onnxpool.serve.limits import Options
from onnxpool.serve.repository import Repository, Served
from onnxpool.serve.tensors import datatype

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine, by which a server on loopback is called."""


@dataclass(frozen=True)
class Listen:
    """Where to listen. ``port`` 0 takes a free one; ``grpc_port`` None: no gRPC; TLS with both files, for both.

    When the server is asked to stop, it goes on for ``drain_delay_s``, but is not ready; then it takes nothing new, and
    what has arrived is answered for ``drain_s`` at most. On REST's connections a head must come within ``head_s``, and
    another request within ``idle_s``: longer than clients and proxies keep a connection, since one that is closed just
    as a client writes to it loses that request. With ``tls_client_ca`` clients need a certificate that one of these
    authorities has signed. Whether TLS's files have changed is looked at every ``renew_s``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    drain_s: float = 30.0
    drain_delay_s: float = 0.0
    head_s: float = 10.0
    idle_s: float = 75.0
    tls_client_ca: Path | None = None
    renew_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("drain_s", "drain_delay_s", "head_s", "idle_s"):
            if not 0 <= getattr(self, name) <= threading.TIMEOUT_MAX / 4:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be a number of seconds, 0 or more")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ArgumentError("tls_cert and tls_key belong together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ArgumentError("tls_client_ca is for TLS: give tls_cert and tls_key, too")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def netloc(self) -> str:
        """The host as it stands in front of a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def named(self, options: Options) -> Options:
        """These options; a server on loopback answers only to its usual names where they say nothing else."""
        return replace(options, hosts=LOOPBACK) if options.hosts is None and self.loopback else options


@dataclass(frozen=True)
class Listening:
    """A server that answers now: what, where, a line for the shell that asks it, and what its operator should know."""

    models: tuple[str, ...]
    rest: str
    grpc: str | None
    curl: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)

    def text(self) -> str:
        """For people, and to be copied: lines are not wrapped."""
        where = f"REST: {self.rest}" + (f", gRPC: {self.grpc}" if self.grpc else "")
        return "\n".join([*self.models, *(f"warning: {one}" for one in self.warnings), where, "Try:", self.curl])


def describe(repository: Repository, listen: Listen, port: int, grpc_port: int | None) -> Listening:
    """What a server with these models says when it listens on these ports."""
    rest = f"{'https' if listen.tls_cert else 'http'}://{listen.netloc}:{port}"
    served = repository.serving()
    return Listening(
        models=tuple(f"{one.name} version {one.version}: {one.trial}; joins {one.trial.joins}" for one in served),
        rest=rest,
        grpc=f"{listen.netloc}:{grpc_port}" if grpc_port else None,
        curl=_curl(served[0], rest, listen, token=bool(repository.options.secrets)),
        warnings=tuple(_warnings(repository, listen)),
    )


def _warnings(repository: Repository, listen: Listen) -> Iterator[str]:
    for one in repository.serving():
        if one.trial.fault:
            yield f"{one.name} version {one.version} is served although {one.trial.fault}"
        if one.trial.untried:
            yield f"{one.name} version {one.version} is served untried: {one.trial}"
    if not listen.loopback and not repository.options.secrets:
        yield f"other machines can reach {listen.host}, and no token is asked for"
    if not listen.loopback and listen.tls_cert is None:
        yield f"what comes to {listen.host} is not encrypted"


def _curl(served: Served, rest: str, listen: Listen, *, token: bool) -> str:
    """A line that asks this model about zeros, whatever its types and sizes are."""
    inputs, total = [], 0
    for info in served.session.inputs:
        shape = served.trial.shapes[info.name]
        size = math.prod(shape) * info.dtype.itemsize
        binary = {"binary_data_size": size}
        inputs.append({"name": info.name, "datatype": datatype(info.dtype), "shape": shape, "parameters": binary})
        total += size
    head = json.dumps({"inputs": inputs}, separators=(",", ":"))
    quoted = head.replace("'", "'\\''")
    options = " --cacert " + str(listen.tls_cert) if listen.tls_cert else ""
    options += ' -H "Authorization: Bearer $TOKEN"' if token else ""
    return (
        f"{{ printf %s '{quoted}'; head -c {total} /dev/zero; }} | "
        f"curl -s{options} -H '{HEADER}: {len(head)}' --data-binary @- {rest}/v2/models/{served.name}/infer"
    )
