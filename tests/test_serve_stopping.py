"""Runs that nobody waits for are stopped, and a server that is asked to stop ends, whatever its models do."""

import asyncio
import http.client
import json
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing

import numpy as np
import pytest
from serving import HANGS_S, endless, running, soft, started, wait_for

pytest.importorskip("starlette")
pytest.importorskip("grpc")

from onnxpool.errors import SessionError
from onnxpool.run.session import Stop, load
from onnxpool.serve import batcher as batching
from onnxpool.serve.batcher import Batcher
from onnxpool.serve.limits import Options, Refusal

LONG_S = 600
FOREVER = 10**15


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A model that adds 1 so often as its input says; its golden input says 3 times."""
    return endless(tmp_path_factory.mktemp("stopping") / "loop.onnx")


def test_a_run_is_stopped_from_another_thread(loop):
    session, stop = load(loop, threads=1), Stop()
    assert session.run({"x": np.array(5)}, stop)["y"] == 5
    threading.Timer(0.1, stop).start()
    with pytest.raises(SessionError, match="terminate"):
        session.run({"x": np.array(FOREVER)}, stop)


# --- the batcher alone


class Runs:
    """A model whose runs last until they are told to stop; one that is ``deaf`` goes on."""

    def __init__(self):
        self.deaf, self.may_end, self.stops = False, threading.Event(), []

    def make_stop(self):
        stop = threading.Event()
        self.stops.append(stop)
        return stop.set

    def __call__(self, feeds, stop):
        while not self.may_end.wait(0.01) and (self.deaf or not stop.__self__.is_set()):
            pass
        return {"y": feeds["x"]}


def row(value):
    return {"x": np.full((1, 2), value, np.float32)}


def test_a_run_ends_when_the_last_of_its_requests_is_given_up():
    runs = Runs()

    async def scene():
        batcher = Batcher(runs, Options(max_batch=2, max_delay_s=LONG_S), joins=True, make_stop=runs.make_stop)
        first, second = (asyncio.ensure_future(batcher.submit(row(value))) for value in (1, 2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        assert not runs.stops[0].is_set()
        second.cancel()
        async with asyncio.timeout(LONG_S):
            while batcher.busy:
                await asyncio.sleep(0.01)
        assert not batcher.stuck

    asyncio.run(scene())
    assert len(runs.stops) == 1


def test_a_model_whose_worker_hangs_is_stuck_until_it_returns(monkeypatch):
    monkeypatch.setattr(batching, "STUCK_S", 0.05)
    runs = Runs()
    runs.deaf = True

    async def scene():
        batcher = Batcher(runs, Options(), joins=True, make_stop=runs.make_stop)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batcher.submit(row(1))
        async with asyncio.timeout(LONG_S):
            while not batcher.stuck:
                await asyncio.sleep(0.01)
            with pytest.raises(Refusal, match="does not end") as refusal:
                await batcher.submit(row(2))
            assert refusal.value.status == 503
            runs.may_end.set()
            while batcher.stuck:
                await asyncio.sleep(0.01)
            assert (await batcher.submit(row(3)))["y"].tolist() == [[3, 3]]

    asyncio.run(scene())


def test_who_gives_up_while_waiting_makes_room():
    runs = Runs()

    async def scene():
        batcher = Batcher(runs, Options(max_queue=1), joins=False, make_stop=runs.make_stop)
        held = asyncio.ensure_future(batcher.submit(row(1)))
        await asyncio.sleep(0.01)
        for value in (2, 3):
            waiting = asyncio.ensure_future(batcher.submit(row(value)))
            await asyncio.sleep(0.01)
            assert batcher.waiting == 1
            waiting.cancel()
            await asyncio.sleep(0.01)
            assert batcher.waiting == 0
        runs.may_end.set()
        await held

    asyncio.run(scene())


# --- a server


def posted(server, x, timeout_us=None, name="loop"):
    """Status and answer."""
    tensor = {"name": "x", "datatype": "INT64", "shape": [], "data": [x]}
    message = {"inputs": [tensor], "parameters": {"timeout": timeout_us}}
    try:
        request = urllib.request.Request(f"{server.url}/v2/models/{name}/infer", json.dumps(message).encode())
        with urllib.request.urlopen(request, timeout=HANGS_S) as answer:
            return answer.status, json.load(answer)["outputs"][0]["data"][0]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def test_an_endless_run_ends_with_its_time_and_with_its_client(loop):
    """The one worker is free again for the next request."""
    with running(loop) as server:
        assert posted(server, FOREVER, 200_000) == (504, "there was no answer within 0.2 s")
        assert posted(server, 4) == (200, 4)
        host, _, port = server.address.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            tensor = {"name": "x", "datatype": "INT64", "shape": [], "data": [FOREVER]}
            body = json.dumps({"inputs": [tensor]}).encode()
            head = f"POST /v2/models/loop/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(0.2)
        assert posted(server, 5) == (200, 5)


HANGING = """
import json, sys, time
from onnxpool.serve import Options, Repository
from onnxpool.serve.listening import Listen
from onnxpool.serve.server import serve
repository = Repository(sys.argv[1], Options(timeout_s=600))
for one in repository.serving():
    one.batcher._run = lambda feeds, **_: time.sleep(3600)
announce = lambda listening: print(json.dumps(listening.to_json(), indent=2), flush=True)
serve(repository, Listen(port=0, grpc_port=0, drain_s=0.3), announce)
"""


def test_sigterm_ends_a_server_whose_worker_hangs(loop):
    answers = []
    with started([sys.executable, "-c", HANGING, str(loop)], "loop") as server:
        asking = threading.Thread(target=lambda: answers.append(posted(server, 3)))
        asking.start()
        wait_for(lambda: b'onnxpool_connections{state="busy"} 2.0' in read(server, "/metrics"))
        server.process.terminate()
        assert server.process.wait(HANGS_S) == 0
        asking.join(HANGS_S)
    assert answers == [(503, "the server stops")]


def read(server, path):
    with urllib.request.urlopen(server.url + path, timeout=HANGS_S) as answer:
        return answer.read()


@pytest.fixture
def hangups():
    """Heard by what a test starts, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_delay_before_the_drain(tmp_path, hangups):
    """After the signal the server answers on, says that it is not ready, and that connections end."""
    with running(soft(tmp_path / "soft.onnx"), "--drain-delay", "600", "--drain", "5") as server:
        host, _, port = server.address.partition(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=HANGS_S)) as kept:

            def asked(path):
                kept.request("GET", path)
                answer = kept.getresponse()
                answer.read()
                return answer.status, answer.getheader("Connection")

            assert asked("/v2/health/ready") == (200, None)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: asked("/v2/health/ready") == (503, "close"))
            assert asked("/v2/models/soft") == (200, "close")  # on a new connection, which is taken
        server.process.send_signal(signal.SIGINT)  # a second signal has no patience
        assert server.process.wait(HANGS_S) == 0
