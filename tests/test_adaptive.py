"""Adaptive average and max pooling in PyTorch, by their references and in ONNX Runtime."""

import itertools

import numpy as np
import pytest
import torch
from cases import inputs
from exported import TOLERANCE, assert_exports, exported, extremes, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools import adaptive_average, adaptive_max
from onnxpool.window import Window

PAIRS = [("Avg", adaptive_average.reference), ("Max", adaptive_max.reference)]


def test_numbers_by_hand():
    x = np.arange(1.0, 6).reshape(1, 1, 5)  # in 3: 1 2, 2 3 4, 4 5; in 2: 1 2 3, 3 4 5
    np.testing.assert_array_equal(adaptive_average.reference(x, (3,)), [[[1.5, 3, 4.5]]])
    np.testing.assert_array_equal(adaptive_max.reference(x, (3,)), [[[2, 4, 5]]])
    np.testing.assert_array_equal(adaptive_average.reference(x, (2,)), [[[2, 4]]])
    np.testing.assert_array_equal(adaptive_average.reference(x[..., :2], (3,)), [[[1, 1.5, 2]]])
    np.testing.assert_array_equal(adaptive_average.reference(x, (None,)), x)
    assert nn.AdaptiveAvgPool1d(3)(torch.from_numpy(x)).flatten().tolist() == [1.5, 3, 4.5]
    assert nn.AdaptiveMaxPool1d(3)(torch.from_numpy(x)).flatten().tolist() == [2, 4, 5]


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_torch_agrees_with_the_reference_for_every_size(name, reference):
    pools = [getattr(nn, f"Adaptive{name}Pool1d")(size) for size in range(1, 13)]
    for pool, n in itertools.product(pools, range(1, 13)):
        x = torch.randn(1, 2, n, dtype=torch.float64, generator=torch.manual_seed(n))
        np.testing.assert_allclose(pool(x), reference(x.numpy(), pool.output_size), rtol=0, atol=1e-15)
        np.testing.assert_array_equal(pool(x), getattr(torch.nn, f"Adaptive{name}Pool1d")(pool.output_size[0])(x))


@pytest.mark.parametrize(("name", "reference"), PAIRS)
@pytest.mark.parametrize("sizes", [(4,), (3, None), (1, 11), (2, 5, 9)], ids=str)
def test_torch_agrees_with_the_reference_everywhere(name, reference, sizes):
    pool = getattr(nn, f"Adaptive{name}Pool{len(sizes)}d")(sizes)
    for case, x in inputs(Window.of(len(sizes), 1), 1e305).items():
        scale = np.abs(x[np.isfinite(x)]).max(initial=0)
        with np.errstate(invalid="ignore"):
            expected = reference(x, sizes)
        np.testing.assert_allclose(pool(torch.from_numpy(x)), expected, rtol=0, atol=1e-14 * scale, err_msg=case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_half_precision_adds_in_float32_and_rounds_once(dtype, rank):
    x = torch.rand(1, 2, *[7] * rank, generator=torch.manual_seed(rank)).mul(1e4).add(5e4).to(dtype)
    y = getattr(nn, f"AdaptiveAvgPool{rank}d")(2)(x)
    expected = adaptive_average.reference(x.double().numpy(), [2] * rank)
    torch.testing.assert_close(y.double(), torch.from_numpy(expected), rtol=0.51 * torch.finfo(dtype).eps, atol=0)
    assert getattr(nn, f"AdaptiveMaxPool{rank}d")(2)(x).dtype == dtype


@pytest.mark.parametrize("name", ["Avg", "Max"])
def test_gradients_are_true(name):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, generator=torch.manual_seed(0), requires_grad=True)
    for size in (1, (3, 7), (None, 3)):
        assert torch.autograd.gradcheck(getattr(nn, f"Adaptive{name}Pool2d")(size), (x,))


def test_modules():
    x = torch.randn(3, 5, 7, 6)
    pool = nn.AdaptiveAvgPool2d((None, 4))
    torch.testing.assert_close(pool(x), torch.nn.AdaptiveAvgPool2d((None, 4))(x), rtol=0, atol=0)
    torch.testing.assert_close(pool(x[0]), pool(x)[0], rtol=0, atol=0)
    assert repr(pool) == "AdaptiveAvgPool2d(samex4)"
    assert nn.AdaptiveMaxPool3d(2)(x).shape == (3, 2, 2, 2)
    assert nn.AdaptiveMaxPool2d(None)(x).equal(x)


