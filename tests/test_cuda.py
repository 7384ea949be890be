"""The CUDA kernels: their very body on the host against each method's formula, their build, and, on a GPU, themselves.

`custom_ops/cuda/host.cc` runs the body for each thread of a grid, so that a machine without a GPU still catches a wrong
index. Inputs lie between walls of NaN, outputs between walls that must stay: a cell read or written outside shows.
"""

import ctypes
import importlib.util
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from cases import WINDOWS, inputs
from models import pooled
from test_native import (
    ALLOWED_ULPS,
    DTYPES,
    EACH,
    LOCAL_IMPORTANCE,
    METHODS,
    PATCHES,
    SOFT,
    STOCHASTIC,
    cells,
    errors,
    numbers,
    pair,
    patch,
    place,
    windows,
)

import onnxpool
from onnxpool.golden import bounds
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.run.native_library import CUDA, cuda_kernels, cuda_library, library_path, why_none_for
from onnxpool.window import Window

CUSTOM_OPS = Path(__file__).parent.parent / "custom_ops"
WALL = 64
Whole = ctypes.c_int64


@pytest.fixture(scope="session")
def host():
    return host_library()


@cache  # modules that take the fixture each have one
def host_library():
    """custom_ops/cuda/host.cc, compiled."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.name != "posix":
        pytest.skip("no C++ compiler on this machine; install one, or name it in CXX")
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *warnings]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "host.so")
        subprocess.run([*command, str(CUSTOM_OPS / "cuda" / "host.cc"), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    library.host_cells.restype = library.host_windows.restype = library.host_divide.restype = Whole
    return library


def whole(*values):
    return (Whole * len(values))(*values)


def window_numbers(window):
    """As custom_ops/cuda/library.h wants them."""
    return whole(*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))


def walled(x, shift=0):
    """A copy of x with NaN before and after it, ``shift`` elements off a place for a pair."""
    room = np.full(x.size + 2 * WALL + shift, np.nan, x.dtype)
    inside = room[WALL + shift : WALL + shift + x.size]
    inside[:] = x.ravel()
    return inside.reshape(x.shape)


class Grid:
    """The body on the host, in a whole grid; ``ex2`` and ``rcp`` are what ``2^x`` and ``1/x`` err there, in ULP."""

    def __init__(self, library, ex2=0.0, rcp=0.0):
        self.library, self.hardware = library, (ctypes.c_float(ex2), ctypes.c_float(rcp))

    def promise(self, window, dtype):
        """What a result may err: while the hardware is right, no more than the CPU's kernels."""
        return promise(window, dtype) if self.hardware[0].value else ALLOWED_ULPS[dtype]

    def pool(self, method, window, *inputs, blocks=0, threads=0, wide=False, general=False, rows=4, shift=0):
        """``shift`` moves the inputs away from places where two cells may be read at once."""
        self.library.host_hardware(*self.hardware)
        inputs = [walled(x, shift) for x in inputs[: len(method.inputs)]]
        shape = window.check(inputs[0].shape)
        output = np.full(int(np.prod(shape)) * inputs[0].itemsize + 2 * WALL, 0xA5, np.uint8)
        together = self.library.host_pool(
            METHODS.index(method),
            *described(window, inputs[0]),
            (ctypes.c_void_p * len(inputs))(*(x.ctypes.data for x in inputs)),
            ctypes.c_void_p(output.ctypes.data + WALL),
            Whole(blocks),
            threads,
            int(wide),
            int(general),
            Whole(rows),
        )
        assert together, "the lanes of a warp exchanged numbers without each other"
        return unwalled(output, inputs[0].dtype, shape)


def described(window, x):
    """Element type, rank, shape and window, as custom_ops/cuda/library.h wants them."""
    return list(ALLOWED_ULPS).index(x.dtype), Whole(window.rank), whole(*x.shape), window_numbers(window)


def unwalled(output, dtype, shape):
    assert (output[:WALL] == 0xA5).all()
    assert (output[-WALL:] == 0xA5).all()
    return output[WALL:-WALL].view(dtype).reshape(shape)


def promise(window, dtype):
    """What a CUDA kernel may err, in ULPs of the largest magnitude in the window."""
    return bounds.cuda_ulps(math.prod(window.kernel)) if dtype.itemsize > 2 else ALLOWED_ULPS[dtype]


