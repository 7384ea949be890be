"""The gRPC side: the same service, on the same event loop, with messages from :mod:`onnxpool.serve.messages`.

Tensors come as raw bytes or as typed contents, and go as raw bytes. A refusal's status in HTTP becomes gRPC's code.
Parameters that are not known are ignored, but for those that would change the answer.
"""

import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from onnxpool.run.session import TensorInfo
from onnxpool.serve import rpc_standard
from onnxpool.serve.guard import authorize
from onnxpool.serve.limits import Refusal
from onnxpool.serve.messages import CLASSES, METHODS, PACKAGE, Message, parsed
from onnxpool.serve.patience import Patience
from onnxpool.serve.repository import Served
from onnxpool.serve.requests import find, refuse, seconds, wanted
from onnxpool.serve.service import Service
from onnxpool.serve.tensors import Tensor, Tensors, check, datatype, from_bytes, from_numbers, to_bytes

Method: TypeAlias = Callable[..., Awaitable[Any]]

_OK, _CANCELLED = grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name
_FAILED = "the server failed; its log says why"

log = logging.getLogger("onnxpool.serve")

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where typed contents of each type are; the others come as raw bytes only."""


_TRANSPORT = {
    "keepalive_time_ms": 60_000,
    "keepalive_timeout_ms": 20_000,
    "keepalive_permit_without_calls": 1,
    "http2.min_ping_interval_without_data_ms": 10_000,  # clients that ping more often are sent away
    "max_connection_idle_ms": 600_000,
    "server_handshake_timeout_ms": 10_000,
    "max_metadata_size": 16 << 10,
    "max_concurrent_streams": 256,
}
"""A client that is gone is noticed within keepalive_time and timeout; one that only holds a connection loses it."""


def server(service: Service, most: int, *, shared: bool = False) -> grpc.aio.Server:
    """A server that answers for ``service`` on so many connections at most, to be given ports and started.

    Ports are ``shared`` with other processes, or are an error where another has them.
    """
    made = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.options.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(shared)),
            ("grpc.max_allowed_incoming_connections", most),
            *((f"grpc.{name}", value) for name, value in _TRANSPORT.items()),
        ]
    )
    made.add_generic_rpc_handlers((_handlers(_Rpc(service)), *rpc_standard.handlers(service)))
    return made


class _Rpc:
    """Methods over one service, each from a message to a message."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.repository = service.repository

    async def server_live(self, _: Any) -> Any:
        return Message("ServerLiveResponse", live=True)

    async def server_ready(self, _: Any) -> Any:
        return Message("ServerReadyResponse", ready=self.service.ready())

    async def server_metadata(self, _: Any) -> Any:
        return parsed("ServerMetadataResponse", self.service.server())

    async def model_ready(self, request: Any) -> Any:
        return Message("ModelReadyResponse", ready=self.service.model_ready(request.name, request.version))

    async def model_metadata(self, request: Any) -> Any:
        served = self.repository.get(request.name, request.version)
        return parsed("ModelMetadataResponse", self.service.model(served))

    async def model_config(self, request: Any) -> Any:
        served = self.repository.get(request.name, request.version)
        return parsed("ModelConfigResponse", {"config": self.service.config(served)})

    async def model_statistics(self, request: Any) -> Any:
        return parsed("ModelStatisticsResponse", await self.service.all_statistics(request.name, request.version))

    async def repository_index(self, request: Any) -> Any:
        _one_repository(request)
        return parsed("RepositoryIndexResponse", {"models": self.repository.index(ready=request.ready)})

    async def repository_model_load(self, request: Any) -> Any:
        _one_repository(request)
        await self.service.load(request.model_name, request.parameters)
        return Message("RepositoryModelLoadResponse")

    async def repository_model_unload(self, request: Any) -> Any:
        _one_repository(request)
        await self.service.unload(request.model_name)
        return Message("RepositoryModelUnloadResponse")

    async def model_infer(self, request: Any, size_bytes: int) -> Any:
        """The answer to a request, whose message had so many bytes."""
        service = self.service
        with service.counted("grpc") as found, service.holding() as held:
            held.add(size_bytes)
            served = found(self.repository.get(request.model_name, request.model_version))
            timeout_us = _parameters(request.parameters, "request").get("timeout")
            if timeout_us is not None and type(timeout_us) is not int:
                raise Refusal(400, "parameter 'timeout' must be an integer")
            feeds = await service.apart(size_bytes, _inputs, served, request, service.options.max_tensor_bytes)
            outputs = _outputs(served, request)
            with Patience() as patience:
                answers = await service.infer(served, feeds, patience, seconds(timeout_us))
            return _answer(served, request.id, [(name, answers[name]) for name in outputs])


# --- messages and tensors


