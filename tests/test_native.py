"""The native library in ONNX Runtime: bare nodes against each method's formula, at the door and in the middle.

Errors are counted in ULPs of the largest magnitude in each window: as onnxpool.golden.bounds has it for float32 and
float64, 1 for the short types.
`ONNXPOOL_LIBRARY` names a library to test in place of the installed one; tools/compat and tools/sanitize set it.
"""

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxpool.golden import bounds
from onnxpool.pools import local_importance, soft, stochastic
from onnxpool.run import native_library
from onnxpool.run.native_library import library_path
from onnxpool.window import Window

FLOAT32, FLOAT64, FLOAT16 = (np.dtype(f"float{bits}") for bits in (32, 64, 16))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ALLOWED_ULPS = {FLOAT32: 4, FLOAT64: 4, FLOAT16: 1, BFLOAT16: 1}


def allowed(window, dtype):
    """In ULPs of the type, of the largest magnitude in the window."""
    return ALLOWED_ULPS[dtype] if dtype.itemsize == 2 else bounds.native_ulps(window.kernel)


DTYPES = pytest.mark.parametrize("dtype", ALLOWED_ULPS, ids=str)
INF, NAN = np.inf, np.nan


@pytest.fixture(scope="session", autouse=True)
def library():
    return library_path()


# --- the methods: what a window's cells (on the last axis, padding -inf) should give, and the magnitude of what counts


@dataclass(frozen=True)
class Method:
    op_type: str
    inputs: tuple[str, ...]
    expected: Callable[..., np.ndarray]
    magnitudes: Callable[..., np.ndarray]
    reference: Callable[..., np.ndarray]

    def __str__(self):
        return self.op_type


def soft_pool(x):
    x = np.where(x.max(-1, keepdims=True) == INF, NAN, x)
    distances = np.maximum(x - x.max(-1, keepdims=True), -2000)
    weights = np.exp(distances)
    return x.max(-1) + (distances * weights).sum(-1) / weights.sum(-1)


def local_importance_pool(x, logit):
    logit = np.where(logit.max(-1, keepdims=True) == INF, NAN, logit)
    part = logit != -INF
    weights = np.where(part, np.exp(logit - logit.max(-1, keepdims=True)), 0)
    products = np.where(np.isinf(x), x, weights * x)
    return np.where(part, products, 0).sum(-1) / weights.sum(-1)


def stochastic_pool(x):
    a = np.where(x < 0, 0, x)
    total = a.sum(-1)
    return np.where(total == 0, 0, (a * a).sum(-1) / total)


SOFT = Method("SoftPool", ("x",), soft_pool, np.abs, soft.reference)
LOCAL_IMPORTANCE = Method(
    "LocalImportancePool",
    ("x", "logit"),
    local_importance_pool,
    lambda x, logit: np.where(logit == -INF, 0, np.abs(x)),
    local_importance.reference,
)
STOCHASTIC = Method("StochasticPool", ("x",), stochastic_pool, lambda x: np.where(x < 0, 0, x), stochastic.reference)
METHODS = (SOFT, LOCAL_IMPORTANCE, STOCHASTIC)
EACH = pytest.mark.parametrize("method", METHODS, ids=str)


def cells(window, x):
    """The cells of every window, ``(N, C, *output, cells)``; padding is -inf."""
    first = (window.pad, window.extent)
    starts = [np.arange(n) * s for n, s in zip(window.output(x.shape[2:]), window.stride, strict=True)]
    ends = [start[-1] + extent - pad - n for start, pad, extent, n in zip(starts, *first, x.shape[2:], strict=True)]
    padding = [(0, 0), (0, 0), *((pad, max(end, 0)) for pad, end in zip(window.pad, ends, strict=True))]
    x = np.pad(x, padding, constant_values=-INF)
    for axis, start in enumerate(starts):
        offsets = np.arange(window.kernel[axis]) * window.dilation[axis]
        x = np.moveaxis(x.take(start[:, None] + offsets, 2 + axis), 3 + axis, -1)
    return x.reshape(*x.shape[: 2 + window.rank], -1)


# --- a bare node, a session, a run


def onnx_type(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def bare(window, dtype=FLOAT32, shape=None, methods=(SOFT,), **changed):
    """A model of one node a method; a keyword changes an attribute, or with None removes it."""
    attributes = {k: v for k, v in {**window.attributes(), **changed}.items() if v is not None}
    nodes = [
        helper.make_node(m.op_type, m.inputs, [m.op_type], "pool" + "_" * i, domain="onnxpool", **attributes)
        for i, m in enumerate(methods)
    ]
    shape = ["N", "C", *(f"S{axis}" for axis in range(window.rank))] if shape is None else shape
    names = dict.fromkeys(name for m in methods for name in m.inputs)
    inputs = [helper.make_tensor_value_info(name, onnx_type(dtype), shape) for name in names]
    outputs = [helper.make_tensor_value_info(m.op_type, onnx_type(dtype), None) for m in methods]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)]
    return helper.make_model(helper.make_graph(nodes, "bare", inputs, outputs), opset_imports=opsets, ir_version=10)


