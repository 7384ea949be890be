"""The native kernels on tensors in blocks of channels (``custom_ops/kernels/blocks.h``): what is promised in planes.

Tensors are put into blocks here, so that every value can be judged; tests/test_optimize.py has whole networks.
"""

import itertools

import numpy as np
import pytest
from onnx import helper
from test_kernels import FAR, HUGE, same_bits, windows_over
from test_native import (
    EACH,
    FLOAT16,
    FLOAT32,
    INF,
    METHODS,
    NAN,
    SOFT,
    STOCHASTIC,
    allowed,
    bare,
    errors,
    numbers,
    pair,
    pool,
    session,
    windows,
)

from onnxpool.run.optimize import block_size
from onnxpool.window import Window

BLOCK = block_size()
WINDOWS = [
    (Window.of(2, 3, 2, 1), (14, 14)),
    (Window.of(2, 3, 2, 1), (23, 28)),
    (Window.of(2, 3, 2), (9, 17)),
    (Window.of(2, 3, 2, (1, 0), ceil_mode=True), (18, 20)),
    (Window.of(2, 3, 2, 1), (40, 700)),
    (Window.of(2, 3, 2, 1), (150, 90)),
    (Window.of(2, 2), (14, 15)),
    (Window.of(2, 2, 2, 1, ceil_mode=True), (11, 26)),
    (Window.of(2, 3, 1, 1), (17, 20)),
    (Window.of(2, 5, 1, 2), (20, 20)),
    (Window.of(2, 13, 1, 6), (13, 13)),
    (Window.of(2, (3, 2), (2, 1), (1, 0), (2, 3)), (19, 23)),
    (Window.of(2, 3, 2, 2, 2), (19, 23)),
    (Window.of(2, 7), (7, 7)),
    (Window.of(2, 3, 2, 1), (1, 1)),
    (Window.of(2, 3, 2, 1), (2, 1)),
    (Window.of(2, (2, 5), 1, (0, 2)), (3, 900)),
]
EVERY = pytest.mark.parametrize(("window", "size"), WINDOWS, ids=str)


