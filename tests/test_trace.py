"""Cells of the values inside a network travel in its golden file, and let it alone say which node is wrong."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

import onnxpool
from onnxpool.diagnosis import bisect_model, compare_nodes
from onnxpool.errors import GoldenError
from onnxpool.golden import file as golden_file
from onnxpool.golden import trace
from onnxpool.graph.forms import read


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
