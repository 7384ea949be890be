"""The inference server: the Open Inference Protocol, version 2, over REST and gRPC, for models that were tried first.

    limits.py      what a client may ask for, and refusals          trial.py       golden inputs, before a model serves
    tensors.py     bytes and JSON numbers to arrays                 batcher.py     requests that run together
    codec.py       REST bodies                                      repository.py  models, versions, replacement
    bodies.py      reading them                                     service.py     what any protocol calls
    guard.py       who may ask                                      metrics.py     for Prometheus
    app.py         the ASGI application                             openapi.py     its description
    messages.py    gRPC's messages                                  rpc.py         the gRPC server
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
