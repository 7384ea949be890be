"""Attention pooling: numbers by hand, the published form, what is learned, numbers that can hurt, export, refusals."""

import math

import numpy as np
import pytest
import torch
from cases import inputs
from exported import exported, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.window import Window


def test_numbers_by_hand():
    x = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 4.0, 5.0]]], dtype=torch.float64)
    full = nn.AttentionPool1d(2).double()
    assert full(x).flatten().tolist() == pytest.approx([1 + 1 / (1 + math.exp(-2)), 3, 4 / (1 + math.exp(-8)), 5])
    shared = nn.AttentionPool1d(2, logits="shared").double()  # twice the mean of both channels: 1 and 6
    weight = 1 / (1 + math.exp(-5))
    assert shared(x).flatten().tolist() == pytest.approx([1 + weight, 3, 4 * weight, 5])
    channel = nn.AttentionPool1d(2, logits="channel", scale=-1).double()
    assert channel(x).flatten().tolist() == pytest.approx([1 + 1 / (1 + math.e), 3, 4 / (1 + math.exp(4)), 5])


def test_it_is_the_published_pooling_with_its_weights():
    """Pairs of positions, softmax of a 1x1 convolution over them, the last of an odd length masked."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 4, 1, bias=False)
    pool = nn.AttentionPool1d(4)
    pool.load_state_dict({"to_attn_logits.weight": convolution.weight.detach()})
    for length in (8, 9):
        x = torch.randn(2, 4, length)
        pairs = torch.nn.functional.pad(x, (0, length % 2)).unflatten(2, (-1, 2))
        logits = convolution(pairs)
        if length % 2:
            logits = logits.clone()
            logits[:, :, -1, -1] = -torch.inf
        torch.testing.assert_close(pool(x), (pairs * logits.softmax(-1)).sum(-1))


@pytest.mark.parametrize("logits", ["full", "channel", "shared"])
def test_numbers_that_can_hurt_and_gradients(logits):
    torch.manual_seed(1)
    for dtype, largest in ((torch.float32, 1e30), (torch.float64, 1e300), (torch.float16, 65504.0)):
        pool = nn.AttentionPool2d(3, 3, 2, 1, logits=logits, scale=0.5).to(dtype)
        for name, wide in inputs(pool.window, largest).items():
            if wide.shape[1] == 3 and name not in ("largest", "1e4", "huge"):  # logits that rounding decides
                x = torch.from_numpy(wide).to(dtype)
                scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
                atol = 32 * torch.finfo(dtype).eps * scale * max(1, min(scale, 64)) + 1e-43
                y, answer = pool(x).detach().double(), pool.reference(x.double().numpy())
                np.testing.assert_allclose(y, answer, rtol=0, atol=atol, err_msg=name)
    pool = nn.AttentionPool2d(2, 2, logits=logits).double()
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(pool, {"to_attn_logits.weight": weight}, (x,)),
        (x, pool.to_attn_logits.weight),
        fast_mode=True,
    )


def test_exported_with_lengths_that_change_in_float16():
    pool = nn.AttentionPool1d(3, logits="shared").half()
    model = exported(pool, torch.zeros(2, 3, 9).half())
    for seed, length in enumerate((9, 2, 1, 14)):
        x = (3 * torch.randn(2, 3, length, generator=torch.manual_seed(seed))).half()
        answer = torch.from_numpy(pool.reference(x.double().numpy()))
        torch.testing.assert_close(ran(model, x).double(), answer, rtol=2**-11, atol=2**-12)


def test_refusals():
    assert nn.AttentionPool1d(3).window == Window.of(1, 2, ceil_mode=True)
    for words, told in (
        ({"channels": 0}, "channels=0 must be a positive int"),
        ({"channels": 2, "logits": "none"}, "logits='none' is unknown; use one of full, channel, shared"),
        ({"channels": 2, "scale": math.inf}, "scale=inf must be a number"),
    ):
        with pytest.raises(ArgumentError) as caught:
            nn.AttentionPool1d(**words)
        assert told in str(caught.value)
    with pytest.raises(ArgumentError, match=r"x has 2 channels, shape \(1, 2, 4\); this layer has 3"):
        nn.AttentionPool1d(3)(torch.ones(1, 2, 4))
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.AttentionPool1d(3).load_state_dict({"to_attn_logits.weight": torch.ones(2, 2, 1)})
