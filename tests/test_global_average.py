"""Global average pooling in PyTorch, by its reference and in ONNX Runtime: numbers, gradients, export."""

import numpy as np
import pytest
import torch
from cases import inputs
from exported import TOLERANCE, assert_exports, exported, extremes, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.global_average import global_average_pool, reference
from onnxpool.window import Window


def test_numbers_by_hand():
    x = np.arange(1.0, 13).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(reference(x), [[[[3.5]], [[9.5]]]])
    np.testing.assert_array_equal(global_average_pool(torch.from_numpy(x)), [[[[3.5]], [[9.5]]]])


def test_torch_agrees_with_the_reference_everywhere():
    for rank in (1, 2, 3):
        for name, x in inputs(Window.of(rank, 1), 1e305).items():
            scale = np.abs(x[np.isfinite(x)]).max(initial=0)
            with np.errstate(invalid="ignore"):
                expected = reference(x)
            got = global_average_pool(torch.from_numpy(x))
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14 * scale, err_msg=name)


def test_float16_does_not_overflow():
    x = torch.full((1, 1, 64, 64), 60000.0, dtype=torch.float16)
    assert global_average_pool(x).item() == 60000
    assert global_average_pool(-x.bfloat16()).item() == x.bfloat16()[0, 0, 0, 0].neg()


def test_gradients_are_true():
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(nn.GlobalAvgPool2d(), (x,))
    assert torch.autograd.gradcheck(nn.GlobalAvgPool2d(flatten=True), (x,))


def test_modules():
    x = torch.randn(3, 5, 7, 6)
    torch.testing.assert_close(nn.GlobalAvgPool2d()(x), torch.nn.AdaptiveAvgPool2d(1)(x))
    torch.testing.assert_close(nn.GlobalAvgPool2d(flatten=True)(x), x.mean((2, 3)))
    torch.testing.assert_close(nn.GlobalAvgPool2d(flatten=True)(x[0]), x[0].mean((1, 2)))
    torch.testing.assert_close(nn.GlobalAvgPool2d()(x[0]), x[0].mean((1, 2), keepdim=True))
    torch.testing.assert_close(nn.GlobalAvgPool1d()(x[0]), x[0].mean(-1, keepdim=True))
    torch.testing.assert_close(nn.GlobalAvgPool3d()(x[None]), x[None].mean((2, 3, 4), keepdim=True))
    assert repr(nn.GlobalAvgPool2d(flatten=True)) == "GlobalAvgPool2d(flatten=True)"
    np.testing.assert_allclose(nn.GlobalAvgPool2d(True).reference(x.double().numpy()), x.double().mean((2, 3)))


def test_compiled():
    pool = torch.compile(nn.GlobalAvgPool2d(True), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 7):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(pool(x), x.mean((2, 3)))


SIZES = [(2, 3, 9, 8), (1, 3, 1, 1), (3, 3, 20, 11)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_export(dtype):
    pool = "ReduceMean" if dtype == torch.float64 else "GlobalAveragePool"
    casts = ["Cast"] * (dtype == torch.bfloat16)
    assert assert_exports(nn.GlobalAvgPool2d(), dtype, SIZES) == [*casts, pool, *casts]


def test_export_flattened():
    made = assert_exports(nn.GlobalAvgPool2d(flatten=True), torch.float32, SIZES)
    assert made == ["Shape", "GlobalAveragePool", "Concat", "Reshape"]


@pytest.mark.parametrize("opset", [18, 26])
def test_export_of_other_ranks_and_opsets(opset):
    assert assert_exports(nn.GlobalAvgPool1d(), torch.float32, [(2, 3, 9), (1, 3, 4)], opset=opset) == [
        "GlobalAveragePool"
    ]
    made = assert_exports(nn.GlobalAvgPool3d(), torch.float32, [(2, 3, 2, 3, 4)], opset=opset, dynamic=False)
    assert made == ["GlobalAveragePool"]


def test_export_of_special_values():
    model = exported(nn.GlobalAvgPool2d(), torch.zeros(2, 3, 9, 8))
    for name, x in extremes(Window.of(2, 1), 1e36):
        with np.errstate(invalid="ignore"):
            expected = reference(x.double().numpy())
        scale = x[torch.isfinite(x)].abs().amax().item() if torch.isfinite(x).any() else 0
        np.testing.assert_allclose(ran(model, x), expected, rtol=0, atol=1e-6 * scale + 2e-45, err_msg=name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.GlobalAvgPool2d(1), "flatten=1 is not a bool"),
        (lambda: nn.GlobalAvgPool2d()(torch.ones(4, 4)), "GlobalAvgPool2d takes 4 axes"),
        (lambda: nn.GlobalAvgPool2d()(torch.ones(1, 1, 4, 4).int()), "x has dtype torch.int32"),
        (lambda: nn.GlobalAvgPool2d()(torch.ones(1, 1, 0, 4)), "has no position to average"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)
