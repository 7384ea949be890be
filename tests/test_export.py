"""Export of whole networks: what the file holds, and that it computes what PyTorch computes."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import OPSET_26

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError, ExportError
from onnxpool.validation.as_text import sentences

DYNAMIC = {"x": {0: "batch", 2: "height", 3: "width"}}


class Network(torch.nn.Module):
    """Convolution, batch norm, an overlapping and a ceil-mode pool, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.first = nn.SoftPool2d(3, stride=2, padding=1)
        self.second = nn.SoftPool2d(2, ceil_mode=True)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.mark.parametrize("form", ["function", "standard"])
def test_a_network_with_dynamic_sizes(network, form, tmp_path):
    path = tmp_path / "network.onnx"
    model = onnxpool.export(network, (torch.randn(2, 3, 21, 17),), path, form=form, dynamic_shapes=DYNAMIC)
    assert onnxpool.form_of(path) == form
    assert [str(node.window) for node in onnxpool.pool_nodes(path)] == ["3x3 s2 p1", "2x2 ceil"]
    assert [str(dim) for dim in model.graph.inputs[0].shape] == ["batch", "3", "height", "width"]
    assert model.ir_version == 10
    session = onnxruntime.InferenceSession(path)
    for size in ((1, 3, 21, 17), (3, 3, 6, 5), (2, 3, 32, 31)):
        x = torch.randn(size, generator=torch.manual_seed(1))
        (y,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(y, network(x).detach(), atol=1e-6)


def test_answers_travel_beside_the_model(network, tmp_path):
    path = tmp_path / "network.onnx"
    onnxpool.export(network, (torch.randn(2, 3, 21, 17),), path, dynamic_shapes=DYNAMIC)
    report = onnxpool.validate(path)
    assert report.passed, sentences(report)
    assert report.reference.startswith("Network in float64")
    assert {"ordinary", "huge", "nan", "sizes 1x3x21x17"} <= {result.case for result in report.runs[0].results}
    other = copy.deepcopy(network)
    torch.nn.init.normal_(other.head.weight)
    onnxpool.export(other, (torch.randn(2, 3, 21, 17),), path, golden=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.onnx"], "answers of another network are gone"


@pytest.mark.parametrize("opset", [*range(18, 26), OPSET_26])
def test_every_opset(network, opset, tmp_path):
    x = torch.randn(1, 3, 12, 12)
    onnxpool.export(network, (x,), tmp_path / "m.onnx", opset=opset)
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert {entry.domain: entry.version for entry in onnx.load(tmp_path / "m.onnx").opset_import} == {
        "": opset,
        "onnxpool": 1,
    }
    y = onnxpool.load(tmp_path / "m.onnx", kernels="off").run({"x": x.numpy()})
    np.testing.assert_allclose(next(iter(y.values())), network(x).detach(), atol=1e-6)


def test_float16(network, tmp_path):
    half = copy.deepcopy(network).half()
    x = torch.randn(2, 3, 12, 12).half()
    onnxpool.export(half, (x,), tmp_path / "m.onnx", output_names=["y"])
    y = onnxpool.load(tmp_path / "m.onnx", kernels="off").run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(y, half(x).detach(), rtol=4e-3, atol=4e-3)


def test_float64(tmp_path):
    """The CPU provider has no float64 convolution either."""
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    pools = torch.nn.Sequential(nn.SoftPool2d(3, 2, 1), torch.nn.Tanh(), nn.SoftPool2d(2, ceil_mode=True))
    onnxpool.export(pools, (x,), tmp_path / "m.onnx", input_names=["x"], output_names=["y"])
    y = onnxpool.load(tmp_path / "m.onnx", kernels="off").run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(y, pools(x), rtol=0, atol=1e-15)


def test_bfloat16(tmp_path):
    """The CPU provider has no bfloat16 convolution: a pool and what surrounds it."""
    x = torch.randn(2, 3, 9, 9).bfloat16()
    for form in ("function", "standard"):
        onnxpool.export(nn.SoftPool2d(3, 2, 1), (x,), tmp_path / "m.onnx", form=form)
        session = onnxpool.load(tmp_path / "m.onnx", kernels="off")
        assert session.inputs[0].dtype.name == "bfloat16"
        (y,) = session.run({"x": x.view(torch.uint16).numpy().view(session.inputs[0].dtype)}).values()
        torch.testing.assert_close(
            torch.from_numpy(y.astype(np.float32)), nn.SoftPool2d(3, 2, 1)(x).float(), rtol=8e-3, atol=0
        )


@pytest.mark.parametrize(
    ("pool", "size"), [(nn.SoftPool1d(3, 2, 1), (2, 3, 9)), (nn.SoftPool3d(2, ceil_mode=True), (1, 2, 5, 4, 3))]
)
def test_other_ranks_and_names(pool, size, tmp_path):
    x = torch.randn(size)
    onnxpool.export(pool, (x,), tmp_path / "m.onnx", input_names=["signal"], output_names=["pooled"])
    y = onnxpool.load(tmp_path / "m.onnx").run({"signal": x.numpy()})["pooled"]
    np.testing.assert_allclose(y, pool(x), atol=1e-6)


def test_unbatched(tmp_path):
    x = torch.randn(3, 8, 8)
    onnxpool.export(nn.SoftPool2d(2), (x,), tmp_path / "m.onnx")
    (y,) = onnxpool.load(tmp_path / "m.onnx").run({"x": x.numpy()}).values()
    np.testing.assert_allclose(y, nn.SoftPool2d(2)(x), atol=1e-6)


def test_the_module_keeps_its_mode_and_is_exported_in_evaluation_mode(network):
    network.train()
    network.first.eval()
    model = onnxpool.export(network, (torch.randn(2, 3, 12, 12),))
    assert network.training
    assert not network.first.training
    assert network.stem.training
    assert "BatchNormalization" not in {node.op_type for node in model.graph}, "folded, as evaluation allows"
    network.eval()


def test_named_arguments_and_several_inputs(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return nn.SoftPool1d(2)(left + right)

    left, right = torch.randn(1, 2, 6), torch.randn(1, 2, 6)
    onnxpool.export(Two(), (left,), tmp_path / "m.onnx", kwargs={"right": right})
    (y,) = onnxpool.load(tmp_path / "m.onnx").run({"left": left.numpy(), "right": right.numpy()}).values()
    np.testing.assert_allclose(y, nn.SoftPool1d(2)(left + right), atol=1e-6)


def test_refusals(network, tmp_path):
    x = torch.randn(1, 3, 12, 12)
    with pytest.raises(ArgumentError, match="opset=17 is out of range; use 18 to 26"):
        onnxpool.export(network, (x,), opset=17)
    with pytest.raises(ArgumentError, match=r"not a torch\.nn\.Module"):
        onnxpool.export(lambda x: x, (x,))
    with pytest.raises(ArgumentError, match="form='onnx' is unknown"):
        onnxpool.export(network, (x,), tmp_path / "m.onnx", form="onnx")
    with pytest.raises(ExportError, match="could not export Network"):
        onnxpool.export(network, (torch.randn(1, 4, 12, 12),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
