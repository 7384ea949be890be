"""What a client may ask for: queues that are full, time that runs out, bytes that are too many, clients that leave.

The application alone, without a port: each scene is an ASGI conversation.
"""

import asyncio
import gc
import gzip
import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from serving import soft

pytest.importorskip("starlette")

from onnxpool.errors import SessionError
from onnxpool.serve import Options, Repository, application, bodies, codec
from onnxpool.serve.limits import Refusal
from onnxpool.serve.patience import Patience

httpx = pytest.importorskip("httpx")

INFER = "/v2/models/soft/infer"
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [1, 2, 3, 4]}]}).encode()
LONG_S = 600
"""Longer than any test: a request that waits so long for others waits for something else."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return soft(tmp_path_factory.mktemp("limits") / "soft.onnx")


def app(path, **options):
    return application(Repository(path, Options(**{"timeout_s": LONG_S, **options})))


def posted(app, *bodies, path=INFER, headers=()):
    """Answers to bodies that are sent at the same time, in their order."""

    async def scene():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.post(path, content=body, headers=dict(headers)) for body in bodies))

    return asyncio.run(scene())


def talk(app, *messages, headers=()):
    """The status of a request whose parts come as these messages; after the last, silence."""
    sent, left = [], list(messages)

    async def receive():
        return left.pop(0) if left else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "raw_path": INFER.encode(), "query_string": b""}
    scope |= {
        "headers": [*headers],
        "scheme": "http",
        "server": ("localhost", 80),
        "root_path": "",
        "http_version": "1.1",
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


async def inferred(service, feeds, timeout_s=None):
    with Patience() as patience:
        return await service.infer(service.repository.get("soft"), feeds, patience, timeout_s)


def part(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def posted_until_one_is_refused(app, count):
    """Answers to so many requests that are sent at the same time; none is run before one of them was refused."""
    batcher, refused = app.state.service.repository.get("soft").batcher, threading.Event()
    run = batcher._run

    def blocked(feeds, stop=None):
        assert refused.wait(LONG_S)
        return run(feeds)

    async def scene():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = [asyncio.ensure_future(client.post(INFER, content=BODY)) for _ in range(count)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            refused.set()
            return [await one for one in asked]

    batcher._run = blocked
    try:
        return asyncio.run(scene())
    finally:
        batcher._run = run


def test_the_queue_of_a_model_ends(path):
    """One runs, two wait, and the last is one too many."""
    answers = posted_until_one_is_refused(app(path, max_queue=2), 4)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["retry-after"] == "1"
    assert answers[0].json()["outputs"][0]["data"] == [pytest.approx(3.4926527)]


def test_all_bodies_together_end_and_are_given_back(path):
    size = len(BODY)
    limited = app(path, max_body_bytes=size, max_pending_bytes=2 * size)
    for _ in range(2):
        answers = posted_until_one_is_refused(limited, 3)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503]
    (refused,) = (answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert b"onnxpool_pending_bytes 0.0" in limited.state.service.metrics_text()


def test_a_body_at_the_limit_and_one_byte_above(path):
    limited = app(path, max_body_bytes=len(BODY))
    assert [answer.status_code for answer in posted(limited, BODY, BODY + b" ")] == [200, 413]


def test_a_tensor_above_the_limit_is_refused_by_its_declaration(path):
    (answer,) = posted(app(path, max_tensor_bytes=15), BODY)
    assert (answer.status_code, answer.json()["error"]) == (413, "input 'x' is declared 16 bytes; the limit is 15")


def test_time_runs_out(path):
    """The service alone: on the way to it the same limit holds for the body to come."""
    service = app(path, max_delay_s=LONG_S, timeout_s=0.1).state.service
    feeds = {"x": np.zeros((1, 1, 2, 2), np.float32)}
    with pytest.raises(Refusal, match=r"^there was no answer within 0\.1 s$") as refusal:
        asyncio.run(inferred(service, feeds))
    assert refusal.value.status == 504


def test_a_client_may_want_less_time(path):
    body = json.loads(BODY) | {"parameters": {"timeout": 50_000}}
    (answer,) = posted(app(path, max_delay_s=LONG_S, timeout_s=LONG_S), json.dumps(body).encode())
    assert (answer.status_code, answer.json()["error"]) == (504, "there was no answer within 0.05 s")


def test_a_client_gets_no_more_time_than_others(path):
    service = app(path, max_delay_s=LONG_S, timeout_s=0.1).state.service
    feeds = {"x": np.zeros((1, 1, 2, 2), np.float32)}
    with pytest.raises(Refusal, match=r"within 0\.1 s$"):
        asyncio.run(inferred(service, feeds, LONG_S))


def test_a_body_that_stops_coming(path):
    assert talk(app(path, timeout_s=0.1), part(b"{", more=True)) == 408


def test_a_body_that_comes_too_slowly(path, monkeypatch):
    monkeypatch.setattr("onnxpool.serve.bodies.GRACE_S", 0.1)
    assert talk(app(path), part(b"{", more=True)) == 408


@pytest.mark.parametrize("messages", [[part(b"{", more=True)], [part(BODY)]], ids=["within the body", "after it"])
def test_a_client_that_leaves_is_not_run(path, messages):
    left = app(path, max_delay_s=LONG_S)
    served = left.state.service.repository.get("soft")
    ran = []
    served.batcher._run = lambda feeds, **_: ran.append(feeds) or {}
    assert talk(left, *messages, {"type": "http.disconnect"}) == 499
    assert ran == []
    assert left.state.service.metrics.total("requests_total", status="499") == 1
    assert left.state.service.metrics.total("pending_bytes") == 0


def test_a_fault_of_the_server_is_500_and_the_next_request_is_served(path):
    faulty = app(path)
    batcher = faulty.state.service.repository.get("soft").batcher
    run, faults = batcher._run, [ZeroDivisionError("ours"), SessionError("of these sizes")]
    batcher._run = lambda feeds, **_: (_ for _ in ()).throw(faults.pop(0)) if faults else run(feeds)

    async def scene():
        transport = httpx.ASGITransport(faulty, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.post(INFER, content=BODY) for _ in range(3)]

    answers = asyncio.run(scene())
    assert [answer.status_code for answer in answers] == [500, 422, 200]
    assert "ours" not in answers[0].text


WITHOUT = """
import sys

