"""Detail-preserving pooling: numbers by hand, laws, gradients, training, export, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from cases import inputs

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.detail_preserving import EPSILON, reference

WINDOW = [[1.0, 2.0], [3.0, 9.0]]  # its mean is 3.75
HAND = [  # (reward, normalize, answer for alpha = lambda = 1)
    ("symmetric", "none", 4.8791456848),
    ("asymmetric", "none", 6.6817375313),
    ("symmetric", "mean", 4.4634090038),
]
CHOICES = list(itertools.product(("lite", "full", "gaussian"), ("symmetric", "asymmetric"), ("none", "mean", "sum")))
NAMES = ["-".join(choice) for choice in CHOICES]


def feeds_for(window, largest):
    """The common inputs of three channels."""
    return {name: x for name, x in inputs(window, largest).items() if x.shape[1] == 3}


def layer(*args, channels=3, **kwargs):
    torch.manual_seed(3)
    return nn.DetailPreservingPool2d(channels, *args, init="uniform", **kwargs)


def set_lambda(pool, value):
    torch.nn.init.constant_(pool.l, math.log(value))
    return pool


def by_hand(values, guide, alpha=1.0, power=1.0):
    weights = [alpha + ((value - guide) ** 2 + 0.001) ** (power / 2) for value in values]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


@pytest.mark.parametrize(("reward", "normalize", "answer"), HAND)
def test_numbers_by_hand(reward, normalize, answer):
    pool = nn.DetailPreservingPool2d(1, reward=reward, normalize=normalize).double()
    x = torch.tensor(WINDOW, dtype=torch.float64)[None, None]
    assert pool.reference(x.numpy()).item() == pytest.approx(answer, abs=6e-11)
    assert pool(x).item() == pytest.approx(answer, abs=6e-11)


def test_sum_normalization_alpha_and_lambda_by_hand():
    pool = nn.DetailPreservingPool2d(1, normalize="sum").double()
    torch.nn.init.constant_(pool.a, math.log(0.3))
    set_lambda(pool, 2.0)
    assert pool.alpha.item() == pytest.approx(0.3)
    assert pool.lambda_.item() == pytest.approx(2.0)
    squares = [(value - 3.75) ** 2 + 0.001 for value in (1, 2, 3, 9)]
    weights = [0.3 + square / sum(squares) for square in squares]
    answer = sum(w * value for w, value in zip(weights, (1, 2, 3, 9), strict=True)) / sum(weights)
    x = torch.tensor(WINDOW, dtype=torch.float64)[None, None]
    assert pool.reference(x.numpy()).item() == pytest.approx(answer, rel=1e-12)
    assert pool(x).item() == pytest.approx(answer, rel=1e-12)


def test_guides_by_hand():
    x = torch.arange(16, dtype=torch.float64).square().reshape(1, 1, 4, 4)
    cells = x[0, 0].numpy()
    full = nn.DetailPreservingPool2d(1, guide="full").double()
    gaussian = nn.DetailPreservingPool2d(1, guide="gaussian").double()
    a, b, c, d = (cells[i : i + 2, j : j + 2].mean() for i in (0, 2) for j in (0, 2))
    for pool, first, last in (
        (full, cells[:2, :2].sum() / 9, cells[1:4, 1:4].mean()),  # zeros beyond the edge, then none
        (gaussian, (9 * a + 3 * b + 3 * c + d) / 16, (a + 3 * b + 3 * c + 9 * d) / 16),  # edges repeat
    ):
        expected = by_hand(cells[:2, :2].ravel(), first), by_hand(cells[2:, 2:].ravel(), last)
        for y in (pool.reference(x.numpy())[0, 0], pool(x).detach().numpy()[0, 0]):
            assert (y[0, 0], y[1, 1]) == pytest.approx(expected, rel=1e-7)  # 1 / 9 is a float32


def test_guide_filter_is_per_channel_and_not_normalised():
    pool = nn.DetailPreservingPool2d(2, guide="full").double()
    with torch.no_grad():
        pool.guide_filter[1] = torch.arange(9.0).reshape(3, 3)
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    around = x[0, 1, 1:4, 3:6].numpy()  # of the window in row 1, column 2
    expected = by_hand(x[0, 1, 2:, 4:].flatten().tolist(), (around * np.arange(9).reshape(3, 3)).sum())
    assert pool.reference(x.numpy())[0, 1, 1, 2] == pytest.approx(expected, rel=1e-12)
    assert pool(x)[0, 1, 1, 2].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("guide", "reward", "normalize"), CHOICES, ids=NAMES)
def test_torch_agrees_with_the_reference_everywhere(guide, reward, normalize):
    for dtype, largest, kernel in (
        (torch.float64, 1e308, 2),
        (torch.float32, 3.4e38, (2, 3)),
        (torch.float32, 1e30, 4),
    ):
        pool = layer(kernel, guide, reward, normalize).to(dtype)
        for name, wide in feeds_for(pool.window, largest).items():
            x = torch.from_numpy(wide).to(dtype)
            expected, got = pool.reference(x.double().numpy()), pool(x).detach().double().numpy()
            scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
            atol = 8 * torch.finfo(dtype).eps * scale + 8 * torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    pool = layer(guide="full").to(dtype)
    exact = layer(guide="full")
    exact.load_state_dict(pool.state_dict())  # the same parameters, in float32
    for name, wide in feeds_for(pool.window, torch.finfo(dtype).max).items():
        x = torch.from_numpy(wide).to(dtype)
        assert pool(x).dtype == dtype
        torch.testing.assert_close(pool(x), exact(x.float()).to(dtype), rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize(("guide", "reward", "normalize"), CHOICES, ids=NAMES)
def test_laws(guide, reward, normalize):
    x = torch.randn(2, 3, 9, 8, generator=torch.manual_seed(5)) * 3
    pool = layer(2, guide, reward, normalize)
    for power in (1e-6, 0.5, 1, 30, 1e6):
        for y in (set_lambda(pool, power)(x), torch.from_numpy(pool.reference(x.double().numpy()))):
            assert (y <= torch.nn.functional.max_pool2d(x, 2) + 1e-6 * (y.dtype == torch.float64)).all()
            assert (y >= -torch.nn.functional.max_pool2d(-x, 2) - 1e-6 * (y.dtype == torch.float64)).all()
    mean = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(set_lambda(pool, 1e-6)(x), mean, rtol=0, atol=1e-4)
    np.testing.assert_allclose(pool.reference(x.double().numpy()), mean, rtol=0, atol=1e-4)
    if guide != "full":  # whose filter need not sum to 1
        set_lambda(pool, 1.0)
        torch.testing.assert_close(pool(x + 5), pool(x) + 5, rtol=0, atol=1e-5)


def test_large_lambda_chooses_the_cell_furthest_from_the_guide():
    x = torch.tensor([[[[-9.0, 1.0], [2.0, 3.0]]]])  # mean -0.75
    for reward, answer in (("symmetric", -9.0), ("asymmetric", 3.0)):
        pool = set_lambda(nn.DetailPreservingPool2d(1, reward=reward), 1e6)
        assert pool(x).item() == answer
        assert pool.reference(x.double().numpy()).item() == answer


def test_the_asymmetric_reward_ignores_cells_below_the_guide():
    pool = nn.DetailPreservingPool2d(1, reward="asymmetric").double()
    x = torch.tensor([[[[0.0, 1.0], [2.0, 9.0]]]], dtype=torch.float64)
    low = 1 + EPSILON
    high = 1 + math.hypot(6.0, EPSILON)
    assert pool(x).item() == pytest.approx((low * (0 + 1 + 2) + high * 9) / (3 * low + high), rel=1e-12)


@pytest.mark.parametrize(("guide", "reward", "normalize"), CHOICES, ids=NAMES)
def test_equal_cells_give_exactly_their_value(guide, reward, normalize):
    values = [0.1, -7.3, 1e4, -1e30, 3.4028235e38, -3.4028235e38, 1e-38, 1e-45, 0.0]
    x = torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, 6, 9)
    for kernel in (2, 3):
        y = layer(kernel, guide, reward, normalize)(x)
        assert torch.equal(y, x[..., : 6 // kernel, : 9 // kernel])


def test_rounding_does_not_lead_beyond_the_largest_number():
    """Windows of 7x7 that are full of it but for 1 to 48 zeros, which have next to no weight."""
    x = torch.full((48, 49), torch.finfo(torch.float32).max).triu(1).reshape(48, 1, 7, 7)
    pool = nn.DetailPreservingPool2d(1, 7, reward="asymmetric")
    y = pool(x).detach().double().flatten()
    np.testing.assert_allclose(y, pool.reference(x.double().numpy()).flatten(), rtol=1e-6)


def test_infinities_give_nan_and_nan_stays_in_its_window():
    x = torch.zeros(1, 3, 4, 4)
    for value in (math.nan, math.inf, -math.inf):
        x[0, 0, 0, 0] = value
        y = layer()(x)
        assert y.isnan().nonzero().tolist() == [[0, 0, 0, 0]]
        assert np.isnan(layer().reference(x.double().numpy())).sum() == 1


@pytest.mark.parametrize(("guide", "reward", "normalize"), CHOICES, ids=NAMES)
def test_gradients_are_true(guide, reward, normalize):
    pool = layer((2, 3), guide, reward, normalize, channels=2).double()
    names = [name for name, _ in pool.named_parameters()]
    assert names == ["a", "l"] + ["guide_filter"] * (guide == "full")
    x = torch.randn(2, 2, 5, 7, dtype=torch.float64, requires_grad=True, generator=torch.manual_seed(4))

    def function(x, *values):
        return torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *pool.parameters()))


@pytest.mark.parametrize("power", [0.01, 1, 100])
@pytest.mark.parametrize(("guide", "reward", "normalize"), CHOICES, ids=NAMES)
def test_gradients_stay_finite(guide, reward, normalize, power):
    signs = torch.where(torch.rand(2, 3, 6, 6, generator=torch.manual_seed(6)) < 0.5, 1.0, -1.0)
    for x in (signs * 1e30, signs * torch.rand(6, 6) * 1e30, signs * 1e-40, torch.full((1, 3, 4, 4), 1e30), signs * 0):
        pool = set_lambda(layer(2, guide, reward, normalize), power)
        leaf = x.clone().requires_grad_()
        pool(leaf).sum().backward()
        assert all(tensor.grad.isfinite().all() for tensor in (leaf, *pool.parameters()))


def test_gradient_of_equal_cells_is_the_mean():
    x = torch.full((1, 3, 4, 4), 0.1, requires_grad=True)
    layer()(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.25))


def test_training_moves_alpha_lambda_and_the_filter():
    """Towards a layer with other parameters, whose answers it learns to give."""
    x = torch.randn(8, 2, 8, 8, generator=torch.manual_seed(7))
    teacher, pool = (nn.DetailPreservingPool2d(2, guide="full", reward="asymmetric") for _ in range(2))
    set_lambda(teacher, 3.0)
    torch.nn.init.constant_(teacher.a, -2.0)
    answers = teacher(x).detach()
    optimizer = torch.optim.Adam(pool.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (pool(x) - answers).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50
    assert (pool.a < -1).all()
    assert (pool.l > 0.5).all()
    assert (pool.guide_filter != 1 / 9).all()


def test_compiled():
    pool = layer()
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 10):
        x = torch.randn(1, 3, size, size + 1, requires_grad=True)
        torch.testing.assert_close(compiled(x), pool(x))


@pytest.mark.parametrize(
    ("dtype", "opset", "kwargs"),
    [
        (torch.float32, 18, {}),
        (torch.float32, 26, {"guide": "full", "reward": "asymmetric", "normalize": "mean"}),
        (torch.float16, 18, {"guide": "gaussian", "normalize": "sum", "kernel_size": (3, 1)}),
    ],
    ids=str,
)
def test_exported(dtype, opset, kwargs, tmp_path):
    pool = layer(**kwargs).to(dtype)
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    x = torch.zeros(2, 3, 9, 8, dtype=dtype)
    model = onnxpool.export(pool, (x,), tmp_path / "m.onnx", dynamic_shapes=dynamic, opset=opset, golden=False)
    assert {node.domain for node in model.graph} == {""}
    session = onnxpool.load(tmp_path / "m.onnx")
    (kh, kw), largest = pool.window.kernel, torch.finfo(dtype).max
    assert session.outputs[0].shape == ("batch", 3, f"(height//{kh})", f"(width//{kw})" if kw > 1 else "width")
    feeds = feeds_for(pool.window, largest)
    feeds["1e30"] = feeds["ordinary"] * min(largest / 8, 1e30)
    feeds["odd sizes"] = np.resize(feeds["ordinary"], (1, 3, 7, 5))
    feeds["one window"] = np.resize(feeds["ordinary"], (3, 3, kh, kw))
    for name, wide in feeds.items():
        x = wide.astype(torch.zeros((), dtype=dtype).numpy().dtype)
        (y,) = session.run({session.inputs[0].name: x}).values()
        expected = pool.reference(x.astype(np.float64))
        scale = np.abs(x[np.isfinite(x)]).max(initial=0).astype(float)
        atol = 8 * 2**-23 * scale + 8 * 2**-149 + (np.abs(expected) * 2**-11 + 2**-25) * (dtype == torch.float16)
        assert y.dtype == x.dtype
        assert y.shape == expected.shape
        np.testing.assert_array_equal(np.isnan(y), np.isnan(expected), err_msg=name)
        assert (np.abs(y - expected)[~np.isnan(y)] <= np.broadcast_to(atol, y.shape)[~np.isnan(y)]).all(), name


def test_module():
    x = torch.randn(2, 3, 7, 9).transpose(2, 3)
    pool = layer()
    assert pool(x).shape == (2, 3, 4, 3)
    torch.testing.assert_close(pool(x), pool(x.contiguous()), rtol=0, atol=0)
    torch.testing.assert_close(pool(x), pool(x[..., :8, :6]), rtol=0, atol=0)
    torch.testing.assert_close(pool(x[0]), pool(x)[0], rtol=0, atol=0)
    torch.testing.assert_close(nn.DetailPreservingPool2d(3, 1)(x), x, rtol=0, atol=0)
    assert (pool.a.abs() < 3**-0.5).all()
    assert pool.a.unique().numel() == 3
    assert list(nn.DetailPreservingPool2d(2, guide="full").state_dict()) == ["a", "l", "guide_filter"]
    assert repr(layer((2, 3))) == "DetailPreservingPool2d(3, 2x3, lite, symmetric, normalize none)"
    y = reference(pool.window, x.double().numpy(), np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(nn.DetailPreservingPool2d(3)(x).detach(), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"channels": 0}, "channels=0 must be a positive int"),
        ({"channels": 2.0}, "channels=2.0 must be a positive int"),
        ({"guide": "box"}, "guide='box' is unknown; use one of lite, full, gaussian"),
        ({"reward": "both"}, "reward='both' is unknown; use one of symmetric, asymmetric"),
        ({"normalize": None}, "normalize=None is unknown; use one of none, mean, sum"),
        ({"init": "zeros"}, "init='zeros' is unknown; use one of ones, uniform"),
        ({"kernel_size": 0}, "kernel_size=(0, 0): each number must be at least 1"),
    ],
)
def test_refused_arguments(kwargs, words):
    with pytest.raises(ArgumentError) as caught:
        nn.DetailPreservingPool2d(**{"channels": 3} | kwargs)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(1, 4, 4, 4), "x has 4 channels, shape (1, 4, 4, 4); this layer has 3"),
        (torch.ones(4, 4), "x has shape (4, 4); DetailPreservingPool2d takes 4 axes"),
        (torch.ones(1, 3, 1, 4), "too small for 2x2"),
        (torch.ones(1, 3, 4, 4, dtype=torch.int64), "x has dtype torch.int64"),
    ],
)
def test_refused_inputs(x, words):
    with pytest.raises(ArgumentError) as caught:
        layer()(x)
    assert words in str(caught.value)
