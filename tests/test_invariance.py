"""Whether answers depend on the batch, on threads and on runs: each dependence is found, and nothing else."""

import numpy as np
import onnx
import pytest
from models import model as network
from models import pooled
from onnx import helper, numpy_helper
from theirs import compiled, made
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.errors import ArgumentError
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run.native_library import why_missing
from onnxpool.validation.as_text import sentences
from onnxpool.window import Window

EVERY = ("batch", "threads", "runs")
WINDOW = Window.of(2, 2, 2)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("theirs") / "their.so")


def ways(report):
    """What became of each way: verdict, and of each output how it is the same."""
    return {
        (run.options["invariant"], run.kernels): (run.verdict, {one.output: one.origin for one in run.results})
        for run in report.runs
        if "invariant" in run.options
    }


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


def test_a_pooling_is_the_same_bit_for_bit(tmp_path):
    forms.write(onnxpool.to_form(pooled(WINDOW), "function"), tmp_path / "m.onnx")
    report = onnxpool.validate(tmp_path / "m.onnx", soft, forms=["function"], invariant=EVERY)
    kernels = [False] if why_missing() else [False, True]
    assert ways(report) == {(way, one): ("passed", {"y": "bit for bit"}) for way in EVERY for one in kernels}
    assert report.passed
    assert "onnxruntime, function, invariant batch: 'y' bit for bit" in report.notes


def test_what_depends_on_the_batch_fails(theirs, tmp_path):
    report = onnxpool.validate(made(tmp_path / "m.onnx", "Coupled"), libraries=[theirs], threads=1, invariant=EVERY)
    found = ways(report)
    assert [found[way, False][0] for way in EVERY] == ["mismatch", "passed", "passed"], sentences(report)
    assert report.exit_status == 1
    (run,) = [run for run in report.runs if run.options.get("invariant") == "batch"]
    assert "alone: " in run.results[0].reason
    assert any("invariant batch: 'y' differs (by up to " in note for note in report.notes)
    assert all(run.verdict == "passed" for run in report.runs if "invariant" not in run.options), "it judged itself"


def test_what_depends_on_earlier_runs_fails(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", "Counting")
    report = onnxpool.validate(path, libraries=[theirs], threads=1, case="ordinary", invariant=["runs"])
    assert ways(report)["runs", False][0] == "mismatch"
    (run,) = [run for run in report.runs if "invariant" in run.options]
    assert "beside the first: " in run.results[0].reason


def test_of_two_outputs_each_is_told(tmp_path):
    """A matrix product of one row takes another path than that of many; a Relu does not."""
    weights = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
        helper.make_node("Relu", ["x"], ["z"], "relu"),
        helper.make_node("ReduceMean", ["x"], ["m"], "all", keepdims=1),
        helper.make_node("Add", ["x", "m"], ["s"], "shift"),
    ]
    proto = network(nodes, 2)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    del proto.graph.output[0].type.tensor_type.shape.dim[3:]
    proto.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 64
    for name in ("z", "s"):
        shape = ["N", "C", "h", "w"]
        proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    proto.graph.input[0].type.tensor_type.shape.dim[3].Clear()
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 32
    onnx.save(proto, tmp_path / "m.onnx")
    report = onnxpool.validate(tmp_path / "m.onnx", threads=1, invariant=["batch"])
    verdict, outputs = ways(report)["batch", False]
    told = {
        result.output: result.verdict for run in report.runs if "invariant" in run.options for result in run.results
    }
    assert verdict == "mismatch"
    assert told == {"y": "passed", "z": "passed", "s": "mismatch"}
    assert outputs["z"] == "bit for bit"


def test_a_fixed_batch_is_skipped_and_said(tmp_path):
    proto = network([helper.make_node("Relu", ["x"], ["y"], "relu")], 2)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, tmp_path / "m.onnx")
    report = onnxpool.validate(tmp_path / "m.onnx", threads=1, invariant=["batch"])
    assert ways(report)["batch", False] == ("skipped", {})
    assert any("not every input and output begins with one axis" in note for note in report.notes)


def test_by_command(theirs, tmp_path):
    def status(op_type, ways):
        path = made(tmp_path / "m.onnx", op_type)
        arguments = ["validate", path, "--library", theirs, "--threads", 1, "--case", "ordinary", "--invariant", ways]
        return CliRunner().invoke(app, [*map(str, arguments)])

    assert status("Coupled", "threads,runs").exit_code == 0
    assert status("Coupled", "batch,threads").exit_code == 1
    assert "must be some of batch, threads, runs" in status("Coupled", "batch,nothing").stderr
    with pytest.raises(ArgumentError, match="must be some of"):
        onnxpool.validate(tmp_path / "m.onnx", invariant=["rows"])
