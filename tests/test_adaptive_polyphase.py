"""Adaptive polyphase sampling: numbers by hand, equivariance, ties, numbers that can hurt, gradients, export."""

import itertools
import math

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError

NORMS = (1.0, 2.0, 3.0, math.inf)


def test_numbers_by_hand():
    x = torch.tensor([[[[1.0, 2.0, 1.0, 2.0], [0.0, 0.0, 9.0, 0.0]], [[0.0, 5.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]]]])
    phases = {"00": [[[1, 1]], [[0, 0]]], "01": [[[2, 2]], [[5, 5]]], "10": [[[0, 9]], [[0, 0]]]}
    for words, first, second in (
        ({}, "10", "10"),  # norms 1.4, 7.6, 9
        ({"p": 1}, "01", "01"),  # sums 2, 14, 9
        ({"per": "channel"}, "10", "01"),
        ({"p": math.inf, "per": "channel"}, "10", "01"),
    ):
        y = nn.AdaptivePolyphasePool2d(2, **words)(x)[0].tolist()
        assert y == [phases[first][0], phases[second][1]]


def test_ties_go_to_the_first_phase_and_odd_axes_are_continued_by_their_beginning():
    assert nn.AdaptivePolyphasePool1d(2)(torch.tensor([[[1.0, -1.0, -2.0, 2.0]]])).tolist() == [[[1.0, -2.0]]]
    assert nn.AdaptivePolyphasePool1d(3)(torch.tensor([[[1.0, 0.0, 5.0, 4.0]]])).tolist() == [
        [[5.0, 0.0]]
    ]  # 1 0 5 4 1 0
    assert nn.AdaptivePolyphasePool1d(3)(torch.tensor([[[7.0]]])).tolist() == [[[7.0]]]
    assert nn.AdaptivePolyphasePool1d(2)(torch.zeros(1, 1, 4)).tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("per", ["sample", "channel"])
def test_shifts_are_followed_exactly(per):
    x = torch.randn(4, 3, 6, 9, generator=torch.manual_seed(0))
    for stride in ((2, 3), (3, 1), (1, 1)):
        pool = nn.AdaptivePolyphasePool2d(stride, per=per)
        y = pool(x)
        shape = (*y.shape[:2], -1)
        for shift in itertools.product(range(6), range(9)):
            shifted = pool(x.roll(shift, (2, 3)))
            assert torch.equal(shifted.reshape(shape).sort().values, y.reshape(shape).sort().values)
        moved = pool(x.roll(stride, (2, 3)))
        assert torch.equal(moved, y.roll((1, 1), (2, 3)))


def test_an_untrained_network_gives_every_shift_the_same_class():
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"),
        torch.nn.ReLU(),
        nn.BlurPool2d(3, 1, "circular"),
        nn.AdaptivePolyphasePool2d(2),
        torch.nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
        torch.nn.ReLU(),
        nn.AdaptivePolyphasePool2d(2),
        nn.GlobalAvgPool2d(flatten=True),
        torch.nn.Linear(8, 10),
    ).double()
    x = torch.randn(8, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        scores = network(x)
        for shift in itertools.product((0, 1, 5), (0, 2, 15)):
            torch.testing.assert_close(network(x.roll(shift, (2, 3))), scores)


@pytest.mark.parametrize("p", NORMS)
def test_numbers_that_can_hurt(p):
    for dtype, largest in ((torch.float32, 3.4e38), (torch.float64, 1.79e308), (torch.float16, 65504.0)):
        for per in ("sample", "channel"):
            pool = nn.AdaptivePolyphasePool2d(2, p, per=per)
            for name, wide in inputs(WINDOWS[4], largest).items():
                x = torch.from_numpy(wide).to(dtype)
                np.testing.assert_array_equal(pool(x).double(), pool.reference(x.double().numpy()), err_msg=name)
    assert nn.AdaptivePolyphasePool2d()(torch.tensor([[[[1.0, math.inf], [-math.inf, 2.0]]]])).item() == math.inf


def test_gradients_go_to_what_was_taken():
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True, generator=torch.manual_seed(2))
    assert torch.autograd.gradcheck(nn.AdaptivePolyphasePool2d(2), (x,))
    nn.AdaptivePolyphasePool2d((1, 2))(x).sum().backward()
    assert x.grad.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("pool", "dtype"),
    [
        (nn.AdaptivePolyphasePool2d(2), torch.float16),
        (nn.AdaptivePolyphasePool2d((3, 1), math.inf, per="channel"), torch.float32),
    ],
    ids=str,
)
def test_exported_with_sizes_that_change(pool, dtype):
    model = exported(pool, torch.zeros(2, 3, 9, 8, dtype=dtype))
    feeds = {name: x for name, x in inputs(WINDOWS[4], torch.finfo(dtype).max).items() if x.shape[1] == 3}
    rng = np.random.default_rng(3)
    feeds |= {str(shape): rng.standard_normal(shape) for shape in ((1, 3, 1, 1), (1, 3, 7, 12), (2, 3, 6, 5))}
    for name, wide in feeds.items():
        x = torch.from_numpy(wide).to(dtype)
        np.testing.assert_array_equal(ran(model, x).double(), pool.reference(x.double().numpy()), err_msg=name)


def test_refusals():
    for words, told in (
        ({"stride": 0}, "stride=0: each number must be at least 1"),
        ({"p": 0.5}, "p=0.5 must be a number of at least 1"),
        ({"p": math.nan}, "p=nan must be a number"),
        ({"per": "layer"}, "per='layer' is unknown; use one of sample, channel"),
    ):
        with pytest.raises(ArgumentError) as caught:
            nn.AdaptivePolyphasePool2d(**words)
        assert told in str(caught.value)
    with pytest.raises(ArgumentError, match="which has no position to pool"):
        nn.AdaptivePolyphasePool2d()(torch.ones(1, 3, 0, 4))
