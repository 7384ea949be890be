"""gRPC's own protocols beside the inference protocol: health, as orchestrators ask for it, and reflection, for grpcurl.

    grpc.health.v1          Check and Watch: the server by "" or the name of its service, a model by its name
    grpc.reflection.v1      and v1alpha: the descriptions of both services

The whole server's health needs no token, since probes carry none; all else does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from onnxpool.serve.guard import authorize
from onnxpool.serve.limits import Refusal
from onnxpool.serve.messages import FILE, PACKAGE, add_service, classes, describe
from onnxpool.serve.service import Service

SERVICES = (f"{PACKAGE}.GRPCInferenceService", "grpc.health.v1.Health")

_WATCH_S = 0.25
"""How often a watched state is looked at."""

_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3

_HEALTH = describe(
    "grpc.health.v1",
    """
HealthCheckRequest: 1 service string
HealthCheckResponse: 1 status enum ServingStatus
""",
    ServingStatus=("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"),
)
add_service(
    _HEALTH,
    "Health",
    {
        "Check": ("HealthCheckRequest", "HealthCheckResponse", False, False),
        "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True),
    },
)

_REFLECTION = describe(
    "grpc.reflection.v1",
    """
ServerReflectionRequest: 1 host string, 3 file_by_filename oneof string, 4 file_containing_symbol oneof string,
    7 list_services oneof string
ServerReflectionResponse: 1 valid_host string, 2 original_request ServerReflectionRequest,
    4 file_descriptor_response oneof FileDescriptorResponse, 6 list_services_response oneof ListServiceResponse,
    7 error_response oneof ErrorResponse
FileDescriptorResponse: 1 file_descriptor_proto repeated bytes
ListServiceResponse: 1 service repeated ServiceResponse
ServiceResponse: 1 name string
ErrorResponse: 1 error_code int32, 2 error_message string
""",
)


def handlers(service: Service) -> list[grpc.GenericRpcHandler]:
    """What a server adds to answer both."""
    health, reflection = _Health(service), _Reflection(service)
    found = [
        grpc.method_handlers_generic_handler(
            SERVICES[1],
            {
                "Check": grpc.unary_unary_rpc_method_handler(health.check),
                "Watch": grpc.unary_stream_rpc_method_handler(health.watch),
            },
        )
    ]
    for version in ("v1", "v1alpha"):  # the same messages under two names
        info = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(reflection.info)}
        found.append(grpc.method_handlers_generic_handler(f"grpc.reflection.{version}.ServerReflection", info))
    return found


async def _authorize(context: Any, service: Service) -> None:
    given = dict(context.invocation_metadata()).get("authorization")
    try:
        authorize(given if isinstance(given, str) else None, service.options)
    except Refusal as refusal:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(refusal))


async def _read(kind: Callable[[bytes], Any], body: bytes, context: Any) -> Any:
    try:
        return kind(body)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not one of this protocol")


class _Health:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.classes = classes(_HEALTH)

    async def check(self, body: bytes, context: Any) -> bytes:
        """The state now; NOT_FOUND for a name that is not known."""
        name = await self._name(body, context)
        if (state := self._state(name)) == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {name!r:.80}")
        return self._said(state)

    async def watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        """The state now, and whenever it changes, until the server stops."""
        name, said = await self._name(body, context), None
        while True:
            if (state := self._state(name)) != said:
                said = state
                yield self._said(state)
            if self.service.draining:
                return
            await asyncio.sleep(_WATCH_S)

    async def _name(self, body: bytes, context: Any) -> str:
        request = await _read(self.classes["HealthCheckRequest"].FromString, body, context)
        if request.service not in ("", *SERVICES):
            await _authorize(context, self.service)
        name: str = request.service
        return name

    def _state(self, name: str) -> int:
        if name in ("", *SERVICES):
            return _SERVING if self.service.ready() else _NOT_SERVING
        if name not in self.service.repository.names():
            return _UNKNOWN
        return _SERVING if self.service.model_ready(name) else _NOT_SERVING

    def _said(self, state: int) -> bytes:
        answer: bytes = self.classes["HealthCheckResponse"](status=state).SerializeToString()
        return answer


class _Reflection:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.classes = classes(_REFLECTION)
        self.pool = DescriptorPool()
        for file in (FILE, _HEALTH):
            self.pool.AddSerializedFile(file.SerializeToString())

    async def info(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One answer for each request, in their order."""
        await _authorize(context, self.service)
        async for body in bodies:
            request = await _read(self.classes["ServerReflectionRequest"].FromString, body, context)
            answer = self.classes["ServerReflectionResponse"](valid_host=request.host, original_request=request)
            self._answer(request, answer)
            yield answer.SerializeToString()

    def _answer(self, request: Any, answer: Any) -> None:
        asked = request.WhichOneof("parameter_choice")
        try:
            if asked == "list_services":
                for name in SERVICES:
                    answer.list_services_response.service.add(name=name)
                return
            if asked == "file_by_filename":
                file = self.pool.FindFileByName(request.file_by_filename)
            elif asked == "file_containing_symbol":
                file = self.pool.FindFileContainingSymbol(request.file_containing_symbol)
            else:
                answer.error_response.error_code = grpc.StatusCode.UNIMPLEMENTED.value[0]
                return
            answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        except KeyError as error:
            answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            answer.error_response.error_message = str(error)
