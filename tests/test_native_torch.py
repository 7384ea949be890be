"""The native kernels in PyTorch's eager mode: forward and gradients beside the same formulas as PyTorch operators."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape
from torch.utils._python_dispatch import TorchDispatchMode

from onnxpool import nn
from onnxpool.pools import _native, local_importance, soft, stochastic
from onnxpool.pools._native_ops import kernels_for
from onnxpool.run import native_library
from onnxpool.window import Window

pytestmark = pytest.mark.skipif(_native.why_not() is not None, reason="without the native library")

METHODS = {"SoftPool": soft, "LocalImportancePool": local_importance, "StochasticPool": stochastic}
CALLS = {
    "SoftPool": soft.soft_pool,
    "LocalImportancePool": local_importance.local_importance_pool,
    "StochasticPool": stochastic.stochastic_pool,
}
EACH = pytest.mark.parametrize("name", METHODS)
BIG = [
    Window.of(1, 40, 7, 20),
    Window.of(1, 700),
    Window.of(2, 13, 1, 6),
    Window.of(2, (1, 9), (4, 1)),
    Window.of(3, (2, 3, 1), 1, (1, 1, 0)),
]
"""Windows for tensors that are cut into several parts."""
BIG_SIZES = {1: (9001,), 2: (61, 70), 3: (14, 19, 23)}


def of(name, x, logit):
    """The method's inputs."""
    return (x, logit) if name == "LocalImportancePool" else (x,)


def by_operators(name, window, grad, *tensors):
    """Output and gradients by PyTorch's own operators, in the type of the tensors."""
    method = METHODS[name]
    return method._forward(window, *tensors), *method._backward(window, grad, *tensors)


