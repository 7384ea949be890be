"""REST's inference, the path that every request of a client takes: plain ASGI, without a framework's layers.

    POST /v2/models/NAME[/versions/VERSION]/infer

What comes is checked in the same order as everything else of REST (:mod:`onnxpool.serve.app`), and answered with the
same headers and refusals. The task of the request does it all: a client is watched only where its answer takes longer
than others (:mod:`onnxpool.serve.patience`).
"""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from onnxpool.serve import bodies, codec
from onnxpool.serve.access import client_of, path_of
from onnxpool.serve.guard import Guard
from onnxpool.serve.limits import Refusal
from onnxpool.serve.patience import Patience
from onnxpool.serve.responses import FAILED, answer, refusal
from onnxpool.serve.service import Service

_MODELS, _INFER = "/v2/models/", "/infer"
_LENGTH = codec.HEADER.lower()
_WANTED = frozenset(("host", "origin", "authorization", "content-encoding", "x-request-id", "traceparent", _LENGTH))

Headers = dict[str, str]

log = logging.getLogger("onnxpool.serve")


class Inference:
    """ASGI middleware that answers inference itself, and passes on all else."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self.guard = Guard(app, service.options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        model = _model(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if model is None:
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        access = self.service.access
        given, parent = headers.get("x-request-id", ""), headers.get("traceparent", "")
        line = access.begin("rest", client_of(scope), "POST", path_of(scope), given, parent)
        try:
            status, body, own = await self._answered(*model, scope, headers, receive)
            line.status = status
            line.size_bytes = len(body)
            told = [(name.encode(), value.encode()) for name, value in own.items()]
            told.append((b"content-length", str(len(body)).encode()))
            told = line.headers(told, closing=self.service.draining)
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": body})
        finally:
            access.end(line)

    async def _answered(
        self, name: str, version: str, scope: Scope, headers: Headers, receive: Receive
    ) -> tuple[int, bytes, Headers]:
        """Status, body and headers of the answer, whatever comes."""
        try:
            self.guard.check(scope["path"], headers)
            body, own = await self._infer(name, version, headers, receive)
        except Refusal as refused:
            response = refusal(refused)
        except Exception:
            log.exception("inference failed")
            response = answer(FAILED, 500)
        else:
            return 200, body, own
        own = {name: value for name, value in response.headers.items() if name != "content-length"}
        return response.status_code, bytes(response.body), own

    async def _infer(self, name: str, version: str, headers: Headers, receive: Receive) -> tuple[bytes, Headers]:
        service = self.service
        with service.counted("rest") as counted, service.holding() as held, Patience() as patience:
            encoding = headers.get("content-encoding")
            body = await bodies.received(receive, encoding, service.options, held, patience)
            served = counted(service.repository.get(name, version))
            most = service.options.max_tensor_bytes
            asked = await service.apart(len(body), codec.decode, served, body, headers.get(_LENGTH), most)
            patience.watch(receive)
            outputs = await service.infer(served, asked.feeds, patience, asked.timeout_s)
            size = sum(tensor.nbytes for tensor in outputs.values())
            return await service.apart(size, codec.encode, served, asked, outputs)


def _model(scope: Scope) -> tuple[str, str] | None:
    """Name and version in the address of an inference; None for any other address."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    path = path[len(root) :] if root and path.startswith(root) else path
    if not path.startswith(_MODELS) or not path.endswith(_INFER):
        return None
    name, *rest = path[len(_MODELS) : -len(_INFER)].split("/")
    if not name:
        return None
    if not rest:
        return name, ""
    return (name, rest[1]) if len(rest) == 2 and rest[0] == "versions" and rest[1] else None


def _headers(scope: Scope) -> Headers:
    """Those that inference reads, by their names; the first of several."""
    found: Headers = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1")
        if key in _WANTED:
            found.setdefault(key, value.decode("latin-1"))
    return found
