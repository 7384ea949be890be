"""Cells of the values inside a network travel in its golden file, and let it alone say which node is wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import onnxpool
from onnxpool.diagnosis import bisect_model, compare_nodes
from onnxpool.errors import GoldenError
from onnxpool.golden import file as golden_file
from onnxpool.golden import trace
from onnxpool.golden.file import Case
from onnxpool.graph.forms import read
from onnxpool.network import traced, untraced
from onnxpool.network.translate import translated


class Network(torch.nn.Module):
    """Values of more cells than are kept, and an operator that ONNX has in several nodes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        y = torch.nn.functional.gelu(self.first(x))
        y = torch.tanh(y)
        return torch.nn.functional.max_pool2d(self.last(y), 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "network.onnx"
    module = Network().eval()
    onnxpool.export(module, (torch.randn(2, 3, 16, 16),), path)
    return path, read(path), golden_file.load(golden_file.path_for(path))


def changed(model, change):
    copy = model.clone()
    change({node.op_type: node for node in copy.graph}, copy)
    return copy


def weight(nodes, _):
    held = nodes["Conv"].inputs[1]
    array = held.const_value.numpy().copy()
    array[3] *= 1.001
    held.const_value = ir.tensor(array, name=held.name)


def within_gelu(nodes, _):
    nodes["Erf"].op_type = "Sin"


def put_in_between(nodes, copy):
    value = nodes["Tanh"].outputs[0]
    factor = ir.Value(name="factor", const_value=ir.tensor(np.array(1.001, np.float32), name="factor"))
    factor.type, factor.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    copy.graph.register_initializer(factor)
    scaled = ir.node("Mul", [value, factor], name="scale")
    for user, place in list(value.uses()):
        if user is not scaled:
            user.replace_input_with(place, scaled.outputs[0])
    copy.graph.insert_after(value.producer(), scaled)


def test_places_are_the_same_for_a_shape_and_leave_out_no_channel():
    assert trace.places((2, 3, 4)).tolist() == [*range(24)]
    assert len(trace.places(())) == 1
    for shape in ((2, 64, 56, 56), (1, 100, 7, 7), (4, 512, 96)):
        found = trace.places(shape)
        assert 400 < len(found) <= trace.CELLS
        assert (np.diff(found) > 0).all()
        for axis, index in enumerate(np.unravel_index(found, shape)):
            assert len(set(index)) == min(shape[axis], len(set(index))), axis
            assert shape[axis] > 100 or set(index) == set(range(shape[axis])), axis
    first = (int(np.modf(2**0.5)[0] * 2), int(np.modf(3**0.5)[0] * 64), int(np.modf(5**0.5)[0] * 1024))
    assert np.ravel_multi_index(first, (2, 64, 1024)) in trace.places((2, 64, 1024)), "files depend on it"


def test_the_golden_file_holds_cells_of_every_value(exported):
    path, model, golden = exported
    names = {node.outputs[0].name for node in model.graph if node.op_type in ("Conv", "Erf", "Tanh", "MaxPool")}
    assert golden.trace.case == "example"
    assert names <= set(golden.trace.values)
    ((output, answer),) = golden.cases[0].answers.items()
    kept = golden.trace.values[output]
    np.testing.assert_allclose(kept.whole, answer, rtol=1e-12, atol=1e-12)
    conv = golden.trace.values["conv2d"]
    assert conv.whole is None
    inputs = torch.from_numpy(golden.cases[0].inputs["x"]).double()
    np.testing.assert_allclose(
        conv.values, conv.of(Network().double().first(inputs).detach().numpy()), rtol=1e-12, atol=1e-12
    )
    with np.load(golden_file.path_for(path)) as file:
        cells = file["trace"]
    assert cells.dtype == np.float64
    assert cells.nbytes < 60_000


def test_a_file_without_them_is_read_and_a_damaged_one_is_refused(exported, tmp_path):
    golden = exported[2]
    golden_file.save(replace(golden, trace=None), tmp_path / "old.npz")
    assert golden_file.load(tmp_path / "old.npz").trace is None
    golden_file.save(golden, tmp_path / "new.npz")
    again = golden_file.load(tmp_path / "new.npz").trace
    assert again.values.keys() == golden.trace.values.keys()
    np.testing.assert_array_equal(again.values["conv2d"].values, golden.trace.values["conv2d"].values)
    with np.load(tmp_path / "new.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "cut.npz", **{**arrays, "trace": arrays["trace"][:-1]})
    with pytest.raises(GoldenError, match="damaged or no golden file"):
        golden_file.load(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("change", "op_type"),
    [(weight, "Conv"), (within_gelu, "Sin"), (put_in_between, "Mul")],
)
def test_the_golden_file_alone_names_the_node(exported, tmp_path, change, op_type):
    _, model, golden = exported
    wrong = changed(model, change)
    nodes = compare_nodes(wrong, golden)
    assert nodes.first.part == "introduces"
    assert nodes.first.op_type == op_type
    assert "or one of" not in nodes.first.reason
    if change is put_in_between:
        assert nodes.first.name == "scale"
        assert "node 'node_conv2d_1' is right where it takes 'tanh' in the place of" in nodes.first.reason
    found = bisect_model(wrong, tmp_path / "part", golden)
    assert found.nodes == (nodes.first.name,)
    ran = subprocess.run([sys.executable, "reproduce.py"], cwd=tmp_path / "part", check=False, capture_output=True)
    assert ran.returncode == 1, ran


def test_a_right_model_agrees_at_every_node(exported):
    _, model, golden = exported
    nodes = compare_nodes(model, golden)
    assert {one.part for one in nodes.results} == {"agrees"}
    assert nodes.first is None
    assert max(one.share for one in nodes.results) > 0


# --- memory


def resident_bytes(key):
    """What this process holds, ``VmRSS``, or has held at most, ``VmHWM``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a moment")
def test_weights_are_widened_one_at_a_time():
    module = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(6))).eval()
    wide_bytes = sum(8 * tensor.numel() for tensor in module.parameters())
    x = torch.randn(1, 2048)
    program = translated(module, (x,))
    name = program.model.graph.inputs[0].name
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    found = traced.trace(program.exported_program, program.model, Case("example", {name: x.numpy()}, {}, {}))
    assert len(found.values) == 6
    assert resident_bytes("VmHWM") - before < wide_bytes / 2


CHAIN = """
    <ir_version: 9, opset_import: ["" : 18]>
    chain (float[8] x) => (float[8] e) { a = Neg(x)  b = Exp(a)  c = Add(b, a)  d = Tanh(c)  e = Neg(d) }
"""


def between(model, known=(), most=None, monkeypatch=None):
    """What is found of ``model`` for x = 1, as long as at most so many elements are held."""
    if most is not None:
        monkeypatch.setattr(untraced, "MOST_HELD", most)
    found = {}
    every = {value.name for node in model.graph for value in node.outputs}
    gaps = untraced.Between(model, {*known}, every, found.__setitem__)
    gaps.start({"x": np.ones(8, np.float32)})
    for name in known:
        gaps.give(name, np.zeros(8))
    return {name: array[0] for name, array in found.items()}


def test_a_value_is_held_until_the_last_node_that_takes_it(monkeypatch):
    model = ir.from_onnx_text(CHAIN)
    every = {"a": -1, "b": np.exp(-1), "c": np.exp(-1) - 1, "d": np.tanh(np.exp(-1) - 1), "e": np.tanh(1 - np.exp(-1))}
    assert between(model) == pytest.approx(every, rel=1e-15)
    assert between(model, most=16, monkeypatch=monkeypatch).keys() == every.keys(), "a and b are held together"
    assert between(model, most=15, monkeypatch=monkeypatch).keys() == {"a", "b"}
    assert between(model, ["c"], 8, monkeypatch) == {"a": -1, "b": np.exp(-1), "d": 0, "e": 0}, "c is known"
    assert between(model, most=7, monkeypatch=monkeypatch) == {}


def test_what_the_evaluator_cannot_run_does_not_take_known_values_along():
    model = ir.from_onnx_text("""
        <ir_version: 9, opset_import: ["" : 18, "else" : 1]>
        parts (float[8] x) => (float[8] c, float[8] d) { a, b = else.Thing(x)  c = Cos(a)  d = Neg(b) }
    """)
    assert between(model, ["a"]) == {"c": 1}


def test_a_large_constant_is_not_looked_at(monkeypatch):
    model = ir.from_onnx_text(CHAIN)
    add = next(node for node in model.graph if node.op_type == "Add")
    weight = ir.LazyTensor(lambda: pytest.fail("it was"), ir.DataType.FLOAT, ir.Shape([9]), name="weight")
    add.replace_input_with(1, ir.Value(name="weight", const_value=weight))
    monkeypatch.setattr(untraced, "MOST_CELLS", 8)
    assert between(model).keys() == {"a", "b"}


def test_what_finds_no_room_is_not_judged(exported, tmp_path, monkeypatch):
    model = exported[1]
    monkeypatch.setattr(untraced, "MOST_HELD", 100)
    path = tmp_path / "network.onnx"
    onnxpool.export(Network().eval(), (torch.randn(2, 3, 16, 16),), path)
    golden = golden_file.load(golden_file.path_for(path))
    left = golden.trace.values.keys()
    assert {"conv2d", "gelu", "tanh"} <= left
    assert exported[2].trace.values.keys() - left == {
        node.outputs[0].name for node in model.graph if node.name.startswith("n") and node.outputs[0].name not in left
    }
    wrong = changed(model, within_gelu)
    sine = next(node.name for node in wrong.graph if node.op_type == "Sin")
    nodes = compare_nodes(wrong, golden)
    assert nodes.first.part == "introduces"
    assert "or one of" in nodes.first.reason
    assert sine in bisect_model(wrong, tmp_path / "part", golden).nodes


# --- complex values


class Spectrum(torch.nn.Module):
    """Complex in PyTorch and pairs of real numbers in ONNX, between layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(16, 16), torch.nn.Linear(9, 4)

    def forward(self, x):
        return self.last(torch.fft.rfft(self.first(x)).abs())


def test_complex_values_are_not_blamed(tmp_path):
    path = tmp_path / "network.onnx"
    module, x = Spectrum().eval(), torch.randn(3, 16)
    model = onnxpool.export(module, (x,), path)
    golden = golden_file.load(golden_file.path_for(path))
    transformed = next(node.outputs[0].name for node in model.graph if node.op_type == "DFT")
    right = torch.view_as_real(torch.fft.rfft(Spectrum().double().first(x.double()))).detach().numpy()
    np.testing.assert_allclose(golden.trace.values[transformed].whole, right, rtol=1e-12, atol=1e-12)

    def last(nodes, _):
        held = nodes["Gemm"].inputs[1]
        held.const_value = ir.tensor(held.const_value.numpy() * 1.01, name=held.name)

    nodes = compare_nodes(changed(model, last), golden)
    assert nodes.first.part == "introduces"
    assert nodes.first.name == [node.name for node in model.graph if node.op_type == "Gemm"][-1]