def session(model, threads=1, registered=True, **entries):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    if registered:
        options.register_custom_ops_library(str(library_path()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def between_casts(model):
    """bfloat16 has no numpy type that ONNX Runtime takes: nodes stand between casts, which are exact."""
    graph = model.graph
    into = [helper.make_node("Cast", [i.name], [f"short_{i.name}"], to=TensorProto.BFLOAT16) for i in graph.input]
    back = [helper.make_node("Cast", [f"short_{o.name}"], [o.name], to=TensorProto.FLOAT) for o in graph.output]
    for node in graph.node:
        node.input[:], node.output[:] = ([f"short_{name}" for name in names] for names in (node.input, node.output))
    nodes = [*into, *graph.node, *back]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def pool_each(window, inputs, methods=METHODS, threads=1):
    """The answer of each method's node, from one session; ``inputs`` are x and, where a method wants them, logits."""
    dtype = inputs[0].dtype
    names = dict.fromkeys(name for m in methods for name in m.inputs)
    feeds = {name: x.astype(FLOAT32) if dtype == BFLOAT16 else x for name, x in zip(names, inputs, strict=False)}
    if dtype != BFLOAT16:
        return session(bare(window, dtype, methods=methods), threads).run(None, feeds)
    answers = session(between_casts(bare(window, methods=methods)), threads).run(None, feeds)
    for y in answers:
        assert (y.astype(BFLOAT16).astype(FLOAT32) == y)[~np.isnan(y)].all()
    return [y.astype(BFLOAT16) for y in answers]


def pool(method, window, *inputs, threads=1):
    return pool_each(window, inputs, (method,), threads)[0]


def errors(method, window, inputs, y):
    """The error of each y in ULPs of the largest magnitude in its window; NaN must be where it is expected."""
    dtype = inputs[0].dtype
    wide = np.longdouble if dtype == FLOAT64 else np.float64  # float64 cannot judge itself to 4 ULPs
    parts = [cells(window, x.astype(wide)) for x in inputs[: len(method.inputs)]]
    with np.errstate(all="ignore"):
        expected, sizes = method.expected(*parts), method.magnitudes(*parts)
    assert y.dtype == dtype
    assert y.shape == expected.shape == window.check(inputs[0].shape)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    info = ml_dtypes.finfo(dtype)
    largest = np.where(np.isfinite(sizes), sizes, 0).max(-1)
    exponent = np.frexp(np.maximum(largest, wide(info.tiny)))[1] - 1
    unit = np.maximum(np.ldexp(wide(info.eps), exponent), wide(info.smallest_subnormal))
    with np.errstate(invalid="ignore"):
        error = np.abs(y.astype(wide) - expected) / unit
    return np.nan_to_num(error.astype(float), nan=0, posinf=INF)  # infinity less infinity: as expected


def check(window, *inputs, methods=METHODS):
    """Every method against its formula; the largest error."""
    answers = pool_each(window, inputs, methods)
    worst = {m.op_type: errors(m, window, inputs, y).max(initial=0) for m, y in zip(methods, answers, strict=True)}
    assert max(worst.values()) <= allowed(window, inputs[0].dtype), worst
    return max(worst.values())


def numbers(shape, dtype=FLOAT32, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def pair(shape, dtype=FLOAT32, seed=0, scale=2.0):
    """x and logits."""
    return numbers(shape, dtype, seed, scale), numbers(shape, dtype, seed + 10**6, scale)


@EACH
@pytest.mark.parametrize("window", [Window.of(1, 3, 2, 1), Window.of(2, (2, 3), (3, 1), (1, 0), (1, 2), True)], ids=str)
def test_the_judge_is_the_reference(method, window):
    """The formulas here, which judge float64 too, are those of the package."""
    x, logit = pair((2, 3, 9, 8)[: 2 + window.rank], FLOAT64)
    for values in ([INF], [-INF] * 4, [NAN], [0, 0, 0, 0], [1e300, -1e300]):
        for where in (x, logit):
            inputs = [x.copy(), logit.copy()][: len(method.inputs)]
            if where is x or len(inputs) == 2:
                inputs[0 if where is x else 1].reshape(-1)[7 : 7 + len(values)] = values
            expected = method.reference(window, *inputs)
            with np.errstate(all="ignore"):
                judged = method.expected(*(cells(window, i.astype(np.longdouble)) for i in inputs))
            np.testing.assert_allclose(judged.astype(float), expected, rtol=1e-14, atol=1e-15 * np.nanmax(np.abs(x)))


# --- values that a person can check (semantics of SoftPool)


@DTYPES
@pytest.mark.parametrize(
    ("method", "x", "logit", "expected"),
    [
        (SOFT, [1, 2, 3, 4], [], 3.4926527346),
        (SOFT, [-1, -2, -3, -4], [], -1.5073472654),
        (SOFT, [1000, 999, 0, -1000], [], 999.7310585786),
        (SOFT, [7, 7, 7, 7], [], 7),
        (SOFT, [0, 0, 0, 0], [], 0),
        (LOCAL_IMPORTANCE, [1, 2, 5, 6], [0, 1, 1, 2], 4.6552928932),
        (LOCAL_IMPORTANCE, [1, 2, 5, 6], [3, 3, 3, 3], 3.5),
        (LOCAL_IMPORTANCE, [1, -2, 5, NAN], [-INF, 9, -INF, -INF], -2),
        (LOCAL_IMPORTANCE, [1, 1, 1, -INF], [500, 500, 500, -500], -INF),
        (LOCAL_IMPORTANCE, [1, 2, 3, 4], [-INF, -INF, -INF, -INF], NAN),
        (LOCAL_IMPORTANCE, [1, 2, 3, 4], [0, 0, 0, INF], NAN),
        (STOCHASTIC, [-1, 2, 3, -4], [], 2.6),
        (STOCHASTIC, [-INF, 2, 3, -INF], [], 2.6),
        (STOCHASTIC, [300, 100, 0, 0], [], 250),
        (STOCHASTIC, [0, -0.0, -1, -2], [], 0),
        (STOCHASTIC, [1, 2, 3, INF], [], NAN),
    ],
    ids=str,
)
def test_one_window_by_hand(dtype, method, x, logit, expected):
    inputs = (np.array(values, dtype).reshape(1, 1, 2, 2) for values in (x, logit) if values)
    y = pool(method, Window.of(2, 2), *inputs).astype(np.float64).item()
    unit = float(ml_dtypes.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(max(abs(c) for c in x if np.isfinite(c)) or 1))
    assert y == pytest.approx(expected, rel=1e-10, abs=ALLOWED_ULPS[dtype] * unit, nan_ok=True)
    assert not (expected == 0 and np.signbit(y))


@DTYPES
def test_padding_takes_no_part(dtype):
    x = np.arange(1, 10).reshape(1, 1, 3, 3).astype(dtype)
    answers = pool_each(Window.of(2, 3, 2, 1), (x, np.ones_like(x)))
    expected = (
        [[4.5887809591, 5.5887809591], [7.5887809591, 8.5887809591]],
        [[3, 4], [6, 7]],
        [[46 / 12, 74 / 16], [154 / 24, 206 / 28]],
    )
    for y, right in zip(answers, expected, strict=True):
        np.testing.assert_allclose(
            y[0, 0].astype(np.float64), right, rtol=0, atol=max(4e-10, 8 * float(ml_dtypes.finfo(dtype).eps))
        )


# --- every window argument, rank and dtype


def windows(rank):
    """Every argument in at least two values, alone and together, as far as padding allows."""
    for kernel, stride, pad, dilation, ceil in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2), (0, 1)):
        if pad <= (dilation * (kernel - 1) + 1) // 2 and (rank < 3 or kernel < 5):
            yield Window.of(rank, kernel, stride, pad, dilation, bool(ceil))


@DTYPES
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_argument(rank, dtype):
    sizes = {1: (23,), 2: (11, 14), 3: (6, 7, 9)}[rank]
    worst = [check(window, *pair((1, 2, *sizes), dtype, seed=seed)) for seed, window in enumerate(windows(rank))]
    assert len(worst) > 60
    assert max(worst) > 0


@DTYPES
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 12, 17), {"kernel_size": (2, 5), "stride": (3, 1), "padding": (1, 2)}),
        ((2, 3, 17, 12), {"kernel_size": (5, 2), "stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)}),
        ((1, 2, 9, 8, 13), {"kernel_size": (1, 3, 2), "stride": (2, 1, 3), "padding": (0, 1, 1), "ceil_mode": True}),
        ((2, 2, 7, 9, 70), {"kernel_size": (2, 4, 3), "stride": (3, 1, 2), "padding": (1, 2, 0), "ceil_mode": True}),
        ((1, 2, 7, 5, 6), {"kernel_size": (3, 1, 4), "stride": (1, 2, 2), "padding": (1, 0, 2), "dilation": (2, 1, 1)}),
        ((3, 5, 7, 7), {"kernel_size": 7}),
        ((2, 3, 32, 32), {"kernel_size": 32}),
        ((1, 2, 40, 44), {"kernel_size": 32, "stride": 3}),
        ((1, 1, 20000), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((1, 1, 9001), {"kernel_size": 9001}),
        ((1, 2, 3, 5000), {"kernel_size": (3, 129), "stride": (1, 2), "padding": (1, 64)}),
        ((1, 2, 600, 3), {"kernel_size": (513, 1), "stride": (7, 1)}),
        ((1, 1, 40, 12, 12), {"kernel_size": (33, 5, 5), "stride": 3}),
        ((1, 1, 300, 300), {"kernel_size": 3, "stride": 1, "padding": 1}),
        ((1, 1, 5, 5), {"kernel_size": 3, "stride": 7, "ceil_mode": True}),
        ((1, 1, 3, 3), {"kernel_size": 4, "stride": 2, "ceil_mode": True}),
        ((4, 3, 1, 1), {"kernel_size": 1}),
        ((1, 2, 1, 9), {"kernel_size": (1, 3), "padding": (0, 1)}),
    ],
    ids=str,
)
def test_unusual_geometry(shape, arguments, dtype):
    check(Window.of(len(shape) - 2, **arguments), *pair(shape, dtype))


def test_output_sizes_are_those_of_max_pool():
    for ceil, kernel, stride, pad in itertools.product((False, True), (1, 2, 3, 4, 7), (1, 2, 3, 5), (0, 1, 2)):
        if pad > kernel // 2:
            continue
        window = Window.of(1, kernel, stride, pad, 1, ceil)
        ours, theirs = bare(window), bare(window)
        theirs.graph.node[0].op_type, theirs.graph.node[0].domain = "MaxPool", ""
        ours, theirs = session(ours), session(theirs)
        for n in range(max(1, kernel - 2 * pad), 20):
            x = np.zeros((1, 1, n), np.float32)
            assert ours.run(None, {"x": x})[0].shape == theirs.run(None, {"x": x})[0].shape, (window, n)


# --- extremes


PATCHES = {
    "nan": [NAN],
    "inf": [INF],
    "minus inf": [-INF],
    "nan beside inf": [NAN, INF, -INF],
    "all minus inf": [-INF] * 9,
    "large": [1e4, -1e4, 9999, 3e4],
    "largest": ["max", "-max", "max", "max"],
    "denormal": ["tiny", "-tiny", "3*tiny"],
    "peak": [200.0],
    "pit": [-200.0],
    "pits": [-200.0, -201.0, -200.5] * 3,
    "ties": [5.0, 5.0, 5.0, 5.0],
}


def patch(dtype, name):
    info = ml_dtypes.finfo(dtype)
    special = {"max": info.max, "-max": -info.max, "tiny": info.smallest_subnormal, "-tiny": -info.smallest_subnormal}
    special["3*tiny"] = 3 * np.float64(info.smallest_subnormal)
    return np.array([special[v] if isinstance(v, str) else v for v in PATCHES[name]], np.float64).astype(dtype)


def place(x, values, how):
    """Write values into a plane: in a corner, in the middle, along a row, in a block."""
    at = (0, 5, 0, 4)[how]
    flat = x[at:, at:]
    rows, columns = (1, len(values)) if how % 2 else (3, 3)
    flat[:rows, :columns] = np.resize(values, (rows, columns))[:, : flat.shape[1]]


@DTYPES
@pytest.mark.parametrize("window", [Window.of(2, 3, 2, 1), Window.of(2, 3, 1, 1, 2), Window.of(2, 2, 2)], ids=str)
def test_extremes_beside_ordinary_cells(window, dtype):
    """A channel for each patch of x, with each patch of logits over it, or none."""
    pairs = list(itertools.product(PATCHES, [None, *PATCHES]))
    x, logit = pair((2, len(pairs), 12, 12), dtype)
    for channel, names in enumerate(pairs):
        for sample, plane in itertools.product((0, 1), (x, logit)):
            if name := names[plane is logit]:
                place(plane[sample, channel], patch(dtype, name), (channel + 2 * sample) % 4)
    answers = pool_each(window, (x, logit))
    for method, y in zip(METHODS, answers, strict=True):
        worst = errors(method, window, (x, logit), y).max((0, 2, 3))
        assert worst.max() <= allowed(window, dtype), (method.op_type, pairs[worst.argmax()], worst.max())


@DTYPES
@pytest.mark.parametrize("name", PATCHES)
def test_extremes_alone(name, dtype):
    values = patch(dtype, name)
    for window, size in ((Window.of(2, 3, 2, 1), (9, 11)), (Window.of(2, 9, 9), (9, 9))):
        x = np.resize(values, (1, 2, *size))
        check(window, x, x)
        check(window, x, numbers(x.shape, dtype), methods=(LOCAL_IMPORTANCE,))
        check(window, numbers(x.shape, dtype), x, methods=(LOCAL_IMPORTANCE,))


LARGE = [
    (Window.of(2, 3, 2, 1), (50, 46)),
    (Window.of(2, 3, 2, 1), (47, 51)),
    (Window.of(2, 3, 2), (46, 52)),
    (Window.of(2, 3, 2, 1, ceil_mode=True), (46, 46)),
    (Window.of(2, 3, 2, (0, 2), 2), (51, 45)),
    (Window.of(2, (4, 5), 2, (2, 1), (1, 3)), (48, 49)),
    (Window.of(2, (1, 3), 2, (0, 1)), (40, 63)),
    (Window.of(2, (2, 7), (3, 2), (1, 3), 1, True), (52, 44)),
    (Window.of(2, (3, 2), (1, 2), (1, 0)), (45, 47)),
    (Window.of(2, 3, 3), (50, 50)),
    (Window.of(1, 3, 2, 1), (5001,)),
    (Window.of(1, 4, 2, 2), (9000,)),
    (Window.of(3, 3, 2, 1), (4, 25, 27)),
]
"""Planes that are swept row by row; of the first ones the sums across each row are kept, of the others the cells."""


@DTYPES
@pytest.mark.parametrize(("window", "size"), LARGE, ids=str)
def test_extremes_in_large_planes(window, size, dtype):
    """A channel for each patch, at the first cells, the last ones, the ends of rows, and in between."""
    x, logit = pair((2, len(PATCHES), *size), dtype)
    for channel, name in enumerate(PATCHES):
        values, flat, logits = patch(dtype, name), x[0, channel].reshape(-1), logit[1, channel].reshape(-1)
        ends = 0, size[-1] - 1, 3 * size[-1] - len(values) - 1, flat.size // 2, flat.size
        for at in np.clip(ends, 0, flat.size - len(values)):
            flat[at : at + len(values)] = logits[at : at + len(values)] = values
    for method, y in zip(METHODS, pool_each(window, (x, logit)), strict=True):
        worst = errors(method, window, (x, logit), y).max((0, *range(2, y.ndim)))
        assert worst.max() <= allowed(window, dtype), (method.op_type, list(PATCHES)[worst.argmax()], worst.max())


@DTYPES
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 1.0, 20.0, 80.0, 1e3, 1e4, 1e30])
def test_every_magnitude(scale, dtype):
    top = ml_dtypes.finfo(dtype).max
    window = Window.of(2, 3, 2, 1)
    with np.errstate(over="ignore"):
        x, logit = (np.clip(i, -top, top).astype(dtype) for i in pair((2, 2, 20, 23), dtype, scale=scale))
    check(window, x, logit)
    check(window, x, numbers(x.shape, dtype), methods=(LOCAL_IMPORTANCE,))
    check(window, numbers(x.shape, dtype), logit, methods=(LOCAL_IMPORTANCE,))


