"""How fast each CUDA kernel moves its bytes, beside a copy on the device: part of tools/gpu.

A kernel is called through the C entry point of `libonnxpool_cuda.so`, without ONNX Runtime or PyTorch.
"""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gpu_driver import Driver, DriverError, Memory
from numpy.typing import NDArray

from onnxpool.run.native_library import CudaLibrary
from onnxpool.window import Window

Geometries = Sequence[tuple[tuple[int, ...], int, int, int]]
GEOMETRIES: Geometries = (  # shape, kernel, stride, padding: march.h's, and then pool.h's
    ((32, 256, 112, 112), 3, 2, 1),
    ((8, 64, 112, 112), 3, 2, 1),
    ((8, 64, 112, 111), 3, 2, 1),
    ((8, 64, 112, 112), 3, 2, 0),
    ((8, 64, 112, 112), 2, 2, 0),
    ((8, 64, 112, 112), 3, 1, 1),
    ((1, 64, 112, 112), 3, 2, 1),
    ((32, 256, 14, 14), 3, 2, 1),
    ((8, 512, 20, 20), 5, 1, 2),
    ((16, 2048, 7, 7), 7, 1, 0),
    ((16, 128, 4096), 3, 2, 1),
    ((2, 32, 16, 56, 56), 3, 2, 1),
)
OPERATORS = {"SoftPool": 1, "LocalImportancePool": 2, "StochasticPool": 1}
"""How many inputs each has."""

DTYPES = {"float32": (0, 4), "float16": (2, 2), "bfloat16": (3, 2), "float64": (1, 8)}
"""The number of each type in `custom_ops/cuda/library.h`, and its bytes."""

BLOCK = 1_000_003  # elements that repeat in an input: a prime, so that no two planes are alike
ROUNDS, ROUND_MS, MOST_LAUNCHES = 15, 2.0, 200
MOST_ERROR = {"float32": 17 * 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 5 * 2.0**-52}
"""The error that is still right, in units of the largest magnitude: the promises of ``onnxpool.golden.bounds``."""

Array = NDArray[np.float64]
Row = dict[str, object]


def measure(driver: Driver, library: CudaLibrary, until_s: float, geometries: Geometries = GEOMETRIES) -> list[Row]:
    """A row for each geometry, type and operator, until `time.monotonic()` is ``until_s``."""
    rows: list[Row] = []
    for shape, *arguments in geometries:
        window = Window.of(len(shape) - 2, *arguments)
        for dtype in DTYPES:
            for op_type in OPERATORS:
                about: Row = {"operator": op_type, "shape": shape, "window": str(window), "dtype": dtype}
                if time.monotonic() > until_s:
                    rows.append({**about, "left_out": "the time was over"})
                    continue
                try:
                    row = about | _one(driver, library, op_type, window, shape, dtype)
                except DriverError as error:
                    row = {**about, "right": False, "reason": str(error)}
                rows.append(row)
                print(*row.values())
    return rows


def _one(driver: Driver, library: CudaLibrary, op_type: str, window: Window, shape: Sequence[int], dtype: str) -> Row:
    element, size = DTYPES[dtype]
    cells, outputs = math.prod(shape), math.prod(window.check(tuple(shape)))
    count, moved = OPERATORS[op_type], (OPERATORS[op_type] * cells + outputs) * size
    blocks = [_block(dtype, seed) for seed in range(count)]
    with Memory(driver, cells * size) as x, Memory(driver, cells * size) as logit, Memory(driver, outputs * size) as y:
        for memory, block in zip((x, logit), blocks, strict=False):
            memory.fill(block)
        start = _launcher(driver, library, op_type, element, window, shape, (x, logit)[:count], y)
        start()
        driver.synchronize()
        actual = np.empty(min(outputs, 3 * math.prod(window.output(tuple(shape[2:])))), blocks[0].dtype)
        y.read(actual)
        pool_ms = _time_ms(driver, start)
    half = moved // 2
    with Memory(driver, half) as there, Memory(driver, half) as here:
        copy_ms = _time_ms(driver, lambda: driver.copy(there.at, here.at, half))
    error = _error(op_type, window, shape, dtype, blocks, actual)
    return {
        "pool_ms": round(pool_ms, 5),
        "copy_ms": round(copy_ms, 5),
        "share_of_copy": round(copy_ms / pool_ms, 3),
        "gb_per_s": round(moved / pool_ms / 1e6, 1),
        "error_of_largest": float(f"{error:.2g}"),
        "right": error <= MOST_ERROR[dtype],
    }


