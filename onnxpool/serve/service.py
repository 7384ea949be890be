"""What the server does, whatever the protocol: REST and gRPC read a request, call this, and write what it returns.

Every refusal is a :class:`onnxpool.serve.limits.Refusal`; what is raised besides is a fault of the server.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self, TypeVar

from onnxpool.errors import OnnxpoolError
from onnxpool.run.session import TensorInfo
from onnxpool.serve.access import AccessLog
from onnxpool.serve.limits import Options, Refusal
from onnxpool.serve.metrics import Metrics
from onnxpool.serve.patience import NO_ANSWER, Patience
from onnxpool.serve.repository import Repository, Served
from onnxpool.serve.siblings import Siblings, joined, summed
from onnxpool.serve.tensors import Tensors, agree, datatype
from onnxpool.serve.tracing import Tracing

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")
"""What is offered beyond the protocol's required part, by the names that Triton gave them."""

APART_BYTES = 100_000
"""What is taken apart or put together on the event loop itself: about a millisecond of JSON."""

Result = TypeVar("Result")

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "openvino_onnx"}
"""What the protocol calls a model of this runtime."""


async def in_thread(work: Callable[[], None]) -> None:
    """Do this in a thread of its own, which neither waits for others nor keeps the process from ending.

    For what may never end, such as reading from a disk that is away: a pool of threads would be lost to it.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised where it is waited for
            failed.append(error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="onnxpool-repository", daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]


class Service:
    """One server's repository, limits and metrics."""

    def __init__(self, repository: Repository, options: Options, siblings: Siblings | None = None) -> None:
        self.siblings = siblings
        self.repository = repository
        self.options = options
        self.metrics: Metrics = repository.metrics
        self.access = AccessLog(options.access_log, tracing=Tracing() if options.tracing else None)
        self.draining = False
        self.pending_bytes = 0
        self.metrics.pending.set_function(lambda: self.pending_bytes)
        self._apart = ThreadPoolExecutor(1, thread_name_prefix="onnxpool-apart")

    # --- what there is

    def ready(self) -> bool:
        """Whether requests should come here: every model is ready and runs, and the server is not about to stop."""
        stuck = any(served.batcher.stuck for served in self.repository.serving())
        return not self.draining and self.repository.ready() and not stuck

    def busy(self) -> bool:
        """Whether a model runs, be it one that was replaced since."""
        return any(batcher.busy for batcher in self.repository.batchers())

    def stop(self) -> None:
        """Refuse (503) what is not answered yet, and stop every run."""
        for batcher in self.repository.batchers():
            batcher.stop()

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether this model answers; False for one that there is not, or that hangs in a run."""
        try:
            return not self.repository.get(name, version).batcher.stuck
        except Refusal:
            return False

    def server(self) -> dict[str, Any]:
        """Name, version and extensions."""
        return {"name": "onnxpool", "version": _version(), "extensions": list(EXTENSIONS)}

    def model(self, served: Served) -> dict[str, Any]:
        """The tensors of a model; sizes that may change are -1."""
        return {
            "name": served.name,
            "versions": self.repository.versions(served.name),
            "platform": PLATFORMS[served.session.runtime],
            "inputs": list(map(_metadata, served.session.inputs)),
            "outputs": list(map(_metadata, served.session.outputs)),
        }

    def config(self, served: Served) -> dict[str, Any]:
        """The same as Triton's clients ask for it: sizes without the first axis where requests are joined."""
        joined = served.joined_rows
        config = {"name": served.name, "platform": PLATFORMS[served.session.runtime], "max_batch_size": joined}
        config |= {
            side: [
                {"name": info.name, "data_type": f"TYPE_{datatype(info.dtype)}", "dims": info.sizes[bool(joined) :]}
                for info in infos
            ]
            for side, infos in (("input", served.session.inputs), ("output", served.session.outputs))
        }
        delay_us = round(self.options.max_delay_s * 1e6)
        batching = {"max_queue_delay_microseconds": delay_us, "preserve_ordering": False}
        return config | ({"dynamic_batching": batching} if joined else {})

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """How many requests a model, or every one, has answered, and how long that took."""
        asked = [self.repository.get(name, version)] if name else self.repository.serving()
        return {"model_stats": [self.metrics.tally(one.name, one.version).to_json() for one in asked]}

    async def all_statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """The same of every process that serves these models."""
        here = self.statistics(name, version)
        if self.siblings is None:
            return here
        asked = {(one["name"], one["version"]) for one in here["model_stats"]}
        found = summed([one["statistics"] for one in (await self.siblings.ask()).values()])
        return {"model_stats": [one for one in found if (one["name"], one["version"]) in asked]}

    async def all_metrics(self) -> bytes:
        """For Prometheus, of every process that serves these models."""
        if self.siblings is None:
            return self.metrics_text()
        return joined({number: one["metrics"] for number, one in (await self.siblings.ask()).items()}).encode()

    # --- what is done

    async def infer(
        self, served: Served, feeds: Tensors, patience: Patience, timeout_s: float | None = None
    ) -> Tensors:
        """The outputs of a model for inputs of the right types, each of a fitting shape.

        Refuses (504) where time runs out, and (422) where the model cannot do it. ``timeout_s`` is the client's own
        limit, which does not exceed the server's.
        """
        agree(served.session.inputs, feeds)
        begin_s = time.monotonic()
        patience.allow(min(timeout_s or self.options.timeout_s, self.options.timeout_s), 504, NO_ANSWER, again=True)
        try:
            outputs = await served.batcher.submit(feeds)
        except Refusal:
            raise
        except OnnxpoolError as error:  # every type and shape was right: it is these sizes or values
            raise Refusal(422, str(error)) from error
        self.metrics.computed(served.name, served.version, time.monotonic() - begin_s)
        return outputs

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load a model again, from the repository's own files."""
        self._control()
        if parameters:
            raise Refusal(400, f"parameters {sorted(parameters)!r:.200} are refused: a model comes from the repository")
        await in_thread(partial(self.repository.load, name))

    async def unload(self, name: str) -> None:
        """Unload a model; no model here depends on another."""
        self._control()
        self.repository.unload(name)

    def _control(self) -> None:
        if not self.options.control:
            raise Refusal(403, "this server does not let clients load or unload models")

    async def apart(self, size_bytes: int, work: Callable[..., Result], *given: Any) -> Result:
        """What ``work`` gives; in a thread where it has so much to do that others would wait for it.

        There is one such thread, so that the interpreter's lock is never wanted by many.
        """
        if size_bytes <= APART_BYTES:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._apart, partial(work, *given))

    def counted(self, protocol: str) -> "Counted":
        """Counts a request by its status, under the model that it turns out to be for."""
        return Counted(self.metrics, protocol)

    def metrics_text(self) -> bytes:
        """For Prometheus, of this process."""
        for served in self.repository.serving():
            self.metrics.waiting.labels(served.name, served.version).set(served.batcher.waiting)
        return self.metrics.text()

    def holding(self) -> "Held":
        """Counts the bytes of one request among those that came and are not answered yet."""
        return Held(self)