@DTYPES
@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_the_largest_numbers_do_not_overflow(count, dtype):
    """Convex combinations of the largest finite number, of either sign, with any weights."""
    top = ml_dtypes.finfo(dtype).max
    window = Window.of(2, 3, 2, 1)
    logit = numbers((1, 2, 12, 13), dtype, scale=count)
    signs = np.sign(numbers(logit.shape, np.float64, seed=1))
    for x in (np.full(logit.shape, top, dtype), np.full(logit.shape, -top, dtype), (signs * top).astype(dtype)):
        for y in pool_each(window, (x, logit)):
            assert np.isfinite(y).all()
        check(window, x, logit)


@DTYPES
def test_huge_cells_that_are_masked_change_nothing(dtype):
    x, logit = pair((1, 2, 12, 13), dtype)
    masked = numbers(x.shape, seed=3) > 1
    for huge in (ml_dtypes.finfo(dtype).max, INF, NAN):
        inputs = np.where(masked, dtype.type(huge), x), np.where(masked, dtype.type(-INF), logit)
        check(Window.of(2, 3, 2, 1), *inputs, methods=(LOCAL_IMPORTANCE,))


@pytest.mark.parametrize("lowest", [-8.0, -2.0, 1.0, 1.9])
@pytest.mark.parametrize("window", [Window.of(2, 3, 1, 1), Window.of(2, 2), Window.of(2, 9)], ids=str)
def test_rounding_of_many_windows(window, lowest):
    """Cells up to 2 or 8, where a relative error is worth most ULPs: float sums of 3x3 windows reach 4.4 ULP here."""
    rng = np.random.default_rng(5)
    top = max(2.0, -lowest)
    for shape in ((2, 64, 64, 64), (2, 64, 64, 96)):  # short rows and long ones
        x, logit = ((rng.random(shape) * (top - lowest) + lowest).astype(np.float32) for _ in range(2))
        check(window, x, logit)


