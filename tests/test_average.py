"""Average pooling in PyTorch, by its reference and in ONNX Runtime: numbers by hand, laws, gradients, export."""

import numpy as np
import pytest
import torch
from cases import WINDOWS, geometries, inputs, shape
from exported import TOLERANCE, assert_exports, exported, extremes, operators, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.average import average_pool, reference
from onnxpool.window import Window

CEIL = Window.of(2, 3, 2, 1, 1, True)
HAND = [  # (count_include_pad, divisor_override, answer) for 1..16 as 4x4
    (True, None, [[14 / 9, 10 / 3, 2], [19 / 3, 11, 6], [4.5, 7.5, 4]]),
    (False, None, [[3.5, 5, 6], [9.5, 11, 12], [13.5, 15, 16]]),
    (True, 2, [[7, 15, 6], [28.5, 49.5, 18], [13.5, 22.5, 8]]),
    (False, 2, [[7, 15, 6], [28.5, 49.5, 18], [13.5, 22.5, 8]]),
]


@pytest.mark.parametrize(("include", "divisor", "y"), HAND)
def test_numbers_by_hand(include, divisor, y):
    x = np.arange(1.0, 17).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(reference(CEIL, x, include, divisor)[0, 0], y, rtol=1e-15)
    np.testing.assert_allclose(average_pool(CEIL, torch.from_numpy(x), include, divisor)[0, 0], y, rtol=1e-15)


def test_dilated_by_hand():
    x = torch.tensor([[[1.0, 2, 3, 4, 5]]])
    window = Window.of(1, 2, 1, 1, 2)  # cells -1 and 1, 0 and 2, ...
    assert average_pool(window, x, True, None)[0, 0].tolist() == [1, 2, 3, 4, 2]
    assert average_pool(window, x, False, None)[0, 0].tolist() == [2, 2, 3, 4, 4]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window, include):
    for name, x in inputs(window, 1e307).items():
        for divisor in (None, 5):
            expected = reference(window, x, include, divisor)
            got = average_pool(window, torch.from_numpy(x), include, divisor).numpy()
            scale = np.abs(x[np.isfinite(x)]).max(initial=0)
            np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(float).eps * scale, err_msg=name)


@pytest.mark.parametrize("include", [True, False])
def test_small_geometries(include):
    for window, n in geometries()[::7]:
        x = np.random.default_rng(n).standard_normal((1, 1, n))
        try:
            expected = reference(window, x, include)
        except ArgumentError:
            continue
        got = average_pool(window, torch.from_numpy(x), include, None)
        np.testing.assert_allclose(got, expected, atol=1e-14, err_msg=f"{window}, {n}")


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_adds_in_float32_and_rounds_once(dtype, dilation):
    window = Window.of(2, 3, 2, 1, dilation)
    for name, wide in inputs(window, 65504.0).items():
        x = torch.from_numpy(wide).to(dtype)
        y = average_pool(window, x, False, None)
        expected = torch.from_numpy(reference(window, x.double().numpy(), False))
        scale = x.double().nan_to_num(0, 0, 0).abs().amax().item() if x.numel() else 0
        assert y.dtype == dtype
        torch.testing.assert_close(
            y.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=1e-6 * scale + 6e-8, equal_nan=True, msg=name
        )


def test_laws():
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 9))
    y = reference(CEIL, x, False)
    np.testing.assert_allclose(reference(CEIL, 2 * x + 3, False), 2 * y + 3)
    np.testing.assert_array_equal(reference(CEIL, x, True, 9), reference(CEIL, x, False, 9))
    np.testing.assert_allclose(reference(CEIL, np.full_like(x, -7.5), False), np.full_like(y, -7.5))


@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 3)])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_true(window, include, divisor):
    x = torch.randn(shape(window, 1, 1), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: average_pool(window, x, include, divisor), (x,), fast_mode=True)