def in_blocks(x):
    """Each channel beside others of its block in memory, in the shape that ONNX Runtime gives such a tensor."""
    n, c, *sizes = x.shape
    assert c % BLOCK == 0
    return np.ascontiguousarray(np.moveaxis(x.reshape(n, c // BLOCK, BLOCK, *sizes), 2, -1)).reshape(x.shape)


def in_planes(y):
    n, c, *sizes = y.shape
    return np.ascontiguousarray(np.moveaxis(y.reshape(n, c // BLOCK, *sizes, BLOCK), -1, 2)).reshape(y.shape)


def node(window, methods=METHODS, **changed):
    """A model of nodes in blocks."""
    model = bare(window, methods=methods, **{"block_size": BLOCK, **changed})
    for one in model.graph.node:
        one.domain = "onnxpool.nchwc"
    model.opset_import.append(helper.make_opsetid("onnxpool.nchwc", 1))
    return model


def pool_each(window, inputs, methods=METHODS, threads=1):
    names = dict.fromkeys(name for method in methods for name in method.inputs)
    feeds = {name: in_blocks(x) for name, x in zip(names, inputs, strict=False)}
    return [in_planes(y) for y in session(node(window, methods), threads).run(None, feeds)]


def pool_one(method, window, *inputs):
    return pool_each(window, inputs, (method,))[0]


def judge(window, *inputs):
    for method, y in zip(METHODS, pool_each(window, inputs), strict=True):
        assert errors(method, window, inputs, y).max(initial=0) <= allowed(window, FLOAT32), method


@EVERY
@pytest.mark.parametrize("scale", [0.01, 2.0, 50.0])
def test_values(window, size, scale):
    judge(window, *pair((2, 2 * BLOCK, *size), scale=scale))


def test_every_argument():
    for seed, window in enumerate(windows(2)):
        judge(window, *pair((1, BLOCK, 11, 14), seed=seed))


@EACH
@pytest.mark.parametrize(("window", "size"), [(Window.of(2, 3, 2, 1), (14, 14)), (Window.of(2, 5, 1, 2), (20, 20))])
def test_bits_are_those_of_planes_in_lanes(method, window, size):
    """It is the same arithmetic in the same order; longer rows go along rows where they are planes."""
    inputs = pair((2, 2 * BLOCK, *size))[: len(method.inputs)]
    same_bits(pool_one(method, window, *inputs), pool(method, window, *inputs))


@EACH
@EVERY
def test_a_far_cell_does_not_show_in_windows_beside_it(method, window, size):
    inputs = list(pair((2, 2 * BLOCK, *size))[: len(method.inputs)])
    before = pool_one(method, window, *inputs)
    for i, far in enumerate(FAR[method.op_type]):
        at = tuple((n * (2 * i + 1)) // 8 for n in size)
        changed = [x.copy() for x in inputs]
        changed[-1][(0, 4, *at)] = far
        after = pool_one(method, window, *changed)
        touched = np.zeros(after.shape, bool)
        touched[0, 4] = windows_over(window, size, at)
        same_bits(after[~touched], before[~touched])
        assert errors(method, window, changed, after).max() <= allowed(window, FLOAT32)


@EACH
@EVERY
def test_huge_cells_down_to_any_row(method, window, size):
    for row in range(0, size[0], size[0] // 10 + 1):
        inputs = pair((1, BLOCK, *size))[: len(method.inputs)]
        inputs[-1][:, :, : row + 1] = HUGE[method.op_type]
        y = pool_one(method, window, *inputs)
        assert errors(method, window, inputs, y).max() <= allowed(window, FLOAT32), row


@EVERY
def test_batch_and_threads_do_not_show(window, size):
    inputs = pair((3, 2 * BLOCK, *size))
    whole = pool_each(window, inputs)
    for part in (np.s_[1:2, BLOCK:], np.s_[2:3]):
        for y, alone in zip(whole, pool_each(window, [i[part].copy() for i in inputs]), strict=True):
            same_bits(y[part], alone)
    for y, other in zip(whole, pool_each(window, inputs, threads=3), strict=True):
        same_bits(y, other)


@EVERY
def test_any_power_of_two_scales_stochastic_pooling(window, size):
    x = numbers((2, BLOCK, *size))
    x[0, 3].flat[::2] = 0
    y = pool_one(STOCHASTIC, window, x)
    for power in (-100, 60, 95):
        scale = np.float32(2.0**power)
        mixed, expected = x.copy(), y.copy()
        mixed[:, ::2] *= scale
        expected[:, ::2] *= scale
        same_bits(pool_one(STOCHASTIC, window, mixed), expected)


@pytest.mark.parametrize("value", [NAN, INF, -INF, 3e38, -3e38, 1e-45, -0.0])
@pytest.mark.parametrize(("window", "size"), WINDOWS[:9], ids=str)
def test_special_cells(value, window, size):
    for seed, where in itertools.product(range(2), range(2)):
        inputs = pair((1, BLOCK, *size), seed=seed)
        inputs[where].reshape(-1)[:: 7 if seed else inputs[where].size - 1] = value
        judge(window, *inputs)
    everywhere = np.full((1, BLOCK, *size), value, np.float32)
    judge(window, everywhere, everywhere)


def test_signs_of_zeros_do_not_depend_on_cells_beside():
    """A window of negative zeros at the edge, in plain form and beside an outlier."""
    for window, size in WINDOWS[:8]:
        x = np.full((1, BLOCK, *size), -0.0, np.float32)
        before = pool_one(SOFT, window, x)
        x[0, 0, 0, 0] = 1000
        after = pool_one(SOFT, window, x)
        same_bits(after[:, 1:], before[:, 1:])


def test_no_rows_and_no_planes():
    for shape in ((0, BLOCK, 8, 8), (1, 0, 8, 8)):
        y = session(node(Window.of(2, 2), (SOFT,))).run(None, {"x": np.zeros(shape, np.float32)})[0]
        assert y.shape == (*shape[:2], 4, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"block_size": None}, "block_size is missing or is not an integer from 2"),
        ({"block_size": 1}, "block_size is missing or is not an integer from 2"),
        ({"block_size": 2 * BLOCK}, f"block_size is {2 * BLOCK}, and this processor has other blocks"),
        ({"block_size": BLOCK // 2}, "optimised for another one; optimise it here"),
        ({"kernel_size": [3, 3]}, "attribute kernel_size is unknown"),
        ({"ceil_mode": 2}, "ceil_mode is missing or is not the integer 0 or 1"),
    ],
    ids=str,
)
def test_wrong_attributes_are_refused_when_the_model_loads(changed, message):
    with pytest.raises(Exception, match=message):
        session(node(Window.of(2, 3, 2, 1), (SOFT,), **changed))


def test_one_spatial_axis_is_refused():
    with pytest.raises(Exception, match="kernel_shape has 1 numbers; blocks of channels have 2 spatial axes"):
        session(node(Window.of(1, 3), (SOFT,)))


def test_other_types_have_no_kernel():
    model = bare(Window.of(2, 2), FLOAT16, methods=(SOFT,), block_size=BLOCK)
    model.graph.node[0].domain = "onnxpool.nchwc"
    model.opset_import.append(helper.make_opsetid("onnxpool.nchwc", 1))
    with pytest.raises(Exception, match="SoftPool"):
        session(model)


def test_a_part_of_a_block_is_refused():
    ready = session(node(Window.of(2, 2), (SOFT,)))
    with pytest.raises(Exception, match=f"no whole number of blocks of {BLOCK} channels"):
        ready.run(None, {"x": np.zeros((1, BLOCK + 1, 4, 4), np.float32)})