class Device:
    """The kernels on the first CUDA device, by its driver alone: no ONNX Runtime, no PyTorch."""

    promise = staticmethod(promise)

    def __init__(self):
        self.library = cuda_library(cuda_kernels().library)
        self.driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        status = getattr(self.driver, name)(*arguments)
        assert status == 0, f"{name} gave status {status}"

    def put(self, data):
        """A copy of an array of bytes on the device."""
        at = ctypes.c_void_p()
        self.call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(data.nbytes))
        self.call("cuMemcpyHtoD_v2", at, ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes))
        return at

    def pool(self, method, window, *inputs):
        inputs = [walled(x) for x in inputs[: len(method.inputs)]]
        shape = window.check(inputs[0].shape)
        output = np.full(int(np.prod(shape)) * inputs[0].itemsize + 2 * WALL, 0xA5, np.uint8)
        there = [self.put(x.base.view(np.uint8)) for x in inputs]
        y, why = self.put(output), ctypes.create_string_buffer(512)
        status = self.library.pool(
            method.op_type.encode(),
            *described(window, inputs[0]),
            (ctypes.c_void_p * len(inputs))(*(at.value + WALL * inputs[0].itemsize for at in there)),
            ctypes.c_void_p(y.value + WALL),
            None,
            why,
            len(why),
        )
        assert status == 0, why.value
        self.call("cuCtxSynchronize")
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(output.ctypes.data), y, ctypes.c_size_t(output.nbytes))
        for at in (*there, y):
            self.call("cuMemFree_v2", at)
        return unwalled(output, inputs[0].dtype, shape)


@pytest.fixture(scope="session")
def grid(host):
    return Grid(host)


@pytest.fixture(scope="session", params=["host", "erring host", pytest.param("device", marks=pytest.mark.cuda)])
def place_of_work(request):
    """Where the kernels' body runs: a grid on the host, with hardware that is right or errs as much as NVIDIA's may,
    and a CUDA device where there is one.
    """
    if request.param != "device":
        return Grid(request.getfixturevalue("host"), *((2, 1) if request.param == "erring host" else ()))
    if missing := cuda_kernels().missing:
        pytest.skip(missing)
    return Device()


def check(work, window, *inputs, methods=METHODS):
    """Every method against its formula; the largest error."""
    worst = {m.op_type: errors(m, window, inputs, work.pool(m, window, *inputs)).max(initial=0) for m in methods}
    assert max(worst.values()) <= work.promise(window, inputs[0].dtype), worst
    return max(worst.values())


@DTYPES
@pytest.mark.parametrize(
    ("method", "x", "logit", "expected"),
    [
        (SOFT, [1, 2, 3, 4], [], 3.4926527346),
        (LOCAL_IMPORTANCE, [1, 2, 5, 6], [0, 1, 1, 2], 4.6552928932),
        (STOCHASTIC, [-1, 2, 3, -4], [], 2.6),
    ],
    ids=str,
)
def test_one_window_by_hand(place_of_work, dtype, method, x, logit, expected):
    inputs = (np.array(values, dtype).reshape(1, 1, 2, 2) for values in (x, logit) if values)
    y = place_of_work.pool(method, Window.of(2, 2), *inputs).astype(np.float64).item()
    assert y == pytest.approx(expected, rel=1e-10, abs=4 * ALLOWED_ULPS[dtype] * float(ml_dtypes.finfo(dtype).eps))


@DTYPES
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_argument(place_of_work, rank, dtype):
    sizes = {1: (23,), 2: (11, 14), 3: (6, 7, 9)}[rank]
    worst = [
        check(place_of_work, window, *pair((1, 2, *sizes), dtype, seed=seed))
        for seed, window in enumerate(windows(rank))
    ]
    assert len(worst) > 60
    assert max(worst) > 0


LARGE = [  # each a warp's: rows shorter and longer than it, dilated, clipped, joined to longer rows
    ((2, 3, 7, 7), {"kernel_size": 7}),
    ((1, 2, 9, 12), {"kernel_size": (5, 12), "stride": (2, 1), "padding": (2, 0)}),
    ((1, 2, 12, 20), {"kernel_size": (6, 7), "stride": (5, 3), "padding": (3, 2)}),
    ((1, 2, 30, 31), {"kernel_size": (6, 6), "stride": 4, "padding": 5, "dilation": (2, 3), "ceil_mode": True}),
    ((1, 2, 5, 6, 8), {"kernel_size": (3, 4, 5), "stride": (1, 2, 3), "padding": (1, 2, 2)}),
    ((1, 2, 5, 6, 8), {"kernel_size": (2, 6, 8), "stride": (2, 1, 1), "padding": (1, 0, 0)}),
    ((2, 2, 6, 5, 4), {"kernel_size": (6, 5, 4)}),
    ((1, 3, 300), {"kernel_size": 129, "stride": 7, "padding": 64}),
    ((1, 1, 9001), {"kernel_size": 9001}),
]


