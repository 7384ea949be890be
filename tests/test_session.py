"""Sessions: the right answers, the truth about what ran, and refusals that leave the session usable."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from models import model, pooled
from onnx import helper

import onnxpool
from onnxpool.errors import ArgumentError, KernelError, SessionError
from onnxpool.graph import forms
from onnxpool.run import native_library
from onnxpool.window import Window

WINDOW = Window.of(2, 2)
X = np.array([[[[1, 2], [3, 4]]]], np.float32)
ANSWER = 3.4926527346
native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")


@pytest.fixture
def path(tmp_path):
    forms.write(onnxpool.to_form(pooled(WINDOW), "function"), tmp_path / "pool.onnx")
    return tmp_path / "pool.onnx"


@pytest.mark.parametrize("form", ["function", "standard", "custom"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_number_in_every_form(form, dtype):
    if form == "custom" and native_library.why_missing():
        pytest.skip("without the native library")
    x = X.astype(getattr(ml_dtypes, dtype, dtype))
    y = onnxpool.load(onnxpool.to_form(pooled(WINDOW, dtype), form)).run({"x": x})["y"]
    digits = {"float32": 1e-6, "float64": 1e-10, "float16": 2e-3, "bfloat16": 1.6e-2}
    assert abs(float(y.item()) - ANSWER) < digits[dtype]


def test_every_kind_of_model_is_taken(path):
    for given in (
        path,
        str(path),
        path.read_bytes(),
        forms.read(path),
        pooled(WINDOW) if not native_library.why_missing() else path,
    ):
        assert onnxpool.load(given).run({"x": X})["y"].item() == pytest.approx(ANSWER, abs=1e-6)


@native
def test_placements_tell_the_truth(path):
    assert [(p.node, p.native, p.provider) for p in onnxpool.load(path).placements] == [
        ("pool", True, "CPUExecutionProvider")
    ]
    assert [p.native for p in onnxpool.load(path, kernels="off").placements] == [False]
    standard = onnxpool.to_form(path, "standard")
    assert [(p.node, p.native) for p in onnxpool.load(standard).placements] == [("pool", False)]


@native
def test_plain_onnxruntime_runs_one_file_with_and_without_the_library(path):
    """The promise to people who never import onnxpool: same file, same answer, natively where registered."""
    program = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
if len(sys.argv) > 2:
    options.register_custom_ops_library(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options)
ran = {node.op_type for graph in session.get_provider_graph_assignment_info() for node in graph.get_nodes()}
y = session.run(None, {"x": numpy.array([[[[1, 2], [3, 4]]]], "float32")})[0].item()
assert "onnxpool" not in sys.modules
print("SoftPool" in ran, y)
"""
    for arguments, expected in (((), "False"), ((str(onnxpool.library_path()),), "True")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), *arguments], capture_output=True, text=True, check=True
        )
        ran, y = done.stdout.split()
        assert ran == expected
        assert abs(float(y) - ANSWER) < 1e-6


@native
def test_require_insists(path):
    onnxpool.load(path, kernels="require")
    with pytest.raises(KernelError, match="do not run natively: pool"):
        onnxpool.load(onnxpool.to_form(path, "standard"), kernels="require")


@native
def test_registering_twice_does_nothing():
    options = onnxruntime.SessionOptions()
    native_library.register(options)
    native_library.register(options)
    onnxruntime.InferenceSession(pooled(WINDOW).SerializeToString(), options)


def test_without_the_library(path, monkeypatch, tmp_path):
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "absent.so"))
    with pytest.raises(KernelError, match="names no file"):
        onnxpool.library_path()
    session = onnxpool.load(path)
    assert session.run({"x": X})["y"].item() == pytest.approx(ANSWER, abs=1e-6)
    assert not session.placements[0].native
    with pytest.raises(KernelError, match="names no file"):
        onnxpool.load(path, kernels="require")
    with pytest.raises(SessionError, match="a custom form needs the native library"):
        onnxpool.load(pooled(WINDOW))


def test_a_library_that_is_none(path, monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "broken.so"))
    with pytest.raises(KernelError, match="ONNX Runtime refused"):
        onnxpool.load(path)


def test_shapes_and_types_are_told(path):
    session = onnxpool.load(path)
    assert [(i.name, i.dtype, i.shape) for i in session.inputs] == [("x", np.float32, ("N", "C", "in_0", "in_1"))]
    assert session.outputs[0].name == "y"


def test_non_contiguous_input(path):
    x = np.random.default_rng(0).standard_normal((4, 6, 2, 3)).astype(np.float32).transpose(3, 2, 1, 0)[::2]
    session = onnxpool.load(path)
    np.testing.assert_array_equal(session.run({"x": x})["y"], session.run({"x": x.copy()})["y"])


def test_io_binding(path):
    session = onnxpool.load(path)
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    session.inner.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].item() == pytest.approx(ANSWER, abs=1e-6)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, r"inputs \['x'\] are missing"),
        ({"x": X, "z": X}, r"inputs \['z'\] are unknown; this model takes \['x'\]"),
        ({"X": X}, r"inputs \['x'\] are missing and inputs \['X'\] are unknown \(did you mean 'x'\?\)"),
        ({"x": X.astype(float)}, r"input 'x' has dtype float64; this model takes float32: use .astype\('float32'\)$"),
        ({"x": X.astype(int)}, r"use .astype\('float32'\), and scale it as the network was trained: pixels from 0"),
        ([[1.0]], "run takes arrays by the names of inputs, or a list of output names .* got list and NoneType"),
        ({"x": X[0]}, r"input 'x' has shape \(1, 2, 2\)"),
    ],
)
def test_wrong_feeds_name_the_input_and_leave_the_session_usable(path, feeds, words):
    session = onnxpool.load(path)
    with pytest.raises(ArgumentError, match=words):
        session.run(feeds)
    assert session.run({"x": X})["y"].item() == pytest.approx(ANSWER, abs=1e-6)


