"""AveragePool of the reference evaluator: onnx's own answers, but for NaN and ``ceil_mode``."""

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxpool.golden.average import AVERAGE

RNG = np.random.default_rng(0)


def evaluated(x, opset=19, **attributes):
    """By onnx's evaluator, and with ours in it."""
    node = helper.make_node("AveragePool", ["x"], ["y"], **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    inputs = [helper.make_tensor_value_info("x", kind, None)]
    graph = helper.make_graph([node], "average", inputs, [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [ReferenceEvaluator(model, new_ops=ops).run(None, {"x": x})[0] for ops in (None, [AVERAGE])]


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 9), {"kernel_shape": [3]}),
        ((1, 2, 7, 8), {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 1, 1]}),
        ((1, 2, 7, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ((2, 1, 9, 9), {"kernel_shape": [3, 2], "dilations": [2, 3]}),
        ((1, 1, 5, 6, 4), {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "pads": [0, 1, 0, 0, 1, 1]}),
        ((1, 2, 7, 8), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 2, 7, 8), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 2, 7, 8), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "VALID"}),
        ((0, 2, 7, 8), {"kernel_shape": [3, 3]}),
        ((2, 2, 1, 1), {"kernel_shape": [1, 1]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_it_is_what_onnx_computes(shape, attributes, dtype):
    theirs, ours = evaluated(RNG.normal(size=shape).astype(dtype), **attributes)
    assert ours.dtype == theirs.dtype == dtype
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize(
    ("size", "window"),
    [((7, 8), ((3, 2), 3, 0)), ((6, 5), (3, 2, 1)), ((6, 6), (2, 3, 1)), ((5, 5), ((1, 3), 2, (0, 1)))],
)
def test_with_ceil_mode_it_is_what_pytorch_computes(size, window, count_include_pad):
    """onnx's pads at both ends."""
    torch = pytest.importorskip("torch")
    (kernel, stride, pad), x = (np.broadcast_to(one, 2).tolist() for one in window), RNG.normal(size=(2, 3, *size))
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": pad * 2, "count_include_pad": count_include_pad}
    _, ours = evaluated(x, ceil_mode=1, **attributes)
    right = torch.nn.functional.avg_pool2d(torch.tensor(x), kernel, stride, pad, True, bool(count_include_pad))
    np.testing.assert_allclose(ours, right.numpy(), rtol=1e-14)


@pytest.mark.parametrize("opset", [7, 11, 22])
def test_it_is_taken_at_every_opset(opset):
    """onnx's takes NaN for padding, and computes with what is left."""
    x = np.array([[[[1, np.nan], [3, 4]], [[1, np.inf], [3, 4]]]])
    theirs, ours = evaluated(x, opset, kernel_shape=[2, 2])
    assert np.isfinite(theirs.flat[0])
    np.testing.assert_array_equal(ours.ravel(), [np.nan, np.inf])