@DTYPES
def test_every_step_below_its_neighbours(dtype):
    """Planes that fall by 0.75 a row, so that windows lie anywhere from 0 to 240 below what rows are scaled by."""
    window = Window.of(2, 3, 1, 1)
    fall = numbers((1, 1, 320, 16)) - np.arange(320, dtype=np.float32)[:, None] * 0.75
    x = numbers(fall.shape, dtype)
    for logit in (fall, fall[:, :, ::-1].copy(), np.sort(fall.reshape(-1)).reshape(1, 1, 320, 16)):
        check(window, logit.astype(dtype), methods=(SOFT,))
        check(window, x, logit.astype(dtype), methods=(LOCAL_IMPORTANCE,))


@DTYPES
def test_squares_of_every_size(dtype):
    """Planes whose values fall by half a row, from where squares overflow to where they vanish."""
    info = ml_dtypes.finfo(dtype)
    rows = int(np.log2(np.float64(info.max)) - np.log2(np.float64(info.smallest_subnormal)))
    with np.errstate(over="ignore", under="ignore"):
        scale = np.float64(info.max) * 2.0 ** -np.arange(rows + 4.0)[:, None]
        x = np.clip(numbers((1, 1, rows + 4, 16), np.float64), -1, 1) * scale
    check(Window.of(2, 3, 1, 1), x.astype(dtype), methods=(STOCHASTIC,))
    check(Window.of(2, 2), x.astype(dtype), methods=(STOCHASTIC,))


