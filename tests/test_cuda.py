"""The CUDA kernels: their very body on the host against each method's formula, their build, and, on a GPU, themselves.

`custom_ops/cuda/host.cc` runs the body for each thread of a grid, so that a machine without a GPU still catches a wrong
index. Inputs lie between walls of NaN, outputs between walls that must stay: a cell read or written outside shows.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from test_native import (
    ALLOWED_ULPS,
    DTYPES,
    EACH,
    FLOAT32,
    LOCAL_IMPORTANCE,
    METHODS,
    PATCHES,
    SOFT,
    STOCHASTIC,
    errors,
    numbers,
    pair,
    patch,
    place,
    windows,
)

from onnxpool.window import Window

CUSTOM_OPS = Path(__file__).parent.parent / "custom_ops"
WALL = 64
Whole = ctypes.c_int64


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """custom_ops/cuda/host.cc, compiled."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.name != "posix":
        pytest.skip("no C++ compiler on this machine; install one, or name it in CXX")
    path = tmp_path_factory.mktemp("cuda") / "host.so"
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *warnings, "-DONNXPOOL_ISA=cuda"]
    subprocess.run([*command, str(CUSTOM_OPS / "cuda" / "host.cc"), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.host_cells.restype = library.host_divide.restype = Whole
    return library


def whole(*values):
    return (Whole * len(values))(*values)


def window_numbers(window):
    """As custom_ops/cuda/library.h wants them."""
    return whole(*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))


def walled(x):
    """A copy of x with NaN before and after it."""
    whole = np.full(x.size + 2 * WALL, np.nan, x.dtype)
    whole[WALL:-WALL] = x.ravel()
    return whole[WALL:-WALL].reshape(x.shape)


def pool_on_host(host, method, window, *inputs, blocks=0, threads=0):
    inputs = [walled(x) for x in inputs[: len(method.inputs)]]
    shape, size = window.check(inputs[0].shape), inputs[0].itemsize
    output = np.full(int(np.prod(shape)) * size + 2 * WALL, 0xA5, np.uint8)
    pointers = (ctypes.c_void_p * len(inputs))(*(x.ctypes.data for x in inputs))
    together = host.host_pool(
        METHODS.index(method),
        list(ALLOWED_ULPS).index(inputs[0].dtype),
        Whole(window.rank),
        whole(*inputs[0].shape),
        window_numbers(window),
        pointers,
        ctypes.c_void_p(output.ctypes.data + WALL),
        Whole(blocks),
        threads,
    )
    assert together, "the lanes of a warp exchanged numbers without each other"
    assert (output[:WALL] == 0xA5).all()
    assert (output[-WALL:] == 0xA5).all()
    return output[WALL:-WALL].view(inputs[0].dtype).reshape(shape)


def check(host, window, *inputs, methods=METHODS):
    """Every method against its formula; the largest error."""
    worst = {
        m.op_type: errors(m, window, inputs, pool_on_host(host, m, window, *inputs)).max(initial=0) for m in methods
    }
    assert max(worst.values()) <= ALLOWED_ULPS[inputs[0].dtype], worst
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
def test_one_window_by_hand(host, dtype, method, x, logit, expected):
    inputs = (np.array(values, dtype).reshape(1, 1, 2, 2) for values in (x, logit) if values)
    y = pool_on_host(host, method, Window.of(2, 2), *inputs).astype(np.float64).item()
    assert y == pytest.approx(expected, rel=1e-10, abs=4 * ALLOWED_ULPS[dtype] * float(ml_dtypes.finfo(dtype).eps))


@DTYPES
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_argument(host, rank, dtype):
    sizes = {1: (23,), 2: (11, 14), 3: (6, 7, 9)}[rank]
    worst = [check(host, window, *pair((1, 2, *sizes), dtype, seed=seed)) for seed, window in enumerate(windows(rank))]
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
def test_large_windows(host, shape, arguments, dtype):
    check(host, Window.of(len(shape) - 2, **arguments), *pair(shape, dtype))
