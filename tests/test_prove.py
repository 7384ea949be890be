"""Export proves itself: what comes out wrong, or does not load, is refused with the node and its line."""

import gc
import re
import sys
import warnings

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.nn import functional

import onnxpool
from onnxpool import nn
from onnxpool.errors import ExportError
from onnxpool.golden.from_torch import answers, in_float64
from onnxpool.network import passes, prove

X = torch.randn(2, 3, 20, 24, generator=torch.manual_seed(0))
SIZES = ({0: "batch", 2: "height", 3: "width"},)


class Formula(torch.nn.Module):
    def __init__(self, formula, *layers):
        super().__init__()
        self.formula, self.layers = formula, torch.nn.ModuleList(layers)

    def forward(self, x):
        return self.formula(x, *self.layers)


class Wrong(torch.nn.Module):
    """The export is made wrong in ``second`` by tests."""

    def forward(self, x):
        y = torch.relu(x)
        y = torch.sigmoid(y)
        return y.mean((2, 3))


def spoiled(monkeypatch, spoil):
    """Let the passes spoil the graph after they have tidied it."""
    tidy = passes.tidy

    def both(model):
        tidy(model)
        spoil(model)

    monkeypatch.setattr(passes, "tidy", both)


def node(model, op_type):
    return next(one for one in model.graph if one.op_type == op_type)


def test_copies_of_the_module_are_gone_when_the_model_runs(monkeypatch, tmp_path):
    """They hold three times its weights, which ONNX Runtime needs twice more."""
    alive = []
    run = prove.prove

    def counting(*args):
        gc.collect()
        alive.append(sum(type(one) is Wrong for one in gc.get_objects()))
        return run(*args)

    monkeypatch.setattr(prove, "prove", counting)
    module = Wrong()
    onnxpool.export(module, (X,), tmp_path / "m.onnx")
    assert alive == [1]


def test_what_was_checked_is_told(tmp_path):
    model = onnxpool.export(nn.SoftPool2d(3, 2, 1), (X,), tmp_path / "m.onnx", dynamic_shapes=SIZES)
    proof = model.meta["onnxpool.proof"]
    assert proof.cases == ("example", "sizes 3x3x23x31", "sizes 1x3x10x13")
    assert proof.notes == ()
    assert onnxpool.export(nn.SoftPool2d(2), (X,)).meta["onnxpool.proof"].cases == ("example",)
    assert "onnxpool.proof" not in onnxpool.export(nn.SoftPool2d(2), (X,), check=False).meta


@pytest.mark.parametrize("form", ["function", "standard", "custom"])
def test_a_wrong_node_is_found_with_its_line(monkeypatch, tmp_path, form):
    def spoil(model):
        node(model, "Sigmoid").op_type = "Tanh"

    spoiled(monkeypatch, spoil)
    network = torch.nn.Sequential(nn.SoftPool2d(2), Wrong())
    with pytest.raises(ExportError) as told:
        onnxpool.export(network, (X,), tmp_path / "m.onnx", form=form)
    sentence = str(told.value)
    assert sentence.startswith("the exported model is wrong: on example, output 'mean' errs by ")
    assert "the first wrong node is 'node_sigmoid' (Tanh, layer '1', " in sentence
    assert re.search(r"test_prove\.py:\d+, y = torch\.sigmoid\(y\)\), which errs by", sentence)
    assert "check=False (--no-check)" in sentence
    assert list(tmp_path.iterdir()) == []
    onnxpool.export(network, (X,), tmp_path / "m.onnx", form=form, check=False, golden=False)
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


def test_a_fault_at_other_sizes_alone_is_found(monkeypatch):
    """Right for the example: a size of it stands in the graph."""

    def spoil(model):
        reshape = model.graph.outputs[0].producer()
        fixed = ir.Value(name="fixed", const_value=ir.tensor(np.array([2880]), name="fixed"))
        model.graph.register_initializer(fixed)
        reshape.replace_input_with(1, fixed)

    spoiled(monkeypatch, spoil)
    with pytest.raises(ExportError, match=r"cannot run, on sizes 3x3x23x31, the exported model .*Reshape"):
        onnxpool.export(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(0, -1)), (X,), dynamic_shapes=SIZES)