@DTYPES
def test_tiny_cells_beside_large_ones(dtype):
    """Products x exp(x) of the tiny cells are below the smallest normal number relative to the large ones."""
    x = np.zeros((1, 1, 4, 64), np.float64)
    x[..., 0:32] = 30.0
    x[..., 32:] = np.linspace(1, 3, 32) * (2.0**-20 if dtype == FLOAT16 else 1e-30)
    for method, y in zip(METHODS, pool_each(Window.of(2, 2), (x.astype(dtype), x.astype(dtype))), strict=True):
        assert (y[..., 16:] > 0).all()
        assert errors(method, Window.of(2, 2), (x.astype(dtype),) * 2, y).max() <= ALLOWED_ULPS[dtype]


def test_only_bits_of_the_window_count():
    """A window gives the same bits wherever it stands, whatever surrounds it, and in any batch."""
    window = Window.of(2, 3, 2, 1)
    inputs = pair((5, 7, 33, 41))
    whole = pool_each(window, inputs)
    for part in (np.s_[2:3], np.s_[:, 3:4]):
        for y, alone in zip(whole, pool_each(window, [i[part].copy() for i in inputs]), strict=True):
            np.testing.assert_array_equal(y[part], alone)


SMALL = [(Window.of(2, 3, 2, 1), (9, 7)), (Window.of(2, 3, 2, 0, 1, True), (14, 14)), (Window.of(3, 2, 1), (3, 4, 5))]
WHOLE = [(Window.of(2, 7), (7, 7)), (Window.of(1, 8, 1, 3, 1, True), (5,)), (Window.of(2, 40), (40, 40))]


@DTYPES
@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize(("window", "size"), SMALL + WHOLE, ids=str)
def test_planes_that_share_a_sweep_do_not_share_bits(window, size, name, dtype):
    """Small planes are computed several at a time: one of odd cells must not change its neighbours, nor they it."""
    x, logit = pair((3, 7, *size), dtype)
    for plane in (x[0, 1], logit[1, 3], x[2, 6], logit[2, 6]):
        plane[...] = np.resize(patch(dtype, name), size)
    whole = pool_each(window, (x, logit))
    for part in (np.s_[0:1, 0:1], np.s_[0:1, 1:2], np.s_[1:2, 3:4], np.s_[2:3, 6:7]):
        for y, alone in zip(whole, pool_each(window, (x[part].copy(), logit[part].copy())), strict=True):
            np.testing.assert_array_equal(y[part].astype(np.float64), alone.astype(np.float64))
    for method, y in zip(METHODS, whole, strict=True):
        assert errors(method, window, (x, logit), y).max() <= allowed(window, dtype), method.op_type


