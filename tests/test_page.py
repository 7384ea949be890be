"""The page at / and what it asks for: classes and feature maps by hand, in every form; then in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from models import pooled
from onnx import TensorProto, helper
from serving import HANGS_S, running, wait_for
from test_predict import RED, network, picture

import onnxpool
from onnxpool.graph.forms import write
from onnxpool.run.native_library import why_missing
from onnxpool.run.picture import MEAN, STD
from onnxpool.run.predict import predict
from onnxpool.window import Window

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("onnxruntime")
testclient = pytest.importorskip("starlette.testclient")

from onnxpool.serve import Options, Repository, application, pictures  # noqa: E402 - needs the extra
from onnxpool.serve.app import PAGE  # noqa: E402
from onnxpool.serve.pictures import look, poolings  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
FORMS = ["function", "standard"] + (["custom"] if why_missing() is None else [])


def chain(form):
    """x (N, 3, 8, 8) -> SoftPool 2x2 -> Relu -> MaxPool 2x2 -> the mean of each channel: y."""
    made = pooled(Window.of(2, 2))
    made.graph.node[0].output[0] = "soft"
    made.graph.node.extend(
        [
            helper.make_node("Relu", ["soft"], ["relu"], "relu"),
            helper.make_node("MaxPool", ["relu"], ["largest"], "largest", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["largest"], ["mean"], "mean"),
            helper.make_node("Flatten", ["mean"], ["y"], "flatten"),
        ]
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES)
    made.graph.input[0].CopyFrom(x)
    made.graph.output[0].CopyFrom(y)
    return onnxpool.to_form(made, form)


SHAPES = (("x", ["N", 3, 8, 8]), ("y", ["N", 3]))


@contextmanager
def serving(path, **options):
    app = application(Repository(path, Options(poll_s=0, timeout_s=HANGS_S, **options)))
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def steps(tmp_path):
    """8x8 pixels whose red grows from left to right, and green from top to bottom."""
    red, green = np.meshgrid(np.arange(0, 256, 32), np.arange(0, 256, 32))
    pixels = np.stack([red, green, 0 * red], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "steps.png")
    return tmp_path / "steps.png"


def plane(told):
    """The numbers that a map stands for, as exactly as bytes tell."""
    data = np.frombuffer(base64.b64decode(told["data"]), np.uint8).reshape(told["rows"], told["columns"])
    return told["least"] + data / 255 * (told["largest"] - told["least"])


# --- the endpoint


@pytest.mark.parametrize("form", FORMS)
def test_maps_before_and_after_each_pooling(tmp_path, steps, form):
    write(chain(form), tmp_path / "chain.onnx")
    (tmp_path / "chain.labels.txt").write_text("red\ngreen\nblue\n")
    with serving(tmp_path / "chain.onnx") as client:
        answer = client.post("/v1/models/chain/picture", content=steps.read_bytes())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["model"], told["size"]) == ("chain", [8, 8])
    assert told["time_s"] > 0
    assert [(one["operator"], one["before"][1:], one["after"][1:]) for one in told["poolings"]] == [
        ("SoftPool", [3, 8, 8], [3, 4, 4]),
        ("MaxPool", [3, 4, 4], [3, 2, 2]),
        ("GlobalAveragePool", [3, 2, 2], [3, 1, 1]),
    ]
    (wanted,) = predict(tmp_path / "chain.onnx", [steps]).pictures
    assert told["outputs"] == json.loads(json.dumps([asdict(output) for output in wanted.outputs]))

    soft, largest, _ = ({one["channel"]: one for one in pool["channels"]} for pool in told["poolings"])
    x = plane(soft[0]["before"])
    step = (x[0, -1] - x[0, 0]) / 255
    assert (np.diff(x[0]) > 0).all()
    assert np.allclose(x, x[:1])
    windows = x.reshape(4, 2, 4, 2)
    e = np.exp(windows)
    np.testing.assert_allclose(plane(soft[0]["after"]), (e * windows).sum((1, 3)) / e.sum((1, 3)), atol=2 * step)
    relu = np.maximum(plane(soft[0]["after"]), 0)
    np.testing.assert_allclose(plane(largest[0]["after"]), relu.reshape(2, 2, 2, 2).max((1, 3)), atol=2 * step)
    assert soft[2]["before"]["least"] == soft[2]["before"]["largest"] == pytest.approx(-MEAN[2] / STD[2])
    assert [*soft] == [0, 1, 2] or [*soft] == [1, 0, 2]  # the channel without structure comes last


@pytest.mark.parametrize("shape", [("N", 3, 4, 4), ("N", 3, "H", "W")], ids=str)
@pytest.mark.parametrize("size", [None, (3, 5)], ids=str)
def test_the_page_and_predict_agree(tmp_path, steps, shape, size):
    if size and shape[2] == 4:
        pytest.skip("the model's size is fixed")
    model = network(tmp_path / "any.onnx", "GlobalAveragePool", shape=shape)
    asked = "" if size is None else f"?size={size[0]}x{size[1]}"
    with serving(model) as client:
        told = client.post(f"/v1/models/any/picture{asked}", content=steps.read_bytes()).json()
    (found,) = onnxpool.predict(model, [steps], size=size).pictures
    assert tuple(told["size"]) == found.size == (size or ((4, 4) if shape[2] == 4 else (64, 64)))
    assert told["outputs"] == json.loads(json.dumps([asdict(output) for output in found.outputs]))


def test_a_size_that_is_none_and_a_picture_that_is_too_large(tmp_path):
    model = network(tmp_path / "any.onnx", "GlobalAveragePool", shape=("N", 3, "H", "W"))
    large = picture(tmp_path / "p.png", RED, size=(1025, 1024)).read_bytes()
    with serving(model) as client:
        for asked, said in {
            "": "1049600 pixels",
            "?size=0x4": "HEIGHTxWIDTH",
            "?size=2000x2000": "pixels at most",
        }.items():
            refused = client.post(f"/v1/models/any/picture{asked}", content=large)
            assert (refused.status_code, said in refused.json()["error"]) == (422, True), refused.text
        assert client.post("/v1/models/any/picture?size=4x4", content=large).json()["size"] == [4, 4]


def test_models_of_any_size_take_the_picture_as_it_is_and_poolings_are_few(tmp_path):
    names = [f"v{i}" for i in range(15)]
    nodes = [
        helper.make_node("MaxPool", [before], [after], after, kernel_shape=[3, 3], pads=[1] * 4)
        for before, after in zip(["x", *names], [*names, "y"], strict=True)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with serving(tmp_path / "m.onnx") as client:
        told = client.post(
            "/v1/models/m/picture", content=picture(tmp_path / "p.png", RED, size=(224, 224)).read_bytes()
        ).json()
    assert told["size"] == [224, 224]
    assert len(told["poolings"]) == 12
    first = told["poolings"][0]["channels"][0]["before"]
    assert (first["rows"], first["columns"]) == (56, 56)  # every fourth of 224


def test_values_that_are_no_numbers_have_a_colour_too(tmp_path):
    """sqrt(pixel - mean) is NaN where a pixel is dark, and 1 / 0 is infinity."""
    model = network(tmp_path / "odd.onnx", "Sqrt", "Reciprocal", "GlobalMaxPool", shape=("N", 3, 4, 4))
    with serving(model) as client:
        answer = client.post("/v1/models/odd/picture", content=picture(tmp_path / "p.png", (255, 0, 0)).read_bytes())
    assert answer.status_code == 200, answer.text
    (pool,) = answer.json()["poolings"]
    for channel in pool["channels"]:
        assert np.isfinite(plane(channel["before"])).all()


def test_what_is_refused(tmp_path, steps):
    write(chain("function"), tmp_path / "chain.onnx")
    network(tmp_path / "row.onnx", "Flatten", shape=("N", 10))
    write(onnxpool.to_form(pooled(Window.of(2, 2), op_type="LocalImportancePool", inputs=("x", "logit")), "function"),
          tmp_path / "two.onnx")  # fmt: skip
    data = steps.read_bytes()
    with serving(tmp_path, max_body_bytes=10_000) as client:
        for name, content, status, told in (
            ("absent", data, 404, "there is no model 'absent'"),
            ("chain", b"no picture", 422, "the picture cannot be read"),
            ("chain", b"", 422, "the picture cannot be read"),
            ("chain", bytes(10_001), 413, "larger than 10000 bytes"),
            ("row", data, 422, "a picture needs 4 axes"),
            ("two", data, 422, "takes 2 inputs"),
        ):
            answer = client.post(f"/v1/models/{name}/picture", content=content)
            assert (answer.status_code, told in answer.text) == (status, True), answer.text
        (tmp_path / "row.labels.txt").write_text("two\nlines\n")
        (tmp_path / "chain.labels.txt").write_text("two\nlines\n")
    with serving(tmp_path) as client:
        answer = client.post("/v1/models/chain/picture", content=data)
        assert (answer.status_code, answer.json()["error"]) == (
            422, "labels has 2 lines, but output 'y' has 3 classes"
        )  # fmt: skip


def test_a_model_is_read_once_where_the_first_picture_was_not_waited_for(tmp_path, steps, monkeypatch):
    write(chain("standard"), tmp_path / "chain.onnx")
    begun, go_on = [], threading.Event()

    def slowly(*given):
        begun.append(given)
        go_on.wait(HANGS_S)
        return look(*given)

    monkeypatch.setattr(pictures, "look", slowly)
    app = application(Repository(tmp_path / "chain.onnx", Options(poll_s=0, timeout_s=0.5)))
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:

        def status():
            return client.post("/v1/models/chain/picture", content=steps.read_bytes()).status_code

        assert [status(), status()] == [504, 504]
        go_on.set()
        wait_for(lambda: status() == 200)
    assert len(begun) == 1


def test_a_file_that_was_replaced_is_not_taken_for_the_model_that_serves(tmp_path, steps):
    write(chain("function"), tmp_path / "chain.onnx")
    with serving(tmp_path / "chain.onnx") as client:
        write(chain("standard"), tmp_path / "chain.onnx")
        answer = client.post("/v1/models/chain/picture", content=steps.read_bytes())
        assert (answer.status_code, "is another than the one that is served" in answer.text) == (422, True)
        client.post("/v2/repository/models/chain/load")
        answer = client.post("/v1/models/chain/picture", content=steps.read_bytes())
        assert answer.status_code == 200
        described = client.get("/openapi.json").json()
    assert "requestBody" in described["paths"]["/v1/models/{name}/picture"]["post"]
    assert {*answer.json()} == set(described["components"]["schemas"]["Picture"]["required"])


def test_examples_of_bodies_are_answered(tmp_path):
    write(chain("function"), tmp_path / "chain.onnx")
    with serving(tmp_path / "chain.onnx") as client:
        described, page = client.get("/openapi.json").json(), client.get("/docs").text
        examples = {
            path: entry["post"]["requestBody"]["content"]["application/json"]["example"]
            for path, entry in described["paths"].items()
            if "application/json" in entry.get("post", {}).get("requestBody", {}).get("content", {})
        }
        assert {"/v2/repository/index", "/v2/models/{name}/infer", "/v2/repository/models/{name}/load"} < {*examples}
        for path, body in examples.items():
            if not path.endswith("unload"):
                answer = client.post(path.format(name="chain", version="1"), json=body)
                assert answer.status_code == 200, (path, answer.text)
    assert examples["/v2/models/{name}/infer"]["inputs"][0]["name"] == "x"
    assert re.search(r"\.\.\. \d+ numbers\]", page)
    assert 'name="viewport"' in page
    assert "--data-binary @photo.jpg $SERVER/v1/models/chain/picture" in page


# --- the page


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    write(chain("function"), tmp_path / "chain.onnx")
    with serving(tmp_path / "chain.onnx", token="0123456789abcdef") as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert client.post("/v1/models/chain/picture").status_code == 401
    assert not re.search(r"https?://|@import|<(script|link|img)[^>]+src=|url\(", PAGE.read_text(encoding="utf-8"))
    assert page.text == PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where a server of its own process serves the model, with labels."""
    pytest.importorskip("grpc")
    folder = tmp_path_factory.mktemp("models")
    write(chain("function"), folder / "chain.onnx")
    (folder / "chain.labels.txt").write_text("red\ngreen <b>\nblue\n")
    with running(folder / "chain.onnx") as server:
        yield server.url


