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
SHORT = [(name, torch.float16) for name in METHODS if name != "LocalImportancePool"]
SHORT += [(name, torch.bfloat16) for name in METHODS if name != "LocalImportancePool"]


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


class Together(torch.nn.Module):
    """All spellings of a method, or one for a type that few runtimes have, as one network: most of the cost of a test
    is that of an export. Each pools the input of its rank."""

    def __init__(self, method, count=None):
        super().__init__()
        self.pools = torch.nn.ModuleList(module(spelled) for spelled in METHODS[method].modules[:count])
        self.of_rank = {pool.rank: pool for pool in self.pools}

    def examples(self, **options):
        return tuple(example(pool, **options) for pool in self.of_rank.values())

    def dynamic(self):
        """Sizes of different inputs have nothing to do with each other."""
        return tuple(
            {axis: f"{name}{rank}" for axis, name in dynamic(pool)[0].items()} for rank, pool in self.of_rank.items()
        )

    def inputs(self, xs):
        given = dict(zip(self.of_rank, xs, strict=True))
        return [given[pool.rank] for pool in self.pools]

    def forward(self, *xs):
        return tuple(pool(x) for pool, x in zip(self.pools, self.inputs(xs), strict=True))


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


@pytest.mark.parametrize("method", METHODS)
def test_every_form_of_the_export_validates(method, tmp_path):
    network = Together(method).eval()
    path = tmp_path / "pools.onnx"
    shapes = (network.dynamic(),)  # of *xs
    onnxpool.export(network, network.examples(), path, dynamic_shapes=shapes)
    onnx.checker.check_model(path, full_check=True)
    report = onnxpool.validate(path)
    assert report.passed, sentences(report)
    cases = {result.case.partition(" ")[0] for run in report.runs for result in run.results}
    assert {"example", "huge", "tiny", "nan", "inf", "sizes"} <= cases, report.notes
    model = onnx.load(path)
    calls = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert calls == {function.name for function in model.functions}, "standard operators need no functions"


@pytest.mark.parametrize(("method", "dtype"), SHORT)
def test_short_types_neither_overflow_nor_round_twice(method, dtype, tmp_path):
    """PyTorch and ONNX Runtime in the short type against the reference of the same, rounded, inputs and parameters."""
    network = Together(method, count=None if dtype == torch.float16 else 1).to(dtype).eval()
    judge = copy.deepcopy(network).double()
    path = tmp_path / "pools.onnx"
    examples = [x.to(dtype) for x in network.examples()]
    names = [f"y{i}" for i in range(len(network.pools))]
    shapes = (network.dynamic(),)  # of *xs
    onnxpool.export(network, tuple(examples), path, dynamic_shapes=shapes, output_names=names, golden=False)
    session = onnxpool.load(path, kernels="off")
    short = session.inputs[0].dtype
    for scale in (1, 300, 1e-3):
        xs = [(x.float() * scale).to(dtype) for x in examples]
        with torch.no_grad():
            ours = [y.float().numpy().astype(short) for y in network(*xs)]
        feeds = {given.name: x.float().numpy().astype(short) for given, x in zip(session.inputs, xs, strict=True)}
        theirs = session.run(feeds)
        for i, (pool, x) in enumerate(zip(judge.pools, network.inputs(xs), strict=True)):
            answer = pool.reference(x.double().numpy())
            allowed = bounds.ulp(np.maximum(np.abs(answer), x.double().abs().max().item() / 64), short)
            for name, y in (("PyTorch", ours[i]), ("ONNX Runtime", theirs[names[i]])):
                assert y.dtype == short
                error = bounds.measure(y, answer, allowed)
                assert error.within, f"{name}, {METHODS[method].modules[i]}: {error}"


@pytest.mark.parametrize("opset", [19, 26])
@pytest.mark.parametrize("spelled", FIRST)
def test_opsets(spelled, opset):
    pool = module(spelled)
    x = example(pool)
    shapes = dynamic(pool)
    model = onnxpool.export(pool, (x,), opset=opset, dynamic_shapes=shapes, output_names=["y"], golden=False)
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