@DTYPES
@pytest.mark.parametrize("shift", [-700, -100, -60, -30, 0, 30, 60, 75, 100, 700])
@pytest.mark.parametrize(("window", "size"), SMALL + WHOLE, ids=str)
def test_logits_far_from_zero(window, size, shift, dtype):
    """Exponentials relative to 1 do not serve here; a window of one plane in two must not need another reference."""
    x, logit = numbers((2, 6, *size), dtype), numbers((2, 6, *size), np.float32, seed=1)
    logit[:, ::2] += shift
    check(window, x, logit.astype(dtype), methods=(LOCAL_IMPORTANCE,))
    check(window, logit.astype(dtype), methods=(SOFT,))


@pytest.mark.parametrize(("window", "size"), SMALL + WHOLE, ids=str)
def test_zeros_and_tiny_cells_in_small_planes(window, size):
    """Sums of 0 can be trusted only where no product was lost: cells of 1e-38 with weights far below 1."""
    x = numbers((1, 6, *size))
    x[:, 0], x[:, 1], x[:, 2] = 0, 1e-38, np.where(x[:, 2] > 0, x[:, 2] * 1e-38, 0)
    logit = np.full_like(x, -35) + numbers(x.shape, seed=1)
    check(window, x, logit)
    answers = pool_each(window, (x, logit))
    assert all((y[:, 0] == 0).all() and (y[:, 1] > 0).all() for y in answers)


@pytest.mark.parametrize("cells", [1, 7, 8, 9, 15, 16, 17, 255, 256, 257, 511, 512, 513, 1025, 20000])
def test_sums_of_every_length(cells):
    """Global windows are summed in lanes and chunks: one cell too many or too few shows in any of them."""
    for dtype in ALLOWED_ULPS:
        check(Window.of(1, cells), *pair((2, 9, cells), dtype))


# --- threads


@pytest.mark.parametrize("shape", [(8, 16, 56, 56), (1, 1, 1000, 300), (1, 1, 400000), (1, 3, 20, 60, 60)], ids=str)
def test_threads_do_not_change_bits(shape):
    window = Window.of(len(shape) - 2, 3, 2, 1)
    inputs = pair(shape)
    one = pool_each(window, inputs)
    for method, y in zip(METHODS, one, strict=True):
        assert errors(method, window, [i[:1, :1] for i in inputs], y[:1, :1]).max() <= allowed(window, FLOAT32)
    for threads in (2, 3, 8):
        for y, same in zip(one, pool_each(window, inputs, threads=threads), strict=True):
            np.testing.assert_array_equal(y, same)


def test_scratch_beyond_the_stack():
    """Wide rows under a tall window do not fit the stack: memory comes from ONNX Runtime, shared by bounded lanes."""
    window = Window.of(2, 70, 1)
    inputs = pair((3, 70, 200, 72))
    answers = pool_each(window, inputs, threads=4)
    for part in (np.s_[0:1, 0:1], np.s_[1:2, 33:34], np.s_[2:3, 69:70]):
        for method, y in zip(METHODS, answers, strict=True):
            assert errors(method, window, [i[part] for i in inputs], y[part]).max() <= allowed(window, FLOAT32)


INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
ARITHMETIC = "by_hand or geometry or beside or share or every_length"


def with_kernels_for(name, *command):
    """Run Python with the kernels for this instruction set, whichever this process chose."""
    environment = {**os.environ, "ONNXPOOL_CPU": name, native_library.OVERRIDE: str(library_path())}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)


@cache
def instruction_sets():
    """Those of this build and processor, of which this process runs the last unless told otherwise."""
    probe = "import onnxruntime; from onnxpool.run import native_library as n; n.register(onnxruntime.SessionOptions())"
    return [name for name in INSTRUCTION_SETS if "does not have" not in with_kernels_for(name, "-c", probe).stderr]


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_instruction_set(name):
    """The arithmetic's tests with each, in a process of their own."""
    if name not in instruction_sets():
        pytest.skip(f"this build or processor has no {name}")
    if name == (os.environ.get("ONNXPOOL_CPU") or instruction_sets()[-1]):
        pytest.skip(f"all tests here run with {name}")
    tests = with_kernels_for(name, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", ARITHMETIC)
    assert tests.returncode == 0, tests.stdout[-3000:]


# --- at the door


GOOD = Window.of(2, 3, 2, 1)
HUGE = 2**62


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"kernel_shape": None}, "kernel_shape is missing or is not a list"),
        ({"strides": None}, "strides is missing or is not a list"),
        ({"pads": None}, "pads is missing or is not a list"),
        ({"dilations": None}, "dilations is missing or is not a list"),
        ({"ceil_mode": None}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"ceil_mode": 2}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"ceil_mode": [0]}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"kernel_shape": 3}, "kernel_shape is missing or is not a list"),
        ({"kernel_shape": [3.0, 3.0]}, "kernel_shape is missing or is not a list"),
        ({"strides": "22"}, "strides is missing or is not a list"),
        ({"kernel_shape": [3, 3, 3, 3]}, "expected 1, 2 or 3 numbers"),
        ({"kernel_shape": [3] * 7}, "not a list of 1 to 6 integers"),
        ({"strides": [2]}, r"strides is \[2\], 1 numbers, but kernel_shape has 2 axes: expected 2"),
        ({"pads": [1, 1]}, r"pads is \[1, 1\], 2 numbers, but kernel_shape has 2 axes: expected 4"),
        ({"dilations": [1, 1, 1]}, r"dilations is \[1, 1, 1\], 3 numbers"),
        ({"kernel_shape": [3, 0]}, r"kernel_shape is \[3, 0\]; each number must be from 1"),
        ({"strides": [2, 0]}, r"strides is \[2, 0\]; each number must be from 1"),
        ({"strides": [-1, 2]}, r"strides is \[-1, 2\]; each number must be from 1"),
        ({"dilations": [0, 1]}, r"dilations is \[0, 1\]; each number must be from 1"),
        ({"pads": [-1, 1, -1, 1]}, r"pads is \[-1, 1, -1, 1\]; each number must be from 0"),
        ({"pads": [0, 1, 1, 1]}, r"pads is \[0, 1, 1, 1\], different at begin and end"),
        ({"pads": [2, 1, 2, 1]}, r"pads is \[2, 1, 2, 1\]; on axis 0 at most 1 is allowed, half the extent 3"),
        ({"kernel_shape": [HUGE, 3]}, "each number must be from 1 to 16777216"),
        ({"strides": [2, HUGE]}, "each number must be from 1 to 16777216"),
        ({"dilations": [2**24, 1]}, "spans more positions than that"),
        ({"kernel_shape": [5000, 5000]}, "has more than 16777216 cells"),
        ({"auto_pad": "SAME_UPPER"}, "attribute auto_pad is unknown"),
        ({"count_include_pad": 1}, "attribute count_include_pad is unknown"),
        ({"storage_order": 0}, "attribute storage_order is unknown"),
        ({"beta": 2.0}, "attribute beta is unknown"),
        ({"kernel_size": [3, 3]}, "attribute kernel_size is unknown"),
    ],
    ids=str,
)
def test_wrong_attributes_are_refused_when_the_model_loads(changed, sentence):
    with pytest.raises(Exception, match="SoftPool node 'pool': .*" + sentence):
        session(bare(GOOD, **changed))


