"""onnxpool.load(runtime="openvino"): it gives and refuses what a session in ONNX Runtime does; and the server."""

import json
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from cases import inputs
from models import model, pooled
from onnx import helper, parser
from serving import running, soft, with_golden

import onnxpool
from onnxpool.errors import ArgumentError, FormError, KernelError, MissingExtra, OnnxpoolError, SessionError
from onnxpool.golden import bounds
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run.in_openvino import Cancel
from onnxpool.window import Window

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

WINDOW = Window.of(2, 3, 2, 1)
X = np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def built(extension):
    with extension() as made:
        yield made


@pytest.fixture
def path(tmp_path):
    forms.write(onnxpool.to_form(pooled(WINDOW), "function"), tmp_path / "pool.onnx")
    return tmp_path / "pool.onnx"


def share(y, x, *, native, window=WINDOW):
    """The largest error over the allowed one; infinite for a misplaced NaN or infinity."""
    wide = x.astype(np.float64)
    answer = OPERATORS["SoftPool"].reference(window, wide)
    assert (y.dtype, y.shape) == (x.dtype, answer.shape)
    error = bounds.measure(y, answer, bounds.pooling(window, wide, answer, x.dtype, native=native).allowed)
    return np.inf if error.nan or error.infinite else error.share


# --- numbers


@pytest.mark.parametrize("form", ["function", "standard", "custom"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_form_and_type(form, dtype):
    """Natively where there is a node for it; else in standard form, of which a custom form is made too."""
    x = X.astype(getattr(ml_dtypes, dtype, dtype))
    held = onnxpool.to_form(pooled(WINDOW, dtype), form)
    for kernels in ("auto", "off"):
        session = onnxpool.load(held, runtime="openvino", kernels=kernels, threads=1)
        native = kernels == "auto" and form != "standard"
        assert [(one.node, one.native, one.provider) for one in session.placements] == [
            ("pool", native, "CPU" if native else None)
        ]
        assert share(session.run({"x": x})["y"], x, native=native) <= 1


def test_every_kind_of_model_is_taken(path):
    for given in (path, str(path), path.read_bytes(), forms.read(path), pooled(WINDOW)):
        assert share(onnxpool.load(given, runtime="openvino").run({"x": X})["y"], X, native=True) <= 1


def test_inputs_that_can_hurt_in_every_size_and_in_any_memory(path):
    """One session takes them all, and writes to none."""
    session = onnxpool.load(path, runtime="openvino", threads=1)
    given = [x.astype(np.float32) for x in inputs(WINDOW, float(np.finfo(np.float32).max)).values()]
    given += [X.transpose(1, 0, 3, 2), X[::-1, :, ::2], np.zeros((0, 3, 9, 8), np.float32)]
    shifted = np.zeros(4 * X.size + 4, np.uint8)[4:].view(np.float32).reshape(X.shape)
    shifted[...] = X
    frozen = np.frombuffer(X.tobytes(), np.float32).reshape(X.shape)
    for x in (*given, shifted, frozen):
        before = x.copy()
        assert share(session.run({"x": x})["y"], x, native=True) <= 1
        np.testing.assert_array_equal(x, before)


def test_answers_belong_to_the_caller(path):
    session = onnxpool.load(path, runtime="openvino")
    first = session.run({"x": X})["y"]
    kept = first.copy()
    session.run({"x": -X})
    np.testing.assert_array_equal(first, kept)
    first[...] = 0
    np.testing.assert_array_equal(session.run({"x": X})["y"], kept)


def test_threads_may_run_one_session(path):
    """Of other sizes at the same time: each gets its own answer."""
    session = onnxpool.load(path, runtime="openvino", threads=1)
    given = [np.random.default_rng(i).standard_normal((1 + i % 3, 2, 5 + i, 40)).astype(np.float32) for i in range(12)]
    expected = [session.run({"x": x})["y"] for x in given]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: session.run({"x": x})["y"], given * 5))
    for answer, right in zip(answers, expected * 5, strict=True):
        np.testing.assert_array_equal(answer, right)


