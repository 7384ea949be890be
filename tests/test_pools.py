"""Every node x window x input x dtype x form x kernels against the float64 reference, within its bound."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from cases import OPSET_26, WINDOWS, inputs
from models import pooled

import onnxpool
from onnxpool.golden import bounds
from onnxpool.pools import OPERATORS
from onnxpool.run.native_library import why_missing

DTYPES = {"float32": 3.4e38, "float64": 1.79e308, "float16": 65504.0, "bfloat16": 3.38e38}
RUNS = [("function", "off"), ("standard", "off"), ("function", "require"), ("custom", "require")]
NATIVE = {"LocalImportancePool", "SoftPool", "StochasticPool"}
"""Operators that the native library must have a kernel for."""


@pytest.mark.parametrize(("form", "kernels"), RUNS, ids=map("-".join, RUNS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("node", OPERATORS.values(), ids=OPERATORS)
def test_everything_is_within_its_bound(node, window, dtype, form, kernels):
    native = kernels == "require"
    if native and (why_missing() or node.op_type not in NATIVE):
        pytest.skip("without a native kernel")
    bare = pooled(window, dtype, node.op_type, node.inputs)
    session = onnxpool.load(onnxpool.to_form(bare, form), kernels=kernels, threads=2)
    assert [placement.native for placement in session.placements] == [native]
    for name, wide in inputs(window, DTYPES[dtype]).items():
        with np.errstate(over="ignore"):
            x = wide.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
        feeds = {given: np.roll(x, shift, axis=-1) for shift, given in enumerate(node.inputs)}
        answer = node.reference(window, *(array.astype(np.float64) for array in feeds.values()))
        y = session.run(feeds)["y"]
        bound = bounds.pooling(window, x.astype(np.float64), answer, x.dtype, native=native)
        error = bounds.measure(y, answer, bound.allowed)
        assert y.dtype == x.dtype
        assert y.shape == answer.shape
        assert error.within, f"{name}: {error}, allowed by {bound.origin}"


@pytest.mark.parametrize("opset", [18, 19, 22, OPSET_26])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_opset_gives_the_same_bits(opset, dilation):
    window = onnxpool.Window.of(2, 3, 2, 1, dilation)
    x = inputs(window, 1e30)["everything"].astype(np.float32)
    for form in ("function", "standard"):
        y, y18 = (
            onnxpool.load(onnxpool.to_form(pooled(window, opset=version), form), kernels="off").run({"x": x})["y"]
            for version in (opset, 18)
        )
        np.testing.assert_array_equal(y, y18)


@pytest.mark.parametrize("node", OPERATORS.values(), ids=OPERATORS)
def test_no_form_is_written_as_text(node, monkeypatch):
    """onnx below 1.23 raises ``IndexError: stof`` for some numbers in decimals."""
    monkeypatch.setattr(onnx.parser, "parse_function", None)
    for form in ("function", "standard"):
        onnxpool.to_form(pooled(WINDOWS[0], "float32", node.op_type, node.inputs), form)


def test_the_smallest_number_is_exact():
    for dtype, smallest in (("float32", 2.0**-149), ("float64", 2.0**-1074), ("float16", 2.0**-24)):
        for form in ("function", "standard"):
            session = onnxpool.load(onnxpool.to_form(pooled(WINDOWS[4], dtype, "StochasticPool"), form), kernels="off")
            y = session.run({"x": np.full((1, 1, 2, 2), smallest, dtype)})["y"]
            assert y.item() == smallest
