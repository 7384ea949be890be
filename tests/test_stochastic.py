"""Stochastic pooling in PyTorch and its float64 reference: numbers by hand, laws, gradients, frequencies of draws."""

import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.stochastic import draw, reference, stochastic_pool
from onnxpool.window import Window

INF, NAN = math.inf, math.nan
NINE = [0, 1.1, 2.5, 0.9, 2, 1, 0, 1.5, 1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (NINE, 1.652),
        ([-1, 2, 3, -4], 2.6),
        ([0, 0, 0], 0),
        ([-1, -2], 0),
        ([0.0, -0.0], 0),
        ([-INF, 3], 3),
        ([300, 400], (300**2 + 400**2) / 700),
        ([1, NAN], NAN),
        ([1, INF], NAN),
        ([NAN, -1], NAN),
    ],
)
def test_numbers_by_hand(x, y):
    x = np.array([[x]], float)
    window = Window.of(1, x.size)
    np.testing.assert_allclose(reference(window, x), [[[y]]], rtol=1e-14)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        exact = torch.tensor(x, dtype=dtype).double().numpy()
        got = stochastic_pool(window, torch.tensor(x, dtype=dtype)).double()
        np.testing.assert_allclose(got, reference(window, exact), rtol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window):
    for name, x in inputs(window, 1e308).items():
        expected = reference(window, x)
        got = stochastic_pool(window, torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(got, expected, rtol=16 * np.finfo(float).eps, atol=0, err_msg=name)


def test_laws():
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 9)) * 3
    window = Window.of(2, 3, 2, 1, 1, True)
    y = reference(window, x)
    a = torch.from_numpy(np.maximum(x, 0))
    mean = torch.nn.functional.avg_pool2d(a, 3, 2, 1, True, count_include_pad=False).numpy()
    assert (y >= mean - 1e-12).all()
    assert (y <= torch.nn.functional.max_pool2d(a, 3, 2, 1, 1, True).numpy() + 1e-12).all()
    np.testing.assert_allclose(reference(window, 1e200 * x), 1e200 * y)
    np.testing.assert_allclose(reference(window, np.maximum(x, 0)), y)


@pytest.mark.parametrize("window", WINDOWS[1::2], ids=str)
def test_gradients_are_true(window):
    x = torch.randn(shape(window, channels=2), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: stochastic_pool(window, x), (x,))


def test_gradients_by_hand_and_second_gradients():
    x = torch.tensor([[[1.0, 3.0, -2.0, 0.0, 0.0, -1.0]]], requires_grad=True)
    stochastic_pool(Window.of(1, 3), x).sum().backward()
    # y = (1 + 9) / 4 = 2.5, dy/da = (2 a - y) / 4; the second window is 0 and has no gradient
    torch.testing.assert_close(x.grad, torch.tensor([[[-0.125, 0.875, 0.0, 0.0, 0.0, 0.0]]]))
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: stochastic_pool(Window.of(2, 3, 2, 1), x), (x,))


def test_operator_is_registered_properly():
    window = WINDOWS[6]
    x = torch.randn(shape(window), requires_grad=True)
    arguments = (x, window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    torch.library.opcheck(torch.ops.onnxpool.stochastic_pool.default, arguments)


# --- training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_draws_are_as_frequent_as_cells_are_large(dtype):
    """Pearson's chi-squared test with 5 degrees of freedom: a right sampler exceeds 20.5 once in a thousand seeds."""
    torch.manual_seed(0)
    draws = 20000
    x = torch.tensor(NINE, dtype=dtype).reshape(1, 1, 3, 3).expand(draws, 1, 3, 3)
    y = nn.StochasticPool2d(3)(x).flatten().double()
    values, weights = np.unique(np.array(NINE, float), return_counts=True)
    chances = values * weights / sum(NINE)
    observed = np.array([(y == torch.tensor(value, dtype=dtype).double()).sum().item() for value in values])
    assert observed.sum() == draws, "every draw is one of the cells"
    assert observed[0] == 0, "a cell of 0 is never drawn"
    expected = draws * chances[1:]
    assert len(expected) == 6
    assert ((observed[1:] - expected) ** 2 / expected).sum() < 20.5
    assert abs(y.mean().item() - 1.652) < 0.02, "their mean is what evaluation gives"


def test_the_gradient_goes_to_the_cell_that_was_drawn():
    torch.manual_seed(0)
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    y = nn.StochasticPool2d(2)(x)
    y.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
    blocks = x.grad.unfold(2, 2, 2).unfold(3, 2, 2)
    assert (blocks.sum((-1, -2)) == 1).all()
    torch.testing.assert_close((x.grad * x).unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)), y)


def test_windows_without_a_cell_above_0_draw_0_and_have_no_gradient():
    x = torch.tensor([[[0.0, -1.0, -INF, -2.0]]], requires_grad=True)
    y = nn.StochasticPool1d(2)(x)
    y.sum().backward()
    assert y.tolist() == [[[0.0, 0.0]]]
    assert x.grad.tolist() == [[[0.0, 0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("odd", [NAN, INF])
def test_draws_of_windows_with_nan_or_infinity_are_nan(odd):
    assert draw(Window.of(1, 2), torch.tensor([[[1.0, odd, 2.0, 2.0]]])).isnan().tolist() == [[[True, False]]]


def test_draws_of_the_largest_and_smallest_numbers():
    for value in (3.4028e38, 1e-45):
        x = torch.full((1, 1, 8), value)
        assert (draw(Window.of(1, 3, 2, 1), x) == x[..., :1]).all()


def test_seeds_repeat_and_evaluation_does_not_draw():
    x = torch.rand(2, 3, 8, 8)
    pool = nn.StochasticPool2d(3, 2, 1)
    first, second = (torch.manual_seed(5) and pool(x) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (pool(x) != first).any()
    torch.testing.assert_close(pool.eval()(x), stochastic_pool(pool.window, x), rtol=0, atol=0)
    sampler = nn.StochasticPool2d(3, 2, 1, sample_in_eval=True).eval()
    many = torch.stack([sampler(x) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(many, pool(x), rtol=0, atol=0.05)
    assert (sampler.draws, pool.draws, pool.train().draws) == (True, False, True)


def test_modules_and_refusals():
    x = torch.rand(3, 6, 7, 8)
    pool = nn.StochasticPool3d(2).eval()
    torch.testing.assert_close(pool(x), pool(x[None])[0])
    assert repr(nn.StochasticPool1d(3, 2, 1)) == "StochasticPool1d(3 s2 p1)"
    with pytest.raises(ArgumentError, match="sample_in_eval='yes' is not a bool"):
        nn.StochasticPool2d(2, sample_in_eval="yes")
    for pool in (nn.StochasticPool2d(2), nn.StochasticPool2d(2).eval()):
        with pytest.raises(ArgumentError, match="x has dtype"):
            pool(x.int())
        with pytest.raises(ArgumentError, match="too small"):
            pool(x[..., :1])


def test_compiled_training_and_evaluation():
    x = torch.rand(1, 2, 9, 9, requires_grad=True)
    for mode in (True, False):
        pool = nn.StochasticPool2d(2).train(mode)
        y = torch.compile(pool, fullgraph=True, backend="aot_eager")(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.isfinite().all()
        assert ((y[..., None, None] == x[..., :8, :8].unfold(2, 2, 2).unfold(3, 2, 2)).any((-1, -2)).all()) == mode
