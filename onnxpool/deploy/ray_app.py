"""The server as an application of Ray Serve: replicas in processes of their own, more of them under load.

Each replica hosts :func:`onnxpool.serve.application` with its own sessions, batching and look-out for replaced files.
One that dies is replaced; a request that it had is answered 500, and a client that asks again reaches another. Ray
routes each request to one replica, so that clients may not load or unload models, and ``/metrics`` tells of one.

    with running("models", Scale(max_replicas=4)) as listening: ...      here, or on a cluster that runs already
    write("models", "app.yaml", Scale(max_replicas=4))                   then, anywhere: serve deploy app.yaml
"""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxpool._files import complete
from onnxpool.deploy.cluster import LOOPBACK, cluster
from onnxpool.errors import ArgumentError
from onnxpool.serve import Options, Repository, application
from onnxpool.serve.listening import Listen, Listening, describe

NAME = "onnxpool"
"""Of the application and of its one deployment."""

_QUIET = {"log_level": "ERROR"}
_HEALTH_S = 1.0  # Ray looks every 10 s otherwise, and a dead replica is not replaced before


@dataclass(frozen=True)
class Scale:
    """From ``min_replicas`` to ``max_replicas``: as many as keep ``load`` requests in progress in each of them.

    There are more when that lasted ``up_after_s``, and fewer after ``down_after_s``.
    Raises :class:`ArgumentError` for numbers out of range.
    """

    min_replicas: int = 1
    max_replicas: int = 2
    load: int = 16
    up_after_s: float = 10.0
    down_after_s: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ArgumentError(
                f"min_replicas={self.min_replicas}, max_replicas={self.max_replicas}: use 1 <= min <= max"
            )
        for name, least in {"load": 1, "up_after_s": 0, "down_after_s": 0}.items():
            if not getattr(self, name) >= least:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be at least {least}")


@contextmanager
def running(
    models: str | os.PathLike[str],
    scale: Scale | None = None,
    options: Options | None = None,
    listen: Listen | None = None,
    address: str | None = None,
) -> Iterator[Listening]:
    """Serve a model file or a folder of models with Ray until the block ends.

    ``options.threads`` is 1 where not given: a replica counts as so many processors. ``address`` is that of a cluster
    that runs already, whose machines all see ``models``; by default one is started here, on loopback.

    Raises :class:`ArgumentError` for what Ray Serve cannot do, and for a release of Ray whose replicas would leave
    loopback where one is started here, and what :class:`Repository` raises.
    """
    scale, listen = scale or Scale(), listen or Listen()
    if listen.grpc_port is not None:
        raise ArgumentError(f"grpc_port={listen.grpc_port!r} is not for Ray, which hosts REST; leave it out")
    options = _options(options or Options(), listen)
    listening = describe(Repository(models, options), listen, port := listen.port or _free_port(listen.host), None)
    with cluster(address, processors=scale.max_replicas * options.session_threads):
        if address is None:
            _replica_module()
        serve = import_module("ray.serve")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="HeadOnly", http_options=_http(listen, port), logging_config=_QUIET)
        try:
            bound = _bound(str(Path(models).resolve()), options, scale, loopback=address is None)
            serve.run(bound, name=NAME, logging_config=_QUIET)
            yield listening
        finally:
            serve.shutdown()


def wait() -> None:
    """Wait for SIGTERM or Ctrl-C."""
    stop = threading.Event()
    before = {wanted: signal.signal(wanted, lambda *_: stop.set()) for wanted in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop.wait()
    finally:
        for wanted, handler in before.items():
            signal.signal(wanted, handler)


def write(
    models: str | os.PathLike[str],
    path: str | os.PathLike[str],
    scale: Scale | None = None,
    options: Options | None = None,
    listen: Listen | None = None,
) -> None:
    """Write the configuration file of the same application for ``serve deploy``; ``models`` is the path on the cluster.

    Raises :class:`ArgumentError` for a token, which has no place in such a file, and for TLS files and gRPC.
    """
    scale, options, listen = scale or Scale(), options or Options(), listen or Listen()
    if options.secrets:
        raise ArgumentError(
            "token would be readable in the configuration file; let a proxy in front of Ray ask for one"
        )
    if listen.grpc_port is not None or listen.tls_cert is not None:
        raise ArgumentError("grpc_port and tls_cert have no place in the configuration file; leave them out")
    arguments = {"models": os.fspath(models), "options": asdict(_options(options, listen)), "scale": asdict(scale)}
    content = {
        "proxy_location": "EveryNode",
        "http_options": {"host": listen.host, "port": listen.port},
        "applications": [
            {"name": NAME, "route_prefix": "/", "import_path": f"{__name__}:build", "args": arguments},
        ],
    }
    complete(Path(path), lambda file: file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def build(arguments: dict[str, Any]) -> Any:
    """What ``serve deploy`` calls: the application that a configuration file describes."""
    options = Options(**arguments["options"])
    return _bound(arguments["models"], options, Scale(**arguments["scale"]), loopback=False)


def _bound(models: str, options: Options, scale: Scale, *, loopback: bool) -> Any:
    """The application of Ray Serve; sessions are opened in the replicas."""
    serve = import_module("ray.serve")

    def hosted() -> Any:
        if loopback:
            _keep_to_loopback()
        return application(Repository(models, options))

    deployment = serve.deployment(
        serve.ingress(hosted)(),
        name=NAME,
        max_ongoing_requests=options.max_queue,
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.load,
            "upscale_delay_s": scale.up_after_s,
            "downscale_delay_s": scale.down_after_s,
        },
        ray_actor_options={"num_cpus": options.session_threads},
        health_check_period_s=_HEALTH_S,
        graceful_shutdown_timeout_s=options.timeout_s,
    )
    return deployment.bind()


def _replica_module() -> Any:
    """Ray's module in which a replica opens its port, by a function of Ray's own that another release may not have.

    Raises :class:`ArgumentError` where it does not.
    """
    replica = import_module("ray.serve._private.replica")
    if not hasattr(replica, "add_port_to_grpc_server"):
        raise ArgumentError(
            f"address=None: replicas of Ray {version('ray')} would listen on every interface, and onnxpool cannot keep "
            "them on loopback; install 'ray[serve]>=2.58', or give the address of a cluster"
        )
    return replica


def _keep_to_loopback() -> None:
    """A replica listens to others of its kind on every interface, whatever Ray is told; this is where it does."""
    replica = _replica_module()
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", LOOPBACK))


def _options(options: Options, listen: Listen) -> Options:
    """What fits replicas: threads that are counted, no change that only one of them would see."""
    return replace(listen.named(options), threads=options.threads or 1, control=False)


def _http(listen: Listen, port: int) -> dict[str, Any]:
    files = {"ssl_certfile": listen.tls_cert, "ssl_keyfile": listen.tls_key}
    return {"host": listen.host, "port": port} | {name: str(file) for name, file in files.items() if file}


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as free:
        port: int = free.getsockname()[1]
    return port
