"""A load test of the server on loopback, by tritonclient, beside a bare ONNX Runtime loop: the most there could be.

By default: one model, served with and without joining requests, over REST with binary tensors, REST with JSON and gRPC,
at 1, 4, 16 and 64 clients; every answer is compared with what ONNX Runtime gives for that input alone. Throughput,
median and 99th percentile of the latency, the server's own processor time per request, and the rows that ran together;
as a table, as JSON and as a picture in out/load/.

    --soak SECONDS    saturation with 5 % malformed requests: every answer and refusal compared, memory and health
                      watched; 64 silent connections, a file replaced every 10 s, a model that is stuck
    --health SECONDS  how long health takes beside 4 MiB of JSON, gzip bombs, loads of 100 MB, statistics of 160 models
    --fuzz SECONDS    schemathesis on the OpenAPI page and damaged binary bodies: nothing may answer 500 or above

Clients share the machine with the server, so that on few cores they take processor time that it could use. All is
bounded: each point in seconds and in requests. Traffic goes to 127.0.0.1 only. Exit status 1 where anything was wrong.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import load_clients
import load_fuzz
import load_hostile as hostile
import load_model
import load_report
import numpy as np
from load_clients import Task
from load_report import Point
from load_server import Served, serve, serve_peer
from numpy.typing import NDArray

from onnxpool.run.session import Session, load

CLIENTS = (1, 4, 16, 64)
MOST = 1_000_000
"""Requests of one client, however fast it is."""


def main() -> int:
    """What was asked for; the exit status."""
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="onnxpool-load-") as folder:
        path = asked.model or load_model.write(Path(folder, f"{asked.network}.onnx"), asked.network)
        session = load(path, threads=1)
        if asked.health:
            return wait_for_health(asked)
        if asked.soak:
            return soak(path, session, asked)
        if asked.fuzz:
            return load_fuzz.fuzz(path, asked.fuzz, asked.out)
        return measure(path, session, asked)


def measure(path: Path, session: Session, asked: argparse.Namespace) -> int:
    """Every way at every number of clients, in turns with and without joining."""
    points = [bare(session, questions(session, rows), asked.seconds) for rows in (1, asked.max_batch)]
    for joined in (asked.max_batch, 1):
        options = ["--max-batch", str(joined), "--max-delay-ms", str(asked.max_delay_ms)]
        with serve(path, *options) as served:
            for way in asked.ways:
                for clients in asked.clients:
                    points.append(_point(served, session, way, clients, joined, asked.seconds))
                    print(points[-1], flush=True)
    if asked.peer:
        with serve_peer(asked.peer, path) as served:
            for way in [way for way in asked.ways if way != "json"]:
                for clients in asked.clients:
                    points.append(_point(served, session, way, clients, load_report.PEER, asked.seconds))
                    print(points[-1], flush=True)
    load_report.write(asked.out, path.stem, points)
    return int(any(point.wrong or point.errors for point in points))


def bare(session: Session, questions: Sequence[NDArray[np.float32]], seconds: float) -> Point:
    """ONNX Runtime in a loop, one thread, nothing around it."""
    name, inner = session.inputs[0].name, session.inner
    times_s: list[float] = []
    cpu_s, end_s = time.process_time(), time.perf_counter() + seconds
    while (begin_s := time.perf_counter()) < end_s:
        inner.run(None, {name: questions[len(times_s) % len(questions)]})
        times_s.append(time.perf_counter() - begin_s)
    rows = len(questions[0])
    answered = rows * len(times_s)
    low, high = (float(np.quantile(times_s, q)) for q in (0.5, 0.99))
    cpu_each_s = (time.process_time() - cpu_s) / answered
    return Point("bare", 1, rows, answered / sum(times_s), low, high, cpu_each_s, float(rows), 0.0, answered)


def _point(served: Served, session: Session, way: str, clients: int, joined: int, seconds: float) -> Point:
    task = _task(served, session, way, clients, seconds)
    before = served.figures()
    outcome = load_clients.run(task)
    return load_report.point(way, clients, joined, outcome, before, served.figures())


def soak(path: Path, session: Session, asked: argparse.Namespace) -> int:
    """Saturation, and beside it all that an evil day brings, for as long as asked.

    Malformed requests among the others, silent connections, the model's file replaced every ten seconds, and another
    model that is stuck in runs that do not end.
    """
    with tempfile.TemporaryDirectory(prefix="onnxpool-soak-") as name:
        folder = Path(name)
        copy = Path(shutil.copy(path, folder))
        hostile.endless(folder / "endless.onnx")
        found, stuck = hostile.Health(), Counter[str]()
        with serve(folder, "--max-batch", str(asked.max_batch), model=path.stem) as served, served.watched() as memory:
            works = [
                hostile.health(served, found),
                hostile.silence(served, 64),
                hostile.replacing(copy, 10),
                hostile.posting(served, "/v2/models/endless/infer", [hostile.forever(1_000_000)], stuck),
            ]
            tasks = [_task(served, session, way, 8, asked.soak, malformed=0.05) for way in ("binary", "grpc")]
            with hostile.going(*works):
                outcomes = load_clients.run_all(tasks)
            loads = served.total("loads_total")
    return load_report.soaked(asked.out, outcomes, memory, found, {"loads": loads, "stuck": dict(stuck)})


def wait_for_health(asked: argparse.Namespace) -> int:
    """Health's latency beside each of what may keep it waiting, for so many seconds each."""
    with tempfile.TemporaryDirectory(prefix="onnxpool-health-") as name:
        folder = Path(name)
        plain = hostile.plain(folder / "plain.onnx")
        for i in range(158):
            shutil.copy(plain, folder / f"plain{i}.onnx")
        hostile.large(folder / "big.onnx")
        statuses: dict[str, Counter[str]] = defaultdict(Counter)
        with serve(folder, model="plain") as served:
            works = hostile.burdens(served, statuses)
            found = {}
            for burden, work in works.items():
                found[burden] = hostile.Health()
                with hostile.going(hostile.health(served, found[burden]), work):
                    time.sleep(asked.health)
                values = {"burden": burden, "answers": dict(statuses[burden]), **found[burden].to_json()}
                print(json.dumps(values), flush=True)
    return int(any(one.errors for one in found.values()))


