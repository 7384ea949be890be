"""OpenTelemetry's spans: one for each request, REST or gRPC, within the trace that its W3C ``traceparent`` names.

Where spans go, what the service is called and which requests are sampled is said by OpenTelemetry's own variables:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 OTEL_SERVICE_NAME=pools OTEL_TRACES_SAMPLER=always_on

A span is called by what is asked for, such as ``GET /v2/models/{name}``, or by its method alone where that is nothing
here, and not by whatever a stranger wrote. Spans are sent by a thread, and dropped where there are more than it can
send. Without tracing nothing of this is loaded.
"""

from collections.abc import Callable
from typing import Any, Protocol

from onnxpool.errors import MissingExtra


class Line(Protocol):
    """What is known of a request."""

    protocol: str
    client: str
    method: str
    path: str
    request_id: str
    trace_id: str
    status: int | str


_FAILED = ("INTERNAL", "UNAVAILABLE", "UNKNOWN")
"""gRPC's, where the fault is the server's."""


class Tracing:
    """Begins and ends spans; ``exporter`` is OTLP over HTTP where none is given.

    Raises :class:`MissingExtra` without OpenTelemetry.
    """

    def __init__(self, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise MissingExtra("opentelemetry-exporter-otlp-proto-http", "otel", "tracing") from error
        named = Resource.create()  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        unnamed = str(named.attributes.get("service.name", "")).startswith("unknown_service")
        resource = named.merge(Resource({"service.name": "onnxpool"})) if unnamed else named
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self.route_of: Callable[[str], str | None] = lambda _: None
        """What a path of REST asks for, as the application knows it."""
        self._tracer = self._provider.get_tracer("onnxpool.serve")
        self._context = TraceContextTextMapPropagator()
        self._server = trace.SpanKind.SERVER
        self._failed = trace.Status(trace.StatusCode.ERROR)

    def begin(self, line: Line, parent: str) -> Any:
        """A span for this request, whose trace the line gets where it has none."""
        context = self._context.extract({"traceparent": parent}) if parent else None
        rest = line.protocol == "rest"
        attributes = (
            {"http.request.method": line.method, "url.path": line.path}
            if rest
            else {"rpc.system": "grpc", "rpc.method": line.path}
        )
        name = line.method if rest else line.path
        if rest and (route := self.route_of(line.path)):
            attributes["http.route"] = route
            name = f"{line.method} {route}"
        attributes |= {"client.address": line.client, "onnxpool.request_id": line.request_id}
        span = self._tracer.start_span(name, context, self._server, attributes)
        line.trace_id = line.trace_id or f"{span.get_span_context().trace_id:032x}"
        return span

    def end(self, span: Any, line: Line) -> None:
        """It is answered; answers of 500 and above, and gRPC's errors of a server, are errors of the span."""
        name = "http.response.status_code" if line.protocol == "rest" else "rpc.grpc.status"
        span.set_attribute(name, line.status)
        if line.status in _FAILED or (isinstance(line.status, int) and line.status >= 500):
            span.set_status(self._failed)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