def test_whole_numbers_and_several_outputs():
    text = """<ir_version: 10, opset_import: ["": 18]> g (int64[n] i, float[n, 3] x) => (bool[n] b, int64[n] j, z) {
        zero = Constant <value = int64 {0}> ()
        b = Greater (i, zero)
        j = Neg (i)
        z = Exp (x)
    }"""
    session = onnxpool.load(parser.parse_model(text), runtime="openvino")
    assert [str(one) for one in session.outputs] == ["b: bool (n)", "j: int64 (n)", "z: float32 (?, 3)"]
    feeds = {"i": np.array([3, -(2**30)]), "x": np.zeros((2, 3), np.float32)}
    b, j, z = session.run(None, feeds)
    assert (b.tolist(), j.tolist(), z.tolist()) == ([True, False], [-3, 2**30], [[1.0] * 3] * 2)
    assert [one.sum() for one in session.run(["z", "j"], feeds)] == [6, 2**30 - 3]
    for beyond in (2**31, -(2**31) - 1, 2**62):
        with pytest.raises(SessionError, match="OpenVINO computes int64 in int32, and input 'i' has numbers beyond"):
            session.run({**feeds, "i": np.array([1, beyond])})


def test_float64_within_a_model_is_computed_in_float32():
    """As docs/how-to/openvino.md says."""
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[n] x) => (float[n] y) {
        wide = Cast <to = 11> (x)
        little = Constant <value = double {1e-12}> ()
        more = Add (wide, little)
        rest = Sub (more, wide)
        y = Cast <to = 1> (rest)
    }"""
    ours, theirs = (onnxpool.load(parser.parse_model(text), runtime=name) for name in ("openvino", "onnxruntime"))
    feeds = {"x": np.ones(1, np.float32)}
    assert theirs.run(feeds)["y"] == pytest.approx([1e-12], rel=1e-3)
    assert ours.run(feeds)["y"] == [0]


def test_too_few_cells_without_kernels():
    """As onnxpool.load says."""
    x = np.array([[[[1, 1], [1, 9]]]], np.float32)
    for form in ("function", "standard"):
        held = onnxpool.to_form(pooled(Window.of(2, 3, 3)), form)
        ours, theirs = (onnxpool.load(held, runtime=name, kernels="off") for name in ("openvino", "onnxruntime"))
        assert ours.run({"x": x})["y"].shape == (1, 1, 0, 0)
        assert theirs.run({"x": x})["y"].shape == ((1, 1, 1, 1) if form == "function" else (1, 1, 0, 0))


# --- as ONNX Runtime's


def test_it_describes_itself_as_in_onnx_runtime(path):
    ours, theirs = (onnxpool.load(path, runtime=name, kernels="off") for name in ("openvino", "onnxruntime"))
    assert (ours.inputs, ours.outputs, ours.batched) == (theirs.inputs, theirs.outputs, theirs.batched)
    for mine, other in ((ours.get_inputs(), theirs.get_inputs()), (ours.get_outputs(), theirs.get_outputs())):
        assert [(one.name, one.type, one.shape) for one in mine] == [(one.name, one.type, one.shape) for one in other]
    assert (ours.runtime, ours.get_providers()) == ("openvino", ["CPU"])
    assert "on OpenVINO, CPU, 0 of 1 pooling nodes natively>" in repr(ours)


@pytest.mark.parametrize(
    "arguments",
    [
        ({},),
        ({"x": X, "z": X},),
        ({"X": X},),
        ({"x": X.astype(float)},),
        ({"x": X.astype(int)},),
        ({"x": X[0]},),
        ({"x": np.array("pixels")},),
        ([[1.0]],),
        (["z"], {"x": X}),
        ("y", {"x": X}),
    ],
)
def test_wrong_feeds_are_told_in_the_same_words(path, arguments):
    told = []
    for name in ("openvino", "onnxruntime"):
        session = onnxpool.load(path, runtime=name)
        with pytest.raises(ArgumentError) as error:
            session.run(*arguments)
        told.append(str(error.value))
        assert session.run({"x": X})["y"].shape == (2, 3, 5, 4)
    assert told[0] == told[1]


def test_a_run_that_fails_says_why_and_the_next_is_right():
    """Too few cells for the window; places in OpenVINO's sources are left out."""
    session = onnxpool.load(pooled(Window.of(2, 9)), runtime="openvino")
    with pytest.raises(SessionError) as error:
        session.run({"x": np.zeros((1, 1, 8, 8), np.float32)})
    assert str(error.value) == (
        "OpenVINO could not run the model on inputs of shapes {'x': (1, 1, 8, 8)}: Node y of type Reference 8 cells "
        "are too few for a window that spans 9 positions 1 apart with padding 0"
    )
    assert session.run({"x": np.ones((1, 1, 9, 9), np.float32)})["y"].tolist() == [[[[1]]]]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"runtime": "openvin"}, ArgumentError, r"did you mean 'openvino'\?\); use one of onnxruntime, openvino"),
        ({"providers": ["CPUExecutionProvider"]}, ArgumentError, r"providers=\['CPU.*'\] is for ONNX Runtime"),
        ({"session_config": {}}, ArgumentError, "session_config={} is for ONNX Runtime"),
        ({"libraries": ["theirs.so"]}, ArgumentError, r"libraries=\['theirs.so'\] is for ONNX Runtime"),
        ({"kernels": "on"}, ArgumentError, "kernels='on' is unknown"),
        ({"threads": True}, ArgumentError, "threads=True must be a positive int"),
    ],
)
def test_arguments_are_refused_and_never_ignored(path, arguments, kind, words):
    with pytest.raises(kind, match=words):
        onnxpool.load(path, **{"runtime": "openvino", **arguments})