def test_modules():
    x = torch.randn(3, 5, 7, 7)
    pool = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(pool(x), torch.nn.AvgPool2d(3, 2, 1, True, False)(x))
    torch.testing.assert_close(pool(x[0]), pool(x)[0])
    torch.testing.assert_close(nn.AvgPool1d(2)(x[0]), torch.nn.AvgPool1d(2)(x[0]))
    torch.testing.assert_close(
        nn.AvgPool3d(2, 1, 1, divisor_override=3)(x), torch.nn.AvgPool3d(2, 1, 1, divisor_override=3)(x)
    )
    assert repr(pool) == "AvgPool2d(3x3 s2 p1 ceil, count_include_pad=False)"
    assert repr(nn.AvgPool1d(2, divisor_override=3)) == "AvgPool1d(2, divisor_override=3)"


@pytest.mark.parametrize("dilation", [1, 2])
def test_compiled(dilation):
    module = nn.AvgPool2d(3, 2, 1, dilation, True, count_include_pad=False)
    pool = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 7):
        x = torch.randn(1, 2, size, size, requires_grad=True)
        y = pool(x)
        torch.testing.assert_close(y, module(x))
        y.sum().backward()
        torch.testing.assert_close(x.grad.sum(), torch.tensor(float(y.numel())))  # means of constants


SIZES = [(2, 3, 9, 8), (1, 3, 5, 6), (3, 3, 20, 11)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("include", [True, False])
def test_export(include, dtype):
    made = assert_exports(nn.AvgPool2d(3, 2, 1, 1, True, count_include_pad=include), dtype, SIZES)
    if dtype != torch.float64:  # of which ONNX Runtime's CPU provider has no AveragePool
        casts = ["Cast"] * (dtype == torch.bfloat16)
        zeros_that_count = ["Pad"] * include  # of a window of ceil_mode
        assert made == [*casts, *zeros_that_count, "AveragePool", *casts]


@pytest.mark.parametrize(("dtype", "ceil"), [(torch.float32, True), (torch.float16, False), (torch.float64, True)])
@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"divisor_override": 3}], ids=str)
def test_export_of_dilated_windows(options, ceil, dtype):
    made = assert_exports(nn.AvgPool2d((2, 3), (1, 2), (2, 1), (3, 2), ceil, **options), dtype, SIZES)
    assert ("ConstantOfShape" in made) == ("divisor_override" not in options and (ceil or options != {}))


@pytest.mark.parametrize(("dtype", "ceil"), [(torch.float32, True), (torch.float16, False)])
def test_export_of_divisor_override(ceil, dtype):
    casts = ["Cast"] * (dtype == torch.float16)
    made = assert_exports(nn.AvgPool2d(3, 2, 1, 1, ceil, divisor_override=4), dtype, SIZES)
    assert made == [*casts, "Pad", "AveragePool", "Mul", *casts]


@pytest.mark.parametrize("opset", [19, 26])
def test_export_to_other_opsets_and_with_fixed_sizes(opset):
    assert_exports(nn.AvgPool3d(2, 2, 1, 1, True), torch.float32, [(2, 3, 5, 4, 6)], opset=opset)
    assert_exports(nn.AvgPool1d(2, 2, 1, 2, True), torch.float32, [(2, 3, 5)], dynamic=False, opset=opset)


@pytest.mark.parametrize("dilation", [1, 2])
def test_export_of_special_values(dilation):
    window = Window.of(2, 3, 2, 1, dilation)
    model = exported(nn.AvgPool2d(3, 2, 1, dilation, count_include_pad=False), torch.zeros(shape(window)))
    assert operators(model)
    for name, x in extremes(window, 3e37):
        scale = x[torch.isfinite(x)].abs().amax().item() if torch.isfinite(x).any() else 0
        expected = reference(window, x.double().numpy(), False)
        np.testing.assert_allclose(ran(model, x), expected, rtol=0, atol=1e-6 * scale + 2e-45, err_msg=name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.AvgPool2d(2, count_include_pad=1), "count_include_pad=1 is not a bool"),
        (lambda: nn.AvgPool2d(2, divisor_override=0), "divisor_override=0 must be a positive int"),
        (lambda: nn.AvgPool2d(2)(torch.ones(4, 4)), "AvgPool2d takes 4 axes"),
        (lambda: nn.AvgPool2d(2)(torch.ones(1, 1, 4, 4).int()), "x has dtype torch.int32"),
        (lambda: nn.AvgPool2d(5)(torch.ones(1, 1, 4, 4)), "too small for 5x5"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)
