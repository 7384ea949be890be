"""Native kernels in OpenVINO: the extension is compiled here, and its answers are within the bounds of native kernels.

Skipped without OpenVINO, a C++ compiler or the native library.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from cases import WINDOWS, inputs
from models import pooled
from typer.testing import CliRunner

import onnxpool
from onnxpool import openvino
from onnxpool.about.machine import diagnose
from onnxpool.cli.commands import app
from onnxpool.deploy import package
from onnxpool.errors import ArgumentError, KernelError
from onnxpool.golden import bounds
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import write
from onnxpool.pools import OPERATORS
from onnxpool.validation.validate import validate
from onnxpool.window import Window

ov = pytest.importorskip("openvino")

METHODS = ("SoftPool", "LocalImportancePool", "StochasticPool")
EACH = pytest.mark.parametrize("op_type", METHODS)
WINDOW = Window.of(2, 3, 2, 1)
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "float16", "bfloat16", "float64")}
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module", autouse=True)
def built(extension):
    """All tests here find the extension in a cache of its own."""
    with extension() as made:
        yield made


@pytest.fixture(scope="module")
def core():
    made = ov.Core()
    made.add_extension(openvino.extension_path())
    return made


def node(op_type, window=WINDOW, dtype="float32", form="function", **changed):
    made = pooled(window, dtype, op_type, OPERATORS[op_type].inputs, **changed)
    return made if form == "custom" else ir.to_proto(onnxpool.to_form(made, form))


def read(core, model):
    return core.read_model(model.SerializeToString())


def tensor(array):
    return ov.Tensor(array.view(np.uint16), array.shape, ov.Type.bf16) if array.dtype == DTYPES["bfloat16"] else array


def run(core, model, feeds, settings=SETTINGS):
    """What OpenVINO gives for these inputs, in the type of the model."""
    request = core.compile_model(read(core, model), "CPU", settings).create_infer_request()
    request.infer({name: tensor(array) for name, array in feeds.items()})
    value = request.get_output_tensor(0)
    bfloat16 = value.element_type == ov.Type.bf16
    return value.data.view(DTYPES["bfloat16"]).copy() if bfloat16 else value.data.copy()


def share(op_type, window, y, feeds, dtype):
    """The largest error over what a native kernel may have; infinite for a misplaced NaN or infinity."""
    wide = [array.astype(np.float64) for array in feeds.values()]
    answer = OPERATORS[op_type].reference(window, *wide)
    assert y.dtype == dtype
    assert y.shape == answer.shape
    error = bounds.measure(y, answer, bounds.pooling(window, wide[0], answer, dtype, native=True).allowed)
    return np.inf if error.nan or error.infinite else error.share


# --- numbers


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@EACH
def test_answers_are_within_the_bounds_of_native_kernels(core, op_type, dtype):
    """At every input that can hurt, with sizes that are known at run time alone."""
    dtype, wrong = DTYPES[dtype], {}
    largest = float(ml_dtypes.finfo(dtype).max)
    for window in WINDOWS if dtype == DTYPES["float32"] else WINDOWS[::3]:
        compiled = core.compile_model(read(core, node(op_type, window, dtype.name)), "CPU", SETTINGS)
        request = compiled.create_infer_request()
        given = inputs(window, largest)
        for name, x in given.items():
            if x.size == 0:
                continue  # OpenVINO takes no empty batch
            names = OPERATORS[op_type].inputs
            feeds = dict(zip(names, (x.astype(dtype), np.flip(x, -1).astype(dtype)), strict=False))
            request.infer({key: tensor(array) for key, array in feeds.items()})
            y = request.get_output_tensor(0).data
            y = y.view(dtype) if dtype.name == "bfloat16" else y
            if (used := share(op_type, window, y, feeds, dtype)) > 1:
                wrong[str(window), name] = used
    assert not wrong


@EACH
def test_float64_is_float64_on_the_host_and_float32_in_the_plugin(core, op_type):
    """OpenVINO's CPU plugin turns float64 into float32; what it evaluates by itself, such as constants, stays."""
    x = np.random.default_rng(3).standard_normal((2, 3, 9, 7))
    feeds = dict(zip(OPERATORS[op_type].inputs, (x, x[::-1].copy()), strict=False))
    model = read(core, node(op_type, dtype="float64"))
    outputs = [ov.Tensor(ov.Type.f64, [2, 3, 5, 4])]
    assert model.evaluate(outputs, [ov.Tensor(array) for array in feeds.values()])
    assert share(op_type, WINDOW, outputs[0].data, feeds, DTYPES["float64"]) <= 1
    y = run(core, node(op_type, dtype="float64"), feeds)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, outputs[0].data, rtol=0, atol=1e-6)
    assert share(op_type, WINDOW, y, feeds, DTYPES["float64"]) > 1


