"""The native library in ONNX Runtime: bare nodes against the float64 reference, at the door and in the middle.

Errors are counted in ULPs of the largest magnitude in each window: 4 for float32 and float64, 1 for the short types.
`ONNXPOOL_LIBRARY` names a library to test in place of the installed one; tools/compat and tools/sanitize set it.
"""

import ctypes
import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnxpool.kernels import library_path
from onnxpool.pool import over_windows
from onnxpool.pools.soft import reference
from onnxpool.window import Window

FLOAT32, FLOAT64, FLOAT16 = (np.dtype(f"float{bits}") for bits in (32, 64, 16))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ALLOWED_ULPS = {FLOAT32: 4, FLOAT64: 4, FLOAT16: 1, BFLOAT16: 1}
DTYPES = pytest.mark.parametrize("dtype", ALLOWED_ULPS, ids=str)
INF, NAN = np.inf, np.nan


@pytest.fixture(scope="session", autouse=True)
def library():
    return library_path()


# --- a bare node, a session, a run


def onnx_type(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def bare(window, dtype=FLOAT32, shape=None, **changed):
    """A model of one node; a keyword changes an attribute, or with None removes it."""
    attributes = {**window.attributes(), **changed}
    node = helper.make_node(
        "SoftPool", ["x"], ["y"], "pool", domain="onnxpool", **{k: v for k, v in attributes.items() if v is not None}
    )
    shape = ["N", "C", *(f"S{axis}" for axis in range(window.rank))] if shape is None else shape
    x, y = (helper.make_tensor_value_info(name, onnx_type(dtype), s) for name, s in (("x", shape), ("y", None)))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)]
    return helper.make_model(helper.make_graph([node], "bare", [x], [y]), opset_imports=opsets, ir_version=10)


def session(model, threads=1, registered=True, **entries):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    if registered:
        options.register_custom_ops_library(str(library_path()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def between_casts(window):
    """bfloat16 has no numpy type that ONNX Runtime takes: the node stands between two casts, which are exact."""
    model = bare(window, FLOAT32)
    node = model.graph.node[0]
    node.input[0], node.output[0] = "short_x", "short_y"
    into = helper.make_node("Cast", ["x"], ["short_x"], to=TensorProto.BFLOAT16)
    back = helper.make_node("Cast", ["short_y"], ["y"], to=TensorProto.FLOAT)
    nodes = [into, node, back]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def pool(window, x, threads=1):
    if x.dtype == BFLOAT16:
        (y,) = session(between_casts(window), threads).run(None, {"x": x.astype(np.float32)})
        assert (y.astype(BFLOAT16).astype(np.float32) == y)[~np.isnan(y)].all()
        return y.astype(BFLOAT16)
    (y,) = session(bare(window, x.dtype), threads).run(None, {"x": x})
    return y


def largest(x):
    return np.where(np.isfinite(x), np.abs(x), 0).max(-1)


def precise(window, x):
    """The reference for float64 input, in the longest float there is: float64 cannot judge itself to 4 ULPs."""

    def soft(cells):
        cells = np.where(cells.max(-1, keepdims=True) == INF, NAN, cells.astype(np.longdouble))
        distances = np.maximum(cells - cells.max(-1, keepdims=True), -2000)
        weights = np.exp(distances)
        return (cells.max(-1) + (distances * weights).sum(-1) / weights.sum(-1)).astype(np.float64)

    return over_windows(soft, window, x)


def ulps(window, x, y):
    """The largest error of y, in ULPs of the largest magnitude in its window; NaN must be where it is expected."""
    wide = x.astype(np.float64)
    expected = precise(window, wide) if x.dtype == FLOAT64 else reference(window, wide)
    assert y.dtype == x.dtype
    assert y.shape == expected.shape == window.check(x.shape)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    info = ml_dtypes.finfo(x.dtype)
    magnitude = np.maximum(over_windows(largest, window, wide), np.float64(info.tiny))
    exponent = np.frexp(magnitude)[1] - 1
    unit = np.maximum(np.ldexp(np.float64(info.eps), exponent), np.float64(info.smallest_subnormal))
    with np.errstate(invalid="ignore"):
        error = np.abs(y.astype(np.float64) - expected) / unit
    return float(np.nanmax(error, initial=0))


def check(window, x):
    y = pool(window, x)
    assert ulps(window, x, y) <= ALLOWED_ULPS[x.dtype]
    return y


def numbers(shape, dtype, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


# --- values that a person can check (semantics of SoftPool)


@DTYPES
@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1, 2, 3, 4], 3.4926527346),
        ([-1, -2, -3, -4], -1.5073472654),
        ([1000, 999, 0, -1000], 999.7310585786),
        ([7, 7, 7, 7], 7),
        ([0, 0, 0, 0], 0),
    ],
)
def test_one_window_by_hand(dtype, cells, expected):
    x = np.array(cells, dtype).reshape(1, 1, 2, 2)
    y = pool(Window.of(2, 2), x).astype(np.float64).item()
    unit = float(ml_dtypes.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(max(abs(c) for c in cells) or 1))
    assert abs(y - expected) <= ALLOWED_ULPS[dtype] * unit + 1e-10 * abs(expected)