@DTYPES
@pytest.mark.parametrize(("shape", "arguments"), LARGE, ids=str)
def test_large_windows(place_of_work, shape, arguments, dtype):
    check(place_of_work, Window.of(len(shape) - 2, **arguments), *pair(shape, dtype))


# --- the grid


@EACH
@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (1, 256), (3, 64), (2, 96), (1000, 32)])
@pytest.mark.parametrize("window", [Window.of(2, 3, 2, 1), Window.of(2, 7, 3, 2)], ids=str)
def test_every_grid_gives_the_same_bits(grid, method, window, blocks, threads):
    """Threads take several windows where the grid is small, none where it is large."""
    inputs = pair((2, 3, 17, 19))
    expected = grid.pool(method, window, *inputs, general=True)
    actual = grid.pool(method, window, *inputs, general=True, blocks=blocks, threads=threads)
    np.testing.assert_array_equal(actual, expected)


@EACH
@pytest.mark.parametrize(
    "window",
    [Window.of(2, 3, 2, 1), Window.of(2, (2, 3), (3, 1), (1, 0), (1, 2), True), Window.of(2, 7, 3, 2)],
    ids=str,
)
def test_indices_of_64_bits_give_the_same_bits(grid, method, window):
    inputs = pair((2, 3, 17, 19))
    wide = grid.pool(method, window, *inputs, general=True, wide=True)
    np.testing.assert_array_equal(wide, grid.pool(method, window, *inputs, general=True))


MARCHED = [
    Window.of(2, 3, 2, 1),
    Window.of(2, 3, 2),
    Window.of(2, 3, 1, 1),
    Window.of(2, 3, 3),
    Window.of(2, 2),
    Window.of(2, (1, 3), (1, 2), (0, 1)),
    Window.of(2, (1, 2), (3, 2)),
]
"""A window for each kernel of march.h; those two columns apart read pairs."""


@EACH
@pytest.mark.parametrize("window", MARCHED, ids=str)
def test_every_strip_gives_the_same_bits(grid, method, window):
    inputs = pair((2, 3, 33, 34))
    for plane in inputs:
        place(plane[0, 1], patch(plane.dtype, "largest"), 2)  # these are done once more, by the other loop
    expected = grid.pool(method, window, *inputs, rows=1)
    for rows in (2, 3, 5, 32):
        np.testing.assert_array_equal(grid.pool(method, window, *inputs, rows=rows), expected)


@DTYPES
@pytest.mark.parametrize("window", MARCHED, ids=str)
def test_cells_one_by_one_give_the_same_bits_as_pairs(host, grid, window, dtype):
    inputs = pair((2, 3, 17, 20), dtype)
    assert job(host, window, inputs[0].shape)["paired"] == (window.stride[1] == 2)
    for method in METHODS:
        one_by_one = grid.pool(method, window, *inputs, shift=1)
        np.testing.assert_array_equal(one_by_one, grid.pool(method, window, *inputs))


@DTYPES
@pytest.mark.parametrize("window", MARCHED, ids=str)
@pytest.mark.parametrize("name", PATCHES)
def test_extremes_leave_other_windows_their_bits(grid, name, window, dtype):
    """The extremes stand in the first cells of two rows; windows that hold none of these cells must not change."""
    ordinary = pair((1, 1, 20, 16), dtype)
    for method in METHODS:
        expected = grid.pool(method, window, *ordinary)
        for spoilt in range(len(method.inputs)):
            inputs = [x.copy() for x in ordinary]
            inputs[spoilt][0, 0, 6:8, :3] = np.resize(patch(dtype, name), (2, 3))
            touched = cells(window, (inputs[spoilt] != ordinary[spoilt]).astype(np.float32)).max(-1) > 0
            assert 0 < touched.sum() < touched.size
            actual = grid.pool(method, window, *inputs)
            np.testing.assert_array_equal(actual[~touched], expected[~touched])