@pytest.mark.parametrize(
    ("window", "shape"),
    [
        (WINDOW, (2, 16, 80, 80)),  # along rows
        (Window.of(2, 5, 1, 2), (3, 40, 20, 20)),  # in lanes
        (Window.of(2, 200, 200), (2, 3, 200, 200)),  # parts of one window, joined
    ],
)
@EACH
def test_any_number_of_threads_gives_the_same_bits(core, op_type, window, shape):
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    feeds = dict(zip(OPERATORS[op_type].inputs, (x, x[::-1].copy()), strict=False))
    one, two = (run(core, node(op_type, window), feeds, {**SETTINGS, "INFERENCE_NUM_THREADS": n}) for n in (1, 2))
    assert share(op_type, window, one, feeds, DTYPES["float32"]) <= 1
    np.testing.assert_array_equal(one, two)


def test_threads_have_memory_of_their_own(core):
    """Some fifty tasks, each with planes side by side in a piece of scratch memory, some times over."""
    x = np.random.default_rng(8).standard_normal((8, 256, 20, 20)).astype(np.float32)
    model = read(core, node("SoftPool", Window.of(2, 5, 1, 2)))
    one, two = (core.compile_model(model, "CPU", {**SETTINGS, "INFERENCE_NUM_THREADS": n}) for n in (1, 2))
    expected = one(x)[0]
    for _ in range(20):
        np.testing.assert_array_equal(two(x)[0], expected)


@pytest.mark.parametrize(
    ("device", "settings"),
    [
        ("CPU", {"NUM_STREAMS": 2}),
        ("CPU", {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": 2}),
        ("AUTO", {"PERFORMANCE_HINT": "THROUGHPUT"}),
    ],
)
def test_requests_at_the_same_time_have_memory_of_their_own(core, device, settings):
    model = read(core, node("SoftPool", Window.of(2, 5, 1, 2)))
    compiled = core.compile_model(model, device, {**SETTINGS, **settings})
    rng, answers = np.random.default_rng(5), {}
    queue = ov.AsyncInferQueue(compiled, 4)
    queue.set_callback(lambda request, i: answers.update({i: request.get_output_tensor(0).data.copy()}))
    given = [rng.standard_normal((1, 3 + i % 5, 20, 9 + i)).astype(np.float32) for i in range(20)]
    for i, x in enumerate(given):
        queue.start_async({"x": x}, i)
    queue.wait_all()
    for i, x in enumerate(given):
        assert share("SoftPool", Window.of(2, 5, 1, 2), answers[i], {"x": x}, x.dtype) <= 1


@pytest.mark.parametrize("hint", ["bf16", "f16"])
def test_a_network_in_less_precision_gets_the_kernel_of_that_type(core, hint):
    """What OpenVINO takes a model down to, the kernel pools: half a step of that type is lost at each end."""
    if hint == "f16" and "FP16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor does not compute in float16")
    x = np.random.default_rng(6).standard_normal((1, 3, 20, 20)).astype(np.float32)
    y = run(core, node("SoftPool"), {"x": x}, {"INFERENCE_PRECISION_HINT": hint})
    answer = OPERATORS["SoftPool"].reference(WINDOW, x.astype(np.float64))
    np.testing.assert_allclose(y, answer, rtol=0, atol=4 * float(ml_dtypes.finfo(DTYPES["bfloat16"]).eps))


# --- shapes, formats, refusals


def test_sizes_are_inferred_as_far_as_they_are_known(core):
    model = read(core, node("LocalImportancePool"))
    assert str(model.outputs[0].partial_shape) == "[?,?,?,?]"
    model.reshape({"x": [ov.Dimension(1, 8), 3, ov.Dimension(5, 9), 7], "logit": [-1, 3, -1, -1]})
    assert str(model.outputs[0].partial_shape) == "[1..8,3,3..5,4]"
    model.reshape({"x": [2, 3, 9, 7], "logit": [2, 3, 9, 7]})
    assert model.outputs[0].shape == ov.Shape([2, 3, 5, 4])


@pytest.mark.parametrize("form", ["function", "custom"])
@EACH
def test_openvinos_own_format_keeps_the_node(core, tmp_path, op_type, form):
    model = read(core, node(op_type, form=form))
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    again = core.read_model(tmp_path / "model.xml")
    assert op_type in [one.get_type_name() for one in again.get_ops()]
    x = np.random.default_rng(7).standard_normal((1, 2, 8, 8)).astype(np.float32)
    feeds = [x] * len(again.inputs)
    before, after = (core.compile_model(one, "CPU", SETTINGS)(feeds)[0] for one in (model, again))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"auto_pad": "VALID"}, "SoftPool node 'pool': attribute auto_pad is unknown"),
        ({"ceil_mode": None}, "SoftPool node 'pool': attribute ceil_mode is missing"),
        ({"strides": None}, "SoftPool node 'pool': attribute strides is missing"),
        ({"strides": [0, 1]}, r"attribute strides is \[0, 1\]; each number must be from 1"),
        ({"pads": [1, 1, 0, 0]}, "different at begin and end"),
    ],
)
def test_wrong_attributes_are_refused_when_the_model_is_read(core, changed, told):
    with pytest.raises(RuntimeError, match=told):
        read(core, node("SoftPool", form="custom", **changed))