def natively(name, window, grad, *tensors):
    """The same as a program would have it, after a look that it is native."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert kernels_for(*leaves)
    y = CALLS[name](window, *leaves)
    assert "native" in type(y.grad_fn).__name__
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def assert_near(found, wanted, ulps, scale):
    """Within so many ULPs of the type, of ``scale``; NaN and infinity in the same places."""
    assert wanted.dtype in (found.dtype, torch.float64)
    atol = ulps * torch.finfo(found.dtype).eps * scale
    torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=atol, equal_nan=True)


# --- values


@EACH
@pytest.mark.parametrize("window", [*WINDOWS, *BIG], ids=str)
def test_float64_is_that_of_pytorch_operators(name, window):
    torch.manual_seed(3)
    size = (2, 3, *BIG_SIZES[window.rank]) if window in BIG else shape(window, 3, 7)
    tensors = of(name, torch.randn(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64))
    grad = torch.randn(size[0], size[1], *window.output(size[2:]), dtype=torch.float64)
    for found, wanted in zip(
        natively(name, window, grad, *tensors), by_operators(name, window, grad, *tensors), strict=True
    ):
        assert_near(found, wanted, 200, wanted.abs().max().item())


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [*WINDOWS[1::2], BIG[2]], ids=str)
def test_other_types_are_near_float64(name, dtype, window):
    torch.manual_seed(4)
    size = (2, 3, *BIG_SIZES[window.rank]) if window in BIG else shape(window, 5, 7)
    tensors = of(name, torch.randn(size).to(dtype), torch.randn(size).to(dtype))
    grad = torch.randn(size[0], size[1], *window.output(size[2:])).to(dtype)
    wide = by_operators(name, window, grad.double(), *(tensor.double() for tensor in tensors))
    for found, wanted in zip(natively(name, window, grad, *tensors), wide, strict=True):
        assert_near(found, wanted, 16 if dtype == torch.float32 else 0.51, wanted.abs().max().item())


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[5], WINDOWS[9]], ids=str)
def test_every_kind_of_value_gives_what_pytorch_operators_give(name, dtype, window):
    kinds = inputs(window, torch.finfo(dtype).max)
    for kind, values in kinds.items():
        x = torch.from_numpy(values).to(dtype)
        logit = x.flip(-1).clamp(-40, 40) if kind in ("huge", "1e4", "largest", "all largest") else x.flip(-1)
        tensors = of(name, x, logit)
        grad = torch.ones(*x.shape[:2], *window.output(x.shape[2:]), dtype=dtype)
        grad[..., ::2] = -0.5
        _, *found = natively(name, window, grad, *tensors)
        _, *wanted = by_operators(name, window, grad, *tensors)
        for place, (own, other) in enumerate(zip(found, wanted, strict=True)):
            finite = torch.cat([each[each.isfinite()].abs() for each in (other, x)[: place + 1]])  # of x: w (x - y)
            scale = max(finite.max().item() if finite.numel() else 0.0, 1e-6)
            atol = 64 * torch.finfo(torch.float32).eps * scale if dtype == torch.float32 else 1e-3 * scale
            torch.testing.assert_close(own, other, rtol=0, atol=atol, equal_nan=True, msg=lambda m, k=kind: f"{k}: {m}")


@EACH
def test_gradients_of_float64_are_those_of_differences(name):
    torch.manual_seed(5)
    for window in WINDOWS:
        tensors = of(name, *(torch.randn(shape(window, 1, 2), dtype=torch.float64) for _ in range(2)))
        leaves = [tensor.requires_grad_() for tensor in tensors]
        call = lambda *given, window=window: CALLS[name](window, *given)  # noqa: E731
        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


# --- what a call is


def test_gradients_by_hand():
    x = torch.tensor([[[0.0, 1.0]]], dtype=torch.float64)
    _, slope = natively("SoftPool", Window.of(1, 2), torch.ones(1, 1, 1, dtype=torch.float64), x)
    w = torch.softmax(torch.tensor([0.0, 1.0], dtype=torch.float64), 0)
    torch.testing.assert_close(slope[0, 0], w * (1 + x[0, 0] - w[1]))
    _, *slopes = natively("LocalImportancePool", Window.of(1, 2), torch.ones(1, 1, 1, dtype=torch.float64), x, 0 * x)
    torch.testing.assert_close(torch.stack(slopes)[:, 0, 0], torch.tensor([[0.5, 0.5], [-0.25, 0.25]]).double())
    x = torch.tensor([[[1.0, 3.0, -1.0]]], dtype=torch.float64)
    _, slope = natively("StochasticPool", Window.of(1, 3), torch.ones(1, 1, 1, dtype=torch.float64), x)
    torch.testing.assert_close(slope[0, 0], torch.tensor([-0.125, 0.875, 0.0], dtype=torch.float64))


@EACH
def test_bits_are_the_same_for_any_number_of_threads_and_any_batch(name):
    torch.manual_seed(6)
    window = Window.of(2, 3, 2, 1)
    tensors = of(name, torch.randn(3, 19, 61, 70), torch.randn(3, 19, 61, 70))
    grad = torch.randn(3, 19, *window.output((61, 70)))
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            runs += [natively(name, window, grad, *tensors) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    part = natively(name, window, grad[1:2, 3:7], *(tensor[1:2, 3:7] for tensor in tensors))
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))
    assert all(torch.equal(one, whole[1:2, 3:7]) for one, whole in zip(part, runs[0], strict=True))


@EACH
def test_memory_formats_and_strides(name):
    torch.manual_seed(7)
    window = Window.of(2, 3, 2, 1)
    tensors = of(name, torch.randn(2, 6, 9, 8), torch.randn(2, 6, 9, 8))
    grad = torch.randn(2, 6, 5, 4)
    wanted = natively(name, window, grad, *tensors)
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
    found = natively(name, window, grad, *last)
    assert all(map(torch.equal, found, wanted))
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in found)
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in tensors]
    assert all(map(torch.equal, natively(name, window, grad, *strided), wanted))
    constant = torch.ones(()).expand(2, 6, 5, 4)
    expected = natively(name, window, constant.contiguous(), *tensors)
    assert all(map(torch.equal, natively(name, window, constant, *tensors), expected))


@pytest.mark.parametrize("dtype", _native.ELEMENTS, ids=str)
def test_channels_that_stand_last_become_planes_and_come_back(dtype):
    for size in ((2, 3, 7, 5), (1, 16, 4, 8), (2, 70, 9, 11), (3, 33, 2, 4, 5)):
        x = torch.arange(torch.Size(size).numel()).view(size).to(dtype)
        last = x.contiguous(memory_format=torch.channels_last if len(size) == 4 else torch.channels_last_3d)
        planes, back = _native._planes(last), _native.laid_out(x, last)
        assert planes.is_contiguous()
        assert torch.equal(planes, x)
        assert back.stride() == last.stride()
        assert torch.equal(back, x)


@pytest.fixture
def without(monkeypatch):
    """As where there is no native library."""
    monkeypatch.setenv(_native.SWITCH, "off")
    _native._library.cache_clear()
    yield
    monkeypatch.undo()
    _native._library.cache_clear()


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_ordinary_values_without_the_library(name, dtype, without):
    torch.manual_seed(12)
    for window in WINDOWS:
        size = shape(window, 3, 7)
        tensors = of(name, torch.randn(size).to(dtype), torch.randn(size).to(dtype))
        assert (METHODS[name]._ordinary(window, *tensors) is None) == (set(window.dilation) != {1})
        leaves = [tensor.requires_grad_() for tensor in tensors]
        y = CALLS[name](window, *leaves)
        assert "Pooling" not in type(y.grad_fn).__name__ or window.dilation != (1,) * window.rank
        grad = torch.randn(y.shape).to(dtype)
        found = (y.detach(), *torch.autograd.grad(y, leaves, grad))
        wide = by_operators(name, window, grad.double(), *(tensor.detach().double() for tensor in tensors))
        for own, wanted in zip(found, wide, strict=True):
            ulps = {torch.float64: 200, torch.float32: 64, torch.bfloat16: 0.51}[dtype]
            assert_near(own, wanted, ulps, max(wanted.abs().max().item(), 1))


@EACH
def test_other_values_without_the_library(name, without):
    window = WINDOWS[5]
    for kind, values in inputs(window, 3e38).items():
        x = torch.from_numpy(values).float()
        tensors = of(name, x, x.flip(-1))
        y, wanted = CALLS[name](window, *tensors), METHODS[name]._forward(window, *tensors)
        if METHODS[name]._ordinary(window, *tensors) is None:
            torch.testing.assert_close(y, wanted, rtol=0, atol=0, equal_nan=True)
        else:
            largest = torch.nn.functional.max_pool2d(x.abs(), window.kernel, window.stride, window.pad)
            assert ((y - wanted).abs() <= 16 * (2**-24 * largest + 2**-149)).all(), kind


@EACH
def test_an_empty_batch(name):
    window = Window.of(2, 2)
    x = torch.zeros(0, 3, 4, 4)
    y, *slopes = natively(name, window, torch.zeros(0, 3, 2, 2), *of(name, x, x))
    assert y.shape == (0, 3, 2, 2)
    assert all(slope.shape == x.shape for slope in slopes)


def test_inputs_of_two_types():
    torch.manual_seed(8)
    window = Window.of(2, 2)
    x, logit, grad = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4).bfloat16(), torch.randn(1, 2, 2, 2)
    y, *slopes = natively("LocalImportancePool", window, grad, x, logit)
    assert [each.dtype for each in (y, *slopes)] == [torch.float32, torch.float32, torch.bfloat16]
    for found, wanted in zip((y, *slopes), by_operators("LocalImportancePool", window, grad, x, logit), strict=True):
        torch.testing.assert_close(found, wanted)
    assert natively("LocalImportancePool", window, grad.bfloat16(), logit, x)[0].dtype == torch.bfloat16


@EACH
def test_second_derivatives_are_those_of_pytorch_operators(name):
    torch.manual_seed(9)
    leaves = [torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True) for _ in of(name, 0, 0)]
    assert torch.autograd.gradgradcheck(lambda *given: CALLS[name](Window.of(2, 3, 2, 1), *given), leaves)


class Watch(TorchDispatchMode):
    """Counts the operators that run."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


