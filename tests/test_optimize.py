"""Networks that ONNX Runtime has optimised, with our poolings in its blocks of channels: onnxpool.optimize."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import onnxpool
import onnxpool.nn
from onnxpool.cli.commands import app
from onnxpool.domain import BLOCKS_DOMAIN
from onnxpool.errors import FormError, KernelError, SessionError
from onnxpool.graph import blocks
from onnxpool.graph.blocks import nodes_in_blocks
from onnxpool.run import native_library
from onnxpool.run.optimize import block_size

BLOCK = block_size()
POOLINGS = {
    "SoftPool": lambda _: onnxpool.nn.SoftPool2d(3, 2, 1),
    "StochasticPool": lambda _: onnxpool.nn.StochasticPool2d(2),
    "LocalImportancePool": lambda c: onnxpool.nn.LocalImportancePool2d(nn.Conv2d(c, c, 1), 3, 2, 1),
}
EACH = pytest.mark.parametrize("pooling", POOLINGS)


def small(pooling, channels=32):
    """Convolution, pooling, convolution, pooling, and a mean."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), POOLINGS[pooling](channels)]
    layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), POOLINGS[pooling](channels)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)).eval()


def ending():
    return nn.Sequential(nn.Conv2d(3, 32, 3), onnxpool.nn.SoftPool2d(2))


class Planes(nn.Module):
    """What ONNX Runtime has in planes alone."""

    def forward(self, x):
        return torch.cumsum(x, 2)


def logits_in_planes(channels=32):
    return nn.Sequential(nn.Conv2d(3, channels, 3), onnxpool.nn.LocalImportancePool2d(Planes(), 3, 2, 1))


class Residual(nn.Module):
    """What a ResNet does after its stem; ``gated`` multiplies every channel by one number."""

    def __init__(self, gated=False):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 32, 3), onnxpool.nn.SoftPool2d(3, 2, 1)
        self.first, self.second = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.mean = nn.AdaptiveAvgPool2d(1) if gated else nn.Identity()

    def forward(self, x):
        x = self.pool(self.stem(x))
        y = torch.relu(self.first(x) + x)
        return self.second(torch.sigmoid(self.mean(self.first(y))) * y)


class Several(nn.Module):
    """Poolings of an input, and of one axis."""

    def __init__(self):
        super().__init__()
        self.first, self.line = onnxpool.nn.SoftPool2d(2), onnxpool.nn.SoftPool1d(2)
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        y = self.conv(self.first(x))
        return self.line(y.flatten(1, 2))


class Sppf(nn.Module):
    """Poolings one after another, all of which a convolution takes: what YOLO has at its end, with SoftPool."""

    def __init__(self, channels=32):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, channels, 1), nn.Conv2d(4 * channels, 8, 1)
        self.pool = onnxpool.nn.SoftPool2d(5, 1, 2)

    def forward(self, x):
        values = [self.before(x)]
        values += [y := self.pool(values[0]), z := self.pool(y), self.pool(z)]
        return self.after(torch.cat(values, 1))


