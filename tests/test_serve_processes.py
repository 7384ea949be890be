"""Several processes on the same ports, the processors that they may use, and spans of what they do."""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serving import HANGS_S, running, soft, wait_for

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from onnxpool.errors import ArgumentError, SessionError
from onnxpool.serve import Options, application, processes, siblings
from onnxpool.serve.access import AccessLog
from onnxpool.serve.listening import Listen, Listening
from onnxpool.serve.processors import processors
from onnxpool.serve.repository import Repository
from onnxpool.serve.tracing import Tracing

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}]}).encode()


def asked(server, path, body=None):
    with urllib.request.urlopen(server.url + path, body, timeout=HANGS_S) as answer:
        return answer.read().decode()


def counted(server):
    lines = asked(server, "/metrics").splitlines()
    return {
        line[: line.index("}")]: float(line.split()[-1]) for line in lines if line.startswith("onnxpool_requests_t")
    }


def test_processes_share_ports_and_one_that_dies_is_replaced(tmp_path):
    with running(soft(tmp_path / "soft.onnx"), "--processes", "2", "--threads", "1", "--drain", "5") as server:
        for _ in range(20):
            assert json.loads(asked(server, "/v2/models/soft/infer", BODY))["outputs"][0]["shape"] == [1, 1, 1, 1]
        assert sum(counted(server).values()) == 20
        (statistics,) = json.loads(asked(server, "/v2/models/stats"))["model_stats"]
        assert statistics["inference_count"] == statistics["inference_stats"]["success"]["count"] == 20
        with pytest.raises(urllib.error.HTTPError, match="403"):
            asked(server, "/v2/repository/models/soft/unload", b"")
        first = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        served = [int(pid) for pid in first if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(served) == 2
        os.kill(served[0], signal.SIGKILL)
        said = 'onnxpool_loads_total{process="0"', 'onnxpool_loads_total{process="1"'
        wait_for(lambda: all(one in asked(server, "/metrics") for one in said) and len(counted(server)) <= 1)
        asked(server, "/v2/models/soft/infer", BODY)
    assert server.process.returncode == 0
    assert not [pid for pid in served if Path(f"/proc/{pid}").exists()]


def test_what_keeps_processes_from_starting_is_told(tmp_path, monkeypatch):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(SessionError, match="model 'bad' version 1 is not served"):
        processes.serve(tmp_path / "bad.onnx", Options(processes=1), Listen(port=0, drain_s=1), print)
    monkeypatch.delattr("socket.SO_REUSEPORT")
    with pytest.raises(ArgumentError, match=r"processes=2: .* use 1"):
        processes.serve(tmp_path, Options(processes=2), Listen(port=0), print)


def listens_never(*given):
    *_, pipe = given
    pipe.send("the file is no good")
    raise SystemExit(1)


def dies_after_it_listened(*given):
    _, _, _, _, folder, _, number, pipe = given
    (folder / f"{number}-{os.getpid()}").touch()
    starts = len(list(folder.glob(f"{number}-*")))
    if starts in (2, 3):
        listens_never(pipe)
    pipe.send(Listening((), "", None, "", ()))
    if starts == 1 and number == 1:
        raise SystemExit(3)
    signal.pause()


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Two processes, quickly made."""
    monkeypatch.setattr(processes, "_AGAIN_S", 0.01)
    monkeypatch.setattr(processes, "_SPARE_S", 0.1)
    monkeypatch.setattr(processes, "get_context", lambda _: multiprocessing.get_context("fork"))
    with socket.socket() as rest:
        yield processes._Family(tmp_path, Options(processes=2), Listen(port=0, drain_s=0), rest, tmp_path)


def stop_when(family, condition):
    """Stop all processes once this holds."""

    def stop():
        wait_for(condition)
        family._stopping = True

    threading.Thread(target=stop).start()


forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
def test_where_none_listens_any_more_it_gives_up_and_says_why(family, monkeypatch, caplog):
    monkeypatch.setattr(processes, "_process", listens_never)

    def run():
        for number in range(2):
            family._start(number)
        while True:
            family._watch()

    with pytest.raises(SessionError, match=r"gone, none starts any more: the file is no good$"):
        run()
    waits = [float(record.args[-1]) for record in caplog.records if record.args[0] == 0]
    assert waits[:5] == [0.02, 0.04, 0.08, 0.16, 0.32]
    assert "process 1 ended with status 1: the file is no good; started again in 0.02 s" in caplog.messages


@forks
def test_one_that_dies_is_started_until_it_listens(family, monkeypatch, caplog):
    monkeypatch.setattr(processes, "_process", dies_after_it_listened)

    stop_when(family, lambda: len(caplog.messages) == 3 and family._there[1].listening)
    family.run(lambda _: None)
    assert [message.partition("; ")[0] for message in caplog.messages] == [
        "process 1 ended with status 3",
        *["process 1 ended with status 1: the file is no good"] * 2,
    ]
    assert [child.failed for child in family._there.values()] == [0, 3]
    assert not any(child.process.is_alive() for child in family._there.values())


def dies_as_soon_as_it_listens(*given):
    given[-1].send(Listening((), "", None, "", ()))
    os._exit(7)


def only_the_second_dies(*given):
    if given[-2] == 1:
        dies_as_soon_as_it_listens(*given)
    given[-1].send(Listening((), "", None, "", ()))
    signal.pause()


@forks
@pytest.mark.parametrize("steady_s", [60, 0])
def test_those_that_die_again_and_again_after_they_listened_are_given_up(family, monkeypatch, caplog, steady_s):
    """Unless each had listened for long enough: what ends it then has nothing to do with its start."""
    monkeypatch.setattr(processes, "_process", dies_as_soon_as_it_listens)
    monkeypatch.setattr(processes, "_STEADY_S", steady_s)
    if not steady_s:
        stop_when(family, lambda: len(caplog.messages) > 12)
        family.run(lambda _: None)
        assert {record.args[-1] for record in caplog.records} == {0.01}
        return
    gone = "each died 5 times within 60 s of its start: the last ended with status 7$"
    with pytest.raises(SessionError, match=gone):
        family.run(lambda _: None)
    waits = [record.args[-1] for record in caplog.records if record.args[0] == 0]
    assert waits == [0.02, 0.04, 0.08, 0.16, 0.32]


@forks
def test_one_that_stays_is_not_ended_for_the_other(family, monkeypatch, caplog):
    monkeypatch.setattr(processes, "_process", only_the_second_dies)
    stop_when(family, lambda: len(caplog.messages) > 6)
    family.run(lambda _: None)
    assert {record.args[0] for record in caplog.records} == {1}


@forks
def test_one_that_cannot_be_started_does_not_end_the_others(family, monkeypatch, caplog):
    monkeypatch.setattr(processes, "_process", dies_after_it_listened)
    start = processes._Family._start

    def fails(family, number, failed=0):
        monkeypatch.setattr(processes._Family, "_start", start)
        raise OSError("no memory")

    def stop():
        wait_for(lambda: len(caplog.messages) == 1)
        monkeypatch.setattr(processes._Family, "_start", fails)
        wait_for(lambda: len(caplog.messages) >= 2 and family._there[1].again_s is None)
        family._stopping = True

    monkeypatch.setattr(processes, "_AGAIN_S", 0.3)
    threading.Thread(target=stop).start()
    family.run(lambda _: None)
    assert caplog.messages[1] == "process 1 cannot be started: no memory; tried again in 1.2 s"


def test_a_port_of_grpc_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"gRPC cannot listen on 127.0.0.1:{port}: .*; name another port"):
            processes.serve(tmp_path, Options(processes=2), Listen(port=0, grpc_port=port), print)


def test_a_folder_whose_sockets_have_no_name_is_refused(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(processes.tempfile, "tempdir", str(deep))
    with pytest.raises(ArgumentError, match="set TMPDIR"):
        processes.serve(tmp_path, Options(processes=2), Listen(port=0), print)


def test_metrics_and_statistics_of_several():
    texts = {
        i: f'# HELP a A\n# TYPE a counter\na{{x="{{"}} {i}.0\n# HELP b B\n# TYPE b gauge\nb 1e3\n' for i in range(2)
    }
    assert siblings.joined(texts).splitlines() == [
        *("# HELP a A", "# TYPE a counter", 'a{process="0",x="{"} 0.0', 'a{process="1",x="{"} 1.0'),
        *("# HELP b B", "# TYPE b gauge", 'b{process="0"} 1e3', 'b{process="1"} 1e3'),
    ]
    one = {"name": "m", "version": "1", "last_inference": 5, "inference_stats": {"success": {"count": 1, "ns": 7}}}
    other = {"name": "m", "version": "1", "last_inference": 3, "inference_stats": {"success": {"count": 2, "ns": 8}}}
    total = {"name": "m", "version": "1", "last_inference": 5, "inference_stats": {"success": {"count": 3, "ns": 15}}}
    assert siblings.summed([[one], [other], []]) == [total]


# --- processors


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, np.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, np.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "nonsense\n"}, np.inf),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
    ],
)
def test_limits_of_control_groups(tmp_path, monkeypatch, files, share):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == min(64, share)


def test_threads_are_shared_by_processes(monkeypatch):
    monkeypatch.setattr("onnxpool.serve.limits.processors", lambda: 9)
    assert [Options(processes=count).session_threads for count in (1, 2, 16)] == [8, 4, 1]
    assert Options(processes=2, threads=3).session_threads == 3


# --- spans


def test_each_request_has_a_span_in_the_trace_of_its_client(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    httpx = pytest.importorskip("httpx")
    exporter = memory.InMemorySpanExporter()
    monkeypatch.setattr("onnxpool.serve.service.Tracing", lambda: Tracing(exporter))
    app = application(Repository(soft(tmp_path / "soft.onnx"), Options(poll_s=0, tracing=True)))
    tracing = app.state.service.access.tracing
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def scene():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            await client.post("/v2/models/soft/infer", content=BODY, headers={"traceparent": parent})
            await client.post("/v2/models/none/infer", content=BODY, headers={"traceparent": "nonsense"})
            await client.get("/v2/models/soft/versions/1/ready")
            await client.get("/v2/models/stats")
            await client.get("/no/such/place/7")
            await client.post("/v2/health/live")

    asyncio.run(scene())
    tracing.close()
    spans = exporter.get_finished_spans()
    assert [(span.name, span.attributes["http.response.status_code"]) for span in spans] == [
        ("POST /v2/models/{name}/infer", 200),
        ("POST /v2/models/{name}/infer", 404),
        ("GET /v2/models/{name}/versions/{version}/ready", 200),
        ("GET /v2/models/stats", 200),
        ("GET", 404),
        ("POST /v2/health/live", 405),
    ]
    assert [span.attributes["url.path"] for span in spans][1::3] == ["/v2/models/none/infer", "/no/such/place/7"]
    assert spans[0].attributes["http.route"] == "/v2/models/{name}/infer"
    assert "http.route" not in spans[4].attributes
    assert f"{spans[0].context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert f"{spans[0].parent.span_id:016x}" == "00f067aa0ba902b7"
    assert spans[1].parent is None
    assert all(span.kind.name == "SERVER" for span in spans)


def test_without_tracing_there_is_no_span():
    line = AccessLog("off").begin("rest", "", "GET", "/", "", "")
    assert line.span is None