@pytest.fixture
def chromium(tmp_path):
    quiet = ["background-networking", "component-update", "sync", "default-apps", "extensions"]
    return [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *(f"--disable-{name}" for name in quiet),
            "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip


@browser
def test_the_built_in_picture_in_a_browser(server, chromium):
    command = [*chromium, "--virtual-time-budget=20000", "--dump-dom", f"{server}/?demo"]
    page = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS_S).stdout
    assert '<body data-state="done">' in page
    assert "green &lt;b&gt;" in page
    assert re.findall(r"<h3>(\w+)<span", page) == ["y", "SoftPool", "MaxPool", "GlobalAveragePool"]
    assert page.count("<canvas ") == 2 * 3 * 3
    assert 'width="4" height="4" role="img"' in page
    assert " ms</dd>" in page


@contextmanager
def browsing(command, profile, address):
    """A page in chromium: a function that gives the value of an expression there, by the DevTools protocol."""
    connect = pytest.importorskip("websockets.sync.client").connect
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "--remote-debugging-port=0", address], **quiet) as process:
        try:
            file = profile / "DevToolsActivePort"
            wait_for(lambda: file.exists() and file.read_text().count("\n") == 1)
            with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text().splitlines()[0]}/json") as answer:
                (page,) = (one for one in json.load(answer) if one["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None, open_timeout=HANGS_S) as socket:
                yield lambda script: evaluated(socket, script)
        finally:
            process.terminate()


def evaluated(socket, script):
    parameters = {"expression": script, "awaitPromise": True, "returnByValue": True}
    ends = time.monotonic() + HANGS_S
    while True:
        socket.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": parameters}))
        while (answer := json.loads(socket.recv(HANGS_S))).get("id") != 1:
            pass
        if "error" not in answer:
            break
        assert time.monotonic() < ends, answer  # a page that is just being loaded cannot be asked
        time.sleep(0.1)
    assert "exceptionDetails" not in answer["result"], answer
    return answer["result"]["result"].get("value")


DROP = """(() => {
  const bytes = Uint8Array.from(atob("%s"), letter => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "%s", {type: "%s"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
})()"""


NARROW = """(() => {
  document.getElementById("model").append(new Option("a long name of a model ".repeat(5)));
  document.documentElement.style.width = "390px";
  const wide = [...document.querySelectorAll("header *, #drop, #drop *")]
    .filter(one => one.getBoundingClientRect().right > 391);
  return wide.map(one => one.tagName + one.id).join();
})()"""
"""What is too wide on a phone; the result is laid out by the window's width, which stays."""


@browser
def test_dropped_files_in_a_browser(server, chromium, tmp_path, steps):
    with browsing(chromium, tmp_path / "profile", server) as run:

        def drop(data, kind):
            run(DROP % (base64.b64encode(data).decode(), "dropped", kind))
            wait_for(lambda: run("document.body.dataset.state") in ("done", "failed"))
            return run("document.body.dataset.state"), run("document.getElementById('state').textContent")

        wait_for(lambda: run("document.getElementById('model')?.value"))
        assert drop(steps.read_bytes(), "image/png") == ("done", "")
        assert run("document.querySelector('#outputs th').textContent") == "green <b>"
        failed, told = drop(b"no picture", "image/png")
        assert (failed, "the picture cannot be read" in told) == ("failed", True)
        assert run("document.getElementById('result').hidden") is True
        assert drop(steps.read_bytes(), "image/png") == ("done", "")
        assert drop(b"text", "text/plain") == ("failed", "that is not a picture")
        assert run("document.getElementById('result').hidden") is True, "it is of another picture"
        assert run("document.getElementById('poolings').children.length") == 0
        assert drop(steps.read_bytes(), "image/png") == ("done", "")
        assert run(NARROW) == ""
        hosts = run("[...new Set(performance.getEntriesByType('resource').map(one => new URL(one.name).host))].join()")
        assert {*hosts.split(",")} <= {server.removeprefix("http://"), ""}  # data: and blob: have none


@pytest.mark.parametrize("form", FORMS)
def test_poolings_have_the_names_of_their_nodes(form):
    found = [(pool.node, pool.operator, pool.before, pool.after) for pool in poolings(chain(form))]
    assert found == [
        ("pool", "SoftPool", "x", "soft"),
        ("largest", "MaxPool", "relu", "largest"),
        ("mean", "GlobalAveragePool", "largest", "mean"),
    ]
    alone = onnxpool.to_form(pooled(Window.of(2, 3, 2, 1)), form)  # many nodes in standard form, and one pooling
    assert [(pool.node, pool.operator) for pool in poolings(alone)] == [("pool", "SoftPool")]