@DTYPES
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 3), (3, 4), (4, 5), (5, 64), (63, 2), (31, 33)], ids=str)
def test_every_size_of_plane(place_of_work, size, dtype):
    for window in MARCHED:
        for ceil in (False, True):
            chosen = Window.of(2, window.kernel, window.stride, window.pad, 1, ceil)
            if all(n + 2 * p >= k for n, p, k in zip(size, chosen.pad, chosen.kernel, strict=True)):
                check(place_of_work, chosen, *pair((1, 3, *size), dtype))


FAR = (
    (1, 1, 2, 3, 700),
    {"kernel_size": (2, 1, 1), "stride": (2**23, 1, 1), "dilation": (2**23, 1, 1), "ceil_mode": True},
)
"""A small tensor under a window whose second cell, far outside, is counted beyond 32 bits."""


def job(host, window, shape):
    facts = whole(*[0] * 9)
    host.host_job(Whole(window.rank), whole(*shape), window_numbers(window), facts)
    names = ("outputs", "team", "blocks", "narrow", "rows", "columns", "shared", "paired", "threads")
    return dict(zip(names, facts, strict=True))


@pytest.mark.parametrize(
    ("shape", "arguments", "outputs", "team", "blocks", "narrow"),
    [
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}, 8 * 64 * 56 * 56, 1, 6272, 1),
        ((1, 2047, 7, 7), {"kernel_size": 7}, 2047, 32, 256, 1),
        ((1, 1, 5, 32), {"kernel_size": (1, 32)}, 5, 1, 1, 1),
        ((0, 3, 4), {"kernel_size": 2}, 0, 1, 0, 1),
        ((1, 1, 2**30 - 1), {"kernel_size": 1}, 2**30 - 1, 1, 2**22, 1),
        ((1, 1, 2**30), {"kernel_size": 1}, 2**30, 1, 2**22, 0),
        ((1, 3, 2**40), {"kernel_size": 1}, 3 * 2**40, 1, 2**24, 0),
        (FAR[0], FAR[1], 2100, 1, 9, 0),
    ],
    ids=str,
)  # fmt: skip
def test_jobs(host, shape, arguments, outputs, team, blocks, narrow):
    expected = {"outputs": outputs, "team": team, "blocks": blocks, "narrow": narrow}
    assert job(host, Window.of(len(shape) - 2, **arguments), shape).items() >= expected.items()


@pytest.mark.parametrize(
    ("shape", "arguments", "rows", "columns", "shared", "paired", "threads"),
    [
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}, 3, 3, 1, 1, 8 * 64 * 14 * 56),
        ((8, 64, 112, 111), {"kernel_size": 3, "stride": 2, "padding": 1}, 3, 3, 1, 0, 8 * 64 * 14 * 56),
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 1, "padding": 1}, 3, 3, 2, 0, 8 * 64 * 28 * 112),
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 3}, 3, 3, 0, 0, 8 * 64 * 10 * 37),
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": (4, 2)}, 3, 3, 0, 0, 8 * 64 * 7 * 55),
        ((8, 64, 112, 112), {"kernel_size": 2}, 2, 2, 0, 1, 8 * 64 * 14 * 56),
        ((8, 64, 112, 112), {"kernel_size": 2, "padding": 1}, 2, 2, 0, 0, 8 * 64 * 15 * 57),
        ((1, 4, 9, 56, 56), {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)}, 3, 3, 1, 1, 28224),
        ((1, 3, 9, 9), {"kernel_size": 3}, 3, 3, 0, 0, 3 * 3 * 3),
        ((2**15, 2**10, 6, 6), {"kernel_size": 3}, 3, 3, 0, 0, 2**25 * 2),
        ((16, 128, 4096), {"kernel_size": 3, "stride": 2, "padding": 1}, 1, 3, 0, 1, 2**9 * 2048),
        ((16, 127, 4095), {"kernel_size": 2}, 1, 2, 0, 0, 16 * 127 // 4 * 2047),
        ((2, 3, 8, 8), {"kernel_size": (1, 2)}, 1, 2, 0, 1, 48 * 4),
        ((2, 3, 8, 8), {"kernel_size": (1, 2), "stride": (3, 2)}, 1, 2, 0, 1, 6 * 3 * 4),
        ((1, 8, 2**27), {"kernel_size": 3, "stride": 64}, 1, 3, 0, 1, 8 * 2**21),
        ((8, 64, 112, 112), {"kernel_size": 3, "dilation": 2}, 0, 0, 0, 0, 0),
        ((8, 64, 112, 112), {"kernel_size": (3, 2)}, 0, 0, 0, 0, 0),
        ((8, 64, 16, 56, 56), {"kernel_size": 3}, 0, 0, 0, 0, 0),
        ((8, 64, 3, 3), {"kernel_size": 3}, 0, 0, 0, 0, 0),
        ((1, 1, 2**15, 2**15), {"kernel_size": 2}, 0, 0, 0, 0, 0),
        ((0, 3, 9, 9), {"kernel_size": 3}, 3, 3, 0, 0, 0),
        ((0, 3, 9), {"kernel_size": 3}, 1, 3, 0, 0, 0),
    ],
    ids=str,
)  # fmt: skip
def test_marches(host, shape, arguments, rows, columns, shared, paired, threads):
    """Four outputs a thread, fewer where these would be few threads; one window over a plane is a row of cells."""
    expected = {"rows": rows, "columns": columns, "shared": shared, "paired": paired, "threads": threads}
    assert job(host, Window.of(len(shape) - 2, **arguments), shape).items() >= expected.items()


