"""What Prometheus reads at ``/metrics``: one registry per server, so that two in one process do not mix.

Names of models come from the repository, never from a client, so that the number of series is bounded.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_MODEL = ("model", "version")


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made: Any = {"registry": self.registry, "namespace": "onnxpool"}
        self.requests: Counter = Counter(
            "requests", "Answered requests for inference", (*_MODEL, "protocol", "status"), **made
        )
        self.seconds: Histogram = Histogram(
            "request_seconds", "From a whole request to its outputs", _MODEL, buckets=_SECONDS, **made
        )
        self.waited: Histogram = Histogram(
            "queue_seconds", "Waiting for a worker and others", _MODEL, buckets=_SECONDS, **made
        )
        self.run: Histogram = Histogram("run_seconds", "One run of ONNX Runtime", _MODEL, buckets=_SECONDS, **made)
        self.rows: Histogram = Histogram("batch_rows", "Rows that ran together", _MODEL, buckets=_ROWS, **made)
        self.waiting: Gauge = Gauge("queue_length", "Requests that wait", _MODEL, **made)
        self.pooling: Gauge = Gauge("pooling_nodes", "Pooling nodes of the model", _MODEL, **made)
        self.native: Gauge = Gauge("native_nodes", "Pooling nodes that run natively", _MODEL, **made)
        self.share: Gauge = Gauge(
            "golden_share", "Largest error over allowed error of the golden answers", _MODEL, **made
        )
        self.loads: Counter = Counter("loads", "Attempts to load a model file", (*_MODEL, "outcome"), **made)
        self.pending: Gauge = Gauge("pending_bytes", "Bodies that came and are not answered yet", **made)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name, without ``onnxpool_``, that have these labels."""
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == f"onnxpool_{name}" and labels.items() <= sample.labels.items()
        )

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
