"""What tools/load does to a server beside its clients, and how long health takes meanwhile.

Silent connections, files that are replaced, a model whose runs do not end, and questions that are large or malicious.
All is bounded by its context, and goes to loopback only.
"""

import gzip
import http.client
import json
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from load_server import Served
from onnx import TensorProto, helper, numpy_helper

from onnxpool.golden import file as golden_file

FOREVER = 10**15
WAITS_S = 60
"""For an answer that does not come."""


@dataclass
class Health:
    """How long each question for health took, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, object]:
        """Milliseconds at quantiles."""
        quantiles = np.quantile(self.seconds or [np.nan], (0.5, 0.9, 0.99, 1.0)) * 1e3
        names = ("p50_ms", "p90_ms", "p99_ms", "most_ms")
        rounded = dict(zip(names, quantiles.round(2).tolist(), strict=True))
        return {"asked": len(self.seconds), **rounded, "errors": dict(self.errors)}


@contextmanager
def going(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Each in a thread of its own, which is told to end by its event."""
    over = threading.Event()
    threads = [threading.Thread(target=work, args=(over,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(WAITS_S)


def health(served: Served, found: Health, every_s: float = 0.02) -> Callable[[threading.Event], None]:
    """Ask for liveness, one question after the other on a connection that is kept."""

    def ask(over: threading.Event) -> None:
        with closing(http.client.HTTPConnection(served.address, timeout=WAITS_S)) as connection:
            while not over.wait(every_s):
                begin_s = time.perf_counter()
                try:
                    connection.request("GET", "/v2/health/live")
                    with connection.getresponse() as answer:
                        answer.read()
                        status = answer.status
                except (OSError, http.client.HTTPException) as error:
                    found.errors[repr(error)] += 1
                    connection.close()
                    continue
                found.seconds.append(time.perf_counter() - begin_s)
                if status != 200:
                    found.errors[str(status)] += 1

    return ask


def silence(served: Served, count: int) -> Callable[[threading.Event], None]:
    """So many connections that say nothing; one that the server closes is opened again."""
    host, _, port = served.address.rpartition(":")

    def hold(over: threading.Event) -> None:
        with ExitStack() as held:
            there: list[socket.socket] = []
            while not over.wait(0.2):
                there = [one for one in there if not _ended(one)]
                for _ in range(count - len(there)):
                    with suppress(OSError):
                        there.append(held.enter_context(socket.create_connection((host, int(port)), timeout=WAITS_S)))

    return hold


def _ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        ended = not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        ended = True
    if ended:
        connection.close()
    return ended


def replacing(path: Path, every_s: float) -> Callable[[threading.Event], None]:
    """The file of a model is replaced by a copy of itself, whole at once."""

    def replace(over: threading.Event) -> None:
        while not over.wait(every_s):
            fresh = path.with_suffix(".new")
            shutil.copyfile(path, fresh)
            fresh.replace(path)

    return replace


def posting(
    served: Served, path: str, bodies: Sequence[tuple[bytes, dict[str, str]]], statuses: Counter[str]
) -> Callable[[threading.Event], None]:
    """One client that sends these bodies in turns."""

    def post(over: threading.Event) -> None:
        with closing(http.client.HTTPConnection(served.address, timeout=WAITS_S)) as connection:
            i = 0
            while not over.is_set():
                body, headers = bodies[i % len(bodies)]
                i += 1
                try:
                    connection.request("POST", path, body, headers)
                    with connection.getresponse() as answer:
                        answer.read()
                        statuses[str(answer.status)] += 1
                except (OSError, http.client.HTTPException) as error:
                    statuses[repr(error)] += 1
                    connection.close()

    return post


def getting(served: Served, path: str, statuses: Counter[str]) -> Callable[[threading.Event], None]:
    """One client that asks for this again and again."""

    def get(over: threading.Event) -> None:
        with closing(http.client.HTTPConnection(served.address, timeout=WAITS_S)) as connection:
            while not over.is_set():
                connection.request("GET", path)
                with connection.getresponse() as answer:
                    answer.read()
                    statuses[str(answer.status)] += 1

    return get


def endless(path: Path) -> Path:
    """A model that adds 1 so often as its input says, which may be for ever; its golden input says 3 times."""
    value, scalar = helper.make_tensor_value_info, []
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [value("i", TensorProto.INT64, scalar), value("go", TensorProto.BOOL, scalar), value("sum", 7, scalar)],
        [value("on", TensorProto.BOOL, scalar), value("more", TensorProto.INT64, scalar)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["x", "true", "zero"], ["y"], body=body)],
        "loop",
        [value("x", TensorProto.INT64, scalar)],
        [value("y", TensorProto.INT64, scalar)],
        [
            helper.make_tensor("true", TensorProto.BOOL, scalar, [True]),
            helper.make_tensor("zero", TensorProto.INT64, scalar, [0]),
            helper.make_tensor("one", TensorProto.INT64, scalar, [1]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    case = golden_file.Case("ordinary", {"x": np.array(3)}, {"y": np.array(3.0)}, {"y": 0.0})
    golden_file.save(golden_file.Golden("hand", "hand", {"y": "int64"}, (case,), (), None), golden_file.path_for(path))
    return path


def forever(timeout_us: int) -> tuple[bytes, dict[str, str]]:
    """A request of that model that does not end before its time is up."""
    tensor = {"name": "x", "datatype": "INT64", "shape": [], "data": [FOREVER]}
    return json.dumps({"inputs": [tensor], "parameters": {"timeout": timeout_us}}).encode(), {}


# --- what may keep health waiting


def burdens(served: Served, statuses: dict[str, Counter[str]]) -> dict[str, Callable[[threading.Event], None]]:
    """By name, what is done to a server of big.onnx, large, and many small models, beside questions for health."""
    shape = [1, 3, 34, 4000]
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=shape).round(5)
    flat, nested = (json.dumps(data, separators=(",", ":")) for data in (numbers.ravel().tolist(), numbers.tolist()))
    head = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3,34,4000],"data":%s}]}'
    long = [((head % data).encode(), {}) for data in (flat, nested)]
    bomb = gzip.compress(bytes(200 << 20), 1)
    fits = gzip.compress(b" " * (15 << 20) + long[0][0][:1000], 1)
    zipped = {"Content-Encoding": "gzip"}
    infer = f"/v2/models/{served.model}/infer"
    assert max(len(body) for body, _ in long) <= 4 << 20

    def loading(over: threading.Event) -> None:
        posting(served, "/v2/repository/models/big/load", [(b"", {})], statuses["loads of 100 MB"])(over)

    return {
        "nothing": lambda over: over.wait() and None,
        "4 MiB of JSON": posting(served, infer, long, statuses["4 MiB of JSON"]),
        "gzip bombs": posting(served, infer, [(bomb, zipped), (fits, zipped)], statuses["gzip bombs"]),
        "loads of 100 MB": loading,
        "statistics of all models": getting(served, "/v2/models/stats", statuses["statistics of all models"]),
    }


def plain(path: Path) -> Path:
    """A model of x: (batch, 3, H, W), of any size: MaxPool 2x2."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    graph = helper.make_graph(
        [node],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, "oh", "ow"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def large(path: Path) -> Path:
    """A model with 100 MB of weights."""
    weight = np.random.default_rng(0).normal(size=(5000, 5000)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5000])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path