@DTYPES
def test_padding_takes_no_part(dtype):
    x = np.arange(1, 10).reshape(1, 1, 3, 3).astype(dtype)
    y = pool(Window.of(2, 3, 2, 1), x).astype(np.float64)
    expected = [[4.5887809591, 5.5887809591], [7.5887809591, 8.5887809591]]
    np.testing.assert_allclose(y[0, 0], expected, rtol=0, atol=max(4e-10, 8 * float(ml_dtypes.finfo(dtype).eps)))


# --- every window argument, rank and dtype


def windows(rank):
    """Every argument in at least two values, alone and together, as far as padding allows."""
    for kernel, stride, pad, dilation, ceil in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2), (0, 1)):
        if pad <= (dilation * (kernel - 1) + 1) // 2 and (rank < 3 or kernel < 5):
            yield Window.of(rank, kernel, stride, pad, dilation, bool(ceil))


@DTYPES
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_argument(rank, dtype):
    tried, worst = 0, 0.0
    sizes = {1: (23,), 2: (11, 14), 3: (6, 7, 9)}[rank]
    for window in windows(rank):
        x = numbers((2, 3, *sizes), dtype, seed=tried)
        worst = max(worst, ulps(window, x, pool(window, x)))
        tried += 1
    assert tried > 60
    assert 0 < worst <= ALLOWED_ULPS[dtype]


@DTYPES
@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 12, 17), {"kernel_size": (2, 5), "stride": (3, 1), "padding": (1, 2)}),
        ((2, 3, 17, 12), {"kernel_size": (5, 2), "stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)}),
        ((1, 2, 9, 8, 13), {"kernel_size": (1, 3, 2), "stride": (2, 1, 3), "padding": (0, 1, 1), "ceil_mode": True}),
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
    check(Window.of(len(shape) - 2, **arguments), numbers(shape, dtype))


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


@DTYPES
@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("window", [Window.of(2, 3, 2, 1), Window.of(2, 3, 1, 1, 2), Window.of(2, 2, 2)], ids=str)
def test_extremes_beside_ordinary_cells(name, window, dtype):
    x = numbers((1, 6, 12, 12), dtype)
    values = patch(dtype, name)
    for channel in range(4):  # in a corner, in the middle, along a row, in a block
        at = (0, 5, 0, 4)[channel]
        flat = x[0, channel, at:, at:]
        rows, columns = (1, len(values)) if channel % 2 else (3, 3)
        block = np.resize(values, (rows, columns))[:, : flat.shape[1]]
        flat[:rows, : block.shape[1]] = block
    check(window, x)


@DTYPES
@pytest.mark.parametrize("name", PATCHES)
def test_extremes_alone(name, dtype):
    values = patch(dtype, name)
    check(Window.of(2, 3, 2, 1), np.resize(values, (1, 2, 9, 11)))
    check(Window.of(2, 9, 9), np.resize(values, (1, 2, 9, 9)))


@DTYPES
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 1.0, 20.0, 80.0, 1e3, 1e4, 1e30])
def test_every_magnitude(scale, dtype):
    with np.errstate(over="ignore"):
        x = numbers((2, 2, 20, 23), dtype, scale=scale)
    top = ml_dtypes.finfo(dtype).max
    check(Window.of(2, 3, 2, 1), np.clip(x, -top, top))


@DTYPES
def test_every_step_below_its_neighbours(dtype):
    """Planes that fall by 0.75 a row, so that windows lie anywhere from 0 to 240 below what rows are scaled by."""
    x = numbers((1, 1, 320, 16), np.float32) - np.arange(320, dtype=np.float32)[:, None] * 0.75
    check(Window.of(2, 3, 1, 1), x.astype(dtype))
    check(Window.of(2, 3, 1, 1), x[:, :, ::-1].astype(dtype).copy())
    check(Window.of(2, 3, 1, 1), np.sort(x.reshape(-1)).reshape(1, 1, 16, 320).astype(dtype))


@DTYPES
def test_tiny_cells_beside_large_ones(dtype):
    """Products x exp(x) of the tiny cells are below the smallest normal number relative to the large ones."""
    x = np.zeros((1, 1, 4, 64), np.float64)
    x[..., 0:32] = 30.0
    x[..., 32:] = np.linspace(1, 3, 32) * (2.0**-20 if dtype == FLOAT16 else 1e-30)
    y = check(Window.of(2, 2, 2), x.astype(dtype))
    assert (y[..., 16:] > 0).all()