def _launcher(
    driver: Driver,
    library: CudaLibrary,
    op_type: str,
    element: int,
    window: Window,
    shape: Sequence[int],
    inputs: Sequence[Memory],
    y: Memory,
) -> Callable[[], None]:
    """One launch of a kernel on the driver's stream."""
    why = ctypes.create_string_buffer(512)
    numbers = (*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))
    shape_numbers, window_numbers = ((ctypes.c_int64 * len(n))(*n) for n in (shape, numbers))
    pointers = (ctypes.c_void_p * len(inputs))(*(memory.at for memory in inputs))

    def start() -> None:
        given = (op_type.encode(), element, window.rank, shape_numbers, window_numbers, pointers, y.at, driver.stream)
        if library.pool(*given, why, len(why)) != 0:
            raise DriverError(why.value.decode())

    return start


def _time_ms(driver: Driver, start: Callable[[], None]) -> float:
    """The median time of one launch, in graphs of about :data:`ROUND_MS`."""
    for _ in range(3):
        start()
    first = driver.graph(start, 5)
    driver.time_ms(first)
    launches = min(MOST_LAUNCHES, max(1, round(ROUND_MS / driver.time_ms(first))))
    driver.drop(first)
    graph = driver.graph(start, launches)
    times = [driver.time_ms(graph) for _ in range(ROUNDS + 1)][1:]
    driver.drop(graph)
    return statistics.median(times)


# --- numbers, and the formula


def _block(dtype: str, seed: int) -> NDArray[Any]:
    """Normal numbers; bfloat16 as the upper halves of float32."""
    numbers = np.random.default_rng(seed).standard_normal(BLOCK)
    if dtype != "bfloat16":
        return numbers.astype(dtype)
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _widened(values: NDArray[Any], dtype: str) -> Array:
    if dtype != "bfloat16":
        return values.astype(np.float64)
    return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _error(
    op_type: str,
    window: Window,
    shape: Sequence[int],
    dtype: str,
    blocks: Sequence[NDArray[Any]],
    actual: NDArray[Any],
) -> float:
    """The largest error of the first planes, over the largest magnitude in its window; infinite for NaN."""
    spatial, sizes = tuple(shape[2:]), window.output(tuple(shape[2:]))
    planes = actual.size // math.prod(sizes)
    cells = math.prod(spatial)
    x, logit = (_widened(block, dtype) for block in (blocks[0], blocks[-1]))
    found = _widened(actual, dtype).reshape(planes, *sizes)
    worst = 0.0
    for plane in range(planes):
        at = np.arange(plane * cells, (plane + 1) * cells) % BLOCK
        values, logits = x[at].reshape(spatial), logit[at].reshape(spatial)
        for place, box in _windows(window, spatial, sizes):
            inside = values[box].ravel()
            weights = np.maximum(inside, 0) if op_type == "StochasticPool" else np.exp(logits[box].ravel())
            average = (weights @ inside) / weights.sum() if weights.sum() > 0 else 0.0
            error = float(abs(found[(plane, *place)] - average) / np.abs(inside).max())
            worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def _windows(
    window: Window, spatial: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """The place of some outputs, and the cells of their windows: the first and last rows, and every 7th other one."""
    for number, place in enumerate(np.ndindex(*sizes)):
        if number % 7 != 0 and sizes[-1] < number < math.prod(sizes) - sizes[-1]:
            continue
        starts = [o * s - p for o, s, p in zip(place, window.stride, window.pad, strict=True)]
        box = tuple(
            slice(max(0, start), min(n, start + extent))
            for start, extent, n in zip(starts, window.extent, spatial, strict=True)
        )
        yield place, box
