"""The inference server: the Open Inference Protocol, version 2, over REST and gRPC, for models that were tried first.

    limits.py      what a client may ask for, and refusals          trial.py       golden inputs, before a model serves
    tensors.py     bytes and JSON numbers to arrays                 batcher.py     requests that run together
    requests.py    rules that REST and gRPC share                   repository.py  models, versions, replacement
    codec.py       REST bodies                                      service.py     what any protocol calls
    numbers.py     long lists in them                               metrics.py     for Prometheus
    bodies.py      reading them
    access.py      a line for each request                          openapi.py     REST's description
    guard.py       who may ask                                      patience.py    until when, and for whom
    app.py         the ASGI application                             responses.py   JSON answers and refusals
    inference.py   its inference, without a framework's layers
    messages.py    gRPC's messages                                  rpc.py         the gRPC server
    rpc_standard.py   gRPC's own health and reflection
    connections.py REST's connections, and their ends
    tls.py         certificates of both                             tracing.py     spans of OpenTelemetry
    processes.py   several that share the ports                     siblings.py    what all of them have counted
    processors.py  how many a process may use
    server.py      both on their ports, until SIGTERM               listening.py   which, and what the operator is told
    pictures.py    pictures and feature maps, for the page          page.html      at /

>>> app = application(Repository("models"))  # doctest: +SKIP
"""

from onnxpool.errors import MissingExtra

try:
    from onnxpool.serve.app import application
    from onnxpool.serve.limits import Options
    from onnxpool.serve.repository import Repository
except ModuleNotFoundError as _error:
    _missing = (_error.name or "").partition(".")[0]
    if _missing in ("starlette", "orjson", "prometheus_client"):
        raise MissingExtra(_missing, "serve", "serving") from _error
    raise

__all__ = ["Options", "Repository", "application"]