def questions(session: Session, rows: int, count: int = 32) -> list[np.ndarray]:
    """Inputs from a fixed seed, standard normal; axes that may change get the bare loop's sizes."""
    rng = np.random.default_rng(0)
    shape = [rows, *(size if isinstance(size, int) else 32 for size in session.inputs[0].shape[1:])]
    return [rng.normal(size=shape).astype(session.inputs[0].dtype) for _ in range(count)]


def _task(served: Served, session: Session, way: str, clients: int, seconds: float, malformed: float = 0.0) -> Task:
    asked = questions(session, 1)
    answers = [session.run({session.inputs[0].name: x})[session.outputs[0].name] for x in asked]
    return Task(
        way=way,
        address=served.grpc if way == "grpc" else served.address,
        model=served.model,
        input=session.inputs[0].name,
        output=session.outputs[0].name,
        questions=asked,
        answers=answers,
        tolerance=16 * 2.0**-23 * max(float(np.abs(answer).max()) for answer in answers),
        clients=clients,
        seconds=seconds,
        most=MOST,
        malformed=malformed,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/load", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="ONNX file of one float32 input and a first axis that may change")
    parser.add_argument(
        "--network", choices=load_model.NETWORKS, default="conv", help="a made one, where no file is given"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each point")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--ways", nargs="+", choices=("binary", "grpc", "json"), default=("binary", "grpc", "json"))
    parser.add_argument(
        "--peer", type=Path, metavar="PYTHON", help="measure KServe's server, too: see tools/load_peer.py"
    )
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-delay-ms", type=float, default=0.0)
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--health", type=float, metavar="SECONDS")
    parser.add_argument("--fuzz", type=float, metavar="SECONDS")
    parser.add_argument("--out", type=Path, default=Path("out/load"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