def test_small_errors_are_within_the_bound_and_larger_ones_are_not(monkeypatch):
    def spoil(model):
        scale = node(model, "Mul").inputs[1]
        scale.const_value = ir.tensor((scale.const_value.numpy() * (1 + factor)).astype(np.float32))

    spoiled(monkeypatch, spoil)
    network = Formula(lambda x: torch.relu(x) * 3.0)
    factor = 1e-7
    onnxpool.export(network, (X,))
    factor = 1e-5
    with pytest.raises(ExportError, match="first wrong node is 'node_mul'"):
        onnxpool.export(network, (X,))


@pytest.mark.parametrize(
    ("network", "x", "node"),
    [
        (Formula(lambda x, conv: conv(x), torch.nn.Conv1d(3, 2, 3).bfloat16()), X[..., 0].bfloat16(), "Conv"),
        (Formula(lambda x, conv: conv(x), torch.nn.Conv2d(3, 2, 3).bfloat16()), X.bfloat16(), "Conv"),
    ],
    ids=["bfloat16 convolution in 1d", "bfloat16 convolution"],
)
def test_what_the_runtime_cannot_load_is_refused(network, x, node):
    """PyTorch's exporter writes these files without a word."""
    with pytest.raises(ExportError, match=rf"ONNX Runtime cannot load the exported model .* '\w+' \({node}"):
        onnxpool.export(network, (x,))


@pytest.mark.parametrize("x", [X.bfloat16(), (X * 100).long()], ids=["bfloat16", "int64"])
def test_pooling_of_types_that_the_runtime_does_not_pool_is_checked(x):
    """PyTorch's exporter writes a MaxPool that ONNX Runtime refuses."""
    model = onnxpool.export(torch.nn.MaxPool2d(2), (x,), input_names=["x"], output_names=["y"])
    assert model.meta["onnxpool.proof"].cases == ("example",)
    assert {node.op_type for node in model.graph} >= ({"Cast"} if x.is_floating_point() else {"ReduceMax"})


def test_poolings_in_bfloat16_are_checked_too():
    """Ours compare in float32, which the runtime has; stock PyTorch's MaxPool it cannot load."""
    model = onnxpool.export(torch.nn.MaxPool2d(2), (X.bfloat16(),), dynamic_shapes=SIZES)
    assert len(model.meta["onnxpool.proof"].cases) == 3


def test_autocast_inside_is_refused_where_the_runtime_refuses_it():
    def forward(x, conv):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return conv(x)

    with pytest.raises(ExportError, match=r"node 'node_conv2d' \(Conv.*tensor\(bfloat16\)"):
        onnxpool.export(Formula(forward, torch.nn.Conv2d(3, 2, 3)), (X,))


@pytest.mark.parametrize(("shapes", "declared"), [(SIZES, None), (None, 7)])
def test_a_declared_size_that_does_not_come_out_is_corrected(monkeypatch, shapes, declared):
    def spoil(model):
        model.graph.outputs[0].shape = ir.Shape(["batch" if shapes else 2, 3, 99, "width" if shapes else 24])

    spoiled(monkeypatch, spoil)
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ConstantPad2d((0, 0, 1, 1), 0.0))
    model = onnxpool.export(network, (X,), dynamic_shapes=shapes)
    (note, *_) = model.meta["onnxpool.proof"].notes
    assert note.startswith("corrected: axis 2 of output ")
    assert note.endswith(" has size 22; the model declares 99")
    batch, _, height, width = model.graph.outputs[0].shape
    assert str(height) == ("None" if shapes else "22")
    assert (str(batch), str(width)) == (("batch", "width") if shapes else ("2", "24"))


