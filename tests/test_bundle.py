"""Bundles: anybody can run them without onnxpool, and bisection makes them as small as the fault."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from models import pooled
from onnx import numpy_helper

import onnxpool
from onnxpool import nn
from onnxpool.diagnosis import bundle, reproduce
from onnxpool.diagnosis import runs as node_runs
from onnxpool.diagnosis.bisect import bisect_model
from onnxpool.diagnosis.per_node import compare_nodes
from onnxpool.errors import ArgumentError
from onnxpool.golden import from_torch
from onnxpool.run import native_library
from onnxpool.window import Window

native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.soft, self.average = torch.nn.Conv2d(2, 4, 3), nn.SoftPool2d(2), torch.nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        return self.average(self.soft(torch.relu(self.conv(x))))


@pytest.fixture(scope="module")
def network():
    module, args = Network().eval(), (torch.randn(1, 2, 12, 14),)
    made = onnxpool.export(module, args, dynamic_shapes=({0: "batch"},), golden=False)
    return module, made, from_torch.record(module, made, args)


def reproduced(folder, *arguments):
    """What the script prints, as it runs where there is no onnxpool, and its exit status."""
    program = (
        "import sys, runpy; sys.modules['onnxpool'] = sys.modules['torch'] = None; "
        "sys.argv = ['reproduce.py', *sys.argv[1:]]; runpy.run_path('reproduce.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def changed(made, **attributes):
    copy = made.clone()
    average = next(node for node in copy.graph if node.op_type == "AveragePool")
    for name, value in attributes.items():
        average.attributes.add(ir.convenience.convert_attribute(name, value))
    return copy


@pytest.mark.parametrize("library", [False, pytest.param(True, marks=native)])
def test_a_right_model_reproduces(network, tmp_path, library):
    written = bundle.write_bundle(network[1], tmp_path / "right", network[2], "image")
    assert written.files == (
        "allowed.json",
        "model.onnx",
        "reproduce.py",
        "test_data_set_0/input_0.pb",
        "test_data_set_0/output_0.pb",
        "versions.json",
    )
    status, printed = reproduced(tmp_path / "right", *([str(native_library.library_path())] if library else []))
    assert status == 0
    assert printed.splitlines()[-1] == "PASSED"
    assert f"onnxruntime {onnxruntime.__version__}" in printed
    versions = json.loads((tmp_path / "right" / "versions.json").read_text())
    assert versions["onnx"] == onnx.__version__
    assert (versions["case"], versions["command"]) == ("image", "python reproduce.py")


def test_the_data_is_in_the_layout_of_onnx(network, tmp_path):
    bundle.write_bundle(network[1], tmp_path / "data", network[2], "example")
    case = network[2].case("example")
    for kind, arrays in (("input", case.inputs), ("output", case.answers)):
        tensor = onnx.TensorProto.FromString((tmp_path / "data" / "test_data_set_0" / f"{kind}_0.pb").read_bytes())
        (name, array), *_ = arrays.items()
        assert tensor.name == name
        assert np.array_equal(numpy_helper.to_array(tensor), array.astype("float32"))
    onnx.checker.check_model(str(tmp_path / "data" / "model.onnx"))


def test_a_wrong_model_fails_without_onnxpool(network, tmp_path):
    bundle.write_bundle(changed(network[1], count_include_pad=0), tmp_path / "wrong", network[2])
    status, printed = reproduced(tmp_path / "wrong")
    assert status == 1
    assert printed.splitlines()[-1] == "FAILED"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", ["ordinary", "nan", "inf"])
def test_every_type_and_what_is_not_finite(dtype, case, tmp_path):
    bundle.write_bundle(pooled(Window.of(2, 2, 2), dtype), tmp_path / "bare", None, case)
    status, printed = reproduced(tmp_path / "bare")
    assert status == 0, printed


def test_a_folder_is_never_overwritten(network, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(ArgumentError, match="holds something already"):
        bundle.write_bundle(network[1], tmp_path / "mine", network[2])
    with pytest.raises(ArgumentError, match="case='none' is not one of example, ordinary"):
        bundle.write_bundle(network[1], tmp_path / "new", network[2], "none")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# --- bisection


def test_bisection_keeps_the_one_wrong_node(network, tmp_path):
    found = bisect_model(changed(network[1], count_include_pad=0), tmp_path / "small", network[0])
    assert found.nodes == ("node_average_pool",)
    assert "right with count_include_pad=1" in found.reason
    graph = onnx.load(tmp_path / "small" / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["AveragePool"]
    status, printed = reproduced(tmp_path / "small")
    assert (status, printed.splitlines()[-1]) == (1, "FAILED")


def test_without_the_module_it_keeps_what_nobody_knows(network, tmp_path):
    found = bisect_model(changed(network[1], count_include_pad=0), tmp_path / "known", network[2], "image")
    assert set(found.nodes) == {"node_conv2d", "node_relu", "node_soft_pool", "node_average_pool"}
    assert reproduced(tmp_path / "known")[0] == 1


def test_a_fault_of_two_nodes_together(network, tmp_path, monkeypatch):
    """As a wrong fusion would be: Relu and SoftPool go wrong where nobody sees the value between them."""
    real = node_runs.load

    def load(given, **options):
        session = real(given, **options)
        names = {node.op_type for node in given.graph}
        hidden = {"Relu", "SoftPool"} <= names and not any("relu" in value.name for value in given.graph.outputs)
        run = session.run
        session.run = lambda feeds: {name: y * np.float32(1.01 if hidden else 1) for name, y in run(feeds).items()}
        return session

    monkeypatch.setattr(node_runs, "load", load)
    assert "onnxpool bisect finds which" in compare_nodes(network[1], network[0], "ordinary").notes[0]
    found = bisect_model(network[1], tmp_path / "pair", network[0], "ordinary")
    assert found.nodes == ("node_relu", "node_soft_pool")
    assert found.reason == "these nodes are right one by one, and wrong together"
    assert reproduced(tmp_path / "pair")[0] == 0, "ONNX Runtime itself is right"


def test_a_right_model_cannot_be_bisected(network, tmp_path):
    with pytest.raises(ArgumentError, match=r"none of \d+ cases fails in ONNX Runtime with kernels='off'"):
        bisect_model(network[1], tmp_path / "none", network[2])
    with pytest.raises(ArgumentError, match="case='image' does not fail in ONNX Runtime"):
        bisect_model(network[1], tmp_path / "none", network[2], "image")
    assert not (tmp_path / "none").exists()


def test_an_empty_case_and_a_large_constant(network, tmp_path):
    bundle.write_bundle(network[1], tmp_path / "empty", network[2], "sizes 0x2x12x14")
    assert reproduced(tmp_path / "empty")[0] == 0

    answer, allowed = np.array([1.0, -1e9, np.inf]), {"1": 1e-6, "30": 128.0, "0": 1e-7}
    error, limit = reproduce.worst(answer + np.array([1e-3, 64, 0]), answer, allowed)
    assert (error, limit) == (pytest.approx(1e-3), 1e-6), "what a large constant may err is not for others"
    assert reproduce.worst(answer + np.array([1e-7, 64, 0]), answer, allowed)[0] < 1e-6
    assert reproduce.worst(answer[:2], answer[:2], 0.0) == (0, 0)