class Counted:
    """A context that counts one request when it is over; it is called with the model that the request is for."""

    __slots__ = ("_begin_s", "_metrics", "_model", "_protocol")

    def __init__(self, metrics: Metrics, protocol: str) -> None:
        self._metrics = metrics
        self._protocol = protocol
        self._model = ("", "")
        self._begin_s = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __call__(self, served: Served) -> Served:
        """The request, which is whole, is for this model; its time counts from here."""
        self._begin_s = time.monotonic()
        self._model = (served.name, served.version)
        return served

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        """Count; a task that was cancelled is how gRPC says that the client went away."""
        gone = isinstance(error, asyncio.CancelledError)
        status = 200 if error is None else error.status if isinstance(error, Refusal) else 499 if gone else 500
        self._metrics.counted(*self._model, self._protocol, status)
        if self._model[0]:
            self._metrics.ended(*self._model, time.monotonic() - self._begin_s, well=error is None)


class Held:
    """The bytes that one request holds, until its context ends."""

    __slots__ = ("_service", "size_bytes")

    def __init__(self, service: Service) -> None:
        self._service = service
        self.size_bytes: int = 0

    def __enter__(self) -> Self:
        """None yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        self._service.pending_bytes -= self.size_bytes

    def add(self, more_bytes: int) -> None:
        """Count these, too; refuses (503) where all requests together hold too much."""
        service = self._service
        if service.pending_bytes + more_bytes > service.options.max_pending_bytes:
            raise Refusal(503, "the server holds as many requests as it can; try again later", 1)
        service.pending_bytes += more_bytes
        self.size_bytes += more_bytes


def _metadata(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": datatype(info.dtype), "shape": info.sizes}


def _version() -> str:
    try:
        return version("onnxpool")
    except PackageNotFoundError:
        return "unknown"
