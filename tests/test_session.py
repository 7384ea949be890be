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
        ({"x": X.astype(float)}, "input 'x' has dtype float64; this model takes float32"),
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
