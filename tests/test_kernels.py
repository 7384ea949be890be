"""What the native kernels promise beyond right values: bits that depend on a window's cells alone, little error, and a
small stack. Shapes are such that each loop of custom_ops/kernels is taken: along rows, columns in lanes, planes in
lanes, one window a plane.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_native import (
    ALLOWED_ULPS,
    DTYPES,
    EACH,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    LOCAL_IMPORTANCE,
    METHODS,
    SOFT,
    STOCHASTIC,
    allowed,
    check,
    errors,
    numbers,
    pair,
    pool,
    pool_each,
)

from onnxpool.run import native_library
from onnxpool.window import Window

ROWS = [
    (Window.of(2, 2), (18, 64)),
    (Window.of(2, 3, 2, 1), (35, 71)),
    (Window.of(2, 3, 2), (20, 66)),
    (Window.of(2, 3, 2, 1, ceil_mode=True), (20, 78)),
    (Window.of(2, 3, 1, 1), (17, 65)),
    (Window.of(2, 3, 1), (13, 68)),
    (Window.of(2, 3, 2, 1), (9, 1000)),
    (Window.of(2, 3, 1, (1, 0)), (9, 900)),
    (Window.of(2, 2), (5, 801)),
]
COLUMNS = [
    (Window.of(3, 2), (5, 7, 45)),
    (Window.of(3, 3, 2, 1), (6, 9, 64)),
    (Window.of(3, (3, 5, 4), (1, 3, 2), (1, 0, 2), 1, True), (4, 9, 300)),
]
LANES = [
    (Window.of(2, 2), (14, 14)),
    (Window.of(2, 2), (14, 26)),
    (Window.of(2, 3, 2, 1), (14, 14)),
    (Window.of(2, 3, 2, 1), (23, 28)),
    (Window.of(2, 3, 1, 1), (11, 48)),
    (Window.of(2, 5, 1, 2), (20, 20)),
    (Window.of(2, 13, 1, 6), (13, 13)),
    (Window.of(2, 9, 2, 4, ceil_mode=True), (40, 31)),
    (Window.of(2, (3, 2), (2, 1), (1, 0), (2, 3)), (19, 23)),
    (Window.of(1, 4, 4), (5000,)),
    (Window.of(1, 20, 3, 10), (9000,)),
    (Window.of(3, 3, 2, 1), (7, 12, 15)),
    (Window.of(2, (2, 5), 1, (0, 2)), (3, 5000)),
    (Window.of(2, 7), (7, 7)),
]
OVERLAPPING = pytest.mark.parametrize(("window", "size"), ROWS + COLUMNS + LANES, ids=str)


def same_bits(a, b):
    np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


def windows_over(window, size, at):
    """Which outputs have this cell in their window."""
    outputs = []
    for axis, position in enumerate(at):
        starts = np.arange(window.output(size)[axis]) * window.stride[axis] - window.pad[axis]
        steps = position - starts
        inside = (steps >= 0) & (steps < window.extent[axis]) & (steps % window.dilation[axis] == 0)
        outputs.append(inside)
    return np.logical_and.reduce(np.meshgrid(*outputs, indexing="ij"))


FAR = {"SoftPool": [1000.0, -300.0, 1e30, -np.inf], "LocalImportancePool": [200.0, -1e9, -np.inf, 5e4],
       "StochasticPool": [1e25, 1e-25, 1e38, np.inf]}  # fmt: skip


@EACH
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, FLOAT64], ids=str)
@OVERLAPPING
def test_a_far_cell_does_not_show_in_windows_beside_it(method, window, size, dtype):
    """A far cell changes the form that weights of all cells near it have, plane by plane: their bits must stay."""
    inputs = [i.astype(dtype) for i in pair((2, 9, *size))][: len(method.inputs)]
    before = pool(method, window, *inputs)
    for i, far in enumerate(FAR[method.op_type]):
        at = tuple((n * (2 * i + 1)) // 8 for n in size)
        changed = [x.copy() for x in inputs]
        with np.errstate(over="ignore"):
            changed[-1][(0, 4, *at)] = far
        after = pool(method, window, *changed)
        touched = np.zeros(after.shape, bool)
        touched[0, 4] = windows_over(window, size, at)
        assert touched.any() or max(window.stride) > 1
        same_bits(after[~touched], before[~touched])
        assert errors(method, window, changed, after).max() <= allowed(window, dtype)


HUGE = {"SoftPool": 2e4, "LocalImportancePool": 2e4, "StochasticPool": 2e38}


@EACH
@OVERLAPPING
def test_huge_cells_down_to_any_row(method, window, size):
    """Windows with cells too huge for registers are done one by one, even where only shared rows hold them."""
    for row in range(0, size[0], size[0] // 40 + 1):
        inputs = pair((1, 1, *size))[: len(method.inputs)]
        inputs[-1][:, :, : row + 1] = HUGE[method.op_type]
        y = pool(method, window, *inputs)
        assert errors(method, window, inputs, y).max() <= allowed(window, FLOAT32), row


@DTYPES
@OVERLAPPING
def test_batch_and_threads_do_not_show(window, size, dtype):
    """By how many planes there are, lanes hold whole planes or parts of them."""
    inputs = pair((3, 14, *size), dtype)
    whole = pool_each(window, inputs)
    for part in (np.s_[1:2, 3:4], np.s_[2:3]):
        for y, alone in zip(whole, pool_each(window, [i[part].copy() for i in inputs]), strict=True):
            same_bits(y[part], alone)
    for y, other in zip(whole, pool_each(window, inputs, threads=3), strict=True):
        same_bits(y, other)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@OVERLAPPING
def test_any_power_of_two_scales_stochastic_pooling(window, size, dtype):
    """Weights have other forms where values, or others near them, are tiny or large. That must not show in bits."""
    x = numbers((2, 9, *size), dtype)
    x[0, 3].flat[::2] = 0
    y = pool(STOCHASTIC, window, x)
    for power in (-100, 60, 95) if dtype == FLOAT32 else (-900, 600):
        scale = dtype.type(2.0**power)
        same_bits(pool(STOCHASTIC, window, x * scale), y * scale)
        mixed = x.copy()
        mixed[:, ::2] *= scale
        expected = y.copy()
        expected[:, ::2] *= scale
        same_bits(pool(STOCHASTIC, window, mixed), expected)


@OVERLAPPING
def test_subnormal_cells_are_pooled_alike_beside_any_other(window, size):
    """Infinities in a plane have every cell looked at: windows of subnormal cells must not show that."""
    x = np.abs(numbers((1, 9, *size), FLOAT32))
    x[0, 3] *= np.float32(2.0**-130)
    x[0, 4].flat[::7] *= np.float32(2.0**-130)
    before = pool(STOCHASTIC, window, x)
    at = tuple(n // 2 for n in size)
    changed = x.copy()
    changed[(0, 4, *at)] = np.inf
    after = pool(STOCHASTIC, window, changed)
    touched = np.zeros(after.shape, bool)
    touched[0, 4] = windows_over(window, size, at)
    same_bits(after[~touched], before[~touched])
    assert errors(STOCHASTIC, window, (x,), before).max() <= allowed(window, FLOAT32)


@pytest.mark.parametrize(("window", "size"), ROWS, ids=str)
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
def test_the_second_look(window, size, scale):
    """Along rows float32 errs less than plain float sums, which come to 4 ULP and more here."""
    x, logit = pair((4, 16, *size), scale=scale)
    for method, y in zip(METHODS, pool_each(window, (x, logit)), strict=True):
        assert errors(method, window, (x, logit), y).max() <= 2.75, method.op_type


@DTYPES
@pytest.mark.parametrize("cells", [2048, 2049, 16384, 16385, 300000])
def test_long_global_windows(cells, dtype):
    """Planes that are one window are cut into parts, and joined in a fixed order; far cells in some parts alone."""
    window = Window.of(1, cells)
    x, logit = pair((2, 2, cells), dtype)
    x[0, 1, 20::7000], logit[1, 0, 5::9000] = 90, 70
    check(window, x, logit)
    one, many = (pool_each(window, (x, logit), threads=n) for n in (1, 3))
    for a, b in zip(one, many, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])
def test_special_cells_of_long_global_windows(value):
    window = Window.of(1, 40000)
    x, logit = pair((1, 3, 40000))
    x[0, 0, 30000] = logit[0, 1, 30000] = value
    x[0, 2, :] = logit[0, 2, :] = value
    check(window, x, logit)


@DTYPES
def test_adversarial_windows(dtype):
    """Cells that cancel, cells that dominate, equal cells, powers of two apart: the promise holds for any."""
    rng = np.random.default_rng(3)
    cells = [
        rng.choice([-1.0, 1.0, -0.999, 1.001], (6, 16, 17, 66)),
        rng.choice([0.0, 1.0, 2.0, 4.0, 8.0], (6, 16, 17, 66)),
        np.where(rng.random((6, 16, 17, 66)) < 0.1, 7.9, -7.9),
        rng.standard_normal((6, 16, 17, 66)) * 2.0 ** rng.integers(-20, 4, (6, 16, 17, 66)),
    ]
    for window in (
        Window.of(2, 3, 2, 1),
        Window.of(2, 3, 1, 1),
        Window.of(2, 2),
        Window.of(2, 5, 1, 2),
        Window.of(2, 17),
    ):
        for x, logit in zip(cells, cells[1:] + cells[:1], strict=True):
            check(window, x.astype(dtype), logit.astype(dtype))


@pytest.mark.parametrize(
    ("window", "size"),
    [(Window.of(2, 5, 1, 2), (14, 14)), (Window.of(2, 3, 2, 1), (9, 64)), (Window.of(2, 9), (9, 9))],
    ids=str,
)
def test_products_that_are_finite_and_their_sum_is_not(window, size):
    """Each value times its plain weight is a float, 25 of them are none: that must be seen before they are added."""
    x, logit = np.full((2, 20, *size), 1e12, FLOAT32), np.full((2, 20, *size), 29, FLOAT32)
    check(window, x, logit, methods=(LOCAL_IMPORTANCE,))
    check(window, x * np.sign(numbers(x.shape)), logit, methods=(LOCAL_IMPORTANCE,))


SMALL_STACK = """
import ctypes, sys
sys.path[:0] = {path!r}
import test_kernels as t
windows = t.ROWS + t.COLUMNS + t.LANES + [(t.Window.of(1, 20000), (20000,))]
sessions = [(t.sessions_for(w), t.pair((2, 20, *s), scale=20.0)) for w, s in windows]
failed = []

