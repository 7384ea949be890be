"""Power average pooling in PyTorch, by its reference and in ONNX Runtime: numbers by hand, laws, learned p, export."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape
from exported import TOLERANCE, assert_exports, exported, extremes, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.power_average import power_average_pool, reference
from onnxpool.window import Window

HAND = [  # (p, norm, answer) for 1, 2, 3, 4
    (1.0, "sum", 10),
    (1.0, "mean", 2.5),
    (1.5, "sum", 6.6178603233),
    (2.0, "sum", 30**0.5),
    (2.0, "mean", 7.5**0.5),
    (3.0, "sum", 4.6415888336),
    (3.0, "mean", 2.9240177382),
    (math.inf, "sum", 4),
    (math.inf, "mean", 4),
]


@pytest.mark.parametrize(("p", "norm", "y"), HAND)
def test_numbers_by_hand(p, norm, y):
    x = np.array([[[[1.0, -2.0], [-3.0, 4.0]]]])
    assert reference(Window.of(2, 2), x, p, norm).item() == pytest.approx(y, abs=6e-11)
    assert nn.PowerAvgPool2d(2, p=p, norm=norm)(torch.from_numpy(x)).item() == pytest.approx(y, abs=6e-11)


def test_slope_of_p_by_hand():
    """dy/dp = y (sum a^p ln a / S - ln(S) / p) / p."""
    pool = nn.PowerAvgPool2d(2, p=2.0, learn_p=True).double()
    pool(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).backward()
    assert pool.exponent.grad.item() == pytest.approx(-1.4767651437, abs=6e-11)


@pytest.mark.parametrize(("p", "norm"), [(1.0, "mean"), (1.5, "sum"), (300.0, "mean")])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window, p, norm):
    for name, x in inputs(window, 1e307).items():
        expected = reference(window, x, p, norm)
        got = power_average_pool(window, torch.from_numpy(x), None, p, norm == "mean")
        np.testing.assert_allclose(got, expected, rtol=4e-15 if p < 100 else 1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 15000.0), (torch.bfloat16, 8e37)])
def test_half_precision_rounds_once_and_never_overflows(dtype, largest):
    """Four cells of 4 to the power of 8 are beyond float16, their root is not."""
    for name, wide in inputs(Window.of(2, 2), largest).items():
        x = torch.from_numpy(wide).to(dtype)
        y = power_average_pool(Window.of(2, 2), x, None, 8.0, False)
        expected = torch.from_numpy(reference(Window.of(2, 2), x.double().numpy(), 8.0)).to(dtype)
        assert y.dtype == dtype
        torch.testing.assert_close(y, expected, rtol=torch.finfo(dtype).eps, atol=0, equal_nan=True, msg=name)


def test_laws():
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 9))
    window = WINDOWS[6]
    norms = [reference(window, x, p) for p in (1, 1.5, 2, 4, 50, math.inf)]
    means = [reference(window, x, p, "mean") for p in (1, 1.5, 2, 4, 50, math.inf)]
    assert all((a >= b).all() for a, b in itertools.pairwise(norms)), "norms fall with p"
    assert all((a <= b).all() for a, b in itertools.pairwise(means)), "means rise with p"
    np.testing.assert_array_equal(norms[-1], means[-1])
    np.testing.assert_allclose(norms[4], norms[5], rtol=0.05)
    np.testing.assert_allclose(reference(window, -3 * x, 2.5), 3 * reference(window, x, 2.5))
    np.testing.assert_allclose(reference(window, np.full_like(x, -7.5), 2.5, "mean"), np.full_like(norms[0], 7.5))


@pytest.mark.parametrize("norm", ["sum", "mean"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_true(window, norm):
    generator = torch.manual_seed(2)
    x = torch.randn(shape(window, 1, 2), dtype=torch.float64, generator=generator, requires_grad=True)
    for p in (1.0, 3.5):
        pooled = lambda x, p=p: power_average_pool(window, x, None, p, norm == "mean")  # noqa: E731
        assert torch.autograd.gradcheck(pooled, (x,), fast_mode=True)
    for p in (torch.tensor(1.7), torch.tensor([1.3, 4.0])):
        learned = p.double().requires_grad_()
        pooled = lambda x, p: power_average_pool(window, x, p, 2.0, norm == "mean")  # noqa: E731
        assert torch.autograd.gradcheck(pooled, (x, learned), fast_mode=True)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
def test_zeros_have_zero_gradients(p):
    pool = nn.PowerAvgPool2d(2, p=p, learn_p=True)
    x = torch.zeros(1, 1, 2, 4)
    x[..., 3] = -5
    x.requires_grad_()
    y = pool(x)
    y.sum().backward()
    assert y.flatten().tolist() == [0, pytest.approx(5 * 2 ** (1 / p))]
    assert x.grad[..., :3].abs().max() == 0
    assert (x.grad[..., 3] < 0).all()
    assert pool.exponent.grad.isfinite()


def test_p_starts_exactly_and_stays_above_one():
    for p in (1.0, 1.1, 2.0, 3.3, 1e6):
        assert nn.PowerAvgPool2d(2, p=p, learn_p=True).double().p.item() == torch.tensor(p).item()
    pool = nn.PowerAvgPool2d(2, p=1.1, learn_p=True)
    x = torch.rand(1, 1, 8, 8, generator=torch.manual_seed(0))
    optimizer = torch.optim.SGD(pool.parameters(), lr=0.2)
    for _ in range(20):  # the sum falls with p: p is driven to 1
        optimizer.zero_grad()
        (-pool(x).mean()).backward()
        assert pool.exponent.grad.abs() > 0
        optimizer.step()
        assert pool.p >= 1
    assert pool.p < 1.5


def test_modules_and_state():
    pool = nn.PowerAvgPool2d(3, 2, 1, p=2.5, learn_p=True, per_channel=True, norm="mean", channels=5)
    assert repr(pool) == "PowerAvgPool2d(3x3 s2 p1, p=2.5, learn_p=True, per_channel=True, channels=5, norm='mean')"
    with torch.no_grad():
        pool.exponent.copy_(torch.tensor([1.0, 0.25, 2.0, 3.0, 9.0]))
    assert pool.p.tolist() == [1, 1.75, 2, 3, 9]
    x = torch.randn(3, 5, 7, 7, generator=torch.manual_seed(0))
    right = torch.from_numpy(pool.reference(x.double().numpy()))
    torch.testing.assert_close(copy.deepcopy(pool).double()(x.double()).detach(), right)
    torch.testing.assert_close(pool(x).detach().double(), right, rtol=1e-6, atol=1e-6)  # 8 ULP of float32
    torch.testing.assert_close(pool(x[0]), pool(x)[0])
    other = nn.PowerAvgPool2d(3, 2, 1, p=1.0, learn_p=True, per_channel=True, norm="mean", channels=5)
    other.load_state_dict(copy.deepcopy(pool).state_dict())
    torch.testing.assert_close(other(x), pool(x), rtol=0, atol=0)
    assert not nn.PowerAvgPool1d(2).state_dict()
    assert nn.PowerAvgPool3d(2, p=math.inf)(-x).equal(
        x.abs().unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5, 6))
    )


def test_compiled():
    module = nn.PowerAvgPool2d(3, 2, 1, 1, True, p=2.5, learn_p=True, norm="mean")
    pool = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 7):
        x = torch.randn(1, 2, size, size, requires_grad=True)
        y = pool(x)
        torch.testing.assert_close(y, module(x))
        y.sum().backward()
        torch.testing.assert_close((x.grad * x).sum(), y.sum())  # y(c x) = c y


SIZES = [(2, 3, 9, 8), (1, 3, 5, 6), (3, 3, 20, 11)]


@pytest.mark.parametrize(
    ("pool", "dtype"),
    [
        (nn.PowerAvgPool2d(3, 2, 1), torch.float32),
        (nn.PowerAvgPool2d(2, 2, 1, 2, True, p=8.0, norm="mean"), torch.float32),
        *((nn.PowerAvgPool2d(2, p=2.5, learn_p=True, per_channel=True, channels=3), dtype) for dtype in TOLERANCE),
    ],
    ids=str,
)
def test_export(pool, dtype):
    made = assert_exports(pool.to(dtype), dtype, SIZES)
    assert "Loop" not in made
    assert "If" not in made


def test_export_of_other_windows_and_opsets():
    assert assert_exports(nn.PowerAvgPool2d(3, 2, 1, p=math.inf), torch.float32, SIZES) == ["Abs", "MaxPool"]
    assert_exports(nn.PowerAvgPool1d(3, 2, 1, p=3.0), torch.float32, [(2, 3, 9)], dynamic=False, opset=26)
    pool = nn.PowerAvgPool3d(2, 2, 1, 1, True, learn_p=True, norm="mean")
    assert_exports(pool, torch.float32, [(2, 3, 5, 4, 6), (1, 3, 3, 3, 3)], opset=22)


@pytest.mark.parametrize("norm", ["sum", "mean"])
def test_export_of_extremes(norm):
    """Powers of these overflow float32 and vanish in it; roots of their sums do neither."""
    window = WINDOWS[6]
    model = exported(nn.PowerAvgPool2d(3, 2, 1, 1, True, p=3.0, norm=norm), torch.zeros(shape(window)))
    for name, x in extremes(window, 1e38):
        expected = reference(window, x.double().numpy(), 3.0, norm)
        np.testing.assert_allclose(ran(model, x), expected, rtol=2e-6, atol=2e-45, err_msg=name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 0.5}, "p=0.5 must be a number of at least 1"),
        ({"p": math.nan}, "p=nan must be"),
        ({"p": True}, "p=True must be"),
        ({"p": math.inf, "learn_p": True}, "p=inf cannot be learned"),
        ({"learn_p": 1}, "learn_p=1 is not a bool"),
        ({"norm": "max"}, "norm='max' is unknown; use one of sum, mean"),
        ({"per_channel": True}, "per_channel=True needs learn_p=True"),
        ({"learn_p": True, "per_channel": True}, "channels=None goes with per_channel=True"),
        ({"channels": 3}, "channels=3 goes with per_channel=True"),
        ({"learn_p": True, "per_channel": True, "channels": 0}, "channels=0 must be a positive int"),
    ],
)
def test_refused_arguments(options, words):
    with pytest.raises(ArgumentError) as caught:
        nn.PowerAvgPool2d(2, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(4, 4), "PowerAvgPool2d takes 4 axes"),
        (torch.ones(1, 3, 4, 4).int(), "x has dtype torch.int32"),
        (torch.ones(1, 1, 4, 4), "x has 1 channels; channels=3 was promised"),
        (torch.ones(1, 3, 1, 4), "too small for 2x2"),
    ],
)
def test_refused_inputs(x, words):
    with pytest.raises(ArgumentError) as caught:
        nn.PowerAvgPool2d(2, learn_p=True, per_channel=True, channels=3)(x)
    assert words in str(caught.value)
