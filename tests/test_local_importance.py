"""Local importance pooling in PyTorch and its float64 reference: numbers by hand, masks, laws, gradients, logits."""

import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.local_importance import local_importance_pool, reference
from onnxpool.pools.soft import reference as soft
from onnxpool.window import Window

INF, NAN = math.inf, math.nan
SQUARE = np.arange(1.0, 17).reshape(1, 1, 4, 4)
LOGITS = np.arange(16.0).reshape(1, 1, 4, 4) % 3


@pytest.mark.parametrize(
    ("window", "y"),
    [
        (Window.of(2, 3, 2, 1), [[4.6552928932, 4.7123948087], [8.3495792348, 11.0]]),
        (Window.of(2, 2), [[4.6552928932, 4.5355488757], [10.5355488757, 13.2677544842]]),
    ],
    ids=str,
)
def test_numbers_by_hand(window, y):
    np.testing.assert_allclose(reference(window, SQUARE, LOGITS)[0, 0], y, rtol=0, atol=6e-11)
    pooled = local_importance_pool(window, torch.from_numpy(SQUARE), torch.from_numpy(LOGITS))
    np.testing.assert_allclose(pooled[0, 0], y, rtol=0, atol=6e-11)


@pytest.mark.parametrize(
    ("x", "logit", "y"),
    [
        ([1, 5], [0, -INF], 1),
        ([1, NAN], [0, -INF], 1),
        ([1, INF], [0, -INF], 1),
        ([1, INF], [0, -5000], INF),
        ([-INF, 1], [0, 0], -INF),
        ([-INF, INF], [0, 0], NAN),
        ([1, NAN], [0, -5000], NAN),
        ([1, 2], [0, NAN], NAN),
        ([1, 2], [0, INF], NAN),
        ([INF, 2], [INF, 0], NAN),
        ([1, 2], [-INF, -INF], NAN),
        ([1, 3], [5000, 5000], 2),
    ],
)
def test_special_values(x, logit, y):
    x, logit = np.array([[x]], float), np.array([[logit]], float)
    window = Window.of(1, 2)
    np.testing.assert_array_equal(reference(window, x, logit), [[[y]]])
    for dtype in (torch.float64, torch.float32, torch.float16):
        got = local_importance_pool(window, torch.tensor(x, dtype=dtype), torch.tensor(logit, dtype=dtype))
        np.testing.assert_array_equal(got.double(), [[[y]]])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window):
    for name, x in inputs(window, 1e308).items():
        logit = np.roll(x, 1, axis=-1)
        expected = reference(window, x, logit)
        got = local_importance_pool(window, torch.from_numpy(x), torch.from_numpy(logit)).numpy()
        scale = np.abs(x[np.isfinite(x)]).max(initial=0)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=16 * np.finfo(float).eps * scale, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float32, 3.4028e38), (torch.float16, 65504), (torch.bfloat16, 3.38e38)]
)
def test_the_largest_numbers_do_not_overflow(dtype, largest):
    x = torch.full((1, 1, 7, 7), float(largest)).to(dtype)
    logit = torch.randn(1, 1, 7, 7, generator=torch.manual_seed(0)).to(dtype)
    y = local_importance_pool(Window.of(2, 7), x, logit)
    torch.testing.assert_close(y.double(), x[..., :1, :1].double(), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_laws():
    rng = np.random.default_rng(1)
    window = Window.of(2, 3, 2, 1, 1, True)
    x, logit = rng.standard_normal((2, 2, 3, 8, 9)) * 3
    y = reference(window, x, logit)
    np.testing.assert_allclose(reference(window, x, logit + 7), y)
    np.testing.assert_allclose(reference(window, x + 7, logit), y + 7)
    np.testing.assert_allclose(reference(window, 2 * x, logit), 2 * y)
    np.testing.assert_allclose(reference(window, x, x), soft(window, x))
    top, low = (torch.nn.functional.max_pool2d(torch.from_numpy(s * x), 3, 2, 1, 1, True).numpy() for s in (1, -1))
    assert (y <= top).all()
    assert (y >= -low).all()


@pytest.mark.parametrize("window", WINDOWS[1::2], ids=str)
def test_gradients_are_true(window):
    generator = torch.manual_seed(2)
    size = shape(window, channels=1)
    x, logit = (torch.randn(size, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *both: local_importance_pool(window, *both), (x, logit))


def test_gradients_by_hand_and_second_gradients():
    x, logit = (torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for v in ([1.0, 4.0], [0.0, 1.0]))
    y = local_importance_pool(Window.of(1, 2), x, logit)
    y.backward()
    w = torch.softmax(logit.detach(), -1)
    torch.testing.assert_close(x.grad, w)
    torch.testing.assert_close(logit.grad, w * (x.detach() - y.item()))
    generator = torch.manual_seed(2)
    both = tuple(
        torch.randn(1, 1, 5, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradgradcheck(lambda *both: local_importance_pool(Window.of(2, 3, 2, 1), *both), both)


def test_operator_is_registered_properly():
    window = WINDOWS[6]
    both = tuple(torch.randn(shape(window), requires_grad=True) for _ in range(2))
    arguments = (*both, window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    torch.library.opcheck(torch.ops.onnxpool.local_importance_pool.default, arguments)


@pytest.mark.parametrize("name", ["SimplifiedLogit", "ProjectionLogit", "BottleneckLogit"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_untrained_layer_is_average_pooling(name, rank):
    x = torch.randn(2, 3, *(7, 8, 6)[:rank], generator=torch.manual_seed(0))
    pool = getattr(nn, f"LocalImportancePool{rank}d")(getattr(nn, f"{name}{rank}d")(3))
    average = getattr(torch.nn.functional, f"avg_pool{rank}d")(x, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(pool(x), average)
    torch.testing.assert_close(pool(x[0]), pool(x)[0])
    np.testing.assert_allclose(pool.reference(x.double().numpy()), average, rtol=1e-5, atol=1e-6)


def test_logits_are_between_0_and_the_gate_and_learn():
    x = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0)) * 1e4
    logit = nn.BottleneckLogit2d(3, width=5, coefficient=4, zero=False)
    assert [name for name, _ in logit.named_children()] == [
        "conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3", "gate",
    ]  # fmt: skip
    assert 0 < logit(x).min() < logit(x).max() < 4
    assert (nn.ProjectionLogit2d(3, coefficient=None, zero=False)(x) < 0).any(), "no gate"
    pool = nn.LocalImportancePool2d(nn.SimplifiedLogit2d(3))
    optimizer = torch.optim.SGD(pool.parameters(), 0.1)
    pool(x)[..., 0].square().sum().backward()
    optimizer.step()
    assert pool.logit.conv.weight.abs().max() > 0
    assert set(pool.state_dict()) == {"logit.conv.weight", "logit.bn.weight", "logit.bn.bias"}


def test_evaluation_uses_the_statistics_of_the_input():
    pool = nn.LocalImportancePool2d(nn.SimplifiedLogit2d(2, zero=False))
    x = torch.randn(2, 2, 8, 8, generator=torch.manual_seed(0))
    torch.testing.assert_close(pool.train()(x), pool.eval()(x))
    torch.testing.assert_close(pool(x * 3), 3 * pool(x), rtol=1e-4, atol=1e-4)


def test_logits_of_one_channel_serve_all():
    one = torch.nn.Conv2d(3, 1, 1, bias=False)
    x = torch.randn(2, 3, 6, 6, generator=torch.manual_seed(0))
    y = nn.LocalImportancePool2d(one, 2, 2, 0)(x)
    torch.testing.assert_close(y, local_importance_pool(Window.of(2, 2), x, one(x).expand_as(x).contiguous()))


def test_compiled():
    pool = nn.LocalImportancePool2d(nn.SimplifiedLogit2d(2, zero=False))
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 8):
        x = torch.randn(1, 2, size, size, requires_grad=True)
        torch.testing.assert_close(compiled(x), pool(x))
        compiled(x).sum().backward()
        assert x.grad.isfinite().all()


def test_refusals():
    x = torch.ones(1, 3, 6, 6)
    with pytest.raises(ArgumentError, match=r"logit=3 is not a torch\.nn\.Module"):
        nn.LocalImportancePool2d(3)
    with pytest.raises(ArgumentError, match=r"logit gives the shape \(1, 2, 6, 6\) for x of shape \(1, 3, 6, 6\)"):
        nn.LocalImportancePool2d(torch.nn.Conv2d(3, 2, 1))(x)
    with pytest.raises(ArgumentError, match=r"logit has shape \(1, 1, 6, 6\), x has \(1, 3, 6, 6\)"):
        local_importance_pool(Window.of(2, 2), x, x[:, :1])
    with pytest.raises(ArgumentError, match="logit has dtype"):
        local_importance_pool(Window.of(2, 2), x, x.int())
    for wrong in (0, -1, INF, NAN, "12"):
        with pytest.raises(ArgumentError, match="coefficient="):
            nn.SoftGate(wrong)
    with pytest.raises(ArgumentError, match="channels or width is 0"):
        nn.BottleneckLogit2d(3, width=0)