@EACH
def test_every_operator_refuses(method):
    with pytest.raises(Exception, match=f"{method} node 'pool': attribute strides is missing"):
        session(bare(GOOD, methods=(method,), strides=None))
    with pytest.raises(Exception, match=f"{method} node 'pool': the input has 3 axes"):
        session_of_any_shape(method).run(None, dict.fromkeys(method.inputs, np.zeros((1, 1, 5), np.float32)))
    with pytest.raises(Exception, match=str(method)):
        session(bare(GOOD, np.int32, methods=(method,)))


def session_of_any_shape(method, window=GOOD):
    model = bare(window, methods=(method,))
    for declared in model.graph.input:
        declared.type.tensor_type.ClearField("shape")
    return session(model)


@pytest.mark.parametrize(
    ("logit", "sentence"),
    [
        ((1, 2, 6, 5), r"the inputs have the shapes \[1, 2, 6, 6\] and \[1, 2, 6, 5\]; they must be equal"),
        ((1, 1, 6, 6), r"and \[1, 1, 6, 6\]; they must be equal: expand the smaller one"),
        ((2, 6, 6), r"and \[2, 6, 6\]; they must be equal"),
        ((1,) * 12, r"and one of 12 axes; they must be equal"),
        ((), r"and \[\]; they must be equal"),
        ((0, 2, 6, 6), r"and \[0, 2, 6, 6\]; they must be equal"),
    ],
    ids=str,
)
def test_logits_of_another_shape_are_refused(logit, sentence):
    x = np.zeros((1, 2, 6, 6), np.float32)
    with pytest.raises(Exception, match="LocalImportancePool node 'pool': .*" + sentence):
        session_of_any_shape(LOCAL_IMPORTANCE).run(None, {"x": x, "logit": np.zeros(logit, np.float32)})


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 1, 5), r"the input has 3 axes, but kernel_shape has 2: expected \(N, C, \*spatial\), 4 axes"),
        ((1, 1, 5, 5, 5), "the input has 5 axes"),
        ((1,) * 12, "the input has 12 axes"),
        ((), "the input has 0 axes"),
        ((1, 1, 0, 5), r"the input of shape \[1, 1, 0, 5\] is too small on spatial axis 0"),
        ((1, 1, 5, 1), r"the input of shape \[1, 1, 5, 1\] is too small on spatial axis 1"),
    ],
    ids=str,
)
def test_wrong_shapes_are_refused_and_the_session_lives_on(shape, sentence):
    window = Window.of(2, (3, 4), 2, (1, 1))
    pool_session = session_of_any_shape(SOFT, window)
    good = numbers((1, 2, 6, 6), np.float32)
    before = pool_session.run(None, {"x": good})[0]
    with pytest.raises(Exception, match="SoftPool node 'pool': .*" + sentence):
        pool_session.run(None, {"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(before, pool_session.run(None, {"x": good})[0])


def test_a_window_that_misses_every_cell_is_refused():
    window = Window.of(1, 2, 1, 1, 2)  # its first window has cells -1 and 1: none in an input of one cell
    with pytest.raises(Exception, match="is too small on spatial axis 0"):
        pool(SOFT, window, np.zeros((1, 1, 1), np.float32))
    np.testing.assert_allclose(pool(SOFT, window, np.array([[[1.0, 2.0]]], np.float32)), [[[2.0, 1.0]]])


@DTYPES
@pytest.mark.parametrize("shape", [(0, 3, 9, 9), (2, 0, 9, 9), (0, 0, 4, 4)], ids=str)
def test_empty_batch_gives_empty_output(shape, dtype):
    for y in pool_each(GOOD, [np.zeros(shape, dtype)] * 2):
        assert y.shape == GOOD.check(shape)


# --- what a model's graph learns


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((2, 3, 9, 12), [2, 3, 5, 6]),
        (("N", "C", 9, 12), ["N", "C", 5, 6]),
        (("N", 3, "H", 12), ["N", 3, "floor((H - 1)/2) + 1", 6]),
        ((None, 3, 9, 12), []),  # a size without a name cannot be handed on
        (None, []),
    ],
)
def test_output_shape_is_inferred_when_the_model_loads(given, expected):
    model = bare(GOOD, shape=given or (), methods=METHODS)
    for declared in model.graph.input if given is None else ():
        declared.type.tensor_type.ClearField("shape")
    for output in session(model).get_outputs():
        assert output.shape == expected


