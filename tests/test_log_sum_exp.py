"""Log-sum-exp pooling: numbers by hand, laws, special values, gradients, export, refusals."""

import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.pools.log_sum_exp import log_sum_exp_pool, reference
from onnxpool.window import Window

HAND = [  # (window, r, input, answer), computed by hand from the formula
    (Window.of(2, 2), 1.0, [[1, 2], [3, 4]], [[3.0538953374]]),
    (Window.of(2, 2), 1.0, [[1000, 999], [0, -1000]], [[998.9269673264]]),
    (Window.of(1, 2), 2.0, [0, 0, 1, 3], [0.0, 2.6625013737]),
    (Window.of(1, 2), math.log(2), [0, 1], [math.log2(1.5)]),
    (
        Window.of(1, 3, 1, 1),
        math.log(2),
        [0, 1, 2],
        [math.log2(1.5), math.log2(7 / 3), math.log2(3)],
    ),  # clipped at ends
    (Window.of(1, 2, ceil_mode=True), math.log(2), [0, 1, 2], [math.log2(1.5), 2.0]),
]


def close(got, answer, window, x, dtype, ulps=8, r=1.0):
    """Within so many ULP of the largest magnitude in the window, or of the answer where a masked cell makes it larger.

    Exponents ``r x`` below the smallest number lose their digits.
    """
    largest = np.maximum(bounds.magnitude(window, x), np.where(np.isfinite(answer), np.abs(answer), 0))
    limits = np.finfo(dtype)
    allowed = ulps * np.maximum(largest * limits.eps, float(limits.smallest_subnormal) * max(1, 1 / r))
    error = bounds.measure(np.asarray(got), answer, allowed)
    assert error.within, str(error)


@pytest.mark.parametrize(("window", "r", "x", "y"), HAND)
def test_numbers_by_hand(window, r, x, y):
    x = np.array(x, float)[None, None]
    np.testing.assert_allclose(reference(window, x, r)[0, 0], y, rtol=0, atol=6e-11)
    np.testing.assert_allclose(log_sum_exp_pool(window, torch.from_numpy(x), r)[0, 0], y, rtol=0, atol=6e-11)


@pytest.mark.parametrize("r", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window, r):
    for dtype, largest in ((np.float64, 1e308), (np.float32, 3.4e38)):
        for wide in inputs(window, largest).values():
            x = wide.astype(dtype)
            answer = reference(window, x.astype(float), r)
            close(log_sum_exp_pool(window, torch.from_numpy(x), r), answer, window, x.astype(float), dtype, r=r)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    pool = nn.LogSumExpPool2d(3, 2, 1, r=2.0)
    for name, wide in inputs(pool.window, torch.finfo(dtype).max).items():
        x = torch.from_numpy(wide).to(dtype)
        assert pool(x).dtype == dtype
        torch.testing.assert_close(pool(x), pool(x.float()).to(dtype), rtol=0, atol=0, equal_nan=True, msg=name)


def test_laws():
    window = Window.of(2, 3, 2, 1, 1, True)
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, generator=torch.manual_seed(1)) * 3
    top = torch.nn.functional.max_pool2d(x, 3, 2, 1, 1, True)
    mean = torch.nn.functional.avg_pool2d(x, 3, 2, 1, True, count_include_pad=False)
    previous = mean
    for r in (1e-12, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e12):
        y = log_sum_exp_pool(window, x, r)
        assert (y >= previous - 1e-12).all(), "it grows with r"
        assert (y <= top).all()
        torch.testing.assert_close(log_sum_exp_pool(window, x + 5, r), y + 5)
        torch.testing.assert_close(log_sum_exp_pool(window, 3 * x, r / 3), 3 * y)
        previous = y
    torch.testing.assert_close(log_sum_exp_pool(window, x, 1e-12), mean)
    torch.testing.assert_close(log_sum_exp_pool(window, x, 1e12), top)


def test_equal_cells_give_exactly_their_value_and_padding_takes_no_part():
    largest = torch.finfo(torch.float32).max
    for value in (0.1, -7.5, largest, -largest, 1e-45):
        x = torch.full((1, 1, 5, 5), value)
        assert torch.equal(nn.LogSumExpPool2d(3, 1, 1, r=0.7)(x), x)


def test_tiny_cells_keep_their_digits():
    x = torch.tensor([[[1e-30, 3e-30]]])
    assert nn.LogSumExpPool1d(2)(x).item() == pytest.approx(2e-30, rel=1e-6)


def test_many_cells_far_below_the_largest():
    x = torch.full((1, 1, 1000), -50.0)
    x[..., 3] = 0
    assert nn.LogSumExpPool1d(1000)(x).item() == pytest.approx(-math.log(1000), rel=1e-6)