def cells_of(host, window, shape, output, lane=0, lanes=1):
    visited = (Whole * 64)()
    given = Whole(window.rank), whole(*shape), window_numbers(window), Whole(output)
    count = host.host_cells(*given, lane, lanes, visited, Whole(len(visited)))
    return list(visited[:count])


def expected_cells(window, shape, output):
    """By the definition, in Python's whole numbers."""
    sizes, place = (*shape[:2], *window.output(shape[2:])), []
    for size in reversed(sizes):
        output, at = divmod(output, size)
        place.insert(0, at)
    along = [
        [at for at in range(o * s - p, o * s - p + e, d) if 0 <= at < n]
        for o, s, p, e, d, n in zip(
            place[2:], window.stride, window.pad, window.extent, window.dilation, shape[2:], strict=True
        )
    ]
    found = []
    for cell in itertools.product(*along):
        index = place[0] * shape[1] + place[1]
        for at, n in zip(cell, shape[2:], strict=True):
            index = index * n + at
        found.append(index)
    return found


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((2, 3, 2**33 + 1), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((70000, 3, 200, 300), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((1, 2, 70000, 90001), {"kernel_size": (4, 3), "padding": (2, 1), "dilation": (3, 2), "ceil_mode": True}),
        ((3, 5, 3000, 2000, 1500), {"kernel_size": (2, 3, 5), "stride": (1, 2, 3), "padding": (1, 1, 2)}),
        ((2**31, 7, 3, 3), {"kernel_size": 3}),
        ((2**20, 2**12, 5, 8), {"kernel_size": (4, 8), "stride": (1, 8), "padding": (2, 0)}),
        FAR,
    ],
    ids=str,
)
def test_windows_of_tensors_beyond_32_bits(host, shape, arguments):
    """First, last and random windows, for one thread, and for a warp's lanes together; no tensor is made."""
    window = Window.of(len(shape) - 2, **arguments)
    outputs = job(host, window, shape)["outputs"]
    assert outputs == shape[0] * shape[1] * int(np.prod(window.output(shape[2:]), dtype=object)) > 0
    assert not job(host, window, shape)["narrow"]
    chosen = [0, 1, outputs - 2, outputs - 1, *np.random.default_rng(0).integers(0, outputs, 40)]
    for output in map(int, chosen):
        expected = expected_cells(window, shape, output)
        assert expected
        assert cells_of(host, window, shape, output) == expected
        shares = [cells_of(host, window, shape, output, lane, 32) for lane in range(32)]
        assert [share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share)] == expected