def test_wrong_inputs_are_refused(core):
    model = read(core, node("LocalImportancePool"))
    with pytest.raises(RuntimeError, match="one type and shape"):
        model.reshape({"x": [1, 2, 8, 8], "logit": [1, 3, 8, 8]})
    with pytest.raises(RuntimeError, match="8 cells are too few for a window that spans 9 positions 1 apart"):
        read(core, node("SoftPool", Window.of(2, 9))).reshape([1, 1, 8, 8])
    x = np.zeros((1, 2, 8, 8), np.float32)
    with pytest.raises(RuntimeError, match="one type and shape"):
        run(core, node("LocalImportancePool"), {"x": x, "logit": x[:, :1]})
    with pytest.raises(RuntimeError, match="8 cells are too few for a window"):
        run(core, node("SoftPool", Window.of(2, 9)), {"x": x})


# --- building


def test_the_extension_is_built_once(built, monkeypatch, tmp_path):
    assert not built.cached
    assert openvino.build_extension().cached
    folder = Path(built.path).parent
    assert {file.name for file in folder.iterdir()} == {"libonnxpool_openvino.so", "libonnxpool.so"}
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]
    monkeypatch.setattr(openvino, "SOURCES", (*openvino.SOURCES, "library.cc"))
    assert "there is no extension" in openvino.why_missing()  # of other sources: another file
    assert diagnose().openvino is None
    assert any("onnxpool build openvino compiles it; until then" in note for note in diagnose().notes)