def test_inferred_names_mean_equal_sizes():
    """ONNX Runtime shares memory among sizes of one name, so two windows must not make one name of H."""
    names = set()
    for arguments in ((3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 2, 0), (3, 2, 1, 2), (4, 3, 1, 1, True)):
        window = Window.of(1, *arguments)
        names.add((session(bare(window)).get_outputs()[0].shape[2], window.output((100,)), window.output((101,))))
    assert len({name for name, *_ in names}) == len(names)


def test_no_warning_in_a_run(capfd):
    model = bare(GOOD, shape=("N", "C", "H", None))
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": np.zeros((1, 1, 8, 8), np.float32)})
    session_of_names = ort.InferenceSession(bare(GOOD).SerializeToString(), options)
    session_of_names.run(None, {"x": np.zeros((1, 1, 8, 8), np.float32)})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("operator", "expected"), [("MaxPool", [0, 0]), ("onnxpool.SoftPool", [1, 1])])
def test_reorders_between_convolutions(operator, expected, tmp_path):
    """As custom_ops/README.md says: ONNX Runtime leaves its blocks of channels for our operators alone."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18, "onnxpool": 1]>
        network (float[1,16,12,12] x) => (float[1,16,6,6] y) <float[16,16,1,1] k> {{
            before = Conv (x, k)
            pooled = {operator} <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1],
                                 ceil_mode = 0> (before)
            y = Conv (pooled, k)
        }}""")
    k = onnx.numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "k")
    model.graph.initializer.append(k)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library_path()))
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    if "ReorderOutput" not in kinds:
        pytest.skip("ONNX Runtime has no blocks of channels on this processor")
    between = kinds[kinds.index("Conv") + 1 : len(kinds) - 1 - kinds[::-1].index("Conv")]
    assert [between.count("ReorderOutput"), between.count("ReorderInput")] == expected, kinds


# --- registration


def test_many_sessions_share_one_library():
    x = numbers((1, 2, 8, 8), np.float32)
    first, second = session(bare(GOOD)), session(bare(Window.of(2, 2)))
    expected = first.run(None, {"x": x})[0]
    second.run(None, {"x": x})
    del second
    for _ in range(20):
        session(bare(GOOD))
    np.testing.assert_array_equal(first.run(None, {"x": x})[0], expected)


def with_function(window, method):
    """The bare model with a local function of the same name that gives something else: the plain maximum."""
    model = bare(window, methods=(method,))
    names = list(window.attributes())
    body = helper.make_node("MaxPool", ["a"], ["b"])
    for name in names:
        kind = onnx.AttributeProto.INT if name == "ceil_mode" else onnx.AttributeProto.INTS
        body.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=name, type=kind))
    opsets = [helper.make_opsetid("", 18)]
    formal = ["a", "unused"][: len(method.inputs)]
    model.functions.append(helper.make_function("onnxpool", method.op_type, formal, ["b"], [body], opsets, names))
    return model


@pytest.mark.parametrize(
    ("method", "expected"), [(SOFT, 3.4926527346), (LOCAL_IMPORTANCE, 3.4926527346), (STOCHASTIC, 3.0)], ids=str
)
def test_the_native_operator_takes_the_place_of_a_local_function(method, expected):
    x = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)
    model, feeds = with_function(Window.of(2, 2), method), dict.fromkeys(method.inputs, x)
    body, native = (session(model, registered=registered).run(None, feeds)[0].item() for registered in (False, True))
    assert body == 4
    assert native == pytest.approx(expected, abs=1e-6)


def test_without_the_library_a_bare_node_is_refused():
    with pytest.raises(Exception, match="SoftPool"):
        session(bare(GOOD), registered=False)


def test_a_runtime_that_is_too_old_is_told_so():
    """A stand-in for an old ONNX Runtime, which serves no API version but 1: registration must return a status."""
    name = ctypes.create_string_buffer(b"1.17.3")
    said = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code, text):
        said.append(text.decode())
        return 1

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    def get_api(version):
        return ctypes.addressof(table) if version == 1 else None

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def get_version():
        return ctypes.addressof(name)

    table = (ctypes.c_void_p * 300)(ctypes.cast(create_status, ctypes.c_void_p).value)
    base = (ctypes.c_void_p * 2)(*(ctypes.cast(function, ctypes.c_void_p).value for function in (get_api, get_version)))
    register = ctypes.CDLL(str(library_path())).RegisterCustomOps
    register.argtypes, register.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_void_p
    assert register(None, ctypes.addressof(base)) == 1
    assert said == [
        "onnxpool: this is ONNX Runtime 1.17.3, and the library needs 1.24 or newer; upgrade onnxruntime, or run the "
        "model without the library"
    ]


def test_what_is_exported():
    loaded = ctypes.CDLL(str(library_path()))
    assert all(hasattr(loaded, name) for name in ("RegisterCustomOps", "OnnxpoolKernels", "OnnxpoolCpu"))
    assert not hasattr(loaded, "OrtGetApiBase")
    most = 150e6 if "ASAN_OPTIONS" in os.environ else 5e6  # with sanitizers and debug information
    assert Path(library_path()).stat().st_size < most
