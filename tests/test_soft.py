"""SoftPool in PyTorch and its float64 reference: numbers by hand, laws, gradients, refusals."""

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.pools import soft
from onnxpool.pools.soft import reference, soft_pool
from onnxpool.window import Window

HAND = [  # (window, input, answer), computed by hand from the formula
    (Window.of(2, 2), [[1, 2], [3, 4]], [[3.4926527346]]),
    (Window.of(2, 2), [[-1, -2], [-3, -4]], [[-1.5073472654]]),
    (Window.of(2, 2), [[1000, 999], [0, -1000]], [[999.7310585786]]),
    (
        Window.of(2, 3, 2, 1),
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[4.5887809591, 5.5887809591], [7.5887809591, 8.5887809591]],
    ),
]


@pytest.mark.parametrize(("window", "x", "y"), HAND)
def test_numbers_by_hand(window, x, y):
    x = np.array(x, float)[None, None]
    np.testing.assert_allclose(reference(window, x)[0, 0], y, rtol=0, atol=6e-11)
    np.testing.assert_allclose(soft_pool(window, torch.from_numpy(x))[0, 0], y, rtol=0, atol=6e-11)


def test_formula_in_one_line():
    x = np.random.default_rng(0).standard_normal((1, 1, 2, 2))
    np.testing.assert_allclose(reference(Window.of(2, 2), x).item(), (x * np.exp(x)).sum() / np.exp(x).sum())


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window):
    for name, x in inputs(window, 1e308).items():
        expected = reference(window, x)
        got = soft_pool(window, torch.from_numpy(x)).numpy()
        scale = np.abs(x[np.isfinite(x)]).max(initial=0)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(float).eps * scale, err_msg=name)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 65504.0), (torch.bfloat16, 3.38e38)])
def test_half_precision_never_overflows(dtype, largest):
    window = Window.of(2, 3, 2, 1)
    for name, wide in inputs(window, largest).items():
        x = torch.from_numpy(wide).to(dtype)
        expected = torch.from_numpy(reference(window, x.double().numpy())).to(dtype)
        got = soft_pool(window, x)
        scale = x[torch.isfinite(x)].abs().double().max().item() if torch.isfinite(x).any() else 0
        assert got.dtype == dtype
        assert torch.equal(torch.isfinite(got), torch.isfinite(expected)), name
        torch.testing.assert_close(
            got.double(), expected.double(), rtol=torch.finfo(dtype).eps, atol=1e-6 * scale, equal_nan=True, msg=name
        )


def test_laws():
    rng = np.random.default_rng(1)
    window = Window.of(2, 3, 2, 1, 1, True)
    x = rng.standard_normal((2, 3, 8, 9)) * 3
    y = reference(window, x)
    mean = reference(window, x * 1e-9) * 1e9  # exp is flat: the mean
    largest = -torch.nn.functional.max_pool2d(torch.from_numpy(-x), 3, 2, 1, 1, True).numpy()
    top = torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, 2, 1, 1, True).numpy()
    assert (y > mean - 1e-6).all()
    assert (y <= top).all()
    assert (largest <= y).all()
    np.testing.assert_allclose(reference(window, x + 5), y + 5)
    np.testing.assert_allclose(reference(window, x[:, ::-1]), y[:, ::-1], rtol=0, atol=0)


def test_equal_cells_give_their_value_and_padding_takes_no_part():
    x = torch.full((1, 1, 5, 5), -7.5)
    assert (soft._forward(Window.of(2, 3, 1, 1), x) == -7.5).all()
    assert (soft_pool(Window.of(2, 3, 1, 1), x.half()) == -7.5).all()
    torch.testing.assert_close(soft_pool(Window.of(2, 3, 1, 1), x), x, rtol=bounds.native_ulps((3, 3)) * 2**-24, atol=0)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_true(window):
    x = torch.randn(shape(window, channels=2), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_pool(window, x), (x,))


def test_second_gradients_are_true():
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: soft_pool(Window.of(2, 3, 2, 1), x), (x,))


def test_gradient_by_hand():
    x = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    y = soft_pool(Window.of(1, 2), x)
    y.backward()
    w = torch.softmax(torch.tensor([0.0, 1.0], dtype=torch.float64), 0)
    torch.testing.assert_close(x.grad[0, 0], w * (1 + x.detach()[0, 0] - y.item()))


def test_gradient_of_masked_and_huge_cells_is_finite():
    x = torch.tensor([[[3e38, -3e38, -torch.inf, 3e38]]], requires_grad=True)
    soft_pool(Window.of(1, 4), x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[0.5, 0.0, 0.0, 0.5]]]))


@pytest.mark.parametrize("window", WINDOWS[::4], ids=str)
def test_operator_is_registered_properly(window):
    x = torch.randn(shape(window), requires_grad=True)
    arguments = (x, window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    torch.library.opcheck(torch.ops.onnxpool.soft_pool.default, arguments)


def test_non_contiguous_and_channels_last():
    x = torch.randn(2, 6, 9, 8).transpose(2, 3)[:, ::2]
    torch.testing.assert_close(soft_pool(WINDOWS[5], x), soft_pool(WINDOWS[5], x.contiguous()), rtol=0, atol=0)
    last = x.contiguous(memory_format=torch.channels_last)
    assert soft_pool(WINDOWS[5], last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(soft_pool(WINDOWS[5], last), soft_pool(WINDOWS[5], x), rtol=0, atol=0)


def test_modules():
    x = torch.randn(3, 5, 7, 7)
    pool = nn.SoftPool2d(3, stride=2, padding=1, ceil_mode=True)
    torch.testing.assert_close(pool(x), soft_pool(Window.of(2, 3, 2, 1, 1, True), x))
    torch.testing.assert_close(pool(x[0]), pool(x)[0])
    torch.testing.assert_close(nn.SoftPool1d(2)(x[0]), soft_pool(Window.of(1, 2), x[0]))
    assert nn.SoftPool3d(2)(x).shape == (3, 2, 3, 3)
    assert repr(pool) == "SoftPool2d(3x3 s2 p1 ceil)"
    assert not pool.state_dict()
    assert {"SoftPool1d", "SoftPool2d", "SoftPool3d"} <= set(nn.__all__)


def test_compiled():
    pool = torch.compile(nn.SoftPool2d(2), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 7):
        x = torch.randn(1, 2, size, size, requires_grad=True)
        y = pool(x)
        torch.testing.assert_close(y, nn.SoftPool2d(2)(x))
        y.sum().backward()
        torch.testing.assert_close(x.grad.sum(), torch.tensor(float(y.numel())))  # y(x + c) = y(x) + c


@pytest.mark.parametrize(
    ("pool", "x", "words"),
    [
        (nn.SoftPool2d(2), torch.ones(4, 4), "x has shape (4, 4); SoftPool2d takes 4 axes"),
        (nn.SoftPool2d(2), torch.ones(1, 1, 4, 4, dtype=torch.int64), "x has dtype torch.int64"),
        (nn.SoftPool2d(5), torch.ones(1, 1, 4, 4), "too small for 5x5"),
    ],
)
def test_refused_inputs(pool, x, words):
    with pytest.raises(ArgumentError) as caught:
        pool(x)
    assert words in str(caught.value)
