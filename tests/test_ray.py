"""A real Ray cluster of several processes on this machine: what listens where, replicas and workers that are killed.

One cluster serves all tests of this file. Times and speeds are printed (pytest -rP), and decide nothing.
"""
# ruff: noqa: T201

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from models import model, pooled
from onnx import helper
from serving import HANGS_S, wait_for
from test_predict import network, picture
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.deploy import batch
from onnxpool.deploy.shards import shards
from onnxpool.errors import ArgumentError
from onnxpool.graph.forms import write
from onnxpool.window import Window

pytest.importorskip("onnxruntime")
if find_spec("ray") is None:  # not imported yet: it reads its environment then
    pytest.skip("no ray here", allow_module_level=True)
pq = pytest.importorskip("pyarrow.parquet")
http = pytest.importorskip("tritonclient.http")

from onnxpool.deploy import ray_app  # noqa: E402 - needs the extras
from onnxpool.deploy.cluster import cluster  # noqa: E402
from onnxpool.serve import Options  # noqa: E402
from onnxpool.serve.listening import Listen  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # within Ray


@pytest.fixture(scope="module")
def ray():
    with cluster(None, processors=3) as started:
        yield started


@pytest.fixture(scope="module")
def served(ray, tmp_path_factory):
    """One replica, a second under load; the model, and where it is served."""
    path = tmp_path_factory.mktemp("served") / "pool.onnx"
    write(onnxpool.to_form(pooled(Window.of(2, 2)), "function"), path)
    scale = ray_app.Scale(min_replicas=1, max_replicas=2, load=2, up_after_s=0.5)
    # Every request waits for others that do not come: clients that wait leave the processors to what Ray starts.
    with ray_app.running(path, scale, Options(max_batch=8, max_delay_s=0.1), Listen(port=0)) as listening:
        yield path, listening