@pytest.mark.parametrize(("bits", "kind"), [(64, Whole), (32, ctypes.c_int32)])
def test_division_by_multiplication(host, bits, kind):
    divide, rest, rng = host.host_divide if bits == 64 else host.host_divide_32, kind(), np.random.default_rng(0)
    largest, most = 2 ** (bits - 1) - 1, 2 ** (bits - 2)
    edges = [2**k + d for k in range(1, bits - 2) for d in (-1, 0, 1)] + [3, 7, 10, most]
    for divisor in (*edges, *map(int, rng.integers(1, most, 100))):
        multiples = [k * divisor + d for k in (1, 2, 3, 1000, largest // divisor) for d in (-1, 0, 1)]
        for number in (0, largest, *multiples, *map(int, rng.integers(0, largest, 5))):
            if number <= largest:
                assert (divide(kind(number), kind(divisor), ctypes.byref(rest)), rest.value) == divmod(number, divisor)


# --- extremes


@DTYPES
@pytest.mark.parametrize("window", [*MARCHED, Window.of(2, 3, 1, 1, 2), Window.of(2, 6)], ids=str)
def test_extremes_beside_ordinary_cells(place_of_work, window, dtype):
    """A channel for each patch of x, with each patch of logits over it, or none; the last window is a warp's."""
    pairs = list(itertools.product(PATCHES, [None, *PATCHES]))
    x, logit = pair((1, len(pairs), 12, 12), dtype)
    for channel, names in enumerate(pairs):
        for plane in (x, logit):
            if name := names[plane is logit]:
                place(plane[0, channel], patch(dtype, name), channel % 4)
    check(place_of_work, window, x, logit)


@DTYPES
@pytest.mark.parametrize("name", PATCHES)
def test_extremes_alone(place_of_work, name, dtype):
    values = patch(dtype, name)
    for window, size in (*((marched, (9, 10)) for marched in MARCHED), (Window.of(2, 9, 9), (9, 9))):
        x = np.resize(values, (1, 2, *size))
        check(place_of_work, window, x, x)
        check(place_of_work, window, x, numbers(x.shape, dtype), methods=(LOCAL_IMPORTANCE,))
        check(place_of_work, window, numbers(x.shape, dtype), x, methods=(LOCAL_IMPORTANCE,))


@DTYPES
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 20.0, 80.0, 1e3, 1e4, 1e30])
def test_every_magnitude(place_of_work, scale, dtype):
    top = ml_dtypes.finfo(dtype).max
    for window in (*MARCHED, Window.of(2, 7, 4, 3)):
        with np.errstate(over="ignore"):
            x, logit = (np.clip(i, -top, top).astype(dtype) for i in pair((1, 2, 20, 23), dtype, scale=scale))
        check(place_of_work, window, x, logit)
        check(place_of_work, window, x, numbers(x.shape, dtype), methods=(LOCAL_IMPORTANCE,))


@pytest.mark.parametrize("lowest", [-8.0, -2.0, 1.0, 1.9])
@pytest.mark.parametrize("window", [*MARCHED, Window.of(2, 5), Window.of(2, 9)], ids=str)
def test_rounding_of_many_windows(place_of_work, window, lowest):
    """Where float sums err most: see the test of that name in test_native.py."""
    rng, top = np.random.default_rng(5), max(2.0, -lowest)
    x, logit = ((rng.random((1, 8, 64, 64)) * (top - lowest) + lowest).astype(np.float32) for _ in range(2))
    check(place_of_work, window, x, logit)


@EACH
def test_the_second_look_leaves_little_to_err(grid, method):
    """Where the hardware is right: a mean in one look was seen to err by 3 ULP here, in two by 1.7."""
    window, rng = Window.of(2, 3, 2, 1), np.random.default_rng(7)
    for lowest in (-8.0, -1.0, 1.0):
        x, logit = ((rng.random((1, 8, 96, 96)) * (8 - lowest) + lowest).astype(np.float32) for _ in range(2))
        assert errors(method, window, (x, logit), grid.pool(method, window, x, logit)).max() <= 2


# --- the library, with no device


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with both libraries; that for CUDA compiled for one architecture, with warnings as errors."""
    if shutil.which("nvcc") is None or shutil.which("cmake") is None:
        pytest.skip("no nvcc on this machine; CUDA code was not compiled")
    folder = tmp_path_factory.mktemp("built")
    options = ["-DONNXPOOL_CUDA=ON", "-DONNXPOOL_WERROR=ON", "-DONNXPOOL_CUDA_ARCHITECTURES=90-virtual"]
    for command in (["-S", str(CUSTOM_OPS), "-B", str(folder), *options], ["--build", folder, "-t", "onnxpool_cuda"]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(library_path(), folder / library_path().name)
    return folder


@pytest.mark.slow
def test_nvcc_compiles_it_without_a_warning(built):
    library = cuda_library(built / native_library.CUDA_FILE_NAME)
    assert library.architectures == b"90-virtual"
    command = ["nm", "-D", "--defined-only", built / native_library.CUDA_FILE_NAME]
    exported = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in exported.stdout.splitlines()] == ["OnnxpoolCuda"]


MOST_INSTRUCTIONS = 180
"""What an output may take in the loops that networks use."""


def disassembler():
    """nvdisasm: on the PATH, beside nvcc, or of the Python package nvidia-cuda-nvdisasm."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(shutil.which("nvcc") or "").resolve().parent, *(spec.submodule_search_locations if spec else ())]
    found = shutil.which("nvdisasm") or next((str(p) for f in folders for p in Path(f).glob("**/nvdisasm")), None)
    return found or pytest.skip("no nvdisasm on this machine; install nvidia-cuda-nvdisasm")


