"""tools/gpu as far as it goes without a GPU: its table over the kernels' body on the host, and what it says of none."""

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_cuda import host  # noqa: F401

from onnxpool.pools import OPERATORS
from onnxpool.run.native_library import cuda_kernels

TOOLS = Path(__file__).parent.parent / "tools"
METHODS = ("SoftPool", "LocalImportancePool", "StochasticPool")


class HostDriver:
    """Memory of this process in place of a device's; each call of a graph takes as long as it says."""

    stream = None

    def __init__(self):
        self.buffers = {}
        self.copied = 0

    def allocate(self, size_bytes):
        buffer = ctypes.create_string_buffer(size_bytes + 16)
        at = ctypes.addressof(buffer) + 15 & ~15
        self.buffers[at] = buffer
        return at

    def free(self, at):
        del self.buffers[at]

    def put(self, at, array, size_bytes):
        ctypes.memmove(at, array.ctypes.data, size_bytes)

    def get(self, array, at):
        ctypes.memmove(array.ctypes.data, at, array.nbytes)

    def copy(self, _to, _start, size_bytes):
        self.copied = size_bytes

    def synchronize(self):
        pass

    def graph(self, start, _launches):
        self.copied = 0
        start()
        return 4e-5 if self.copied else 8e-5

    def time_ms(self, graph):
        return graph

    def drop(self, graph):
        pass


class HostLibrary:
    """The C entry point over the kernels' body on the host, which may be made to give wrong numbers."""

    def __init__(self, library, spoil=False):
        self.library, self.spoil = library, spoil

    def pool(self, op_type, element, rank, shape, window, inputs, output, *_):
        method, number = METHODS.index(op_type.decode()), ctypes.c_int64
        args = (method, element, number(rank), shape, window, inputs, ctypes.c_void_p(output))
        self.library.host_pool(*args, number(0), 0, 0, 0, number(4))
        if self.spoil:
            ctypes.memset(output, 0x42, 8)
        return 0


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import gpu_table

    return gpu_table


SMALL = (((1, 4, 8, 10), 3, 2, 1), ((2, 3, 9, 9), 2, 2, 0), ((1, 3, 40), 3, 2, 1), ((1, 4, 7, 7), 7, 1, 0))


def test_a_row_for_each_type_and_operator_beside_a_copy_of_as_many_bytes(table, host):  # noqa: F811
    driver = HostDriver()
    rows = table.measure(driver, HostLibrary(host), time.monotonic() + 100, SMALL)
    assert [row["operator"] for row in rows[:3]] == list(METHODS)
    assert {row["dtype"] for row in rows} == {"float32", "float16", "bfloat16", "float64"}
    assert len(rows) == 4 * 4 * 3
    assert all(row["right"] for row in rows)
    assert all(row["share_of_copy"] == 0.5 for row in rows)
    first = rows[0]
    assert first["gb_per_s"] == round((4 * 80 + 4 * 20) * 4 / 8e-5 / 1e6, 1)
    assert driver.buffers == {}
    assert json.loads(json.dumps(rows))[0]["shape"] == [1, 4, 8, 10]


def test_wrong_numbers_are_seen(table, host):  # noqa: F811
    rows = table.measure(HostDriver(), HostLibrary(host, spoil=True), time.monotonic() + 100, SMALL[:1])
    assert not any(row["right"] for row in rows)


def test_what_there_is_no_time_for_is_named(table, host):  # noqa: F811
    rows = table.measure(HostDriver(), HostLibrary(host), time.monotonic() - 1, SMALL)
    assert {row["left_out"] for row in rows} == {"the time was over"}


def test_inputs_repeat_no_plane(table):
    assert table.BLOCK % 2 == 1
    for shape, *_ in table.GEOMETRIES:
        assert np.prod(shape[2:]) % table.BLOCK != 0
    assert set(table.OPERATORS) == set(METHODS) <= set(OPERATORS)


def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path):
    if cuda_kernels().missing is None:
        pytest.skip("there is a GPU")
    command = [sys.executable, TOOLS / "gpu.py", "--out", tmp_path / "gpu.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.strip() == cuda_kernels().missing
    assert not (tmp_path / "gpu.json").exists()
