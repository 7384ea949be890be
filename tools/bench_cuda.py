"""The CUDA kernels beside PyTorch's naive formula, and as a share of a copy's speed: part of tools/bench.

Kernels are called on PyTorch's memory and stream, without ONNX Runtime. Each time is that of CUDA's own clock around as
many calls as take a few milliseconds; reported are medians, with quartiles in brackets. A pooling must read its inputs
and write its output once: how fast it moves those bytes, beside how fast a copy of a large tensor moves its own, is its
share of the copy's speed. The error shown is the largest, against the naive formula in float64.
"""

import ctypes
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table

from onnxpool.run.native_library import CudaLibrary, cuda_kernels, cuda_library
from onnxpool.window import Window

GEOMETRIES = (  # shape, kernel, stride, padding
    ((32, 256, 112, 112), 3, 2, 1),
    ((32, 256, 112, 112), 2, 2, 0),
    ((8, 64, 112, 112), 3, 2, 1),
    ((1, 2048, 7, 7), 7, 1, 0),
    ((16, 128, 4096), 3, 2, 1),
    ((2, 32, 16, 56, 56), 3, 2, 1),
)
DTYPES = {torch.float32: 0, torch.float16: 2}  # as custom_ops/kernels/kernel.h numbers them
ROUNDS, ROUND_MS = 15, 3.0
Tensors = Sequence[torch.Tensor]


def why_not() -> str | None:
    """Why this cannot run here, or None where it can."""
    return cuda_kernels().missing or (None if torch.cuda.is_available() else "this PyTorch has no CUDA")


def times_ms(run: Callable[[], object]) -> list[float]:
    """The time of one call, measured so many times."""

    def clock(calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / calls

    clock(3)
    calls = max(1, round(ROUND_MS / clock(10)))
    return [clock(calls) for _ in range(ROUNDS)]


def ours(
    library: CudaLibrary, op_type: str, window: Window, inputs: Tensors, output: torch.Tensor
) -> Callable[[], None]:
    """One launch of our kernel on PyTorch's stream."""
    x, why = inputs[0], ctypes.create_string_buffer(512)
    numbers = (*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))
    shape, window_numbers = ((ctypes.c_int64 * len(n))(*n) for n in (x.shape, numbers))
    pointers = (ctypes.c_void_p * len(inputs))(*(tensor.data_ptr() for tensor in inputs))
    stream = torch.cuda.current_stream().cuda_stream

    def run() -> None:
        given = (op_type.encode(), DTYPES[x.dtype], window.rank, shape, window_numbers, pointers, output.data_ptr())
        if library.pool(*given, stream, why, len(why)) != 0:
            raise RuntimeError(why.value.decode())

    return run


def naive(op_type: str, window: Window, inputs: Tensors) -> torch.Tensor:
    """The formula as PyTorch users write it."""
    average = (torch.nn.functional.avg_pool1d, torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d)
    x = inputs[0]
    weights = x.clamp(min=0) if op_type == "StochasticPool" else inputs[-1].exp()
    values = weights if op_type == "StochasticPool" else x
    above, below = (
        average[window.rank - 1](t, window.kernel, window.stride, window.pad) for t in (values * weights, weights)
    )
    return (above / below).nan_to_num()  # stochastic pooling of nothing above 0 gives 0


def rows(library: CudaLibrary, bytes_per_ms: float) -> Iterator[tuple[str, ...]]:
    """A row of the table for each operator, geometry and type."""
    for shape, *arguments in GEOMETRIES:
        window = Window.of(len(shape) - 2, *arguments)
        for dtype in DTYPES:
            for op_type, count in (("SoftPool", 1), ("LocalImportancePool", 2), ("StochasticPool", 1)):
                torch.manual_seed(0)
                inputs = [torch.randn(shape, device="cuda").to(dtype) for _ in range(count)]
                output = torch.empty(window.check(shape), device="cuda", dtype=dtype)
                run = ours(library, op_type, window, inputs, output)
                run()
                error = (output - naive(op_type, window, [x.double() for x in inputs])).abs().max().item()
                kernel, rival = times_ms(run), times_ms(lambda o=op_type, w=window, i=inputs: naive(o, w, i))
                moved = sum(t.numel() * t.element_size() for t in (*inputs, output))
                ratio = statistics.median(rival) / statistics.median(kernel)
                yield (
                    f"{op_type} {'x'.join(map(str, shape))} {window}",
                    str(dtype).removeprefix("torch."),
                    f"{error:.1e}",
                    _spread(kernel),
                    _spread(rival),
                    f"{ratio:.1f}",
                    f"{moved / statistics.median(kernel) / bytes_per_ms:.0%}",
                )


def _spread(times: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def show(console: Console) -> None:
    """Measure and print, or say why not."""
    if missing := why_not():
        console.print(f"CUDA kernels left out: {missing}", style="yellow", markup=False)
        return
    large = torch.empty(2**26, device="cuda")
    there = torch.empty_like(large)
    bytes_per_ms = 2 * large.numel() * large.element_size() / statistics.median(times_ms(lambda: there.copy_(large)))
    title = f"{torch.cuda.get_device_name()}, a copy moves {bytes_per_ms / 1e6:.0f} GB/s; times in ms"
    table = Table(
        "pooling", "type", "error", "native", "PyTorch, naive", "ratio", "share of a copy's speed", title=title
    )
    for row in rows(cuda_library(str(cuda_kernels().library)), bytes_per_ms):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    show(Console())