@pytest.mark.parametrize(
    ("cells", "answer"),
    [
        ([-math.inf, -math.inf], -math.inf),
        ([-math.inf, 2.0], 2 - math.log(2)),  # the masked cell counts in the mean
        ([-math.inf, -3.4e38], -3.4e38),
        ([math.inf, 2.0], math.inf),
        ([math.inf, -math.inf], math.inf),
        ([math.inf, math.inf], math.inf),
        ([math.inf, math.nan], math.nan),
        ([-math.inf, math.nan], math.nan),
        ([3.4e38, -3.4e38], 3.4e38),
    ],
)
def test_special_values(cells, answer):
    """And finite gradients wherever the cells themselves are not NaN."""
    x = torch.tensor([[cells]], requires_grad=True)
    pool = nn.LogSumExpPool1d(2, learn_r=True)
    y = pool(x)
    assert y.item() == pytest.approx(answer, rel=1e-6, nan_ok=True)
    assert pool.reference(x.detach().double().numpy()).item() == pytest.approx(answer, rel=1e-6, nan_ok=True)
    y.backward()
    assert math.isnan(answer) or (x.grad.isfinite().all() and pool.log_r.grad.isfinite())


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_true(window):
    x = torch.randn(shape(window, channels=2), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    log_r = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, log_r: log_sum_exp_pool(window, x, log_r.exp()), (x, log_r))


def test_gradient_by_hand():
    x = torch.tensor([[[0.0, 1.0, 5.0]]], requires_grad=True)
    nn.LogSumExpPool1d(3, r=0.5)(x).backward()
    torch.testing.assert_close(x.grad, torch.softmax(0.5 * x.detach(), -1))
    x = torch.tensor([[[3e38, -3e38, -torch.inf, 3e38]]], requires_grad=True)
    nn.LogSumExpPool1d(4)(x).backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[0.5, 0.0, 0.0, 0.5]]]))


def test_training_finds_r():
    x = torch.randn(4, 2, 8, 8, generator=torch.manual_seed(3))
    answers = nn.LogSumExpPool2d(2, r=4.0)(x)
    pool = nn.LogSumExpPool2d(2, learn_r=True)
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (pool(x) - answers).square().mean().backward()
        optimizer.step()
    assert pool.r.item() == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize(
    ("window", "dtype", "opset", "kwargs"),
    [
        (Window.of(2, 2), torch.float32, 18, {}),
        (Window.of(2, 3, 2, 1, 1, True), torch.float32, 26, {"r": 0.01, "learn_r": True}),
        (Window.of(1, 3, 2, 1, 2, True), torch.float64, 18, {"r": 20.0}),
        (Window.of(3, (1, 3, 2), (1, 2, 2), (0, 1, 1), 1, True), torch.float16, 20, {}),
    ],
    ids=str,
)
def test_exported(window, dtype, opset, kwargs, tmp_path):
    kind = (nn.LogSumExpPool1d, nn.LogSumExpPool2d, nn.LogSumExpPool3d)[window.rank - 1]
    pool = kind(window.kernel, window.stride, window.pad, window.dilation, window.ceil, **kwargs).to(dtype)
    names = dict(enumerate(("batch", "channels", "depth", "height", "width")[: window.rank + 2]))
    x = torch.zeros(shape(window), dtype=dtype)
    model = onnxpool.export(pool, (x,), tmp_path / "m.onnx", dynamic_shapes=(names,), opset=opset, golden=False)
    assert {node.domain for node in model.graph} == {""}
    session = onnxpool.load(tmp_path / "m.onnx")
    feeds = inputs(window, torch.finfo(dtype).max)
    for sizes in ((12, 13, 5), (7, 6, 9), (10, 10, 10), (5, 7, 6)):
        feeds[str(sizes)] = np.random.default_rng(4).standard_normal((1, 2, *sizes[: window.rank]))
    for wide in feeds.values():
        x = wide.astype(session.inputs[0].dtype)
        (y,) = session.run({session.inputs[0].name: x}).values()
        assert y.dtype == x.dtype
        close(y, pool.reference(x.astype(float)), window, x.astype(float), x.dtype, r=kwargs.get("r", 1.0))


def test_modules():
    x = torch.randn(3, 5, 7, 7)
    pool = nn.LogSumExpPool2d(3, 2, 1, ceil_mode=True, r=5)
    torch.testing.assert_close(pool(x[0]), pool(x)[0])
    view = x.transpose(1, 3)
    torch.testing.assert_close(pool(view), pool(view.contiguous()), rtol=0, atol=0)
    assert nn.LogSumExpPool3d(2)(x).shape == (3, 2, 3, 3)
    assert repr(pool) == "LogSumExpPool2d(3x3 s2 p1 ceil, r=5)"
    assert not pool.state_dict()
    learned = nn.LogSumExpPool2d(2, r=5.0, learn_r=True)
    assert repr(learned) == "LogSumExpPool2d(2x2, r=5 learned)"
    assert learned.state_dict()["log_r"].item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("r", [0, -1.0, math.inf, math.nan, True, "1"])
def test_refused_r(r):
    with pytest.raises(ArgumentError, match=r"r=.* must be a positive number"):
        nn.LogSumExpPool2d(2, r=r)


def test_refusals():
    with pytest.raises(ArgumentError, match="learn_r=1 is not a bool"):
        nn.LogSumExpPool2d(2, learn_r=1)
    with pytest.raises(ArgumentError, match="too small for 5x5"):
        nn.LogSumExpPool2d(5)(torch.ones(1, 1, 4, 4))