@pytest.mark.parametrize("name", ["Avg", "Max"])
def test_compiled(name):
    module = getattr(nn, f"Adaptive{name}Pool2d")((3, 4))
    pool = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in (4, 7):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(pool(x), module(x))


@pytest.mark.parametrize("name", ["average", "max"])
def test_operators_are_registered_properly(name):
    operator = getattr(torch.ops.onnxpool, f"adaptive_{name}_pool").default
    torch.library.opcheck(operator, (torch.randn(2, 3, 5, 4, requires_grad=True), [3, 0]))


SIZES = [(2, 3, 9, 8), (1, 3, 5, 6), (3, 3, 20, 11), (1, 3, 1, 2)]


@pytest.mark.parametrize("name", ["Avg", "Max"])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (1, torch.float32),
        (1, torch.float64),
        ((13, None), torch.float32),
        ((1, 5), torch.float32),
        *(((3, 4), dtype) for dtype in TOLERANCE),
    ],
    ids=str,
)
def test_export_with_dynamic_sizes(name, size, dtype):
    made = assert_exports(getattr(nn, f"Adaptive{name}Pool2d")(size), dtype, SIZES)
    if size == 1 and dtype == torch.float32:
        assert made == [{"Avg": "GlobalAveragePool", "Max": "GlobalMaxPool"}[name]]


@pytest.mark.parametrize("name", ["Avg", "Max"])
def test_export_with_fixed_sizes(name):
    pool = getattr(nn, f"Adaptive{name}Pool2d")
    standard = {"Avg": "AveragePool", "Max": "MaxPool"}[name]
    assert assert_exports(pool((3, None)), torch.float32, [(2, 3, 9, 8)], dynamic=False) == [standard]
    made = assert_exports(pool((7, 5)), torch.float32, [(2, 3, 9, 8)], dynamic=False)
    assert "Shape" not in made, "the windows are constants"


@pytest.mark.parametrize("name", ["Avg", "Max"])
def test_export_of_other_ranks_and_opsets(name):
    pools = [getattr(nn, f"Adaptive{name}Pool{rank}d") for rank in (1, 3)]
    assert_exports(pools[0](5), torch.float32, [(2, 3, 9), (1, 3, 2), (1, 3, 997)], opset=26)
    assert_exports(pools[1]((2, 5, 3)), torch.float32, [(2, 3, 5, 4, 6), (1, 3, 1, 9, 3)], opset=22)


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_export_of_extremes(name, reference):
    """NaN and infinity stay in their windows; but ONNX Runtime's CPU provider drops NaN from maxima."""
    model = exported(getattr(nn, f"Adaptive{name}Pool2d")((4, 3)), torch.zeros(2, 3, 9, 8))
    for case, x in extremes(Window.of(2, 1), 1e37, *{"Max": ("nan", "everything")}.get(name, ())):
        with np.errstate(invalid="ignore"):
            expected = reference(x.double().numpy(), (4, 3))
        scale = x[torch.isfinite(x)].abs().amax().item() if torch.isfinite(x).any() else 0
        np.testing.assert_allclose(ran(model, x), expected, rtol=0, atol=1e-6 * scale + 3e-45, err_msg=case)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.AdaptiveAvgPool2d(0), "output_size=0 must be a positive int or None"),
        (lambda: nn.AdaptiveMaxPool2d((2, 2, 2)), "output_size=(2, 2, 2) must be"),
        (lambda: nn.AdaptiveMaxPool1d(2.5), "output_size=2.5 must be"),
        (lambda: nn.AdaptiveAvgPool2d(True), "output_size=True must be"),
        (lambda: nn.AdaptiveAvgPool2d(2)(torch.ones(4, 4)), "AdaptiveAvgPool2d takes 4 axes"),
        (lambda: nn.AdaptiveMaxPool2d(2)(torch.ones(1, 1, 4, 4).int()), "x has dtype torch.int32"),
        (lambda: nn.AdaptiveMaxPool2d(2)(torch.ones(1, 1, 0, 4)), "has an axis without positions"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)