class Both(nn.Module):
    """What is pooled is an output as well, and what is pooled from it goes to a convolution and to a plain operator."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.pool = onnxpool.nn.SoftPool2d(2)

    def forward(self, x):
        x = self.before(x)
        y = self.pool(x)
        return x, y, self.after(y), torch.cumsum(y, 3)


@cache
def exported_bytes(make, *arguments, form="function", dynamic=False):
    torch.manual_seed(1)
    axes = ({0: "n", 2: "h", 3: "w"},) if dynamic else None
    x = torch.randn(2, 3, 33, 36)
    made = onnxpool.export(make(*arguments).eval(), (x,), dynamic_shapes=axes, form=form, golden=False)
    return ir.to_proto(made).SerializeToString()


def exported(path, make, *arguments, **kwargs):
    """A file of the network that ``make`` gives; each is exported once."""
    path.write_bytes(exported_bytes(make, *arguments, **kwargs))
    return path


def optimised(path):
    """The optimised model beside it, and what :func:`onnxpool.optimize` told."""
    made = onnxpool.optimize(path)
    here = path.with_name("here.onnx")
    onnxpool.save(made.model, here)
    return here, made


def answers(path, *shapes, **kwargs):
    session, found = onnxpool.load(path, **kwargs), []
    for i, shape in enumerate(shapes or [(2, 3, 33, 36)]):
        x = np.random.default_rng(i).standard_normal(shape).astype(np.float32)
        found += session.run(None, {session.inputs[0].name: x})
    return found


def same(path, here, *shapes):
    """Equal but for rounding, which sums of other orders have in convolutions as well."""
    before, after = answers(path, *shapes, kernels="off"), answers(here, *shapes, kernels="require")
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max())


def kinds(path):
    return [f"{node.domain}::{node.op_type}".removeprefix("::") for node in onnx.load(path).graph.node]


def test_the_blocks_of_this_processor():
    assert block_size() == (16 if " avx512f " in Path("/proc/cpuinfo").read_text() else 8)


@EACH
@pytest.mark.parametrize("channels", [32, 24, 16, 12])
def test_poolings_between_convolutions(pooling, channels, tmp_path):
    """Also where the last block has fewer channels."""
    path = exported(tmp_path / "m.onnx", small, pooling, channels)
    here, made = optimised(path)
    assert [node.op_type for node in made.in_blocks] == [pooling] * 2
    assert made.kept == {}
    assert made.block_size == BLOCK
    same(path, here)
    found = kinds(here)
    assert found.count(f"onnxpool.nchwc::{pooling}") == 2
    assert "com.microsoft.nchwc::ReorderInput" not in found
    if channels % BLOCK == 0:  # other convolutions take planes
        assert found.count("com.microsoft.nchwc::ReorderOutput") == 1  # before the mean
    assert not onnx.load(here).functions


@EACH
def test_other_sizes_than_the_traced_ones(pooling, tmp_path):
    path = exported(tmp_path / "m.onnx", small, pooling, dynamic=True)
    same(path, optimised(path)[0], (2, 3, 33, 36), (1, 3, 8, 8), (3, 3, 61, 17))


def test_the_validator_judges_it(tmp_path):
    """By the answers of the model that it was made from; a pooling that became another one is named."""
    path = tmp_path / "m.onnx"
    onnxpool.export(small("SoftPool"), (torch.randn(1, 3, 33, 36),), path)
    here, _ = optimised(path)
    report = onnxpool.validate(here, reference=path.with_name("m.golden.npz"), require=["native"])
    assert report.verdict == "passed", report
    assert [(run.form, run.kernels) for run in report.runs] == [("custom", True)]
    for wrong in ("pads", "operator"):
        model = onnx.load(here)
        node = next(one for one in model.graph.node if one.domain == BLOCKS_DOMAIN)
        if wrong == "operator":
            node.op_type = "StochasticPool"
        else:
            next(one for one in node.attribute if one.name == wrong).ints[:] = [0, 0, 0, 0]
        onnx.save(model, here)
        report = onnxpool.validate(here, reference=path.with_name("m.golden.npz"))
        assert report.verdict != "passed"
        assert any("SoftPool" in cause for cause in report.causes), report.causes


def test_poolings_that_are_joined(tmp_path):
    path = exported(tmp_path / "m.onnx", Sppf)
    here, made = optimised(path)
    assert len(made.in_blocks) == 3
    same(path, here)
    assert [kind for kind in kinds(here) if "Reorder" in kind] == ["com.microsoft.nchwc::ReorderOutput"]


def test_channels_that_fill_no_block_are_joined_in_planes(tmp_path):
    path = exported(tmp_path / "m.onnx", Sppf, 24)
    here, made = optimised(path)
    assert len(made.in_blocks) == 3
    same(path, here)


def test_values_that_others_take_too(tmp_path):
    path = exported(tmp_path / "m.onnx", Both)
    here, made = optimised(path)
    assert len(made.in_blocks) == 1
    same(path, here)
    assert [value.name for value in onnx.load(here).graph.output] == [v.name for v in onnx.load(path).graph.output]


def test_a_pooling_at_the_end_keeps_the_output(tmp_path):
    path = exported(tmp_path / "m.onnx", ending)
    here, made = optimised(path)
    assert len(made.in_blocks) == 1
    same(path, here)
    before, after = (onnx.load(p).graph.output[0] for p in (path, here))
    assert (before.name, before.type) == (after.name, after.type)


@pytest.mark.parametrize("form", ["function", "standard", "custom"])
def test_any_form_of_the_model(form, tmp_path):
    path = exported(tmp_path / "m.onnx", small, "SoftPool", form=form)
    made = onnxpool.optimize(path)
    assert len(made.in_blocks) == 2
    assert onnxpool.form_of(made.model) == "custom"


def test_what_stays_and_why(tmp_path):
    path = exported(tmp_path / "m.onnx", Several)
    made = onnxpool.optimize(path)
    assert made.in_blocks == ()
    reasons = list(made.kept.values())
    assert "no convolution or pooling of ONNX Runtime's gives it" in reasons[0]
    assert "it has 1 spatial axes, and blocks are for 2" in reasons[1]
    assert not any(nodes_in_blocks(made.model))


def test_float16_stays(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 32, 3), onnxpool.nn.SoftPool2d(2)).eval().half()
    onnxpool.export(network, (torch.randn(1, 3, 9, 9).half(),), tmp_path / "m.onnx")
    made = onnxpool.optimize(tmp_path / "m.onnx")
    assert made.in_blocks == ()
    assert "it is in float16, and blocks are for float32" in str(made.kept)


def test_logits_in_planes_are_reordered(tmp_path):
    """One reorder, in place of one for what is pooled and another for the result."""
    path = exported(tmp_path / "m.onnx", logits_in_planes)
    here, made = optimised(path)
    assert len(made.in_blocks) == 1
    same(path, here)
    assert kinds(here).count("com.microsoft.nchwc::ReorderInput") == 1


def test_logits_in_planes_stay_where_channels_cannot_be_reordered(tmp_path):
    path = exported(tmp_path / "m.onnx", logits_in_planes, 30)
    made = onnxpool.optimize(path)
    assert made.in_blocks == ()
    assert "no convolution or pooling of ONNX Runtime's gives it" in str(made.kept)


def test_a_residual_stream(tmp_path):
    """Reorders move past additions and activations, as far as the next convolution."""
    path = exported(tmp_path / "m.onnx", Residual)
    here, made = optimised(path)
    assert len(made.in_blocks) == 1
    same(path, here)
    assert [kind for kind in kinds(here) if "Reorder" in kind] == ["com.microsoft.nchwc::ReorderOutput"]


def test_shapes_that_are_broadcast_stay_in_planes(tmp_path):
    path = exported(tmp_path / "m.onnx", Residual, True)
    here, made = optimised(path)
    assert len(made.in_blocks) == 1
    same(path, here)


def test_weights_beside_the_model(tmp_path):
    """The optimised model has its weights in itself, whatever becomes of the folder that ONNX Runtime wrote them to."""
    path = exported(tmp_path / "m.onnx", small, "SoftPool")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.weights", size_threshold=100)
    here, _ = optimised(path)
    same(path, here)


def test_other_processors_refuse_it(tmp_path):
    path = exported(tmp_path / "m.onnx", small, "SoftPool")
    model = onnxpool.optimize(path).model
    for node in nodes_in_blocks(model):
        node.attributes[blocks.BLOCK_SIZE] = ir.AttrInt64(blocks.BLOCK_SIZE, 24 - BLOCK)
    with pytest.raises(SessionError, match="the model was optimised for another one; optimise it here"):
        onnxpool.load(model)


def test_it_has_no_other_form(tmp_path):
    made = onnxpool.optimize(exported(tmp_path / "m.onnx", small, "SoftPool")).model
    for form in ("function", "standard", "custom"):
        with pytest.raises(FormError, match="convert the one that it was made from"):
            onnxpool.to_form(made, form)
    with pytest.raises(FormError, match="convert the one that it was made from"):
        onnxpool.optimize(made)
    with pytest.raises(SessionError, match="a custom form needs the native library"):
        onnxpool.load(made, kernels="off")
    with pytest.raises(FormError, match="convert the one that it was made from"):
        onnxpool.load(made, runtime="openvino")


def test_without_the_library(tmp_path, monkeypatch):
    path = exported(tmp_path / "m.onnx", small, "SoftPool")
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "none.so"))
    with pytest.raises(KernelError, match="an optimised model needs the native library"):
        onnxpool.optimize(path)


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_command(tmp_path):
    path, here = exported(tmp_path / "m.onnx", small, "SoftPool"), tmp_path / "here.onnx"
    done = run("optimize", path, here)
    assert done.exit_code == 0, done.output
    assert f"in blocks of {BLOCK} channels" in done.output
    same(path, here)
    assert run("validate", here, "--reference", path).exit_code == 0
    assert "natively on CPUExecutionProvider" in run("inspect", here).output
    told = json.loads(run("optimize", path, here, "--json").output)
    assert [one["op_type"] for one in told["in_blocks"]] == ["SoftPool"] * 2


def test_the_command_writes_nothing_where_nothing_is_gained(tmp_path):
    path = exported(tmp_path / "m.onnx", Several)
    done = run("optimize", path, tmp_path / "here.onnx")
    assert done.exit_code == 1
    assert "as it was" in done.output
    assert not (tmp_path / "here.onnx").exists()
    done = run("optimize", exported(tmp_path / "p.onnx", nn.Conv2d, 3, 32, 3), tmp_path / "here.onnx")
    assert done.exit_code == 1
    assert "no pooling node of onnxpool" in done.output
    assert run("optimize", tmp_path / "absent.onnx", tmp_path / "here.onnx").exit_code == 2


def test_the_command_does_not_put_the_file_in_place_of_the_model(tmp_path):
    path = exported(tmp_path / "m.onnx", small, "SoftPool")
    before = path.read_bytes()
    done = run("optimize", path, path)
    assert done.exit_code == 2
    assert "is the model itself" in done.output
    assert path.read_bytes() == before