def test_a_run_that_fails_is_a_session_error(path):
    session = onnxpool.load(path)
    with pytest.raises(SessionError, match=r"could not run the model on inputs of shapes \{'x': \(1, 1, 1, 1\)\}"):
        session.run({"x": X[..., :1, :1]})
    assert session.run({"x": X})["y"].item() == pytest.approx(ANSWER, abs=1e-6)


def test_wrong_arguments(path):
    for arguments, words in (
        ({"kernels": "on"}, "kernels='on' is unknown; use one of auto, require, off"),
        ({"threads": 0}, "threads=0 must be a positive int"),
        ({"providers": ["QuantumProvider"]}, r"providers=\['QuantumProvider'\] are not available"),
    ):
        with pytest.raises(ArgumentError, match=words):
            onnxpool.load(path, **arguments)


def test_a_model_that_does_not_load():
    unknown = model([helper.make_node("NoSuchOperator", ["x"], ["y"])], 2)
    with pytest.raises(SessionError, match="could not load the model"):
        onnxpool.load(unknown)


def test_a_session_runs_as_one_of_onnx_runtime_does(path):
    session = onnxpool.load(path, providers=["CPUExecutionProvider"])
    theirs = session.inner
    for names in (None, ["y"]):
        for options in ((), (onnxruntime.RunOptions(),)):
            (y,) = session.run(names, {"x": X}, *options)
            np.testing.assert_array_equal(y, session.run({"x": X})["y"])
    for mine, other in ((session.get_inputs(), theirs.get_inputs()), (session.get_outputs(), theirs.get_outputs())):
        assert [(one.name, one.type, one.shape) for one in mine] == [(one.name, one.type, one.shape) for one in other]
    assert session.get_providers() == ["CPUExecutionProvider"]
    for arguments, words in (
        ((["z"], {"x": X}), r"output 'z' is unknown; this model gives \['y'\]"),
        (("y", {"x": X}), "got str and dict"),
        ((None, [X]), "got NoneType and list"),
        ((None, {"z": X}), "are missing and inputs"),
    ):
        with pytest.raises(ArgumentError, match=words):
            session.run(*arguments)
    stopped = onnxruntime.RunOptions()
    stopped.terminate = True
    stopped.log_severity_level = 4
    with pytest.raises(SessionError):
        session.run(None, {"x": X}, stopped)


def test_arguments_have_onnx_runtime_s_names(path):
    session, x = onnxpool.load(path), {"x": X}
    (right,) = session.run(None, x)
    for answers in (
        session.run(output_names=["y"], input_feed=x),
        session.run(output_names=None, input_feed=x, run_options=None),
        session.run(["y"], input_feed=x),
        session.run(input_feed=x),
    ):
        assert answers == [right]
    for wrong in ({}, {"output_names": ["y"]}):
        with pytest.raises(ArgumentError, match="run takes arrays by the names of inputs"):
            session.run(**wrong)
    with pytest.raises(ArgumentError, match="run takes arrays by the names of inputs"):
        session.run(x, input_feed=x)


def test_outputs_come_in_the_order_that_is_asked_for():
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["z"])]
    made = model(nodes, 2)
    made.graph.output.append(helper.make_tensor_value_info("z", 1, ["N", "C", "h", "w"]))
    session = onnxpool.load(made)
    assert [one.sum() for one in session.run(["z", "y", "z"], {"x": X})] == [10, -10, 10]
    assert [one.sum() for one in session.run([], {"x": X})] == [-10, 10], "as in ONNX Runtime, none is all"


def test_repr_tells_what_goes_where(path):
    how = (
        ", 1 of 1 pooling nodes natively" if native_library.why_missing() is None else ", 0 of 1 pooling nodes natively"
    )
    assert repr(onnxpool.load(path)) == (
        "<onnxpool.Session x: float32 (N, C, in_0, in_1) -> y: float32 (N, C, out_0, out_1), on CPUExecutionProvider"
        f"{how}>"
    )


def test_options_of_onnx_runtime_pass_through(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    for kernels in ("off", "auto", "auto"):
        session = onnxpool.load(
            path,
            providers=["CPUExecutionProvider"],
            provider_options=[{}],
            session_options=options,
            session_config={"session.set_denormal_as_zero": "1"},
            kernels=kernels,
        )
        assert session.run({"x": X})["y"].item() == pytest.approx(ANSWER, abs=1e-6)
        assert session.inner.get_session_options().get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert path.with_name("optimised.onnx").exists()
    if native_library.why_missing() is None:
        with pytest.raises(ArgumentError, match="have the native kernels from an earlier session; give new ones"):
            onnxpool.load(path, session_options=options, kernels="off")
    for arguments, words in (
        ({"session_options": {"threads": 1}}, "must be an onnxruntime.SessionOptions"),
        ({"session_config": {"session.set_denormal_as_zero": 1}}, "must be text"),
        ({"provider_options": [{}]}, "one mapping for each of providers=None"),
        ({"providers": ["CPUExecutionProvider"], "provider_options": [{}, {}]}, "one mapping for each of"),
        ({"providers": [("CPUExecutionProvider", {})], "provider_options": [{}]}, "give them once"),
        ({"providers": "CPUExecutionProvider"}, r"must be a list, such as \['CPUExecutionProvider'\]"),
        ({"providers": ["cpuexecutionprovider"]}, "did you mean 'CPUExecutionProvider'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            onnxpool.load(path, **arguments)