def instructions(code, kernel):
    """How many instructions a kernel has in its first loop, which must be a straight line, and around it, up to the end
    of a thread that has nothing to do once more.
    """
    body = next(part for part in re.split(r"\n\.text\.(?=_Z)", code)[1:] if re.search(kernel, part.split(":")[0]))
    labels, found, begin, end = {}, [], 0, 0
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(found)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.+?) ;", line):
            found.append(instruction[1])
            target = re.search(r"\bBRA `\((\.L_x_\d+)\)", instruction[1])
            if not end and target and labels.get(target[1], len(found)) < len(found):
                begin, end = labels[target[1]], len(found)
            if end and "EXIT" in instruction[1]:
                break
    assert not [i for i in found[begin : end - 1] if re.search(r"\b(BRA|CALL|BSSY|EXIT|WARPSYNC)\b", i)]
    return end - begin, len(found) - (end - begin)


@pytest.mark.slow
@EACH
def test_instructions_per_output(method, tmp_path):
    """In the machine code for sm_90: the loop, which computes one output, and a quarter of what is around it, for 3x3
    windows two apart and strips of four outputs. Predicated instructions count whether or not they do anything; windows
    that are done once more do not.
    """
    nvcc, nvdisasm = shutil.which("nvcc") or pytest.skip("no nvcc on this machine"), disassembler()
    source = {"SoftPool": "soft", "LocalImportancePool": "local_importance", "StochasticPool": "stochastic"}
    command = [nvcc, "-std=c++17", "-O3", "-arch=sm_90", "-cubin", "-o", tmp_path / "code"]
    subprocess.run([*command, CUSTOM_OPS / "cuda" / f"{source[method.op_type]}.cu"], check=True)
    code = subprocess.run([nvdisasm, "-c", tmp_path / "code"], check=True, capture_output=True, text=True).stdout
    assert code.count("MUFU") > 0
    for paired in (0, 1):
        loop, around = instructions(code, f"march_kernel.*IfEEf.*ShapeILm3ELm3ELm1ELb{paired}E")
        assert loop > 9 * 5
        assert loop + around / 4 <= MOST_INSTRUCTIONS, (loop, around)


@pytest.mark.parametrize(
    ("op_type", "element", "shape", "window", "sentence"),
    [
        ("SoftPool", 4, (1, 1, 4, 4), Window.of(2, 2), "element type 4 is unknown"),
        ("SoftPool", 0, (1, 1, 4, 1), Window.of(2, 2), r"input of shape \[1, 1, 4, 1\] is too small on spatial axis 1"),
        ("MaxPool", 0, (1, 1, 4, 4), Window.of(2, 2), "there is no CUDA kernel of the name 'MaxPool'"),
        ("SoftPool", 0, (0, 1, 4, 4), Window.of(2, 2), ""),
        ("SoftPool", 0, (1, 1, 4, 4), Window.of(2, 2), "the CUDA kernel could not be started: "),
    ],
    ids=str,
)
@pytest.mark.slow
def test_every_status_comes_back(built, op_type, element, shape, window, sentence):
    """The last one is the launch's own, on a machine without a device; an empty batch has nothing to launch."""
    if sentence.startswith("the CUDA kernel could not") and cuda_kernels().devices:
        pytest.skip("there is a CUDA device: the kernel would start")
    why = ctypes.create_string_buffer(512)
    library, none = cuda_library(built / native_library.CUDA_FILE_NAME), (ctypes.c_void_p * 1)()
    numbers = (Whole(window.rank), whole(*shape), window_numbers(window))
    for function, pointers in ((library.pool, (none, None)), (library.gradients, (none, None, none, None))):
        status = function(op_type.encode(), element, *numbers, *pointers, None, why, len(why))
        assert status == (1 if sentence else 0)
        assert re.search(sentence, why.value.decode())


