"""Stochastic pooling's native draws in training: what numbers draw, their gradients, and PyTorch's transforms."""

import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools import _native
from onnxpool.pools._schema import fields
from onnxpool.pools.stochastic import _drawn, _places, draw
from onnxpool.window import Window

pytestmark = pytest.mark.skipif(_native.why_not() is not None, reason="without the native library")

WINDOW = Window.of(2, 3, 2, 1)
BIG = {
    (2, 1, 9001): Window.of(1, 40, 7, 20),
    (1, 3, 9001): Window.of(1, 700, 13),
    (1, 2, 1, 70): Window.of(2, (2, 3), 1, (1, 1)),
    (1, 9, 61, 70): Window.of(2, (1, 9), (4, 1)),
    (1, 1, 70, 67): Window.of(2, 13, 2, 6),
    (1, 2, 7, 9, 83): Window.of(3, (2, 3, 1), (1, 2, 1), (1, 1, 0)),
}
"""Windows for tensors that are cut into several parts."""


def operator(window, x, uniforms):
    return torch.ops.onnxpool.native_stochastic_draw(x, uniforms, *fields(window))


def uniforms_for(window, x):
    return torch.rand(*x.shape[:2], *window.output(x.shape[2:]), dtype=torch.promote_types(x.dtype, torch.float32))


def expected(window, x, uniforms):
    """Places, and the values there, window by window: sums of float64 in the order of cells."""
    x, uniforms = x.double().numpy(), uniforms.double().numpy()
    places, values = np.full(uniforms.shape, -1), np.zeros(uniforms.shape)
    within = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
    for at in np.ndindex(*uniforms.shape[2:]):
        axes = zip(at, window.kernel, window.stride, window.pad, window.dilation, x.shape[2:], strict=True)
        index = [[i for i in range(o * s - p, o * s - p + k * d, d) if 0 <= i < n] for o, k, s, p, d, n in axes]
        cells = np.ix_(*index)
        count = math.prod(map(len, index))
        a = np.where(x[(..., *cells)] < 0, 0, x[(..., *cells)]).reshape(*x.shape[:2], count)
        top = np.frexp(np.where(a < np.inf, a, 0).max(-1, keepdims=True, initial=0))[1]
        with np.errstate(invalid="ignore"):
            sums = np.cumsum(np.ldexp(a, -top), -1)  # sums of the largest numbers are finite
            before = np.concatenate([0 * sums[..., :1], sums[..., :-1]], -1)
            own = (a > 0) & (before <= uniforms[(..., *at)][..., None] * sums[..., -1:])
        last = own.shape[-1] - 1 - own[..., ::-1].argmax(-1)
        odd, none = ~np.isfinite(sums[..., -1]), ~own.any(-1)
        value = np.take_along_axis(a, last[..., None], -1)[..., 0]
        values[(..., *at)] = np.where(odd, np.nan, np.where(none, 0, value))
        places[(..., *at)] = np.where(odd | none, -1, within[cells].reshape(-1)[last])
    return values, places


def assert_draws(window, x, uniforms, note=""):
    y, places = operator(window, x, uniforms)
    values, wanted = expected(window, x, uniforms)
    assert (y.dtype, places.dtype) == (x.dtype, torch.int64 if x.dtype == torch.float64 else torch.int32)
    np.testing.assert_array_equal(places.numpy(), wanted, err_msg=note)
    np.testing.assert_array_equal(y.double().numpy(), values, err_msg=note)
    return places


# --- draws


@pytest.mark.parametrize("dtype", _native.ELEMENTS, ids=str)
def test_what_numbers_draw(dtype):
    torch.manual_seed(1)
    cases = [(shape(window, 3, 7), window) for window in WINDOWS]
    for size, window in cases + (list(BIG.items()) if dtype == torch.float32 else []):
        x = torch.randn(size).to(dtype)
        assert _native.takes(x)
        places = assert_draws(window, x, uniforms_for(window, x))
        assert len(places.unique()) > 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_every_kind_of_value(dtype):
    torch.manual_seed(2)
    for kind, values in inputs(WINDOWS[5], torch.finfo(dtype).max).items():
        x = torch.from_numpy(values).to(dtype)
        assert_draws(WINDOWS[5], x, uniforms_for(WINDOWS[5], x), kind)


def test_by_hand():
    x = torch.tensor([[[1.0, -5.0, 2.0, 0.0, 1.0]]]).expand(1, 6, 5)
    uniforms = torch.tensor([0, 0.24, 0.25, 0.74, 0.75, 0.99]).view(1, 6, 1)
    _, places = operator(Window.of(1, 5), x, uniforms)
    assert places.flatten().tolist() == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("dtype", _native.ELEMENTS, ids=str)
