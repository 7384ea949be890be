"""AdaPool: numbers by hand, laws, numbers that can hurt, what is learned, export, refusals."""

import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.window import Window

MOVED = Window.of(2, 3, 2, 1, 1, True)


def fixed(beta, window=MOVED):
    arguments = window.kernel, window.stride, window.pad, window.dilation, window.ceil
    return getattr(nn, f"AdaPool{window.rank}d")(*arguments, beta=beta, learn_beta=False)


def by_hand(values):
    mean = sum(values) / len(values)
    weights = [math.exp(2 * abs(x * mean) / (x * x + mean * mean)) for x in values]
    return sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)


def test_numbers_by_hand():
    for values in ([1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, 3.0, -9.0]):
        x = torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)
        for beta in (0.0, 0.3, 1.0):
            answer = beta * by_hand(values) + (1 - beta) * nn.SoftPool2d(2)(x).item()
            pool = nn.AdaPool2d(2, beta=beta, learn_beta=False)
            assert pool(x).item() == pytest.approx(answer, rel=1e-14)
            assert pool.reference(x.numpy()).item() == pytest.approx(answer, rel=1e-14)
    clipped = nn.AdaPool1d(3, 1, 1, beta=1.0, learn_beta=False)(torch.tensor([[[5.0, 1.0]]], dtype=torch.float64))
    assert clipped.flatten().tolist() == pytest.approx([by_hand([5.0, 1.0])] * 2)


def test_laws():
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    alike = fixed(1.0)
    torch.testing.assert_close(alike(-7 * x), -7 * alike(x))
    for value in (0.1, -7.3, 1e30, 3.4028234e38, 1e-38, 0.0):
        for beta in (0.0, 0.3, 1.0):
            flat = torch.tensor(value).expand(1, 3, 9, 8)
            y = fixed(beta)(flat)
            torch.testing.assert_close(y, flat[..., : y.shape[2], : y.shape[3]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[4], MOVED, WINDOWS[7], WINDOWS[11]], ids=str)
def test_numbers_that_can_hurt(window):
    for dtype, largest in ((torch.float32, 3.4028234e38), (torch.float64, 1.79e308), (torch.float16, 65504.0)):
        pool = fixed(1.0, window)
        for name, wide in inputs(window, largest).items():
            x = torch.from_numpy(wide).to(dtype)
            scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
            atol = 8 * torch.finfo(dtype).eps * scale + 4 * torch.finfo(dtype).tiny * torch.finfo(dtype).eps
            np.testing.assert_allclose(
                pool(x).double(), pool.reference(x.double().numpy()), rtol=0, atol=atol, err_msg=name
            )


def test_gradients():
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True, generator=torch.manual_seed(1))
    assert torch.autograd.gradcheck(fixed(1.0), (x,), fast_mode=True)
    for flat in (torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 1e-42), torch.full((1, 1, 4, 4), 1e37)):
        leaf = flat.clone().requires_grad_()
        pool = nn.AdaPool2d(2)
        pool(leaf).sum().backward()
        assert leaf.grad.isfinite().all()
        assert pool.beta.logit.grad.isfinite().all()


def test_beta_of_layers_channels_and_regions():
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    for words, shape in (
        ({}, (1, 1, 1)),
        ({"channels": 3}, (3, 1, 1)),
        ({"channels": 3, "regions": (4, 3)}, (3, 4, 3)),
    ):
        pool = nn.AdaPool2d(2, beta=0.25, **words).double()
        assert pool.beta.number() == pytest.approx(np.full(shape, 0.25))
        with torch.no_grad():
            pool.beta.logit.add_(torch.randn(shape, dtype=torch.float64))
        np.testing.assert_allclose(pool(x).detach(), pool.reference(x.numpy()), rtol=1e-12)
        pool(x).sum().backward()
        assert (pool.beta.logit.grad != 0).all()
    with pytest.raises(ArgumentError, match=r"gives an output of \(3, 3\); this layer has regions \[4, 3\]"):
        pool(x[:, :, :6])
    with pytest.raises(ArgumentError, match="x has 2 channels"):
        pool(x[:, :2])


def test_exported_with_sizes_that_change():
    pool = fixed(0.75)
    model = exported(pool, torch.zeros(2, 3, 9, 8))
    for name, wide in inputs(MOVED, 3.4028234e38).items():
        if wide.shape[1] == 3:
            x = torch.from_numpy(wide).float()
            scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
            answer = pool.reference(x.double().numpy())
            np.testing.assert_allclose(
                ran(model, x).double(), answer, rtol=0, atol=2**-20 * scale + 2**-146, err_msg=name
            )


def test_refused_arguments():
    for words, told in (
        ({"beta": 1.5}, "beta=1.5 must be a number from 0 to 1"),
        ({"beta": 1}, "beta=1 cannot be learned; start between 0 and 1, or use learn_beta=False"),
        ({"learn_beta": None}, "learn_beta=None is not a bool"),
        ({"channels": 0}, "channels=0 must be a positive int"),
        ({"regions": (2, 2, 2)}, "regions=(2, 2, 2) must be an int or 2 ints"),
        ({"regions": 2.0}, "regions=2.0 must be an int or 2 ints"),
        ({"regions": 0}, "regions=0: each number must be at least 1"),
        ({"channels": 3, "learn_beta": False}, "need learn_beta=True"),
    ):
        with pytest.raises(ArgumentError) as caught:
            nn.AdaPool2d(2, **words)
        assert told in str(caught.value)