PROGRAM = """
import sys, numpy, onnxpool
from models import pooled
session = onnxpool.load(pooled(onnxpool.Window.of(2, 2)), kernels="require")
print("onnxpool_cuda" in open("/proc/self/maps").read(), session.placements[0].provider)
print(session.run({"x": numpy.array([[[[1, 2], [3, 4]]]], "float32")})["y"].item())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "loaded"), [("on", "True CPUExecutionProvider"), ("off", "False CPUExecutionProvider")]
)
def test_a_cpu_session_is_none_the_worse_for_registered_cuda_kernels(built, switch, loaded):
    environment = {
        **os.environ,
        native_library.OVERRIDE: str(built / library_path().name),
        native_library.CUDA_SWITCH: switch,
    }
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    said, y = done.stdout.splitlines()
    assert said == loaded
    assert float(y) == pytest.approx(3.4926527346, abs=1e-6)


@pytest.mark.parametrize(
    ("switch", "sentence"), [("on", "ONNXPOOL_CUDA is 'on', but .*libonnxpool_cuda.so"), ("yes", "use 'on' or 'off'")]
)
@pytest.mark.skipif(sys.platform != "linux", reason="there are CUDA kernels on Linux only")
def test_what_cannot_be_registered_is_refused_with_the_reason(tmp_path, switch, sentence):
    shutil.copy(library_path(), tmp_path / library_path().name)
    environment = {
        **os.environ,
        native_library.OVERRIDE: str(tmp_path / library_path().name),
        native_library.CUDA_SWITCH: switch,
    }
    program = """
import onnxruntime
from onnxpool.run import native_library
native_library.register(onnxruntime.SessionOptions())
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)


# --- what Python says of it


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The library in a folder of its own; what lies beside it is the test's."""
    shutil.copy(library_path(), tmp_path / library_path().name)
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / library_path().name))
    return tmp_path / native_library.CUDA_FILE_NAME


def test_why_there_are_no_cuda_kernels(beside, monkeypatch):
    assert cuda_kernels().library is None
    assert "installed without CUDA kernels" in why_none_for(CUDA)
    beside.write_bytes(b"no library")
    assert "cannot be loaded" in why_none_for(CUDA)
    monkeypatch.setenv(native_library.OVERRIDE, str(beside.with_name("absent.so")))
    assert "names no file" in why_none_for(CUDA)
    assert why_none_for("QuantumProvider") == "onnxpool has no native kernels for QuantumProvider"


@pytest.mark.slow
def test_what_is_said_of_built_kernels(built, monkeypatch):
    monkeypatch.setenv(native_library.OVERRIDE, str(built / library_path().name))
    found = cuda_kernels()
    assert found.architectures == ("90-virtual",)
    assert (found.devices == 0) == ("no CUDA device can be used" in (found.missing or ""))
    monkeypatch.setenv(native_library.CUDA_SWITCH, "off")
    assert "ONNXPOOL_CUDA is off" in why_none_for(CUDA)


def test_kernels_of_another_build_are_refused(beside, tmp_path):
    program = "static const struct { long long v; } t = {0}; const void* OnnxpoolCuda(void) { return &t; }"
    compiler = shutil.which("cc") or pytest.skip("no C compiler on this machine")
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", beside], input=program, text=True, check=True)
    assert "of another build" in why_none_for(CUDA)


# --- ONNX Runtime on a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("node", [OPERATORS[m.op_type] for m in METHODS], ids=lambda node: node.op_type)
def test_sessions_on_cuda(node, window, dtype):
    if CUDA not in onnxruntime.get_available_providers() or cuda_kernels().missing:
        pytest.skip(cuda_kernels().missing or "this onnxruntime has no CUDA provider")
    model = onnxpool.to_form(pooled(window, dtype, node.op_type, node.inputs), "function")
    session = onnxpool.load(model, providers=[CUDA], kernels="auto")
    assert [placement.provider for placement in session.placements] == [CUDA]
    for name, wide in inputs(window, float(ml_dtypes.finfo(dtype).max)).items():
        with np.errstate(over="ignore"):
            x = wide.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
        feeds = {given: np.roll(x, shift, axis=-1) for shift, given in enumerate(node.inputs)}
        answer = node.reference(window, *(array.astype(np.float64) for array in feeds.values()))
        bound = bounds.pooling(window, x.astype(np.float64), answer, x.dtype, native=True)
        assert bounds.measure(session.run(feeds)["y"], answer, bound.allowed).within, name
