"""Golden files and the answers in them: round trips, the cases that are asked, and files that are no good."""

import json
import subprocess
import sys
import zipfile
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from models import pooled

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.golden import collect, from_function, from_model, from_torch
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import Input, generate, modest
from onnxpool.graph import forms
from onnxpool.graph.fingerprint import changes, fingerprints
from onnxpool.pools import OPERATORS
from onnxpool.window import Window

WINDOW = Window.of(2, 2)


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


def graph_of(*shapes, outputs=1, dtype=ir.DataType.FLOAT):
    """A model with inputs of these shapes; what it computes does not matter."""
    inputs = [ir.val(f"x{i}", dtype=dtype, shape=shape) for i, shape in enumerate(shapes)]
    nodes = [ir.node("Identity", [inputs[0]]) for _ in range(outputs)]
    for i, node in enumerate(nodes):
        node.outputs[0].name, node.outputs[0].type = f"y{i}", ir.TensorType(dtype)
    graph = ir.Graph(inputs, [node.outputs[0] for node in nodes], nodes=nodes, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


def wide_open():
    """A model with one input, both axes of which may change."""
    return graph_of(("n", "k"))


class Small(torch.nn.Module):
    """Two poolings, weights, and an output of its own beside the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 1)
        self.down, self.smooth = nn.SoftPool2d(3, 2, 1), nn.SoftPool2d(3, 1, 1)

    def forward(self, x):
        x = self.smooth(self.down(torch.relu(self.first(x))))
        return self.last(x), x.mean((2, 3))


@pytest.fixture(scope="module")
def exported():
    module, args = Small(), (torch.randn(2, 2, 12, 12),)
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    return module, args, onnxpool.export(module, args, dynamic_shapes=dynamic)


@pytest.fixture(scope="module")
def recorded(exported):
    module, args, model = exported
    return from_torch.record(module, model, args)


# --- the file


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_round_trip(tmp_path, dtype):
    before = from_function.record(soft, pooled(WINDOW, dtype))
    golden_file.save(before, tmp_path / "a.golden.npz")
    after = golden_file.load(tmp_path / "a.golden.npz")
    assert {case.name for case in after.cases} >= {"ordinary", "huge", "tiny", "nan", "inf", "-inf", "zeros"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.golden.npz"]
    assert (after.source, after.yardstick, after.dtypes) == (before.source, before.yardstick, {"y": dtype})
    for was, now in zip(before.cases, after.cases, strict=True):
        assert now.inputs["x"].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
        assert now.inputs["x"].tobytes() == was.inputs["x"].tobytes()
        assert now.answers["y"].dtype == np.float64
        np.testing.assert_array_equal(now.answers["y"], was.answers["y"])
        assert now.yardstick == was.yardstick


def test_path_is_beside_the_model():
    assert golden_file.path_for("models/net.v2.onnx").as_posix() == "models/net.v2.golden.npz"


def test_missing_file(tmp_path):
    with pytest.raises(GoldenError, match=r"no golden file .*a\.golden\.npz; export"):
        golden_file.load(tmp_path / "a.golden.npz")


@pytest.mark.parametrize("fault", ["cut", "flipped", "text", "empty", "other arrays", "pickle"])
def test_damaged_file(tmp_path, recorded, fault):
    path = tmp_path / "a.golden.npz"
    golden_file.save(recorded, path)
    data = path.read_bytes()
    if fault == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif fault == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    elif fault == "text":
        path.write_text("no archive")
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "other arrays":
        np.savez(path, a=np.ones(3))
    else:
        np.savez(path, header=np.array([{"version": 1}], dtype=object))
    with pytest.raises(GoldenError, match="damaged or no golden file"):
        golden_file.load(path)


def test_other_version(tmp_path, monkeypatch, recorded):
    monkeypatch.setattr(golden_file, "VERSION", 99)
    golden_file.save(recorded, tmp_path / "a.golden.npz")
    monkeypatch.undo()
    with pytest.raises(GoldenError, match="version 99, this onnxpool reads 2"):
        golden_file.load(tmp_path / "a.golden.npz")


def test_header_is_strict_json(tmp_path, recorded):
    golden_file.save(recorded, tmp_path / "a.golden.npz")
    with zipfile.ZipFile(tmp_path / "a.golden.npz") as archive:
        header = archive.read("header.npy")
    json.loads(header[header.index(b'{"version') :], parse_constant=pytest.fail)


def test_reading_needs_no_torch(tmp_path, recorded):
    golden_file.save(recorded, tmp_path / "a.golden.npz")
    program = f"""
import sys
sys.modules["torch"] = None
from onnxpool.golden import file, from_function, from_model, from_torch
import onnxpool.validation.validate
assert file.load({str(tmp_path / "a.golden.npz")!r}).cases
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# --- the answers


def test_answers_are_those_of_the_module(exported, recorded):
    module, args, _ = exported
    example = next(case for case in recorded.cases if case.name == "example")
    assert np.array_equal(example.inputs["x"], args[0].numpy())
    wide = Small().double().eval()
    with from_torch.in_float64():  # PyTorch's operators, not the native kernels
        right = wide(args[0].double())
    for answer, output in zip(example.answers.values(), right, strict=True):
        np.testing.assert_array_equal(answer, output.detach().numpy())
    assert all(0 < error.largest < 1e-6 for error in example.yardstick.values())
    assert module.training
    assert next(module.parameters()).dtype == torch.float32


def test_sizes_where_axes_may_change(recorded):
    shapes = {case.inputs["x"].shape for case in recorded.cases}
    assert {shape[0] for shape in shapes} == {0, 1, 2, 3, 7}
    assert {shape[1] for shape in shapes} == {2}
    together = {(11, 10), (13, 14), (6, 7), (17, 19), (25, 27), (1, 1)}
    alone = {(1, 12), (25, 12), (12, 1), (12, 25)}
    assert {shape[2:] for shape in shapes} == {(12, 12), *together, *alone}


def test_one_case_alone(exported, recorded):
    module, args, model = exported
    (alone,) = from_torch.record(module, model, args, only="huge").cases
    assert np.array_equal(alone.answers["conv2d_1"], recorded.case("huge").answers["conv2d_1"])
    assert [case.name for case in from_model.record(pooled(WINDOW), only="nan").cases] == ["nan"]
    assert [case.name for case in from_function.record(soft, pooled(WINDOW), only="inf").cases] == ["inf"]
    with pytest.raises(ArgumentError, match="case='none' is not one of example, ordinary"):
        from_torch.record(module, model, args, only="none")


def test_fixed_axes_stay():
    module, args = Small(), (torch.randn(1, 2, 9, 8),)
    found = from_torch.record(module, onnxpool.export(module, args), args)
    assert {case.inputs["x"].shape for case in found.cases} == {(1, 2, 9, 8)}


def test_large_axes_are_tried_at_modest_sizes():
    inputs = [Input("x", np.dtype("float32"), (8, 3, 512, 40), ("batch", None, "height", "width"))]
    assert [entry.shape for entry in modest(inputs)] == [(2, 3, 64, 40)]


def test_axes_of_one_name_change_together_and_expressions_stay():
    dtype = np.dtype("float32")
    twin = [Input(name, dtype, (2, 8, 8), ("n", "side", "side")) for name in "ab"]
    for name, feeds in generate(twin):
        assert feeds["a"].shape == feeds["b"].shape, name
        assert feeds["a"].shape[1] == feeds["a"].shape[2]
    derived = [Input("a", dtype, (2, 8), ("n", "side")), Input("b", dtype, (2, 16), ("n", "2*side"))]
    assert {feeds["b"].shape for _, feeds in generate(derived)} == {(2, 16)}


def test_adversarial_values():
    found = dict(generate([Input("x", np.dtype("float16"), (1, 3, 9, 9), (None,) * 4)]))
    x = {name: feeds["x"].astype(float) for name, feeds in found.items()}
    assert (x["negative"] <= -1).all()
    assert np.isfinite(x["huge"]).all()
    assert np.abs(x["huge"]).max() > 2e4
    assert 0 < np.abs(x["tiny"]).max() < 1e-3
    assert np.count_nonzero(np.isnan(x["nan"])) == np.count_nonzero(np.isinf(x["inf"])) == 1
    assert np.count_nonzero(x["-inf"] == -np.inf) == 1
    assert 0 <= x["image"].min() < x["image"].max() <= 1
    again = dict(generate([Input("x", np.dtype("float16"), (1, 3, 9, 9), (None,) * 4)]))
    assert all(np.array_equal(found[name]["x"], again[name]["x"], equal_nan=True) for name in found)


def test_integers_keep_the_example():
    ids = Input("ids", np.dtype("int64"), (2, 3), ("batch", None))
    found = dict(generate([ids], {"ids": np.array([[5, 6, 7], [8, 9, 10]])}))
    assert found["ordinary"]["ids"].tolist() == [[5, 6, 7], [8, 9, 10]]
    assert found["sizes 1x3"]["ids"].tolist() == [[5, 6, 7]]


def test_cases_that_fail_are_noted():
    class Even(Small):
        def forward(self, x):
            if x.shape[2] % 2 or torch.isnan(x).any():
                raise ValueError("no odd heights\nsecond line")
            return super().forward(x)

    module, args = Small(), (torch.randn(2, 2, 12, 12),)
    model = onnxpool.export(module, args, dynamic_shapes=({2: "height"},))
    found = from_torch.record(Even(), model, args)
    odd = "; ".join(f"2x2x{height}x12" for height in (11, 13, 17, 25, 1))
    assert found.notes == (f"case 'nan' and sizes {odd} left out: no odd heights",)
    assert {case.inputs["x"].shape[2] for case in found.cases} == {12, 6}

    class Never(Small):
        def forward(self, _):
            raise ValueError("never")

    with pytest.raises(GoldenError, match=r"no case: .*never"):
        from_torch.record(Never(), model, args)


def test_a_case_that_overflows_the_networks_own_type_is_noted():
    class Grows(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.avg_pool2d(x * 100 / 100, 2)

    model = pooled(WINDOW, "float16")
    found = from_torch.record(Grows(), model)
    assert any("'huge' left out: in its own type the network overflows" in note for note in found.notes)
    assert "ordinary" in {case.name for case in found.cases}


def test_small_enough_to_travel(monkeypatch, exported):
    module, args, model = exported
    monkeypatch.setattr(collect, "MOST_BYTES", 6000)
    found = from_torch.record(module, model, args)
    sizes = [sum(a.nbytes for a in (*case.inputs.values(), *case.answers.values())) for case in found.cases]
    assert sum(sizes) <= 6000
    assert found.cases[0].name == "example"
    assert any("would exceed 0.006 MB" in note for note in found.notes)


def test_a_reason_is_said_once():
    class Picky(torch.nn.Module):
        def forward(self, x):
            if not torch.isfinite(x).all():
                raise ValueError(f"{int((~torch.isfinite(x)).sum()) + len(x)} cells")
            if x.shape[1] < 6:
                raise ValueError(f"{x.shape[1]} is small")
            return x.sum(1, keepdim=True)

    found = from_torch.record(Picky(), wide_open(), (torch.ones(2, 8),))
    told = ("cases 'nan', 'inf', '-inf' left out: 3 cells", "sizes 2x4; 2x1 left out: 4 is small")
    assert found.notes == told


def test_a_large_example_leaves_room_for_the_others(monkeypatch):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return x * 2

    monkeypatch.setattr(collect, "MOST_BYTES", 400)
    found = from_torch.record(Doubled(), wide_open(), (torch.ones(1, 100),))
    assert found.cases[0].inputs["x0"].nbytes == 400
    assert {case.inputs["x0"].shape for case in found.cases} == {(1, 100), (1, 32), (0, 32), (1, 1)}
    assert [case.name for case in found.cases if case.inputs["x0"].shape == (1, 32)] == ["ordinary"]


def test_sizes_are_small_where_the_network_takes_half_of_that():
    class Needs(torch.nn.Module):
        def __init__(self, least):
            super().__init__()
            self.least = least

        def forward(self, x):
            assert x.shape[1] >= self.least
            return x * 2

    sizes = {}
    for least in (16, 17, 64, 65):
        found = from_torch.record(Needs(least), wide_open(), (torch.ones(1, 100),))
        sizes[least] = found.case("ordinary").inputs["x0"].shape
    assert sizes == {16: (1, 32), 17: (1, 64), 64: (1, 64), 65: (1, 100)}


def test_float64_networks_have_a_yardstick():
    module, args = Small().double(), (torch.randn(2, 2, 12, 12, dtype=torch.float64),)
    found = from_torch.record(module, onnxpool.export(module, args, check=False), args)  # no float64 Conv
    example = next(case for case in found.cases if case.name == "example")
    assert all(1e-18 < error.largest < 1e-14 for error in example.yardstick.values())


def test_inputs_must_match(exported):
    module, args, model = exported
    with pytest.raises(GoldenError, match="called with 2 tensors"):
        from_torch.record(module, model, (*args, *args))
    with pytest.raises(GoldenError, match="the model has the outputs"):
        from_torch.record(torch.nn.Identity(), model, args)
    with pytest.raises(GoldenError, match=r"gave \['z'\]; the model has the outputs \['y'\]"):
        from_function.record(lambda feeds: {"z": feeds["x"]}, pooled(WINDOW))


def test_the_float64_reference_gives_the_answers_of_the_module(exported, recorded):
    answered = {case.name: case for case in from_model.record(exported[2]).cases}
    module = Small().double().eval()
    for name in ("ordinary", "huge", "nan", "-inf"):
        case = answered[name]
        right = module(torch.tensor(case.inputs["x"]).double())
        for answer, output in zip(case.answers.values(), right, strict=True):
            scale = np.nanmax(np.abs(np.where(np.isinf(answer), 0, answer)))
            np.testing.assert_allclose(answer, output.detach().numpy(), rtol=1e-12, atol=1e-13 * scale)


def test_the_float64_reference_refuses_what_would_take_minutes(monkeypatch, exported):
    monkeypatch.setattr("onnxpool.golden.from_model.MOST_WEIGHTS", 50)
    with pytest.raises(GoldenError, match="give reference="):
        from_model.record(exported[2])


# --- modules that ask for float32, are hard to copy, or take dicts


def cast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return torch.nn.functional.linear(x / 3, torch.eye(3))


class Asks(torch.nn.Module):
    """Asks for float32 in the ways that networks do, with what it gives for 1, 2, 3."""

    ways: ClassVar = {
        "float": (lambda x: x.float() / 3, [1 / 3, 2 / 3, 1]),
        "to": (lambda x: x.to(torch.float32) / 3, [1 / 3, 2 / 3, 1]),
        "half": (lambda x: x.half() / 3, [1 / 3, 2 / 3, 1]),
        "type_as": (lambda x: (x.double() / 3).type_as(x), [1 / 3, 2 / 3, 1]),
        "norm": (
            lambda x: torch.nn.functional.layer_norm(x.float(), (3,), eps=0).type_as(x),
            [-(1.5**0.5), 0, 1.5**0.5],
        ),
        "eye": (lambda x: x / 3 @ torch.eye(3), [1 / 3, 2 / 3, 1]),
        "zeros": (lambda x: x / 3 + torch.zeros(3), [1 / 3, 2 / 3, 1]),
        "ones": (lambda x: torch.ones(3, dtype=torch.float32) / 3 * x, [1 / 3, 2 / 3, 1]),
        "counted": (lambda x: x * (torch.arange(1, 4) / 3), [1 / 3, 4 / 3, 3]),
        "root": (lambda x: x * torch.sqrt(torch.tensor(2)), [2**0.5, 2 * 2**0.5, 3 * 2**0.5]),
        "spaced": (lambda x: x * torch.linspace(0, 1, 4)[1:], [1 / 3, 4 / 3, 3]),
        "complex": (lambda x: (x.to(torch.complex64) / 3).real, [1 / 3, 2 / 3, 1]),
        "autocast": (cast, [1 / 3, 2 / 3, 1]),
    }

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        return self.ways[self.way][0](x)


@pytest.mark.parametrize("way", Asks.ways)
def test_answers_are_float64_whatever_the_module_asks_for(way):
    x = torch.tensor([[1.0, 2.0, 3.0]])
    example = from_torch.record(Asks(way), graph_of((1, 3)), (x,)).cases[0]
    np.testing.assert_allclose(example.answers["y0"][0], Asks.ways[way][1], rtol=1e-15, atol=1e-15)
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture
def one_run(monkeypatch):
    """The yardstick is the network's own run alone."""
    monkeypatch.setattr(collect, "MANY", 0)
    monkeypatch.setattr(collect, "FEW", 0)


def test_numbers_in_the_code_are_those_that_the_model_holds(one_run):
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return x * torch.tensor([0.1, 0.5, 1.0])

    example = from_torch.record(Scaled(), graph_of((1, 3)), (torch.ones(1, 3),)).cases[0]
    assert example.answers["y0"][0].tolist() == [np.float32(0.1), 0.5, 1.0]
    assert {name: one.largest for name, one in example.yardstick.items()} == {"y0": 0.0}


def test_a_float64_module_that_asks_for_float64_has_a_yardstick(one_run):
    class Doubles(torch.nn.Module):
        def forward(self, x):
            return (x.double() / 3) @ torch.eye(3, dtype=torch.float64)

    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    example = from_torch.record(Doubles(), graph_of((1, 3), dtype=ir.DataType.DOUBLE), (x,)).cases[0]
    error = max(abs(float(np.float32(n / 3)) - n / 3) for n in (1, 2, 4))
    own = {name: one.largest for name, one in example.yardstick.items()}
    assert own == {"y0": pytest.approx(error * 2.0**-29, rel=1e-12, abs=0)}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_weight_that_a_hook_computes(norm):
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    layer = getattr(torch.nn.utils, norm)(layer)
    layer(torch.ones(1, 2))  # leaves a weight that was computed with a gradient
    if norm == "weight_norm":
        layer.weight_g.data = torch.tensor([[10.0]])
    found = from_torch.record(layer, graph_of((1, 2)), (torch.tensor([[1.0, 2.0]]),))
    expected = (1 * 3 + 2 * 4) / 5 * (10 if norm == "weight_norm" else 1)
    np.testing.assert_allclose(
        found.cases[0].answers["y0"], [[expected]], rtol=1e-6 if norm == "spectral_norm" else 1e-14
    )


class OnlyFloat32(torch.nn.Module):
    """``y = w x``, and no float64."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0], [3.0]]))

    def forward(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return x @ self.weight


def test_a_module_that_takes_float32_alone_answers_in_that():
    module = OnlyFloat32()
    found = from_torch.record(module, graph_of((1, 2)), (torch.tensor([[5.0, 7.0]]),))
    example = found.cases[0]
    assert example.answers["y0"].tolist() == [[26]]
    assert example.answers["y0"].dtype == np.float64
    assert found.notes == ("the answers are in the network's own type, since it does not run in float64: float32 only",)
    assert found.source.startswith("OnlyFloat32 in its own type")
    # 5 and 7 move by 2^-21 each, 1 by 2^-23, 3 by 2^-22: at most 5 2^-23 + 2^-21 + 7 2^-22 + 3 2^-21, and its rounding
    assert 0 < example.yardstick["y0"] <= (5 / 4 + 1 + 7 / 2 + 3 + 4) * 2.0**-21
    assert module.weight.tolist() == [[1], [3]]


def test_bfloat16_is_widened():
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.bfloat16)
    answering = from_torch.answers(Asks("float"), graph_of((1, 3), dtype=ir.DataType.BFLOAT16), (x,), None)
    assert answering.double(answering.example)["y0"].tolist() == [[1 / 3, 2 / 3, 4 / 3]]


class OfDicts(torch.nn.Module):
    def forward(self, a, b, scale=1.0):
        return {"sum": a["p"]["q"] * 2 - a["r"][0], "scaled": b * scale}


@pytest.mark.parametrize("by_name", [False, True])
def test_arguments_in_dicts(by_name):
    one, two, three = (torch.full((2,), value) for value in (1.0, 2.0, 3.0))
    a = {"r": [one], "p": {"q": two}}
    args, kwargs = ((), {"scale": 5.0, "b": three, "a": a}) if by_name else ((a, three), {"scale": 5.0})
    example = from_torch.record(OfDicts(), graph_of((2,), (2,), (2,), outputs=2), args, kwargs).cases[0]
    assert {name: array.tolist() for name, array in example.inputs.items()} == {
        "x0": [1, 1],
        "x1": [2, 2],
        "x2": [3, 3],
    }
    assert {name: array.tolist() for name, array in example.answers.items()} == {"y0": [3, 3], "y1": [15, 15]}


# --- fingerprints


def test_fingerprints_survive_saving_and_changes_of_form(tmp_path, exported, recorded):
    model = exported[2]
    golden_file.save(recorded, tmp_path / "a.golden.npz")
    before = golden_file.load(tmp_path / "a.golden.npz").fingerprints
    for form in ("function", "standard", "custom"):
        forms.write(forms.to_form(model, form), tmp_path / "a.onnx")
        assert changes(before, fingerprints(tmp_path / "a.onnx")) == [], form
    assert any("SoftPool" in node["op"] for node in before["nodes"].values())
    assert before["functions"].keys() == {"onnxpool::SoftPool"}


def test_fingerprints_name_what_changed(exported, recorded):
    model = exported[2].clone()
    node = next(node for node in model.graph if node.op_type == "Conv")
    weight = node.inputs[1]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1.001, name=weight.name)
    (change,) = changes(recorded.fingerprints, fingerprints(model))
    assert (
        change.text
        == f"weights of node {node.name!r} (Conv) (initializer {weight.name!r}) differ from the exported ones"
    )
    assert change.fault


def test_a_rewritten_model_is_no_fault_in_itself(exported, recorded):
    model = exported[2].clone()
    node = next(node for node in model.graph if node.op_type == "Relu")
    node.name = "other"
    found = changes(recorded.fingerprints, fingerprints(model))
    assert [change.fault for change in found] == [False] * len(found)
    assert any("node 'other' (Relu) was not in the exported model" in change.text for change in found)
