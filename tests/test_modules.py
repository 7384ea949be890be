"""Every module of every method: against its float64 reference, exported in every form and type, and its gradients.

What is special to a method stands in its own test file; a new method is tested here without a line.
"""

import copy

import numpy as np
import onnx
import pytest
import torch
from exported import SPATIAL, first_axis, shape_for

import onnxpool
from onnxpool import nn
from onnxpool.cli import spelling
from onnxpool.domain import DOMAIN
from onnxpool.errors import ArgumentError, ExportError
from onnxpool.golden import bounds
from onnxpool.pools import METHODS
from onnxpool.validation.as_text import sentences
from onnxpool.window import Window

SPELLINGS = [spelled for method in METHODS.values() for spelled in method.modules]
FIRST = [method.modules[0] for method in METHODS.values()]
SHORT = [(spelled, torch.float16) for spelled in SPELLINGS if "Logit" not in spelled]
SHORT += [(spelled, torch.bfloat16) for spelled in FIRST if "Logit" not in spelled]  # one for each: most cost is export


def module(spelled):
    """The module with parameters that are not those of an untrained one, in evaluation mode."""
    pool = spelling.module(spelled, seed=1).eval()
    generator = torch.manual_seed(3)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pool


def example(pool, seed=0):
    return torch.randn(shape_for(pool, 2, (9, 8, 7)), generator=torch.manual_seed(seed))


def dynamic(pool):
    return ({0: "batch", **dict(enumerate(SPATIAL[pool.rank], start=first_axis(pool)))},)


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_pytorch_agrees_with_the_reference(spelled):
    """In float64 and on moderate inputs alone: each method's own test says how it deals with others."""
    pool = module(spelled).double()
    x = example(pool).double()
    for values in (x, 3 + x, x.round(), 1e3 * x, 1e-3 * x, x[:1], *([] if normalised(pool) else [x[:0], 0 * x])):
        with torch.no_grad():
            y = pool(values)
        answer = pool.reference(values.numpy())
        assert y.dtype == torch.float64
        scale = values.abs().max().item() if values.numel() else 0
        np.testing.assert_allclose(y, answer, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(pool(x[0]), pool(x[:1])[0])


def normalised(pool):
    """Whether the module normalises a whole image: then one cell changes all, and an empty batch is refused."""
    return any("InstanceNorm" in type(part).__name__ for part in pool.modules())


@pytest.mark.parametrize("spelled", [spelled for spelled in SPELLINGS if "Logit" not in spelled])
def test_nan_in_a_window_gives_nan_and_no_other_cell_changes(spelled):
    pool = module(spelled).double()
    x = example(pool).double()
    clean = pool(x).detach()
    x[0, 1].flatten()[:4][-1] = torch.nan
    with torch.no_grad():
        y = pool(x)
    np.testing.assert_array_equal(y.isnan(), np.isnan(pool.reference(x.numpy())))
    assert y[0].isnan().any()
    torch.testing.assert_close(y[~y.isnan()], clean[~y.isnan()])


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_gradients_are_true(spelled):
    """With respect to the input and to every parameter."""
    pool = module(spelled).double()
    x = example(pool).narrow(first_axis(pool), 0, 5)[:1].double()
    names, values = zip(*pool.named_parameters(), strict=True) if list(pool.parameters()) else ((), ())

    def call(x, *values):
        return torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x,))

    x.requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *values), fast_mode=True)


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_every_form_of_the_export_validates(spelled, tmp_path):
    pool = module(spelled)
    path = tmp_path / "pool.onnx"
    onnxpool.export(pool, (example(pool),), path, dynamic_shapes=dynamic(pool))
    onnx.checker.check_model(path, full_check=True)
    report = onnxpool.validate(path)
    assert report.passed, sentences(report)
    cases = {result.case.partition(" ")[0] for run in report.runs for result in run.results}
    assert {"example", "huge", "tiny", "nan", "inf", "sizes"} <= cases, report.notes
    model = onnx.load(path)
    calls = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert calls == {function.name for function in model.functions}, "standard operators need no functions"


