"""Mixed pooling in PyTorch, by its reference and in ONNX Runtime: numbers by hand, draws, counters, export."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape
from exported import assert_exports

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError, ExportError
from onnxpool.pools.mixed import reference
from onnxpool.window import Window

X = torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]])


def counted(pool, maxima, means):
    """The module in evaluation mode, as if training had drawn these."""
    pool.load_state_dict({"max_draws": torch.tensor(maxima).long(), "mean_draws": torch.tensor(means).long()})
    return pool.eval()


def test_numbers_by_hand():
    assert reference(Window.of(2, 2), X.numpy(), np.array([True])).item() == 6
    assert reference(Window.of(2, 2), X.numpy(), np.array([False])).item() == 3.75
    assert nn.MixedPool2d(2).eval()(X).item() == 6, "untrained"
    assert counted(nn.MixedPool2d(2), [3], [3])(X).item() == 6, "a tie"
    assert counted(nn.MixedPool2d(2), [3], [4])(X).item() == 3.75
    assert counted(nn.MixedPool2d(2), [1, 3], [2, 2])(X.expand(1, 2, 2, 2)).flatten().tolist() == [3.75, 6]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window):
    arguments = (window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    pool = counted(getattr(nn, f"MixedPool{window.rank}d")(*arguments), [1, 2, 3], [2, 2, 2])
    for name, x in inputs(window, 1e306).items():
        if x.shape[1] == 3:
            scale = np.abs(x[np.isfinite(x)]).max(initial=0)
            np.testing.assert_allclose(
                pool(torch.from_numpy(x)), pool.reference(x), rtol=0, atol=2e-15 * scale, err_msg=name
            )


def test_training_draws_once_per_channel_and_call():
    pool = nn.MixedPool2d(2)
    x = X.expand(2, 100, 2, 2)
    torch.manual_seed(0)
    first, second = pool(x), pool(x)
    assert set(first.unique().tolist()) == {3.75, 6}
    assert first[0].equal(first[1]), "one draw for all samples"
    assert not first.equal(second), "drawn anew"
    assert 30 < (first[0] == 6).sum() < 70
    assert pool.max_draws.equal(sum((y[0] == 6).long().flatten() for y in (first, second)))
    assert (pool.max_draws + pool.mean_draws).unique().tolist() == [2]
    torch.manual_seed(0)
    again = nn.MixedPool2d(2)
    assert again(x).equal(first)
    assert again(x).equal(second)


def test_training_per_layer():
    pool = nn.MixedPool2d(2, per="layer")
    torch.manual_seed(0)
    outcomes = [pool(X.expand(1, 9, 2, 2)) for _ in range(20)]
    assert all(len(y.unique()) == 1 for y in outcomes)
    maxima = sum((y[0, 0, 0, 0] == 6).item() for y in outcomes)
    assert 0 < maxima < 20
    assert pool.max_draws.tolist() == [maxima]
    assert pool.mean_draws.tolist() == [20 - maxima]
    assert (pool.eval()(X).item() == 6) == (maxima >= 10)


def test_gradient_is_that_of_the_draw():
    pool = nn.MixedPool2d(2)
    x = X.expand(1, 50, 2, 2).clone().requires_grad_()
    torch.manual_seed(0)
    y = pool(x)
    pool(x)  # another draw does not change the gradient of the first
    y.sum().backward()
    for gradient, drawn in zip(x.grad[0], y[0].flatten(), strict=True):
        assert gradient.flatten().tolist() == ([0, 0, 0, 1] if drawn == 6 else [0.25] * 4)


@pytest.mark.parametrize("window", WINDOWS[1::3], ids=str)
def test_gradients_are_true(window):
    arguments = (window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    pool = counted(getattr(nn, f"MixedPool{window.rank}d")(*arguments), [1, 2], [2, 1]).double()
    x = torch.randn(shape(window, 1, 2), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(pool, (x,), fast_mode=True)


def test_counters_survive():
    pool = nn.MixedPool2d(2)
    assert pool.state_dict()["max_draws"].shape == (0,)
    for _ in range(5):
        pool(torch.randn(1, 7, 4, 4))
    fresh = nn.MixedPool2d(2)
    fresh.load_state_dict(pool.state_dict())
    network = torch.nn.Sequential(nn.MixedPool2d(2))
    network.load_state_dict(torch.nn.Sequential(pool).state_dict())
    for other in (fresh, network[0], copy.deepcopy(pool), pickle.loads(pickle.dumps(pool)), copy.deepcopy(pool).half()):
        for name, value in pool.state_dict().items():
            assert value.dtype == torch.int64
            assert value.equal(other.state_dict()[name])
    fresh(torch.randn(1, 7, 4, 4))
    assert (fresh.max_draws + fresh.mean_draws).tolist() == [6] * 7
    pool.load_state_dict(nn.MixedPool2d(2).state_dict())
    assert pool.max_draws.shape == (0,), "back to the untrained state"
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.MixedPool2d(2, per="layer").load_state_dict(fresh.state_dict())


def test_half_precision_rounds_once():
    x = torch.tensor([[[[60000.0, 60000.0], [60000.0, 59000.0]]]])
    assert counted(nn.MixedPool2d(2), [0], [1])(x.half()).item() == torch.tensor(59750.0).half()


def test_modules():
    assert repr(nn.MixedPool2d(3, 2, 1)) == "MixedPool2d(3x3 s2 p1)"
    assert repr(nn.MixedPool1d(2, per="layer")) == "MixedPool1d(2, per='layer')"
    assert nn.MixedPool2d(2).draws
    assert not nn.MixedPool2d(2).eval().draws
    pool = nn.MixedPool3d(2)
    assert pool(torch.randn(5, 4, 4, 4)).shape == (5, 2, 2, 2)
    assert pool.max_draws.shape == (5,)


def test_compiled():
    module = nn.MixedPool2d(2)
    pool = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 6, 4, 4, requires_grad=True)
    for _ in range(3):
        pool(x).sum().backward()
    assert (module.max_draws + module.mean_draws).tolist() == [3] * 6
    module.eval()
    np.testing.assert_allclose(pool(x).detach(), module.reference(x.detach().double().numpy()), rtol=1e-6)


SIZES = [(2, 3, 9, 8), (1, 3, 5, 6)]
CHOICES = [
    ([], [], ["MaxPool"]),
    ([1, 1, 2], [1, 0, 2], ["MaxPool"]),
    ([1, 1, 2], [2, 2, 3], ["AveragePool"]),
    ([1, 3, 2], [2, 2, 2], ["AveragePool", "MaxPool", "Where"]),
]


@pytest.mark.parametrize(("maxima", "means", "expected"), CHOICES)
def test_export(maxima, means, expected):
    pool = counted(nn.MixedPool2d(3, 2, 1, 1, True), maxima, means)
    assert assert_exports(pool, torch.float32, SIZES) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_export_of_other_types(dtype):
    made = assert_exports(counted(nn.MixedPool2d(3, 2, 1, 1, True), [1, 3, 2], [2, 2, 2]), dtype, SIZES)
    assert {"MaxPool", "Where"} <= set(made)


def test_export_per_layer_and_to_other_opsets():
    pool = counted(nn.MixedPool1d(3, 2, 1, 2, per="layer"), [1], [0])
    assert assert_exports(pool, torch.float32, [(2, 3, 9)], dynamic=False, opset=26) == ["MaxPool"]
    pool = counted(nn.MixedPool3d(2), [0, 2, 2], [1, 1, 1])
    assert "Where" in assert_exports(pool, torch.float32, [(2, 3, 5, 4, 6), (1, 3, 2, 2, 2)], opset=22)
    assert not pool.training


def test_refusals():
    with pytest.raises(ArgumentError, match="per='sample' is unknown; use one of channel, layer"):
        nn.MixedPool2d(2, per="sample")
    pool = nn.MixedPool2d(2)
    pool(torch.ones(1, 3, 4, 4))
    for mode in (True, False):
        with pytest.raises(ArgumentError, match="x has 4 channels; this layer was trained with 3"):
            pool.train(mode)(torch.ones(1, 4, 4, 4))
    with pytest.raises(ExportError, match="draws at random"):
        onnxpool.export(pool.train(), (torch.ones(1, 3, 4, 4),), evaluate=False)
