"""S3DPP: numbers by hand, what is drawn, evaluation, all eight variants, gradients, export, refusals."""

import itertools

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs
from exported import exported, ran

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError, ExportError

GUIDES, REWARDS = ("lite", "full"), ("symmetric", "asymmetric")


def layer(*args, channels=3, **kwargs):
    torch.manual_seed(3)
    return nn.S3DetailPreservingPool2d(channels, *args, init="uniform", **kwargs)


def dense_of(pool, x):
    """The map of stride 1, window by window, of a layer without sampling."""
    kh, kw = pool.window.kernel
    plain = nn.DetailPreservingPool2d(pool.channels, pool.window.kernel, "lite", pool.reward, pool.normalize).double()
    plain.load_state_dict({name: value for name, value in pool.state_dict().items() if name != "guide_filter"})
    around = torch.nn.functional.pad(x, (0, kw - 1, 0, kh - 1), mode="replicate")
    places = itertools.product(*(range(n) for n in x.shape[2:]))
    cells = [plain(around[:, :, i : i + kh, j : j + kw]) for i, j in places]
    return torch.cat(cells, 3).detach().unflatten(3, x.shape[2:]).squeeze(2)


def test_numbers_by_hand():
    """Beyond the end the last row and column repeat, so that the last window of four holds one number."""
    plain = nn.DetailPreservingPool2d(1).double()
    windows = [[1.0, 2.0, 3.0, 9.0], [2.0, 2.0, 9.0, 9.0], [3.0, 9.0, 3.0, 9.0], [9.0, 9.0, 9.0, 9.0]]
    answer = sum(plain(torch.tensor(w, dtype=torch.float64).reshape(1, 1, 2, 2)).item() for w in windows) / 4
    x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]], dtype=torch.float64)
    pool = nn.S3DetailPreservingPool2d(1).double().eval()
    assert pool(x).item() == pytest.approx(answer, rel=1e-12)
    assert pool.reference(x.numpy()).item() == pytest.approx(answer, rel=1e-12)


@pytest.mark.parametrize("grid", [None, 2, (4, 6), 100])
def test_training_draws_rows_and_columns_of_each_group(grid):
    pool = layer(2, reward="asymmetric", grid=grid).double()
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64, generator=torch.manual_seed(0))  # rows 8 and 0 to 7: one unused
    dense = dense_of(pool, x)
    groups = [(grid or default, size) for grid, default, size in zip(sizes(grid), (4, 6), (8, 12), strict=True)]
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        y = pool(x)
        drawn = []
        for axis, (group, size) in enumerate(groups, start=2):
            rows = [
                i for i in range(dense.shape[axis]) if any(same(dense, y, axis, i, k) for k in range(y.shape[axis]))
            ]
            counts = [sum(start <= i < start + group for i in rows) for start in range(0, size, group)]
            assert counts == [min(group, size - start) // 2 for start in range(0, size, group)]
            drawn.append(tuple(rows))
        torch.testing.assert_close(y, dense[:, :, drawn[0]][..., drawn[1]])
        seen.add(tuple(drawn))
    assert len(seen) > 10
    torch.manual_seed(0)
    first = pool(x)
    torch.manual_seed(0)
    torch.testing.assert_close(pool(x), first, rtol=0, atol=0)


def sizes(grid):
    return grid if isinstance(grid, tuple) else (grid, grid)


def same(dense, y, axis, i, k):
    """Whether line k of what was drawn is, element by element, within line i of the dense map."""
    line, part = dense.select(axis, i)[0, 0], y.select(axis, k)[0, 0]
    return all((line - value).abs().min() < 1e-12 for value in part)


def test_evaluation_is_the_mean_of_all_draws():
    """Of groups of one window each, whose rows and columns are equally likely."""
    pool = layer(2, grid=2).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=torch.manual_seed(1))
    dense = dense_of(pool, x)
    torch.testing.assert_close(pool.eval()(x), dense.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(("guide", "reward"), list(itertools.product(GUIDES, REWARDS)))
def test_variants(guide, reward):
    pool = layer((2, 3), guide, reward, "mean").eval()
    for name, wide in inputs(WINDOWS[4], 3.4e38).items():
        if wide.shape[1] == 3 and (name != "largest" or reward == "symmetric"):  # where a cell at its guide jumps
            x = torch.from_numpy(wide).float()
            scale = x[x.isfinite()].abs().double().max().item() if x.isfinite().any() else 0
            y, answer = pool(x).detach().double(), pool.reference(x.double().numpy())
            np.testing.assert_allclose(y, answer, rtol=0, atol=2**-19 * scale + 2**-144, err_msg=name)
    double = layer((2, 3), guide, reward, channels=2).double()
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64, requires_grad=True, generator=torch.manual_seed(4))
    for training in (False, True):

        def pooled(x, training=training):
            torch.manual_seed(5)
            return double.train(training)(x)

        assert torch.autograd.gradcheck(pooled, (x,), fast_mode=True)


def test_exported():
    pool = layer(guide="full", reward="asymmetric").half().eval()
    model = exported(pool, torch.zeros(2, 3, 9, 8, dtype=torch.float16))
    assert str(model.graph.outputs[0].shape) == "[batch,3,(height//2),(width//2)]"
    for seed, shape in enumerate([(2, 3, 9, 8), (1, 3, 2, 3), (3, 3, 11, 6)]):
        x = 300 * torch.randn(shape, generator=torch.manual_seed(seed)).half()
        answer = torch.from_numpy(pool.reference(x.double().numpy()))
        torch.testing.assert_close(ran(model, x).double(), answer, rtol=2**-10, atol=2**-10)
    with pytest.raises(ExportError, match="draws at random"):
        onnxpool.export(layer().train(), (torch.zeros(1, 3, 4, 4),), evaluate=False)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"guide": "gaussian"}, "guide='gaussian' needs windows that do not overlap"),
        ({"grid": 3}, "grid=3 must be a multiple of the kernel size (2, 2)"),
        ({"grid": (2, 2, 2)}, "grid=(2, 2, 2) must be an int or 2 ints"),
        ({"grid": 2.0}, "grid=2.0 must be an int or 2 ints"),
        ({"grid": 0}, "grid=0: each number must be at least 1"),
    ],
)
def test_refused_arguments(kwargs, told):
    with pytest.raises(ArgumentError) as caught:
        nn.S3DetailPreservingPool2d(3, **kwargs)
    assert told in str(caught.value)