def test_the_command_says_where_it_is(built):
    done = CliRunner().invoke(app, ["build", "openvino", "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["path"], told["release"], told["cached"]) == (built.path, built.release, True)
    shown = CliRunner().invoke(app, ["build", "openvino"]).stdout.replace("\n", "")
    assert shown == f"{built.path}: for OpenVINO {built.release}, was there already"


def test_why_it_cannot_be_built(monkeypatch, tmp_path):
    def told():
        with pytest.raises(KernelError) as error:
            openvino.build_extension(anew=True)
        assert not any(tmp_path.rglob("*.so"))
        return str(error.value)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "nowhere/g++")
    assert told() == (
        "the extension for OpenVINO needs a C++ compiler, and the environment variable CXX names 'nowhere/g++', "
        "which is not there: install g++ or clang++"
    )
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert told().endswith("needs a C++ compiler, and there is none: install g++ or clang++")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false --wrong")
    assert told().startswith("false could not compile the extension")
    monkeypatch.setenv("CXX", f'{sys.executable} -c \'import sys; open(sys.argv[sys.argv.index("-o") + 1], "w")\'')
    assert told().startswith("OpenVINO refuses the extension: ")
    monkeypatch.setattr(openvino, "find_spec", lambda _: None)
    assert told() == "openvino is not installed: pip install 'onnxpool[openvino]'"
    assert openvino.why_missing() == told()


def test_the_build_installs_what_is_compiled():
    text = (openvino.sources() / "openvino/openvino.cmake").read_text(encoding="utf-8")
    installed = {name for line in text.splitlines() if line.startswith("install(FILES") for name in line.split()}
    assert set(openvino.SOURCES) <= {name.removeprefix("install(FILES ") for name in installed}


# --- validation and packages


def test_validation_has_cells_with_native_kernels():
    report = validate(node("SoftPool", form="custom"), on=["openvino"], require=["native"])
    assert [(run.form, run.kernels, run.verdict) for run in report.runs] == [
        ("function", True, "passed"),
        ("standard", False, "passed"),
        ("custom", True, "passed"),
    ], report.summary
    assert report.runs[0].native == ("pool",)
    assert report.runs[0].pooling == ("pool (SoftPool): CPU",)


def test_validation_skips_them_where_there_is_no_extension(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (run,) = validate(node("SoftPool"), on=["openvino"], forms=["function"]).runs
    assert (run.verdict, run.reason) == ("skipped", openvino.why_missing())


def test_a_package_runs_by_itself(tmp_path):
    path, x = tmp_path / "layer.onnx", np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    write(onnxpool.to_form(node("SoftPool", Window.of(2, 2), form="custom"), "custom"), path)
    case = golden_file.Case("ordinary", {"x": x}, {"y": np.zeros((2, 1, 2, 2))}, {"y": 0.0})
    golden = golden_file.Golden("numbers", "numbers", {"y": "float32"}, (case,), (), None)
    golden_file.save(golden, golden_file.path_for(path))
    np.save(tmp_path / "x.npy", x)
    native = package(path, tmp_path / "packages", "openvino")
    plain = package(path, tmp_path / "packages", "openvino", name="plain", native=False)
    assert [Path(file).name for file in native.files] == [
        "libonnxpool.so",
        "libonnxpool_openvino.so",
        "model.golden.npz",
        "model.onnx",
        "run.py",
    ]
    assert [Path(file).name for file in plain.files] == ["model.golden.npz", "model.onnx", "run.py"]
    assert (native.form, plain.form) == ("custom", "standard")
    assert native.needs[0].startswith(f"OpenVINO {openvino.build_extension().release} on Linux")
    for made in (native, plain):
        program = tmp_path / "packages" / made.name / "run.py"
        done = subprocess.run(
            [sys.executable, "-I", program, tmp_path / "x.npy"], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("y\n(2, 1, 2, 2)\n[[[[ 4.65911")
        assert len(program.read_text(encoding="utf-8").splitlines()) < 16


def test_packages_that_cannot_be(tmp_path, monkeypatch):
    write(onnxpool.to_form(node("SoftPool"), "standard"), tmp_path / "plain.onnx")
    write(onnxpool.to_form(node("SoftPool"), "function"), tmp_path / "layer.onnx")
    with pytest.raises(ArgumentError, match="a standard form has no node for the extension"):
        package(tmp_path / "plain.onnx", tmp_path, "openvino", native=True)
    with pytest.raises(ArgumentError, match="max_batch=4 is not for target='openvino'"):
        package(tmp_path / "plain.onnx", tmp_path, "openvino", max_batch=4)
    with pytest.raises(ArgumentError, match="name='a/b' must be letters"):
        package(tmp_path / "plain.onnx", tmp_path, "openvino", name="a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(KernelError, match="onnxpool build openvino compiles it"):
        package(tmp_path / "layer.onnx", tmp_path / "packages", "openvino", native=True)
    made = package(tmp_path / "layer.onnx", tmp_path / "packages", "openvino")
    assert made.form == "standard"
    assert "onnxpool build openvino compiles it" in made.notes[0]
    with pytest.raises(ArgumentError, match="exists; remove it"):
        package(tmp_path / "layer.onnx", tmp_path / "packages", "openvino")
