"""Blur pooling and the anti-aliased maximum: numbers by hand, laws, numbers that can hurt, export, refusals."""

import itertools

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, operators, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.network.swap import swap

MODES = ("reflect", "replicate", "zeros", "circular")
FILTERS = {
    1: [1],
    2: [1, 1],
    3: [1, 2, 1],
    4: [1, 3, 3, 1],
    5: [1, 4, 6, 4, 1],
    6: [1, 5, 10, 10, 5, 1],
    7: [1, 6, 15, 20, 15, 6, 1],
}


@pytest.mark.parametrize("size", FILTERS)
@pytest.mark.parametrize("mode", MODES)
def test_every_filter_is_the_published_one(size, mode):
    """A padded picture convolved with rows of numbers from the paper, as PyTorch does it."""
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.manual_seed(size))
    line = torch.tensor(FILTERS[size], dtype=torch.float64)
    kernel = torch.outer(line, line) / line.sum() ** 2
    ends = [(size - 1) // 2, size // 2] * 2
    around = torch.nn.functional.pad(x, ends, mode={"zeros": "constant"}.get(mode, mode))
    for stride in (1, 2, 3):
        answer = torch.nn.functional.conv2d(around, kernel.expand(3, 1, size, size), None, stride, groups=3)
        layer = nn.BlurPool2d(size, stride, mode)
        torch.testing.assert_close(layer(x), answer)
        torch.testing.assert_close(torch.from_numpy(layer.reference(x.numpy())), answer)


def test_numbers_by_hand():
    x = torch.tensor([[[1.0, 2.0, 3.0, 10.0]]])
    assert nn.BlurPool1d(3)(x).tolist() == [[[(2 + 2 * 1 + 2) / 4, (2 + 2 * 3 + 10) / 4]]]
    assert nn.BlurPool1d(2, 1, "zeros")(x).tolist() == [[[1.5, 2.5, 6.5, 5.0]]]
    assert nn.BlurPool1d(1)(x).tolist() == [[[1.0, 3.0]]]
    assert nn.MaxBlurPool1d(2, filter_size=3)(x).tolist() == [[[(3 + 2 * 2 + 3) / 4, (3 + 2 * 10 + 3) / 4]]]
    assert nn.MaxBlurPool1d(3, 1, 1, filter_size=1)(-x).tolist() == [[[-1.0, -1.0, -2.0, -3.0]]]


def test_laws():
    x = torch.randn(1, 2, 8, 12, dtype=torch.float64, generator=torch.manual_seed(1))
    for size in FILTERS:
        layer = nn.BlurPool2d(size)
        torch.testing.assert_close(layer(3 * x - 2), 3 * layer(x) - 2)
        circular = nn.BlurPool2d(size, 2, "circular")
        torch.testing.assert_close(circular(x.roll((2, -4), (2, 3))), circular(x).roll((1, -2), (2, 3)))
        for value in (0.1, -7.3, 1e30, 0.0):
            torch.testing.assert_close(layer(torch.full((1, 1, 9, 9), value)), torch.full((1, 1, 5, 5), value))


@pytest.mark.parametrize("size", FILTERS)
def test_numbers_that_can_hurt(size):
    for dtype, largest in ((torch.float32, 3.4028234e38), (torch.float64, 1.79e308), (torch.float16, 65504.0)):
        layer = nn.BlurPool2d(size, 1)
        for name, wide in inputs(WINDOWS[4], largest).items():
            x = torch.from_numpy(wide).to(dtype)
            y, answer = layer(x).double(), layer.reference(x.double().numpy())
            scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
            atol = 8 * torch.finfo(dtype).eps * scale + torch.finfo(dtype).tiny
            np.testing.assert_allclose(y, answer, rtol=0, atol=atol, err_msg=name)
    leaf = torch.full((1, 1, 8, 8), 3e38).requires_grad_()
    nn.BlurPool2d(size)(leaf).sum().backward()
    assert leaf.grad.sum().item() == pytest.approx(16)


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (nn.BlurPool2d(4), torch.float16),
        (nn.BlurPool2d((5, 2), (1, 3), "circular"), torch.float32),
        (nn.MaxBlurPool3d(2, filter_size=3, padding_mode="zeros"), torch.float64),
    ],
    ids=str,
)
def test_exported_with_sizes_that_change(layer, dtype):
    spatial = (9, 8, 7)[: layer.rank]
    model = exported(layer, torch.zeros(2, 3, *spatial, dtype=dtype))
    kinds = set(operators(model))
    assert ("Conv" in kinds, "Slice" in kinds) == (
        (dtype != torch.float64),
        dtype == torch.float64 or "circular" in str(layer),
    )
    largest = torch.finfo(dtype).max
    feeds = [x for x in inputs(WINDOWS[4] if layer.rank == 2 else WINDOWS[10], largest).values() if x.shape[1] == 3]
    rng = np.random.default_rng(2)
    feeds += [rng.standard_normal((1, 3, *(n + more for n in spatial))) for more in (-3, 1, 4)]
    for wide in feeds:
        x = torch.from_numpy(wide).to(dtype)
        if isinstance(layer, nn.MaxBlurPool3d) and x.isnan().any():
            continue  # which ONNX Runtime's MaxPool drops
        scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
        atol = 8 * torch.finfo(dtype).eps * scale + torch.finfo(dtype).tiny
        np.testing.assert_allclose(ran(model, x).double(), layer.reference(x.double().numpy()), rtol=0, atol=atol)