@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def run(_):
    for session, (x, logit) in sessions:
        try: session.run(None, {{"x": x, "logit": logit}})
        except Exception as error: failed.append(error)

size, guard = 64 * 1024, 1024 * 1024
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
start = libc.mmap(None, guard + size, 0, 0x22, -1, 0)  # private, anonymous, not to be touched
assert libc.mprotect(ctypes.c_void_p(start + guard), ctypes.c_size_t(size), 3) == 0
attributes, thread = ctypes.create_string_buffer(256), ctypes.c_ulong()
assert libc.pthread_attr_init(attributes) == 0
assert libc.pthread_attr_setstack(attributes, ctypes.c_void_p(start + guard), ctypes.c_size_t(size)) == 0
assert libc.pthread_create(ctypes.byref(thread), attributes, run, None) == 0
assert libc.pthread_join(thread, None) == 0
sys.exit(1 if failed else 0)
"""


def sessions_for(window):
    """One session of every method, on the thread that calls it."""
    from test_native import bare, session

    return session(bare(window, methods=METHODS))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are made by glibc's functions")
def test_a_stack_of_64_kib_is_enough():
    """Kernels run on threads of others, and hold 16 KiB at most themselves. Below this stack nothing may be touched."""
    code = SMALL_STACK.format(path=[str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, native_library.OVERRIDE: str(native_library.library_path())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


def test_what_is_tested_here_is_strict():
    assert ALLOWED_ULPS[FLOAT16] == 1
    x = numbers((1, 1, 8, 64), FLOAT32)
    y = pool(SOFT, Window.of(2, 2), x)
    spoilt = y + np.float32(12e-6)
    assert errors(SOFT, Window.of(2, 2), (x,), spoilt).max() > allowed(Window.of(2, 2), FLOAT32)
    assert {m.op_type for m in (SOFT, LOCAL_IMPORTANCE, STOCHASTIC)} == set(FAR)