def test_models_that_it_does_not_take(path, tmp_path):
    def told(given, kind, **options):
        with pytest.raises(kind) as error:
            onnxpool.load(given, runtime="openvino", **options)
        return str(error.value)

    assert told(pooled(WINDOW, "float64"), SessionError) == (
        "OpenVINO computes float64 in float32, and 'x' is float64: load the model with runtime='onnxruntime', or "
        "export it in float32"
    )
    unknown = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], 2)
    assert "NoSuchOperator" in told(unknown, SessionError)
    assert told(tmp_path / "none.onnx", FormError).startswith("there is no model file")
    (tmp_path / "text.onnx").write_text("no model")
    assert told(tmp_path / "text.onnx", FormError).startswith("cannot read ")
    assert "do not run natively: pool" in told(onnxpool.to_form(path, "standard"), KernelError, kernels="require")
    onnxpool.load(path, runtime="openvino", kernels="require")


def test_without_the_extension_it_pools_by_standard_operators(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = onnxpool.load(path, runtime="openvino")
    assert not session.placements[0].native
    assert share(session.run({"x": X})["y"], X, native=False) <= 1
    with pytest.raises(KernelError, match=r"kernels='require', but there is no extension .*: onnxpool build openvino"):
        onnxpool.load(path, runtime="openvino", kernels="require")


def test_without_openvino(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra) as error:
        onnxpool.load(path, runtime="openvino")
    assert str(error.value) == "runtime='openvino' needs the package 'openvino': pip install 'onnxpool[openvino]'"


def test_what_onnx_runtime_alone_has(path):
    session = onnxpool.load(path, runtime="openvino")
    with pytest.raises(SessionError, match="no IOBinding"):
        session.io_binding()
    with pytest.raises(ArgumentError, match="run_options are ONNX Runtime's"):
        session.run(None, {"x": X}, object())


# --- stopping


def test_a_run_is_stopped_from_another_thread_and_no_other_is(path):
    products = "".join(f"a{i + 1} = MatMul (a{i}, w) " for i in range(200))
    text = f"""<ir_version: 10, opset_import: ["": 18]> g (float[n, 512] a0, float[512, 512] w) => (float[n, 512] y) {{
        {products} y = Relu (a200)
    }}"""
    session = onnxpool.load(parser.parse_model(text), runtime="openvino", threads=1)
    feeds, stop = {"a0": np.zeros((512, 512), np.float32), "w": np.zeros((512, 512), np.float32)}, session.make_stop()
    threading.Timer(0.05, stop).start()
    with pytest.raises(SessionError, match="canceled"):
        session.run(feeds, stop)
    with pytest.raises(SessionError, match="stopped before it began"):
        session.run(feeds, stop)
    few = {"a0": np.zeros((1, 512), np.float32), "w": feeds["w"]}
    late = session.make_stop()
    session.run(few, late)
    late()  # its request may be another run's by now
    assert not session.run(few)["y"].any()


class Request:
    def __init__(self):
        self.told = []

    def start_async(self, _):
        self.told.append("start")

    def cancel(self):
        self.told.append("cancel")


def test_what_is_done_is_not_cancelled():
    request, stop = Request(), Cancel()
    stop.start(request, {})
    stop()
    stop.done()
    stop()
    assert request.told == ["start", "cancel"]
    with pytest.raises(SessionError):
        stop.start(request, {})
    assert request.told == ["start", "cancel"]


@pytest.mark.parametrize(("name", "other"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_another_runtimes_stop_is_refused(path, name, other):
    session, stop = onnxpool.load(path, runtime=name), onnxpool.load(path, runtime=other).make_stop()
    with pytest.raises(ArgumentError, match=r"stop=<.*> is not of this session's make_stop\(\)"):
        session.run({"x": X}, stop)


# --- predict and serve


def test_predictions_are_the_same(tmp_path):
    Image = pytest.importorskip("PIL.Image")  # noqa: N806 - a module
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / "p.png")
    nodes = [
        helper.make_node("SoftPool", ["x"], ["p"], "pool", domain="onnxpool", **WINDOW.attributes()),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    made = model(nodes, 2)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["N", 3]))
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnxpool.save(onnxpool.to_form(made, "function"), tmp_path / "m.onnx")
    found = [
        onnxpool.predict(tmp_path / "m.onnx", [tmp_path / "p.png"], runtime=name).pictures[0].outputs[0].classes
        for name in ("openvino", "onnxruntime")
    ]
    assert [one.index for one in found[0]] == [one.index for one in found[1]]
    np.testing.assert_allclose([one.score for one in found[0]], [one.score for one in found[1]], rtol=1e-6)


def test_golden_answers_come_first(tmp_path):
    pytest.importorskip("starlette")
    from onnxpool.serve import Options, Repository

    path = with_golden(soft(tmp_path / "m.onnx"))
    served = Repository(path, Options(runtime="openvino")).get("m")
    assert served.session.runtime == "openvino"
    assert served.session.placements[0].native
    assert (served.trial.fault, served.trial.joins) == ("", "exactly")
    assert served.trial.share < 1
    with_golden(path, np.ones((2, 1, 1, 1)))
    with pytest.raises(OnnxpoolError, match="golden case 'ordinary', output 'y': error"):
        Repository(path, Options(runtime="openvino"))
    with pytest.raises(ArgumentError, match="runtime='tvm' is unknown"):
        Options(runtime="tvm")
    with pytest.raises(ArgumentError, match=r"libraries=\('a.so',\) are for ONNX Runtime"):
        Options(runtime="openvino", libraries=("a.so",))


def test_a_server_in_openvino(tmp_path):
    pytest.importorskip("starlette")
    with running(with_golden(soft(tmp_path / "m.onnx")), "--runtime", "openvino") as served:
        place = f"{served.url}/v2/models/m"
        with urllib.request.urlopen(place) as answer:
            assert json.load(answer)["platform"] == "openvino_onnx"
        for data, right in (([1, 2, 3, 4], 3.4926527), ([float(2**100)] * 4, 2.0**100)):
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": data}
            body = json.dumps({"inputs": [tensor]}).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{place}/infer", body)) as answer:
                assert json.load(answer)["outputs"][0]["data"] == pytest.approx([right], rel=1e-6)