def test_sizes_that_the_module_refuses_are_skipped_and_told():
    """A width of 17 exports, since symbolic tracing does not come by the refusal."""

    class Fussy(torch.nn.Module):
        def forward(self, x):
            if not torch.compiler.is_exporting() and x.shape[1] % 8:
                raise ValueError("the width must be a multiple of 8")
            return torch.relu(x)

    model = onnxpool.export(Fussy(), (torch.ones(2, 16),), dynamic_shapes=({0: "batch", 1: "width"},))
    proof = model.meta["onnxpool.proof"]
    assert proof.cases == ("example", "sizes 1x8", "sizes 1x48")
    assert proof.notes == (
        "sizes that the module itself refuses were not checked: 3x19 (the width must be a multiple of 8); "
        "3x17 (the width must be a multiple of 8)",
    )


def test_limits_of_axes_are_kept():
    batch = torch.export.Dim("batch", min=2, max=5)
    model = onnxpool.export(torch.nn.ReLU(), (X,), dynamic_shapes=({0: batch},))
    assert model.meta["onnxpool.proof"].cases == ("example", "sizes 3x3x20x24", "sizes 1x3x20x24")
    batch = torch.export.Dim("batch", min=3, max=5)
    model = onnxpool.export(torch.nn.ReLU(), (torch.ones(4, 3),), dynamic_shapes=({0: batch},))
    assert model.meta["onnxpool.proof"].cases == ("example", "sizes 3x3")


def test_without_the_runtime_nothing_is_checked_and_that_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="SoftPool2d: nothing was checked; onnxruntime cannot be imported"):
        model = onnxpool.export(nn.SoftPool2d(2), (X,), tmp_path / "m.onnx")
    assert model.meta["onnxpool.proof"].cases == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnxpool.export(nn.SoftPool2d(2), (X,), check=False)


def test_a_module_that_computes_in_float32_itself_has_answers_in_float64(tmp_path):
    """As common preprocessing and normalization do."""
    torch.manual_seed(0)
    network = Formula(
        lambda x, conv, norm: norm((conv(x.float() / 255) @ torch.eye(22)).float()).type_as(x.float()),
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.GroupNorm(2, 4),
    )
    x = torch.randint(0, 255, (1, 3, 20, 24), dtype=torch.uint8)
    model = onnxpool.export(network, (x,), tmp_path / "m.onnx", output_names=["y"])
    exact = answers(network, model, (x,), {}).double({"x": x.numpy()})["y"]
    weight, bias = (one.detach().double() for one in (network.layers[0].weight, network.layers[0].bias))
    right = functional.group_norm(functional.conv2d(x.double() / 255, weight, bias), 2)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, right, rtol=0, atol=1e-13)
    report = onnxpool.validate(tmp_path / "m.onnx")
    assert report.passed, report.sentences()


def test_in_float64_every_type_is_widened_and_integers_stay():
    with in_float64():
        assert torch.ones(2).dtype == torch.float64
        assert torch.full((1,), 1 / 3, dtype=torch.float16).item() == 1 / 3
        assert (torch.ones(2, dtype=torch.int32) + 1).dtype == torch.int32
        assert torch.ones(2).half().sum(dtype=torch.float32).dtype == torch.float64
    assert torch.ones(2).dtype == torch.float32


def test_sizes_that_are_tried():
    from onnxpool.golden.inputs import Input

    image = Input("x", np.dtype(np.float32), (8, 3, 224, 160), ("batch", None, "h", "w"))
    plans = list(prove._sizes([image], dict.fromkeys(("batch", "h", "w"), (1, 300))))
    assert plans[0] == {"batch": 3, "h": 67, "w": 71}
    assert plans[1] == {"batch": 1, "h": 112, "w": 81}
    assert {"batch": 1, "h": 256, "w": 224} in plans, "multiples of 32 stay such"
    assert all(1 <= size <= 300 for plan in plans for size in plan.values())
    pair = [Input("x", np.dtype(np.float32), (8, 6), ("batch", "h"))]
    pair.append(Input("y", np.dtype(np.float32), (8, 12), ("batch", "2*h")))
    plans = prove._sizes(pair, dict.fromkeys(("batch", "h"), (1, 99)))
    assert next(plans) == {"batch": 3, "h": 11, "2*h": 22}
    only = [Input("x", np.dtype(np.float32), (8, 64), ("batch", "16*h"))]
    assert [plan["16*h"] for plan in prove._sizes(only, {"batch": (1, 99)})] == [112, 32, 80, 576, 128, 64, 64]
