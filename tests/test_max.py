"""Max pooling in PyTorch, by its reference and in ONNX Runtime: numbers by hand, special values, gradients, export."""

import numpy as np
import pytest
import torch
from cases import WINDOWS, inputs, shape
from exported import TOLERANCE, assert_exports, exported, extremes, operators, ran

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.pools.max import max_pool, reference
from onnxpool.window import Window


def test_numbers_by_hand():
    x = np.arange(1.0, 17).reshape(1, 1, 4, 4)
    window = Window.of(2, 3, 2, 1, 1, True)
    y = [[6, 8, 8], [14, 16, 16], [14, 16, 16]]
    np.testing.assert_array_equal(reference(window, x)[0, 0], y)
    np.testing.assert_array_equal(max_pool(window, torch.from_numpy(x))[0, 0], y)
    np.testing.assert_array_equal(
        max_pool(Window.of(1, 2, 2, 2, 3), torch.tensor([[[-5.0, -4, -3, -2]]]))[0, 0], [-4, -2, -3]
    )


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_torch_agrees_with_the_reference_everywhere(window):
    for name, x in inputs(window, 1e308).items():
        np.testing.assert_array_equal(max_pool(window, torch.from_numpy(x)), reference(window, x), err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact(dtype):
    window = WINDOWS[6]
    for name, wide in inputs(window, torch.finfo(dtype).max).items():
        x = torch.from_numpy(wide).to(dtype)
        y = max_pool(window, x)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y.double(), reference(window, x.double().numpy()), err_msg=name)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_gradients_are_true(window):
    x = torch.randn(shape(window, 1, 1), dtype=torch.float64, generator=torch.manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: max_pool(window, x), (x,), fast_mode=True)


def test_gradient_goes_to_the_first_maximum():
    x = torch.tensor([[[[1.0, 3.0], [3.0, 3.0]]]], requires_grad=True)
    max_pool(Window.of(2, 2), x).backward(torch.tensor([[[[7.0]]]]))
    assert x.grad.flatten().tolist() == [0, 7, 0, 0]


def test_modules():
    x = torch.randn(3, 5, 7, 7)
    pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    torch.testing.assert_close(pool(x), torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True)(x), rtol=0, atol=0)
    torch.testing.assert_close(pool(x[0]), pool(x)[0], rtol=0, atol=0)
    torch.testing.assert_close(nn.MaxPool1d(2)(x[0]), torch.nn.MaxPool1d(2)(x[0]), rtol=0, atol=0)
    torch.testing.assert_close(nn.MaxPool3d(2)(x), torch.nn.MaxPool3d(2)(x), rtol=0, atol=0)
    assert repr(pool) == "MaxPool2d(3x3 s2 p1 ceil)"
    assert not pool.state_dict()


def test_compiled():
    pool = torch.compile(nn.MaxPool2d(3, 2, 1, 1, True), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (6, 7):
        x = torch.randn(1, 2, size, size, requires_grad=True)
        y = pool(x)
        torch.testing.assert_close(y, torch.nn.functional.max_pool2d(x, 3, 2, 1, 1, True), rtol=0, atol=0)
        y.sum().backward()
        assert x.grad.sum() == y.numel()


def test_operator_is_registered_properly():
    """The operator of exported programs, which can be trained as well."""
    window = WINDOWS[6]
    fields = (window.kernel, window.stride, window.pad, window.dilation, window.ceil)
    torch.library.opcheck(
        torch.ops.onnxpool.max_pool.default, (*fields, torch.randn(shape(window), requires_grad=True))
    )


def test_torch_export_has_one_call_whatever_the_sizes():
    dim = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        nn.MaxPool2d(3, 2, 1, 1, True), (torch.zeros(2, 3, 9, 8),), dynamic_shapes=({0: dim, 2: dim, 3: dim},)
    )
    x = torch.randn(1, 3, 6, 7, requires_grad=True)
    y = program.module()(x)
    torch.testing.assert_close(y, max_pool(WINDOWS[6], x), rtol=0, atol=0)
    y.sum().backward()
    assert x.grad.sum() == y.numel()
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.onnxpool.max_pool.default]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_export(dtype):
    sizes = [(2, 3, 9, 8), (1, 3, 4, 5), (3, 3, 20, 11), (1, 3, 1, 1)]
    casts = ["Cast"] * (dtype == torch.bfloat16)
    assert assert_exports(nn.MaxPool2d(3, 2, 1, 1, True), dtype, sizes) == [*casts, "MaxPool", *casts]


def test_export_of_padding_that_onnx_runtime_refuses():
    made = assert_exports(nn.MaxPool1d(2, 2, 2, 3, True), torch.float32, [(2, 3, 9), (1, 3, 6), (1, 3, 7)])
    assert made == ["Pad", "MaxPool"]


@pytest.mark.parametrize("opset", [19, 26])
def test_export_to_other_opsets_and_with_fixed_sizes(opset):
    assert assert_exports(nn.MaxPool3d(2, 2, 1, 2), torch.float32, [(2, 3, 5, 4, 6)], opset=opset) == ["MaxPool"]
    assert assert_exports(nn.MaxPool2d(2), torch.float32, [(2, 3, 5, 4)], dynamic=False, opset=opset) == ["MaxPool"]


def test_export_of_extremes():
    """All but NaN, which ONNX Runtime's MaxPool drops; windows of -inf may become the lowest finite number."""
    window = WINDOWS[6]
    model = exported(nn.MaxPool2d(3, 2, 1, 1, True), torch.zeros(shape(window)))
    assert operators(model) == ["MaxPool"]
    for name, x in extremes(window, 3.4e38, "nan", "everything"):
        lowest = np.finfo(np.float32).min
        expected = reference(window, x.double().numpy())
        np.testing.assert_array_equal(ran(model, x).clip(lowest), expected.clip(lowest), err_msg=name)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(4, 4), "x has shape (4, 4); MaxPool2d takes 4 axes"),
        (torch.ones(1, 1, 4, 4, dtype=torch.int64), "x has dtype torch.int64"),
        (torch.ones(1, 1, 1, 4), "too small for 2x2"),
    ],
)
def test_refused_inputs(x, words):
    with pytest.raises(ArgumentError) as caught:
        nn.MaxPool2d(2)(x)
    assert words in str(caught.value)