class Other(torch.Tensor):
    pass


def test_other_tensors_are_left_to_pytorch():
    x = torch.randn(1, 2, 4, 4)
    assert _native.takes(x, torch.nn.Parameter(x))
    with torch.inference_mode():
        assert _native.takes(torch.randn(1, 2, 4, 4))
    imaginary = torch.randn(1, 2, 4, 4, dtype=torch.complex64).conj().imag
    with pytest.warns(UserWarning, match="nested"):
        nested = torch.nested.nested_tensor([x])
    others = [x.to("meta"), x.as_subclass(Other), x.int(), x.to_sparse(), imaginary, nested]
    others.append(torch._efficientzerotensor((1, 2, 4, 4)))
    for other in others:
        assert not _native.takes(other)
        assert not _native.takes(x, other)
    pool = nn.SoftPool2d(2)
    torch.testing.assert_close(pool(imaginary), pool(imaginary.clone()))
    torch.testing.assert_close(pool(x.as_subclass(Other)), pool(x))
    assert pool(x.to("meta")).shape == (1, 2, 2, 2)
    with Watch() as watch:
        torch.testing.assert_close(pool(x), pool(x))
    assert watch.count > 10


def test_forward_mode_derivatives_are_not_lost():
    torch.manual_seed(11)
    x, direction = (torch.randn(1, 2, 4, 4, dtype=torch.float64) for _ in range(2))
    pool = nn.SoftPool2d(2)
    with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # PyTorch scripts some derivatives itself
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        slope = torch.autograd.forward_ad.unpack_dual(pool(dual)).tangent
    step = 1e-6 * direction
    torch.testing.assert_close(slope, (pool(x + step) - pool(x - step)) / 2e-6, rtol=1e-6, atol=1e-8)