@pytest.mark.parametrize(("spelled", "dtype"), SHORT)
def test_short_types_neither_overflow_nor_round_twice(spelled, dtype, tmp_path):
    """PyTorch and ONNX Runtime in the short type against the reference of the same, rounded, inputs and parameters."""
    pool = module(spelled).to(dtype)
    judge = copy.deepcopy(pool).double()
    path = tmp_path / "pool.onnx"
    x = example(pool).to(dtype)
    onnxpool.export(pool, (x,), path, dynamic_shapes=dynamic(pool), input_names=["x"], output_names=["y"], golden=False)
    session = onnxpool.load(path, kernels="off")
    for values in (x, 300 * x, (x.float() * 1e-3).to(dtype)):
        answer = judge.reference(values.double().numpy())
        numpy = values.float().numpy().astype(session.inputs[0].dtype)
        with torch.no_grad():
            ours = pool(values).float().numpy().astype(numpy.dtype)
        theirs = session.run({"x": numpy})["y"]
        allowed = bounds.ulp(np.maximum(np.abs(answer), np.abs(numpy.astype(float)).max() / 64), numpy.dtype)
        for name, y in (("PyTorch", ours), ("ONNX Runtime", theirs)):
            assert y.dtype == numpy.dtype
            error = bounds.measure(y, answer, allowed)
            assert error.within, f"{name}: {error}"


@pytest.mark.parametrize("opset", [19, 26])
@pytest.mark.parametrize("spelled", FIRST)
def test_opsets(spelled, opset):
    pool = module(spelled)
    x = example(pool)
    model = onnxpool.export(pool, (x,), opset=opset, dynamic_shapes=dynamic(pool), output_names=["y"])
    assert model.opset_imports[""] == opset
    session = onnxpool.load(model, kernels="off")
    y = session.run({session.inputs[0].name: x.numpy()})["y"]
    np.testing.assert_allclose(y, pool.reference(x.double().numpy()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spelled", FIRST)
def test_state_survives_and_the_module_is_compiled(spelled):
    pool = module(spelled)
    x = example(pool)
    again = spelling.module(spelled, seed=2).eval()
    again.load_state_dict(pool.state_dict())
    torch.testing.assert_close(again(x), pool(x), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(pool)(x), pool(x), rtol=0, atol=0)
    compiled = torch.compile(pool, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x), pool(x))
    view = x.transpose(-1, 0).transpose(-1, 0)[::2]
    torch.testing.assert_close(pool(view), pool(view.contiguous()))


def test_layers_that_draw_are_refused(tmp_path):
    x = torch.rand(1, 3, 8, 8)
    for layer in (getattr(nn, name)(2) for name in nn.__all__ if name in ("StochasticPool2d", "MixedPool2d")):
        network = torch.nn.Sequential(torch.nn.ReLU(), layer)
        with pytest.raises(ExportError, match=r"layer '1' .* draws at random in this mode.*evaluate=True"):
            onnxpool.export(network, (x,), tmp_path / "m.onnx", evaluate=False)
        assert not list(tmp_path.iterdir())
        onnxpool.export(network, (x,))
        assert layer.training, "the mode is as before"
        onnxpool.export(network.eval(), (x,), evaluate=False)
    with pytest.raises(ExportError, match="sample_in_eval"):
        onnxpool.export(nn.StochasticPool2d(2, sample_in_eval=True), (x,))


def test_every_method_is_documented_and_has_every_rank_that_it_can():
    for name, method in METHODS.items():
        assert method.name == name
        for text in (method.summary, method.formula, method.source):
            assert text
        for spelled in method.modules:
            assert spelled.partition("(")[0] in nn.__all__
    for name in nn.__all__:
        assert getattr(nn, name).__doc__, name


@pytest.mark.parametrize("spelled", FIRST)
def test_refusals(spelled):
    pool = module(spelled)
    x = example(pool)
    with pytest.raises(ArgumentError, match="x has shape"):
        pool(x[None])
    with pytest.raises(ArgumentError, match="x has dtype"):
        pool(x.int())
    if (
        hasattr(pool, "window")
        and isinstance(pool.window, Window)
        and pool.window.extent[0] > 1 + 2 * pool.window.pad[0]
        and not pool.window.ceil
    ):
        with pytest.raises(ArgumentError):
            pool(x[:, :, :1])
