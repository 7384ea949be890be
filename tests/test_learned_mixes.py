"""Learned mixed, gated and tree pooling: numbers by hand, numbers that can hurt, what is learned, export, refusals."""

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError

X = torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]], dtype=torch.float64)
MADE = {
    "LearnedMixedPool": lambda rank, *a, **k: getattr(nn, f"LearnedMixedPool{rank}d")(*a, **k),
    "GatedPool": lambda rank, *a, **k: getattr(nn, f"GatedPool{rank}d")(*a, **k),
    "TreePool": lambda rank, *a, **k: getattr(nn, f"TreePool{rank}d")(*a, levels=3, **k),
}


def made(name, window, **words):
    torch.manual_seed(0)
    arguments = window.kernel, window.stride, window.pad, window.dilation, window.ceil
    return MADE[name](window.rank, *arguments, **words)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_mixed_by_hand():
    for share in (0.1, 0.5, 0.9):
        pool = nn.LearnedMixedPool2d(2, share=share).double()
        assert pool(X).item() == pytest.approx(share * 6 + (1 - share) * 3.75, rel=1e-6)
        assert pool.reference(X.numpy()).item() == pytest.approx(pool(X).item(), rel=1e-14)


def test_gated_by_hand():
    pool = nn.GatedPool2d(2).double()
    gate = torch.tensor([[0.5, -0.25], [0.1, 0.2]], dtype=torch.float64)
    pool.load_state_dict({"gate": gate[None, None]})
    share = sigmoid(0.5 - 0.75 + 0.5 + 1.2)
    for y in (pool(X), torch.from_numpy(pool.reference(X.numpy()))):
        assert y.item() == pytest.approx(share * 6 + (1 - share) * 3.75, rel=1e-14)


def test_tree_by_hand():
    """Gates: root, left, right. Leaves take one cell each."""
    pool = nn.TreePool2d(2, levels=3).double()
    weight = torch.zeros(1, 7, 4, dtype=torch.float64)
    weight[0, :3, 0] = torch.tensor([0.5, -1.0, 2.0])
    weight[0, 3:] = torch.eye(4)
    pool.load_state_dict({"weight": weight.reshape(1, 7, 2, 2)})
    left = sigmoid(-1) * 1 + sigmoid(1) * 3
    right = sigmoid(2) * 5 + sigmoid(-2) * 6
    for y in (pool(X), torch.from_numpy(pool.reference(X.numpy()))):
        assert y.item() == pytest.approx(sigmoid(0.5) * left + sigmoid(-0.5) * right, rel=1e-14)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[6], WINDOWS[11]], ids=str)
def test_numbers_that_can_hurt(name, window):
    """But for magnitudes at which rounding alone decides a gate."""
    for dtype, largest in ((torch.float32, 3.4028234e38), (torch.float64, 1e300), (torch.float16, 65504.0)):
        pool = made(name, window).to(dtype)
        for case, wide in inputs(window, largest).items():
            if name == "LearnedMixedPool" or case not in ("largest", "1e4", "huge"):
                x = torch.from_numpy(wide).to(dtype)
                scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
                atol = 16 * torch.finfo(dtype).eps * scale * max(1, min(scale, 64)) + torch.finfo(dtype).tiny
                y, answer = pool(x).detach().double(), pool.reference(x.double().numpy())
                answer = torch.from_numpy(answer).to(dtype).double()  # a tree's may exceed the type
                np.testing.assert_allclose(y, answer, rtol=0, atol=atol, err_msg=case)


@pytest.mark.parametrize("name", ["LearnedMixedPool", "GatedPool"])
def test_equal_cells_give_their_value(name):
    for value in (0.1, -7.3, 1e30, 3.4028234e38, -3.4028234e38, 0.0):
        x = torch.tensor(value).expand(1, 3, 9, 8)
        y = made(name, WINDOWS[4])(x)
        torch.testing.assert_close(y, x[..., :4, :4], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MADE)
def test_what_is_learned_for_channels(name):
    pool = made(name, WINDOWS[6], channels=3).double()
    (parameter,) = pool.parameters()
    assert parameter.shape[0] == 3
    with torch.no_grad():
        parameter.add_(torch.randn(parameter.shape, dtype=torch.float64))
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.manual_seed(2))
    np.testing.assert_allclose(pool(x).detach(), pool.reference(x.numpy()), rtol=1e-12, atol=1e-14)
    for channel in range(3):  # each by its own numbers
        one = made(name, WINDOWS[6]).double()
        one.load_state_dict({key: value[channel : channel + 1] for key, value in pool.state_dict().items()})
        torch.testing.assert_close(one(x[:, channel : channel + 1]), pool(x)[:, channel : channel + 1])
    pool(x).square().sum().backward()
    assert (parameter.grad != 0).all()
    with pytest.raises(ArgumentError, match=r"x has 2 channels, shape \(2, 2, 9, 8\); this layer has 3"):
        pool(x[:, :2])


@pytest.mark.parametrize(("name", "dtype"), [("GatedPool", torch.float64), ("TreePool", torch.float64)])
def test_exported_in_float64_without_convolutions(name, dtype):
    pool = made(name, WINDOWS[1]).to(dtype)
    model = exported(pool, torch.zeros(2, 3, 9, dtype=dtype))
    assert "Conv" not in {node.op_type for node in model.graph}
    for seed, length in enumerate((9, 4, 12)):
        x = torch.randn(2, 3, length, dtype=dtype, generator=torch.manual_seed(seed))
        torch.testing.assert_close(ran(model, x), torch.from_numpy(pool.reference(x.numpy())))


def test_refused_arguments():
    for make, told in (
        (lambda: nn.LearnedMixedPool2d(2, share=0), "share=0 cannot be learned"),
        (lambda: nn.LearnedMixedPool2d(2, share=2), "share=2 must be a number from 0 to 1"),
        (lambda: nn.GatedPool2d(2, channels=0), "channels=0 must be a positive int"),
        (lambda: nn.TreePool2d(2, levels=1), "levels=1 must be an int from 2 to 6"),
        (lambda: nn.TreePool2d(2, channels=1.5), "channels=1.5 must be a positive int"),
    ):
        with pytest.raises(ArgumentError) as caught:
            make()
        assert told in str(caught.value)