def test_changing_an_input_before_its_gradient_is_an_error():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    values = x * 1
    y = nn.SoftPool2d(2)(values)
    values.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- the library


PROGRAM = """
import torch
from onnxpool import nn
x = torch.linspace(-3, 3, 3 * 35 * 35).reshape(1, 3, 35, 35).requires_grad_()
y = nn.SoftPool2d(3, 2, 1)(x)
y.square().sum().backward()
drawn = torch.manual_seed(1) and nn.StochasticPool2d(3, 2, 1)(x.contiguous(memory_format=torch.channels_last))
drawn.square().sum().backward()
numbers = [each.detach().double().abs().sum().item() for each in (y, drawn, x.grad)]
"""


def numbers():
    names = {}
    exec(PROGRAM, names)
    return names["numbers"]


@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_every_instruction_set(name):
    program = f"{PROGRAM}from onnxpool.pools import _native; print(_native.why_not(), *numbers)"
    environment = {**os.environ, "ONNXPOOL_CPU": name}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if "which this build or this processor does not have" in done.stderr:
        pytest.skip("not for this processor")
    why, *found = done.stdout.split()
    assert why == "None"
    np.testing.assert_allclose([float(number) for number in found], numbers(), rtol=1e-6)


def test_without_the_library_pytorch_operators_pool(tmp_path, monkeypatch):
    wanted = numbers()
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"no library")
    reasons = [
        (_native.SWITCH, "off", "environment variable ONNXPOOL_TORCH is off"),
        (native_library.OVERRIDE, str(tmp_path / "absent.so"), "names no file"),
        (native_library.OVERRIDE, str(damaged), "cannot be loaded for PyTorch"),
    ]
    for name, value, words in reasons:
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            _native._library.cache_clear()
            assert words in _native.why_not()
            assert not _native.takes(torch.randn(1, 1, 4, 4))
            np.testing.assert_allclose(numbers(), wanted, rtol=1e-6)
        _native._library.cache_clear()
    assert _native.why_not() is None


def test_the_door_refuses_what_it_does_not_know():
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(_native.KernelError, match="HardPool: there is no kernel of this name"):
        _native.pool("HardPool", Window.of(2, 2), x)