def _inputs(served: Served, request: Any, max_tensor_bytes: int) -> Tensors:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise Refusal(400, f"there are {len(request.inputs)} inputs, but {len(raws)} raw_input_contents")
    feeds: Tensors = {}
    for i, entry in enumerate(request.inputs):
        info = find(served, entry.name, feeds)
        if entry.parameters:
            _parameters(entry.parameters, f"input {info.name!r}")
        shape = check(info, entry.datatype, [*entry.shape], max_tensor_bytes)
        if raws and entry.HasField("contents"):
            raise Refusal(400, f"input {info.name!r} has contents beside raw_input_contents")
        feeds[info.name] = from_bytes(info, shape, raws[i]) if raws else _typed(info, shape, entry.contents)
    return feeds


def _typed(info: TensorInfo, shape: tuple[int, ...], contents: Any) -> Tensor:
    """A tensor from typed contents; other than in JSON, its numbers may be NaN and infinite."""
    field = _CONTENTS.get(datatype(info.dtype))
    if wrong := [found.name for found, _ in contents.ListFields() if found.name != field]:
        raise Refusal(400, f"input {info.name!r} has {wrong}; {datatype(info.dtype)} comes as {field or 'raw bytes'}")
    values = getattr(contents, field) if field else ()
    if len(values) != math.prod(shape):
        raise Refusal(400, f"input {info.name!r} has {len(values)} values; its shape says {list(shape)}")
    if info.dtype.kind == "f":
        return from_bytes(info, shape, np.asarray(values, info.dtype).tobytes())
    return from_numbers(info, shape, [*values])


def _outputs(served: Served, request: Any) -> list[str]:
    for entry in request.outputs:
        if entry.parameters:
            _parameters(entry.parameters, f"output {entry.name!r:.80}")
    return wanted(served, [entry.name for entry in request.outputs])


def _answer(served: Served, given_id: str, outputs: list[tuple[str, Tensor]]) -> Any:
    answer = Message("ModelInferResponse", model_name=served.name, model_version=served.version, id=given_id)
    for name, tensor in outputs:
        answer.outputs.add(name=name, datatype=datatype(tensor.dtype), shape=tensor.shape)
        answer.raw_output_contents.append(to_bytes(tensor))
    return answer


def _parameters(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values by name; refuses (400) those that would change the answer."""
    if not given:
        return {}
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    values = {name: getattr(given[name], kind) if kind else None for name, kind in kinds.items()}
    refuse(values, where)
    return values


def _one_repository(request: Any) -> None:
    if request.repository_name:
        raise Refusal(400, f"repository_name={request.repository_name!r:.80} is unknown; there is one, without a name")


# --- methods, as gRPC calls them


def _snake(name: str) -> str:
    """The method of :class:`_Rpc` that answers, such as ``model_infer`` for ModelInfer."""
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()


def _handlers(rpc: _Rpc) -> grpc.GenericRpcHandler:
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_unary(f"{name}Request", getattr(rpc, _snake(name)), rpc.service))
        for name in METHODS
        if name != "ModelStreamInfer"
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_stream(rpc))
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.GRPCInferenceService", handlers)


def _unary(kind: str, method: Method, service: Service) -> Callable[[bytes, Any], Awaitable[bytes]]:
    name, access = kind.removesuffix("Request"), service.access
    sized = name == "ModelInfer"

    async def handle(body: bytes, context: Any) -> bytes:
        given = dict(context.invocation_metadata())
        known, parent = str(given.get("x-request-id", "")), str(given.get("traceparent", ""))
        line = access.begin("grpc", context.peer(), "RPC", name, known, parent)
        line.status = _CANCELLED  # unless it is answered
        try:
            _authorize(given, kind, service)
            request = _read(kind, body)
            made = await (method(request, len(body)) if sized else method(request))
            answer: bytes = made.SerializeToString()
            line.status, line.size_bytes = _OK, len(answer)
        except Refusal as refusal:
            line.status = _CODES[refusal.status].name
            await context.abort(_CODES[refusal.status], str(refusal))
        except Exception:
            log.exception("%s failed", kind)
            line.status = grpc.StatusCode.INTERNAL.name
            await context.abort(grpc.StatusCode.INTERNAL, _FAILED)
        finally:
            access.end(line)
        return answer

    return handle


def _stream(rpc: _Rpc) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    """One answer or error for each request, in their order."""

    async def handle(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for body in bodies:
            try:
                _authorize(dict(context.invocation_metadata()), "ModelStreamInferRequest", rpc.service)
                request = _read("ModelInferRequest", body)
                answered = {"infer_response": await rpc.model_infer(request, len(body))}
            except Refusal as refusal:
                answered = {"error_message": str(refusal)}
            except Exception:
                log.exception("ModelStreamInfer failed")
                answered = {"error_message": _FAILED}
            yield Message("ModelStreamInferResponse", **answered).SerializeToString()

    return handle


def _authorize(metadata: dict[str, Any], kind: str, service: Service) -> None:
    if service.options.secrets and kind not in ("ServerLiveRequest", "ServerReadyRequest"):
        given = metadata.get("authorization")
        authorize(given if isinstance(given, str) else None, service.options)


def _read(kind: str, body: bytes) -> Any:
    try:
        return CLASSES[kind].FromString(body)
    except DecodeError as error:
        raise Refusal(400, f"the message is no {kind}") from error