def test_seeds_draw_what_they_draw_without_the_kernel(dtype):
    x = torch.randint(-4, 9, (2, 3, 33, 35)).to(dtype)  # whose sums are exact
    found = torch.manual_seed(3) and draw(WINDOW, x)
    torch.manual_seed(3)
    uniforms = uniforms_for(WINDOW, x)
    kernel, places = operator(WINDOW, x, uniforms)
    assert torch.equal(found, kernel)
    assert (found != _drawn(WINDOW, x, uniforms)).sum() <= 2, "of 1734: shares are quotients there, and rounded"
    assert (places != _places(WINDOW, x, uniforms)).sum() <= 2
    assert torch.equal(torch.manual_seed(3) and draw(WINDOW, x), found)
    assert not torch.equal(draw(WINDOW, x), found)


def test_cells_are_drawn_in_proportion_to_their_values():
    """Pearson's chi-squared test, 511 degrees of freedom: a right sampler exceeds 617 once in a thousand seeds."""
    torch.manual_seed(4)
    x = torch.rand(1, 1, 8, 8, 8) + 0.1
    draws = 2000
    given = x.expand(1, draws, 8, 8, 8)
    many = [operator(Window.of(3, 8), given, torch.rand(1, draws, 1, 1, 1))[1].flatten() for _ in range(100)]
    counts = torch.bincount(torch.cat(many), minlength=512).double()
    wanted = 100 * draws * x.double().flatten() / x.double().sum()
    assert ((counts - wanted) ** 2 / wanted).sum() < 617


def test_bits_are_the_same_for_any_number_of_threads_and_any_batch():
    torch.manual_seed(5)
    for window, size in ((WINDOW, (3, 19, 61, 70)), (Window.of(1, 40, 7, 20), (3, 19, 9001))):
        x = torch.randn(size)
        uniforms = uniforms_for(window, x)
        grad = torch.randn(uniforms.shape)
        threads, runs = torch.get_num_threads(), []
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                leaf = x.clone().requires_grad_()
                y, places = operator(window, leaf, uniforms)
                runs.append((y, places, *torch.autograd.grad(y, leaf, grad)))
        finally:
            torch.set_num_threads(threads)
        for run in runs[1:]:
            assert all(map(torch.equal, run, runs[0]))
        part = operator(window, x[1:2, 3:7], uniforms[1:2, 3:7])
        assert all(torch.equal(one, whole[1:2, 3:7]) for one, whole in zip(part, runs[0], strict=False))


def test_memory_formats_strides_and_empty_batches():
    torch.manual_seed(6)
    x, grad = torch.randn(2, 6, 9, 8), torch.randn(2, 6, 5, 4)
    uniforms = uniforms_for(WINDOW, x)
    wanted = operator(WINDOW, x, uniforms)[0]
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y, _ = operator(WINDOW, last, uniforms.transpose(2, 3).contiguous().transpose(2, 3))
    assert torch.equal(y, wanted)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (slope,) = torch.autograd.grad(y, last, grad.contiguous(memory_format=torch.channels_last), retain_graph=True)
    assert slope.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(slope, torch.autograd.grad(y, last, grad)[0])
    empty = torch.zeros(0, 3, 9, 8, requires_grad=True)
    y = draw(WINDOW, empty)
    assert y.shape == (0, 3, 5, 4)
    assert torch.autograd.grad(y.sum(), empty)[0].shape == empty.shape


def test_what_the_operator_refuses():
    x = torch.rand(1, 2, 9, 8)
    for uniforms in (torch.rand(1, 2, 9, 8), torch.rand(1, 2, 5, 4).double()):
        with pytest.raises(ArgumentError, match=r"uniforms has .* shape \(1, 2, 5, 4\), dtype torch.float32"):
            operator(WINDOW, x, uniforms)
    with pytest.raises(ArgumentError, match="too small"):
        operator(WINDOW, x[..., :0], x)


# --- gradients