for package in ("starlette", "orjson", "prometheus_client", "uvicorn"):
    for name in [name for name in sys.modules if name.startswith("onnxpool.serve")]:
        del sys.modules[name]
    there = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == package}
    sys.modules[package] = None
    try:
        import onnxpool.serve.server
    except ImportError as error:
        print(error)
    del sys.modules[package]
    sys.modules |= there
import onnxpool.serve.server

print([name for name in sys.modules if "opentelemetry" in name])
"""


def test_a_package_that_is_missing_is_named_with_the_remedy_and_none_is_loaded_that_is_not_asked_for():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    said = "serving needs the package '{}': pip install 'onnxpool[serve]'"
    packages = ("starlette", "orjson", "prometheus_client", "uvicorn")
    assert done.stdout.splitlines() == [*map(said.format, packages), "[]"]


def test_not_ready_while_stopping(path):
    stopping = app(path)
    ready = posted(stopping, b"", path="/v2/health/ready")
    assert ready[0].status_code == 405  # it is asked with GET
    stopping.state.service.draining = True
    assert not stopping.state.service.ready()


# --- the event loop


@pytest.mark.parametrize(("elements", "apart"), [(4, False), (200_000, True)])
def test_what_takes_long_to_read_is_read_in_a_thread(path, monkeypatch, elements, apart):
    """So is what takes long to write."""
    threads = []
    for name in ("decode", "encode"):
        done = getattr(codec, name)
        monkeypatch.setattr(
            codec, name, lambda *given, done=done: threads.append(threading.current_thread()) or done(*given)
        )
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 2, elements // 2], "data": [1] * elements}
    (answer,) = posted(app(path), json.dumps({"inputs": [tensor]}).encode())
    assert answer.json()["outputs"][0]["data"] == [1] * (elements // 4)
    assert [thread is not threading.main_thread() for thread in threads] == [apart, apart]


def test_compression_is_undone_in_a_thread_and_only_to_a_hundredfold(path, monkeypatch):
    threads, undone = [], bodies._decompressed
    monkeypatch.setattr(
        bodies, "_decompressed", lambda *given: threads.append(threading.current_thread()) or undone(*given)
    )
    padded = [BODY + b" " * count for count in (1 << 18, 3 << 20)]
    answers = posted(app(path), *map(gzip.compress, padded), headers=[("content-encoding", "gzip")])
    assert [answer.status_code for answer in answers] == [200, 413]
    assert not any(thread is threading.main_thread() for thread in threads)


def test_an_answer_that_cannot_be_said_is_a_failure_and_no_success(path):
    """It was counted as both."""
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [entry]}).encode()
    body = head + np.full(4, np.nan, np.float32).tobytes()
    served = app(path)
    (answer,) = posted(served, body, headers=[("inference-header-content-length", str(len(head)))])
    assert (answer.status_code, "ask for binary data" in answer.text) == (422, True)
    posted(served, BODY, b"none")
    (stats,) = served.state.service.statistics()["model_stats"]
    assert [stats["inference_stats"][kind]["count"] for kind in ("success", "fail")] == [1, 2]


def test_a_run_of_a_model_that_was_unloaded_is_stopped_as_any_other(path):
    """Else the process would wait for it at its end."""
    served = app(path)
    service, begun, stopped = served.state.service, threading.Event(), threading.Event()
    batcher = service.repository.get("soft").batcher

    def blocked(feeds, stop):
        begun.set()
        assert stopped.wait(LONG_S)
        return feeds

    class Stop:
        def __call__(self):
            stopped.set()

    batcher._run, batcher._make_stop = blocked, Stop

    async def scene():
        feeds = {"x": np.ones((1, 1, 2, 2), np.float32)}
        run = asyncio.ensure_future(inferred(service, feeds))
        await asyncio.to_thread(begun.wait, LONG_S)
        await service.unload("soft")
        assert service.busy()
        service.stop()
        with pytest.raises(Refusal, match="the server stops"):
            await run

    try:
        asyncio.run(scene())
    finally:
        stopped.set()


def test_statistics_look_at_their_own_model_only(path, monkeypatch):
    service = app(path).state.service
    monkeypatch.setattr(service.metrics.registry, "collect", None)
    assert [one["name"] for one in service.statistics()["model_stats"]] == ["soft"]


def test_garbage_is_collected_once_for_many_models(path, tmp_path, monkeypatch):
    collected, collect = [], gc.collect
    monkeypatch.setattr(gc, "collect", lambda *given: collected.append(1) or collect(*given))
    for name in ("a", "b", "c", "d"):
        shutil.copy(path, tmp_path / f"{name}.onnx")
    Repository(tmp_path)
    assert len(collected) == 1
