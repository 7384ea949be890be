"""What Prometheus reads at ``/metrics``: one registry per server, so that two in one process do not mix.

Names of models come from the repository, never from a client, so that the number of series is bounded.
"""

import time
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_MODEL = ("model", "version")


@dataclass(slots=True)
class Spent:
    """How often something took time, and how much in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """So often, so much more."""
        self.count += count
        self.ns += round(seconds * 1e9)

    def to_json(self) -> dict[str, int]:
        """As the protocol's statistics have it."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Tally:
    """What one version of a model has done, as the protocol's statistics tell it."""

    name: str
    version: str
    rows: int = 0
    runs: int = 0
    last_ms: int = 0
    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    compute: Spent = field(default_factory=Spent)

    def to_json(self) -> dict[str, Any]:
        """Each request of a joined run counts the whole run as its own, as Triton has it.

        Taking inputs apart and putting outputs together is part of the run here, and takes no time of its own.
        """
        never = Spent().to_json()
        beside = {"count": self.compute.count, "ns": 0}
        return {
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_ms,
            "inference_count": self.rows,
            "execution_count": self.runs,
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.fail.to_json(),
                "queue": self.queue.to_json(),
                "compute_input": beside,
                "compute_infer": self.compute.to_json(),
                "compute_output": beside,
                "cache_hit": never,
                "cache_miss": never,
            },
            "batch_stats": [],
        }


@dataclass(slots=True)
class _OfModel:
    seconds: Histogram
    waited: Histogram
    run: Histogram
    rows: Histogram


class Counted(Protocol):
    """Connections, as they are counted."""

    silent: Sized
    idle: Sized

    @property
    def busy(self) -> int:
        """Those with a request in flight."""


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
        self.connections: Gauge = Gauge(
            "connections",
            "Connections of REST: busy with a request, idle, or silent so far",
            ("state",),
            **made,
        )
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._requests: dict[tuple[str, str, str, int], Counter] = {}
        self._models: dict[tuple[str, str], _OfModel] = {}

    def watch(self, connections: Counted) -> None:
        """Tell how many connections there are, whenever it is asked."""
        self.connections.labels("silent").set_function(lambda: len(connections.silent))
        self.connections.labels("idle").set_function(lambda: len(connections.idle))
        self.connections.labels("busy").set_function(lambda: connections.busy)

    def tally(self, name: str, version: str) -> Tally:
        """What this version of a model has done so far."""
        found = self._tallies.get((name, version))
        return found or self._tallies.setdefault((name, version), Tally(name, version))

    def counted(self, name: str, version: str, protocol: str, status: int) -> None:
        """Count a request that is over."""
        key = (name, version, protocol, status)
        counter = self._requests.get(key)
        if counter is None:
            counter = self._requests[key] = self.requests.labels(name, version, protocol, status)
        counter.inc()

    def computed(self, name: str, version: str, seconds: float) -> None:
        """Count outputs, and how long they took."""
        self._of(name, version).seconds.observe(seconds)

    def ended(self, name: str, version: str, seconds: float, *, well: bool) -> None:
        """Count a request for this model as one that was answered with outputs, or as one that was not."""
        tally = self.tally(name, version)
        (tally.success if well else tally.fail).add(seconds)
        if well:
            tally.last_ms = time.time_ns() // 1_000_000

    def ran(self, name: str, version: str, rows: int, waited_s: tuple[float, ...], run_s: float) -> None:
        """Count a run of so many rows, and how long each of its requests waited for it."""
        of = self._of(name, version)
        of.rows.observe(rows)
        of.run.observe(run_s)
        for seconds in waited_s:
            of.waited.observe(seconds)
        tally = self.tally(name, version)
        tally.rows += rows
        tally.queue.add(sum(waited_s), len(waited_s))
        tally.runs += 1
        tally.compute.add(run_s * len(waited_s), len(waited_s))

    def _of(self, *model: str) -> "_OfModel":
        """The histograms of one model, which takes longer to find by its labels than to add to."""
        found = self._models.get(model)  # type: ignore[arg-type] # it has two
        if found is None:
            kinds = (self.seconds, self.waited, self.run, self.rows)
            found = self._models[model] = _OfModel(*(kind.labels(*model) for kind in kinds))  # type: ignore[index]
        return found

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
