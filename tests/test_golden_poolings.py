"""Poolings of the reference evaluator: onnx's own answers where these are right, and PyTorch's."""

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxpool.golden.poolings import POOLINGS

RNG = np.random.default_rng(0)
WINDOWS = [
    ((2, 3, 9), {"kernel_shape": [3]}),
    ((1, 2, 7, 8), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 1, 1]}),
    ((2, 1, 9, 9), {"kernel_shape": [3, 2], "dilations": [2, 3]}),
    ((1, 1, 5, 6, 4), {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [0, 1, 0, 0, 1, 1]}),
    ((1, 2, 7, 8), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 7, 8), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "VALID"}),
    ((0, 2, 7, 8), {"kernel_shape": [3, 3]}),
    ((2, 2, 1, 1), {"kernel_shape": [1, 1]}),
]
CEIL = [
    ((7, 8), ((3, 2), 3, 0)),
    ((6, 5), (3, 2, 1)),
    ((6, 6), (2, 3, 1)),
    ((5, 5), ((1, 3), 2, (0, 1))),
    ((4, 4), (3, 1, 1)),
]


def evaluated(op_type, x, opset=19, **attributes):
    """By onnx's evaluator, and with ours in it."""
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, None)]
    graph = helper.make_graph([node], "pool", inputs, [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [ReferenceEvaluator(model, new_ops=ops).run(None, {"x": x})[0] for ops in (None, POOLINGS)]


def assert_alike(ours, theirs, dtype):
    assert ours.dtype == theirs.dtype == dtype
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_averages_are_those_of_onnx(shape, attributes, dtype):
    x = RNG.normal(size=shape).astype(dtype)
    for counted in (0, 1) if "pads" in attributes else (0,):
        theirs, ours = evaluated("AveragePool", x, count_include_pad=counted, **attributes)
        assert_alike(ours, theirs, dtype)


@pytest.mark.parametrize(("shape", "attributes"), [window for window in WINDOWS if "pads" not in window[1]], ids=str)
def test_largest_cells_and_norms_are_those_of_onnx(shape, attributes):
    x = RNG.normal(size=shape)
    theirs, ours = evaluated("MaxPool", x, **attributes)
    np.testing.assert_array_equal(ours, theirs)
    if "auto_pad" not in attributes:  # onnx's adds up as many cells as a whole window has
        theirs, ours = evaluated("LpPool", x, p=3, **attributes)
        assert_alike(ours, theirs, np.float64)


@pytest.mark.parametrize(("size", "window"), CEIL)
def test_with_ceil_mode_they_are_what_pytorch_computes(size, window):
    """onnx's pads at the wrong end, or makes too many windows."""
    functions = pytest.importorskip("torch").nn.functional
    (kernel, stride, pad), x = (np.broadcast_to(one, 2).tolist() for one in window), RNG.normal(size=(2, 3, *size))
    given = functions.torch.tensor(x)
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": pad * 2}
    for counted in (0, 1):
        _, average = evaluated("AveragePool", x, ceil_mode=1, count_include_pad=counted, **attributes)
        right = functions.avg_pool2d(given, kernel, stride, pad, True, bool(counted))
        np.testing.assert_allclose(average, right.numpy(), rtol=1e-14)
    _, largest = evaluated("MaxPool", x, ceil_mode=1, **attributes)
    np.testing.assert_array_equal(largest, functions.max_pool2d(given, kernel, stride, pad, 1, True).numpy())


@pytest.mark.parametrize("opset", [11, 18, 22])
@pytest.mark.parametrize(("op_type", "right"), [("AveragePool", [np.nan, np.inf]), ("MaxPool", [np.nan, np.inf])])
def test_nan_stays_at_every_opset(op_type, right, opset):
    """onnx's takes NaN for padding, and computes with what is left."""
    x = np.array([[[[1, np.nan], [3, 4]], [[1, np.inf], [3, 4]]]])
    theirs, ours = evaluated(op_type, x, opset, kernel_shape=[2, 2])
    assert np.isfinite(theirs.flat[0])
    np.testing.assert_array_equal(ours.ravel(), right)


def test_what_onnx_computes_otherwise():
    x = np.arange(1.0, 9).reshape(1, 1, 2, 2, 2)
    assert evaluated("GlobalMaxPool", x)[1].shape == (1, 1, 1, 1, 1)
    assert evaluated("GlobalMaxPool", x[0, 0])[1].tolist() == [[[2], [4]], [[6], [8]]]
    three = np.array([[[1.0, 2, 3]]])
    attributes = {"kernel_shape": [2], "strides": [2]}
    np.testing.assert_allclose(evaluated("LpPool", three, ceil_mode=1, **attributes)[1], [[[5**0.5, 3]]])
    same = evaluated("MaxPool", three.astype(np.int8), auto_pad="SAME_LOWER", **attributes)[1]
    assert same.tolist() == [[[1, 3]]]
    assert same.dtype == np.int8


@pytest.mark.parametrize("stride", [1, 2])
def test_places_are_those_of_pytorch(stride):
    """onnx's take the order of columns for that of rows where windows are one apart."""
    functions = pytest.importorskip("torch").nn.functional
    x = RNG.integers(-2, 2, (2, 3, 5, 6)).astype(float)
    x[0, 0], x[0, 1, 2, 2] = -np.inf, np.nan
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
    kinds = [helper.make_tensor_value_info(name, kind, None) for name, kind in (("x", 11), ("y", 11), ("i", 7))]
    model = helper.make_model(helper.make_graph([node], "pool", kinds[:1], kinds[1:]))
    y, places = ReferenceEvaluator(model, new_ops=POOLINGS).run(None, {"x": x})
    right, within = functions.max_pool2d(functions.torch.tensor(x), 3, stride, 1, return_indices=True)
    np.testing.assert_array_equal(y, right.numpy())
    np.testing.assert_array_equal(places, within.numpy() + 30 * np.arange(6).reshape(2, 3, 1, 1))
    node.attribute.append(helper.make_attribute("storage_order", 1))
    model = helper.make_model(helper.make_graph([node], "pool", kinds[:1], kinds[1:]))
    _, columns = ReferenceEvaluator(model, new_ops=POOLINGS).run(None, {"x": x})
    np.testing.assert_array_equal(x.swapaxes(2, 3).ravel()[columns], y)