@pytest.mark.parametrize("dtype", _native.ELEMENTS, ids=str)
def test_gradients_go_to_what_was_drawn(dtype):
    torch.manual_seed(7)
    cases = [(shape(window, 3, 7), window) for window in WINDOWS]
    for size, window in cases + list(BIG.items()):
        x = torch.randn(size).to(dtype).requires_grad_()
        y, places = operator(window, x, uniforms_for(window, x))
        grad = torch.randn(y.shape).to(dtype)
        (slope,) = torch.autograd.grad(y, x, grad)
        at = places.flatten(2).long()
        sent = torch.where(at < 0, 0, grad.flatten(2).double())
        wanted = torch.zeros(x.shape, dtype=torch.double).flatten(2).scatter_add(2, at.clamp(min=0), sent).view(x.shape)
        all_of_it = torch.zeros_like(wanted).flatten(2).scatter_add(2, at.clamp(min=0), sent.abs()).view(x.shape)
        ulps = 8 if dtype in _native.PLACES else 0.51
        assert slope.dtype == dtype
        assert ((slope.double() - wanted).abs() <= ulps * torch.finfo(dtype).eps * all_of_it).all()
        assert (slope != 0).any()


def test_gradients_are_true():
    torch.manual_seed(8)
    for window in WINDOWS[1::3]:
        x = torch.randn(shape(window, 1, 2), dtype=torch.float64, requires_grad=True)
        uniforms = uniforms_for(window, x)
        call = lambda x, window=window, uniforms=uniforms: operator(window, x, uniforms)[0]  # noqa: E731
        assert torch.autograd.gradcheck(call, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x, call=call: call(x) * x.sum(), x, fast_mode=True)


# --- PyTorch's transforms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_operators_keep_what_pytorch_expects_of_them(dtype):
    torch.manual_seed(9)
    x = torch.randn(2, 3, 7, 6).to(dtype, memory_format=torch.channels_last).requires_grad_()
    window = [list(each) if isinstance(each, tuple) else each for each in fields(WINDOW)]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    overloads = [torch.ops.onnxpool.native_stochastic_draw, torch.ops.onnxpool.native_stochastic_draw_backward]
    torch.library.opcheck(overloads[0].default, (x, uniforms_for(WINDOW, x), *window), test_utils=tests)
    _, places = operator(WINDOW, x, uniforms_for(WINDOW, x))
    grad = torch.randn(2, 3, 4, 3).to(dtype).requires_grad_()
    torch.library.opcheck(overloads[1].default, (grad, places, [7, 6], *window), test_utils=tests)


def test_compiled_draws_are_those_of_eager():
    pool = nn.StochasticPool2d(3, 2, 1)
    backend = CompileCounterWithBackend("aot_eager")
    x = torch.rand((2, 3, 9, 8), requires_grad=True)
    ys = [torch.manual_seed(10) and call(x) for call in (pool, torch.compile(pool, backend=backend, fullgraph=True))]
    assert torch.equal(*ys)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in ys))
    assert any("native_stochastic_draw" in str(node.target) for graph in backend.graphs for node in graph.graph.nodes)


def test_checkpoints_draw_again_what_they_drew():
    x = torch.rand(2, 3, 9, 8, requires_grad=True)
    pool = nn.StochasticPool2d(3, 2, 1)
    ys = [
        torch.manual_seed(11) and pool(x).square(),
        torch.manual_seed(11) and checkpoint(lambda x: pool(x).square(), x, use_reentrant=False),
    ]
    assert torch.equal(*ys)
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in ys))


def test_batches_of_batches_draw_as_randomness_says():
    pool = nn.StochasticPool2d(3, 2, 1)
    x = torch.rand(1, 2, 3, 9, 8).expand(4, 2, 3, 9, 8).clone().requires_grad_()
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(pool)(x)
    for randomness, count in (("same", 1), ("different", 4)):
        y = torch.vmap(pool, randomness=randomness)(x)
        assert len({tuple(each.flatten().tolist()) for each in y}) == count
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert slope.sum() == y.numel()
    y = pool(x[0])
    slopes = torch.randn(3, *y.shape)
    found = torch.autograd.grad(y, x, slopes, is_grads_batched=True, retain_graph=True)[0]
    assert torch.equal(found, torch.stack([torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in slopes]))


def test_an_operator_that_was_compiled_elsewhere_needs_no_library(monkeypatch):
    torch.manual_seed(12)
    x = torch.randint(-4, 9, (2, 3, 9, 8)).double().requires_grad_()
    uniforms, grad = uniforms_for(WINDOW, x), torch.randn(2, 3, 5, 4).double()
    wanted = operator(WINDOW, x, uniforms)
    slope = torch.autograd.grad(wanted[0], x, grad)[0]
    monkeypatch.setattr(_native, "_library", lambda: (None, "there is none"))
    found = operator(WINDOW, x, uniforms)
    assert all(map(torch.equal, found, wanted))
    torch.testing.assert_close(torch.autograd.grad(found[0], x, grad)[0], slope)