def processes() -> set[int]:
    """This process and everything below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def addresses() -> set[str]:
    """Where these processes listen, and whom they are connected to: addresses without ports."""
    inodes = set()
    for process in processes():
        for file in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(file.readlink()).removeprefix("socket:[").rstrip("]"))
            except OSError:
                continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if inode in inodes:
                text = (local if state == "0A" else remote).partition(":")[0]
                words = (int(text[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(text), 8))
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def replicas() -> dict[int | None, str]:
    """State of each replica, by its process; one that starts has none yet."""
    client = import_module("ray.serve.context")._get_global_client()
    deployments = client.get_serve_details()["applications"][ray_app.NAME]["deployments"]
    return {one.get("pid"): str(one["state"].value) for one in deployments[ray_app.NAME]["replicas"]}


class Client:
    """Asks about one random picture after the other; asks again where there was no answer; compares every answer."""

    def __init__(self, address: str, seed: int) -> None:
        self.client = http.InferenceServerClient(address.removeprefix("http://"))
        self.random = np.random.default_rng(seed)
        self.answers = self.again = 0
        self.longest_s = 0.0

    def answer(self, x):
        asked = http.InferInput("x", x.shape, "FP32")
        asked.set_data_from_numpy(x)
        return self.client.infer("pool", [asked]).as_numpy("y")

    def ask(self) -> None:
        x = self.random.normal(size=(1, 2, 6, 6)).astype(np.float32)
        start = time.perf_counter()
        while True:
            try:
                y = self.answer(x)
                break
            except Exception:  # the server's, and the connection's
                assert time.perf_counter() - start < HANGS_S
                self.again += 1
                time.sleep(0.05)
        np.testing.assert_allclose(y, softpool(x), rtol=1e-5, atol=1e-6)
        self.answers += 1
        self.longest_s = max(self.longest_s, time.perf_counter() - start)


def softpool(x):
    windows = x.astype(np.float64).reshape(1, 2, 3, 2, 3, 2)
    e = np.exp(windows)
    return (e * windows).sum((3, 5)) / e.sum((3, 5))


def test_replicas_grow_under_load_and_a_killed_one_is_replaced(served):
    _, listening = served
    (first,) = replicas()
    clients = [Client(listening.rest, seed) for seed in range(6)]
    stop = threading.Event()

    def work(client):
        while not stop.is_set():
            client.ask()

    with ThreadPoolExecutor(len(clients)) as threads:
        start = time.perf_counter()
        working = [threads.submit(work, client) for client in clients]
        try:
            grown_s = wait_for(lambda: list(replicas().values()).count("RUNNING") == 2)
            victim = first
            os.kill(victim, signal.SIGKILL)
            recovered_s = wait_for(lambda: victim not in (now := replicas()) and [*now.values()] == ["RUNNING"] * 2)
        finally:
            stop.set()
        for one in working:
            one.result()
        took_s = time.perf_counter() - start
    with urllib.request.urlopen(f"{listening.rest}/metrics") as answer:  # of one of the replicas
        ran = dict(re.findall(r"^onnxpool_batch_rows_(sum|count){.*} (.*)$", answer.read().decode(), re.MULTILINE))
    assert all(client.answers for client in clients)
    total = sum(client.answers for client in clients)
    print(f"two replicas after {grown_s:.1f} s of load; two again {recovered_s:.1f} s after one was killed")
    print(f"{total / took_s:.0f} requests a second with {len(clients)} clients, all {total} answers right")
    again, longest_s = sum(client.again for client in clients), max(client.longest_s for client in clients)
    print(f"{float(ran.get('sum', 0)):.0f} rows ran in {float(ran.get('count', 0)):.0f} batches of one replica")
    print(f"{again} requests were asked again; the longest took {longest_s:.2f} s")


def test_every_address_is_loopback(served):
    assert set(replicas()) <= processes()
    assert addresses() <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_clients_cannot_change_what_only_one_replica_would_see(served):
    client = http.InferenceServerClient(served[1].rest.removeprefix("http://"))
    assert client.is_server_ready()
    for change in (client.load_model, client.unload_model):
        with pytest.raises(Exception, match="does not let clients load or unload"):
            change("pool")


def test_a_configuration_file_describes_the_same_application(served, tmp_path):
    path, _ = served
    ray_app.write(path, tmp_path / "app.yaml", ray_app.Scale(max_replicas=4), Options(max_batch=4, timeout_s=5))
    content = json.loads((tmp_path / "app.yaml").read_text())
    schema = import_module("ray.serve.schema").ServeDeploySchema.model_validate(content)
    (one,) = schema.applications
    assert (one.import_path, one.route_prefix) == ("onnxpool.deploy.ray_app:build", "/")
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)
    made = ray_app.build(one.args)._bound_deployment
    scaling = made._deployment_config.autoscaling_config
    assert (made.name, scaling.min_replicas, scaling.max_replicas) == ("onnxpool", 1, 4)
    assert made._deployment_config.graceful_shutdown_timeout_s == 5
    assert made.ray_actor_options["num_cpus"] == 1


def test_a_replaced_file_reaches_every_replica(served):
    """Random pictures for the old model; then the new one, MaxPool, answers all of them."""
    path, listening = served
    client = Client(listening.rest, seed=20)
    for _ in range(8):
        client.ask()
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])]
    write(onnxpool.to_form(model(nodes, 2), "standard"), path)
    x = np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)
    largest = x.reshape(1, 2, 3, 2, 3, 2).max((3, 5))
    wait_for(lambda: all(np.array_equal(client.answer(x), largest) for _ in range(20)))
    assert all(np.array_equal(client.answer(x), largest) for _ in range(40))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"min_replicas": 3}, "min_replicas=3, max_replicas=2: use 1 <= min <= max"),
        ({"min_replicas": 0}, "use 1 <= min <= max"),
        ({"load": 0}, "load=0 must be at least 1"),
        ({"up_after_s": float("nan")}, "up_after_s=nan must be at least 0"),
    ],
)
def test_wrong_scales(arguments, told):
    with pytest.raises(ArgumentError, match=told):
        ray_app.Scale(**arguments)


def test_a_cluster_that_would_leave_loopback_is_not_started():
    program = "import ray; from onnxpool.deploy.cluster import cluster; cluster(None, 1).__enter__()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "ArgumentError: address=None: Ray was imported before" in done.stderr


def test_a_release_of_ray_whose_replicas_would_leave_loopback(ray, tmp_path, monkeypatch):
    monkeypatch.delattr("ray.serve._private.replica.add_port_to_grpc_server")
    path = network(tmp_path / "m.onnx", "Flatten")
    told = f"address=None: replicas of Ray {ray.__version__} would listen on every interface"
    with pytest.raises(ArgumentError, match=re.escape(told)), ray_app.running(path):
        pass


def test_the_command_writes_the_same_file(tmp_path):
    options = Options(threads=2)
    ray_app.write("models", tmp_path / "a.yaml", ray_app.Scale(max_replicas=3), options, Listen(port=9000))
    arguments = ["models", "--write", tmp_path / "b.yaml", "--max-replicas", 3, "--threads", 2, "--port", 9000]
    result = CliRunner().invoke(app, ["deploy", "ray", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "b.yaml").read_text() == (tmp_path / "a.yaml").read_text()


def test_what_does_not_go_with_ray(tmp_path):
    path = network(tmp_path / "m.onnx", "Flatten")
    with (
        pytest.raises(ArgumentError, match="grpc_port=8001 is not for Ray"),
        ray_app.running(model, listen=Listen(grpc_port=8001)),
    ):
        pass
    with pytest.raises(ArgumentError, match="token would be readable"):
        ray_app.write(path, tmp_path / "app.yaml", options=Options(token="0123456789abcdef"))
    with pytest.raises(ArgumentError, match="grpc_port and tls_cert have no place"):
        ray_app.write(path, tmp_path / "app.yaml", listen=Listen(grpc_port=8001))
    assert not (tmp_path / "app.yaml").exists()


def test_the_file_for_a_cluster_names_the_models_from_anywhere(tmp_path, monkeypatch):
    path = network(tmp_path / "m.onnx", "Flatten")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["deploy", "ray", path.name, "--write", str(tmp_path / "app.yaml")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "app.yaml").read_text())["applications"][0]["args"]["models"] == str(path)
    assert f"every machine of the cluster needs {path}" in result.stdout
    with pytest.raises(ArgumentError, match="token would be readable"):
        ray_app.write(path, tmp_path / "app.yaml", options=Options(tokens=("0123456789abcdef",)))


def test_a_killed_worker_loses_no_row_and_a_stopped_batch_goes_on(ray, tmp_path):
    means = network(tmp_path / "means.onnx", "GlobalAveragePool", "Flatten")
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (240, 3))
    (tmp_path / "photos").mkdir()
    for i, color in enumerate(colors):
        picture(tmp_path / "photos" / f"{i:03}.png", tuple(map(int, color)), size=(96, 96))
    victims = []

    def kill(finished, _, done):
        if done and not victims:
            victims.append(done.worker)
            os.kill(done.worker, signal.SIGKILL)
        if finished == 10:
            raise KeyboardInterrupt

    batches = {"shard": 8, "workers": 2, "mean": [0] * 3, "std": [1] * 3}
    with pytest.raises(KeyboardInterrupt):
        batch.run_batch(means, tmp_path / "photos", tmp_path / "out", progress=kill, **batches)
    (tmp_path / "out" / "part-00029.parquet").unlink(missing_ok=True)  # Ray may have been quicker than the stop
    workers = set()
    start = time.perf_counter()
    done = batch.run_batch(
        means, tmp_path / "photos", tmp_path / "out", progress=lambda *told: workers.add(told[2]), **batches
    )
    assert done.shards == 30
    assert 10 <= done.skipped < 30
    assert done.errors == 0
    assert victims[0] not in {one.worker for one in workers if one}
    files = [tmp_path / "out" / shard.name for shard in shards(tmp_path / "photos", 8)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [file.name for file in files]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [Path(row["picture"]).stem for row in rows] == [f"{i:03}" for i in range(240)]
    np.testing.assert_allclose([row["y"] for row in rows], colors / 255, rtol=1e-4)
    print(f"the last {30 - done.skipped} shards took {time.perf_counter() - start:.1f} s")


def test_a_batch_that_was_killed_goes_on(ray, tmp_path):
    """Its whole process, by SIGKILL, once some shards are there; files that were being written do not count."""
    means = network(tmp_path / "means.onnx", "GlobalAveragePool", "Flatten")
    (tmp_path / "photos").mkdir()
    for i in range(160):
        picture(tmp_path / "photos" / f"{i:03}.png", (i, 0, 255 - i), size=(96, 96))
    out = tmp_path / "out"
    arguments = [means, tmp_path / "photos", out, "--shard", "4", "--workers", "1", "--mean", "0,0,0", "--std", "1,1,1"]
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "onnxpool", "batch", *map(str, arguments), "--address", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len([*out.glob("part-*.parquet")]) > 2 or process.poll() is not None)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    [*sorted(out.glob("part-*.parquet"))][-1].unlink()  # the system may have been quicker than the signal
    done = batch.run_batch(means, tmp_path / "photos", out, shard=4, workers=1, mean=[0] * 3, std=[1] * 3)
    assert (done.shards, done.errors) == (40, 0)
    assert 2 <= done.skipped < 40
    table = pq.read_table(out)
    rows = sorted(table.to_pylist(), key=lambda row: row["picture"])
    assert [Path(row["picture"]).stem for row in rows] == [f"{i:03}" for i in range(160)]
    np.testing.assert_allclose([row["y"] for row in rows], [(i / 255, 0, 1 - i / 255) for i in range(160)], atol=1e-4)