def test_only_bits_of_the_window_count():
    """A window gives the same bits wherever it stands, whatever surrounds it, and in any batch."""
    window = Window.of(2, 3, 2, 1)
    x = numbers((5, 7, 33, 41), np.float32)
    whole = pool(window, x)
    np.testing.assert_array_equal(whole[2:3], pool(window, x[2:3].copy()))
    np.testing.assert_array_equal(whole[:, 3:4], pool(window, x[:, 3:4].copy()))


# --- threads


@pytest.mark.parametrize("shape", [(8, 16, 56, 56), (1, 1, 1000, 300), (1, 1, 400000), (1, 3, 20, 60, 60)], ids=str)
def test_threads_do_not_change_bits(shape):
    window = Window.of(len(shape) - 2, 3, 2, 1)
    x = numbers(shape, np.float32)
    one = pool(window, x)
    assert ulps(window, x[:1, :1], one[:1, :1]) <= ALLOWED_ULPS[FLOAT32]
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(one, pool(window, x, threads))


def test_scratch_beyond_the_stack():
    """Wide rows under a tall window do not fit the stack: memory comes from ONNX Runtime, shared by bounded lanes."""
    window = Window.of(2, 70, 1)
    x = numbers((3, 70, 200, 72), np.float32)
    y = pool(window, x, threads=4)
    for n, c in ((0, 0), (1, 33), (2, 69)):
        part = x[n : n + 1, c : c + 1]
        assert ulps(window, part, y[n : n + 1, c : c + 1]) <= ALLOWED_ULPS[FLOAT32]


# --- at the door


GOOD = Window.of(2, 3, 2, 1)
HUGE = 2**62


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"kernel_shape": None}, "kernel_shape is missing or is no list"),
        ({"strides": None}, "strides is missing or is no list"),
        ({"pads": None}, "pads is missing or is no list"),
        ({"dilations": None}, "dilations is missing or is no list"),
        ({"ceil_mode": None}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"ceil_mode": 2}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"ceil_mode": [0]}, "ceil_mode is missing or is not the integer 0 or 1"),
        ({"kernel_shape": 3}, "kernel_shape is missing or is no list"),
        ({"kernel_shape": [3.0, 3.0]}, "kernel_shape is missing or is no list"),
        ({"strides": "22"}, "strides is missing or is no list"),
        ({"kernel_shape": [3, 3, 3, 3]}, "expected 1, 2 or 3 numbers"),
        ({"kernel_shape": [3] * 7}, "no list of 1 to 6 integers"),
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
    model = bare(window)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    pool_session = session(model)
    good = numbers((1, 2, 6, 6), np.float32)
    before = pool_session.run(None, {"x": good})[0]
    with pytest.raises(Exception, match="SoftPool node 'pool': .*" + sentence):
        pool_session.run(None, {"x": np.zeros(shape, np.float32)})
    np.testing.assert_array_equal(before, pool_session.run(None, {"x": good})[0])


def test_a_window_that_misses_every_cell_is_refused():
    window = Window.of(1, 2, 1, 1, 2)  # its first window has cells -1 and 1: none in an input of one cell
    with pytest.raises(Exception, match="is too small on spatial axis 0"):
        pool(window, np.zeros((1, 1, 1), np.float32))
    np.testing.assert_allclose(pool(window, np.array([[[1.0, 2.0]]], np.float32)), [[[2.0, 1.0]]])


@DTYPES
@pytest.mark.parametrize("shape", [(0, 3, 9, 9), (2, 0, 9, 9), (0, 0, 4, 4)], ids=str)
def test_empty_batch_gives_empty_output(shape, dtype):
    assert pool(GOOD, np.zeros(shape, dtype)).shape == GOOD.check(shape)


def test_an_integer_input_is_refused():
    with pytest.raises(Exception, match="SoftPool"):
        session(bare(GOOD, np.int32))


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
    model = bare(GOOD, shape=given or ())
    if given is None:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == expected


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


def with_function(window):
    """The bare model with a local function of the same name that gives something else: the plain maximum."""
    model = bare(window)
    names = list(window.attributes())
    body = helper.make_node("MaxPool", ["a"], ["b"])
    for name in names:
        kind = onnx.AttributeProto.INT if name == "ceil_mode" else onnx.AttributeProto.INTS
        body.attribute.append(onnx.AttributeProto(name=name, ref_attr_name=name, type=kind))
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("onnxpool", "SoftPool", ["a"], ["b"], [body], opsets, names))
    return model


def test_the_native_operator_takes_the_place_of_a_local_function():
    x = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)
    model = with_function(Window.of(2, 2))
    body, native = (session(model, registered=registered).run(None, {"x": x})[0].item() for registered in (False, True))
    assert body == 4
    assert native == pytest.approx(3.4926527346, abs=1e-6)


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


def test_one_symbol_is_exported():
    loaded = ctypes.CDLL(str(library_path()))
    assert loaded.RegisterCustomOps
    assert not hasattr(loaded, "OrtGetApiBase")
    assert Path(library_path()).stat().st_size < 20e6