def test_refused_arguments():
    for words, told in (
        ({"filter_size": 8}, "filter_size=8 is above 7"),
        ({"filter_size": 0}, "filter_size=0: each number must be at least 1"),
        ({"stride": 0}, "stride=0: each number must be at least 1"),
        ({"padding_mode": "same"}, "padding_mode='same' is unknown; use one of reflect, replicate, zeros, circular"),
    ):
        with pytest.raises(ArgumentError) as caught:
            nn.BlurPool2d(**words)
        assert told in str(caught.value)


def test_axes_too_short_to_be_reflected_are_refused():
    for size, (mode, least) in itertools.product((3, 4, 7), (("reflect", 1), ("circular", 0), ("replicate", 1 - 7))):
        n = max(1, size // 2 + least)
        layer = nn.BlurPool1d(size, 1, mode)
        assert layer(torch.ones(1, 1, n)).shape == (1, 1, n)
        if n > 1:
            with pytest.raises(ArgumentError, match=f"too small for padding_mode='{mode}' with a filter of {size}"):
                layer(torch.ones(1, 1, n - 1))


def test_the_stride_of_the_maximum_is_that_of_torch_nn():
    assert nn.MaxBlurPool2d(3).stride == nn.MaxBlurPool2d(3, None, filter_size=2).stride == (3, 3)
    for layer in (lambda: nn.BlurPool2d(4, None), lambda: nn.MaxBlurPool2d(2, 0)):
        with pytest.raises(ArgumentError, match="stride="):
            layer()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "zeros", "circular"])
def test_channels_last_stay_last(mode):
    x = torch.randn(2, 3, 7, 8).contiguous(memory_format=torch.channels_last)
    for pool in (nn.BlurPool2d(4, padding_mode=mode), nn.MaxBlurPool2d(3, 2, 1, padding_mode=mode)):
        assert pool(x).is_contiguous(memory_format=torch.channels_last)


def test_swapped_for_strides_it_gives_the_same_sizes():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, (2, 3), 1))
    for target in ("BlurPool", "BlurPool(3, padding_mode='circular')", "AdaptivePolyphasePool"):
        made = swap(network, {"strided-convolution": target}, strict=True).network
        assert made[0].pool.stride == (2, 3)
        for size in (7, 8, 9):
            x = torch.randn(1, 2, size, size + 3)
            assert made(x).shape == network(x).shape


def test_swapped_for_maxima_it_gives_the_same_sizes():
    for pool in (torch.nn.MaxPool2d(3, 2, 1), torch.nn.MaxPool2d(2), torch.nn.MaxPool2d(3, 3)):
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 1), pool)
        made = swap(network, {"max": "MaxBlurPool"}).network
        assert type(made[1]) is nn.MaxBlurPool2d
        for size in (7, 8, 9):
            x = torch.randn(1, 2, size, size + 3)
            assert made(x).shape == network(x).shape
