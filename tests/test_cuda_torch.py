"""The CUDA kernels behind PyTorch's operators: their body on the host beside the same formulas as PyTorch operators,
and, on a GPU, themselves. Most of what runs here is what runs there, but for streams and threads that run at once.
"""

import ctypes
import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from cases import WINDOWS, geometries, inputs, shape
from test_cuda import FAR, WALL, Whole, described, host, walled, whole, window_numbers  # noqa: F401
from test_native_torch import CALLS, EACH, METHODS, assert_near, by_operators, natively, of

from onnxpool._library import CUDA_FILE_NAME
from onnxpool.errors import ArgumentError
from onnxpool.pools import _native, _native_cuda
from onnxpool.run.native_library import cuda_kernels
from onnxpool.window import Window

LARGE = [
    Window.of(1, 40, 7, 20),
    Window.of(2, (6, 7), (2, 3), 3),
    Window.of(2, 7, 3, 1, 2),
    Window.of(3, (5, 3, 4), 2, 1),
]
LARGE_SIZES = {1: (301,), 2: (17, 19), 3: (7, 5, 9)}
"""Windows that a warp computes."""


class Table:
    """The library's table, over the kernels' body on the host."""

    def __init__(self, library):
        self.library = library

    def _call(self, name, op_type, element, rank, *rest):
        return not getattr(self.library, name)(list(METHODS).index(op_type.decode()), element, Whole(rank), *rest)

    def pool(self, op_type, element, rank, shape, window, inputs, output, *_):
        rest = shape, window, inputs, ctypes.c_void_p(output), Whole(0), 0, 0, 0, Whole(0)
        return self._call("host_pool", op_type, element, rank, *rest)

    def gradients(self, op_type, element, rank, shape, window, inputs, grad, slopes, scratch, *_):
        rest = inputs, ctypes.c_void_p(grad), slopes, ctypes.c_void_p(scratch), Whole(0)
        return self._call("host_gradients", op_type, element, rank, shape, window, *rest)


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    """Where our CUDA kernels take tensors: in host memory, where 2^x and 1/x err as much as they may, or on a GPU."""
    _native_cuda._library.cache_clear()
    if request.param == "device":
        if cuda_kernels().missing or not torch.cuda.is_available():
            pytest.skip(cuda_kernels().missing or "this PyTorch has no CUDA")
        monkeypatch.setenv(_native_cuda.SWITCH, "on")
        yield "cuda"
    else:
        library = request.getfixturevalue("host")
        library.host_hardware(ctypes.c_float(2), ctypes.c_float(1))
        monkeypatch.setattr(_native, "takes", lambda *_: False)
        monkeypatch.setattr(_native_cuda, "takes", _native.are_plain)
        monkeypatch.setattr(_native_cuda, "_library", lambda: (Table(library), ""))
        monkeypatch.setattr(_native_cuda, "_stream", nullcontext)
        yield "cpu"
    monkeypatch.undo()
    _native_cuda._library.cache_clear()


def on(device, name, window, grad, *tensors):
    """Output and gradients by our kernels, on the CPU again."""
    found = natively(name, window, grad.to(device), *(tensor.to(device) for tensor in tensors))
    return tuple(each.cpu() for each in found)


def some(name, window, size, dtype=torch.float64):
    """A gradient of the output, and inputs."""
    tensors = of(
        name, torch.randn(size, dtype=torch.float64).to(dtype), torch.randn(size, dtype=torch.float64).to(dtype)
    )
    return torch.randn(*size[:2], *window.output(size[2:]), dtype=torch.float64).to(dtype), *tensors


@EACH
@pytest.mark.parametrize("dtype", _native.ELEMENTS, ids=str)
def test_every_window_is_near_the_formula_in_float64(name, dtype, device):
    torch.manual_seed(3)
    for window in (*WINDOWS, *LARGE):
        size = (1, 2, *LARGE_SIZES[window.rank]) if window in LARGE else shape(window, 1, 2)
        given = some(name, window, size, dtype)
        found, wide = on(device, name, window, *given), by_operators(name, window, *(each.double() for each in given))
        for own, wanted in zip(found, wide, strict=True):
            ulps = {torch.float64: 200, torch.float32: 16}.get(dtype, 0.51)
            assert_near(own, wanted, ulps, wanted.abs().max().item())


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[5], WINDOWS[9], LARGE[1]], ids=str)
def test_every_kind_of_value_gives_what_pytorch_operators_give(name, dtype, window, device):
    for kind, values in inputs(window, torch.finfo(dtype).max).items():
        x = torch.from_numpy(values[:1, :1] if window in LARGE else values).to(dtype)
        logit = x.flip(-1).clamp(-40, 40) if kind in ("huge", "1e4", "largest", "all largest") else x.flip(-1)
        tensors = of(name, x, logit)
        grad = torch.ones(*x.shape[:2], *window.output(x.shape[2:]), dtype=dtype)
        grad[..., ::2] = -0.5
        _, *found = on(device, name, window, grad, *tensors)
        if kind == "all largest" and window in LARGE:  # where sums of PyTorch's operators leave the range
            assert all(own.isfinite().all() for own in found)
            continue
        _, *wanted = by_operators(name, window, grad, *tensors)
        for place, (own, other) in enumerate(zip(found, wanted, strict=True)):
            finite = torch.cat([each[each.isfinite()].abs() for each in (other, x)[: place + 1]])  # of x: w (x - y)
            scale = max(finite.max().item() if finite.numel() else 0.0, 1e-6)
            atol = 64 * torch.finfo(dtype).eps * scale
            torch.testing.assert_close(own, other, rtol=0, atol=atol, equal_nan=True, msg=lambda m, k=kind: f"{k}: {m}")


@EACH
@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((0, 3, 4, 4), Window.of(2, 2)),
        ((2, 0, 5), Window.of(1, 3)),
        ((2, 3, 1, 1), Window.of(2, 1)),
        ((2, 3, 1, 5), Window.of(2, (1, 3), 2, (0, 1))),
        ((2, 3, 5, 1), Window.of(2, 3, 1, (0, 1))),
        ((1, 2, 7, 7), Window.of(2, 7)),
        ((1, 1, 3, 4, 5), Window.of(3, (3, 4, 5))),
        ((1, 2, 21), Window.of(1, 3, 4, 2, 6)),
        ((1, 1, 11, 13), Window.of(2, 2, 3, 1, (2, 9), True)),
    ],
    ids=str,
)
def test_sizes_that_hurt(name, size, window, device):
    torch.manual_seed(4)
    given = some(name, window, size)
    for own, wanted in zip(on(device, name, window, *given), by_operators(name, window, *given), strict=True):
        assert_near(own, wanted, 200, max(wanted.abs().max().item(), 1) if wanted.numel() else 1)


def test_strides_memory_formats_and_types_of_their_own(device):
    torch.manual_seed(5)
    window, name = Window.of(2, 3, 2, 1), "LocalImportancePool"
    grad, x, logit = some(name, window, (2, 6, 9, 8), torch.float32)
    wanted = on(device, name, window, grad, x, logit)
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (grad, x, logit)]
    found = on(device, name, window, *last)
    assert all(map(torch.equal, found, wanted))
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in found)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert all(map(torch.equal, on(device, name, window, grad, strided, logit), wanted))
    ones = torch.ones(()).to(device).expand(2, 6, 5, 4)
    assert all(map(torch.equal, on(device, name, window, ones, x, logit), on(device, name, window, ones + 0, x, logit)))
    found = on(device, name, window, grad, x, logit.bfloat16())
    assert [each.dtype for each in found] == [torch.float32, torch.float32, torch.bfloat16]
    again = torch.autograd.gradgradcheck
    leaves = [torch.randn(1, 1, 5, 4, dtype=torch.float64, device=device, requires_grad=True) for _ in range(2)]
    assert again(lambda *given: CALLS[name](window, *given), leaves, fast_mode=True)
    with pytest.raises(ArgumentError, match="too small"):
        CALLS["SoftPool"](Window.of(2, 3), torch.zeros(1, 1, 2, 2, device=device))


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["device"], indirect=True)
def test_a_stream_of_the_callers(device):
    """Work waits for what is before it on the current stream, and nothing else."""
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.randn(64, 64, 112, 112, device=device).mul_(2).requires_grad_()
        y = CALLS["SoftPool"](Window.of(2, 3, 2, 1), x)
        y.backward(torch.ones_like(y))
    torch.cuda.synchronize()
    _, wanted = by_operators("SoftPool", Window.of(2, 3, 2, 1), torch.ones_like(y), x.detach())
    assert_near(x.grad, wanted, 64, wanted.abs().max().item())


def test_it_is_asked_for_or_not_done(monkeypatch, tmp_path):
    def why(**environment):
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            _native_cuda._library.cache_clear()
            try:
                return _native_cuda.why_not()
            finally:
                _native_cuda._library.cache_clear()

    assert why(ONNXPOOL_TORCH_CUDA="off") == "environment variable ONNXPOOL_TORCH_CUDA is not on"
    assert "ONNXPOOL_TORCH is off" in why(ONNXPOOL_TORCH_CUDA="on", ONNXPOOL_TORCH="off")
    (tmp_path / "libonnxpool.so").touch()
    missing = why(ONNXPOOL_TORCH_CUDA="on", ONNXPOOL_LIBRARY=str(tmp_path / "libonnxpool.so"))
    assert CUDA_FILE_NAME in missing
    assert not _native_cuda.takes(torch.randn(1, 1, 4, 4))
    assert _native_cuda.plain_keys("CPU") == torch._C._dispatch_keys(torch.empty(0)).raw_repr()


# --- the grid, and which windows hold a cell


@EACH
@pytest.mark.parametrize("window", [Window.of(2, 3, 2, 1), LARGE[1]], ids=str)
def test_every_grid_gives_the_same_bits_and_stays_inside(host, name, window):  # noqa: F811
    """Between walls: NaN before and after inputs, bytes that must stay before and after what is written."""
    rng, size = np.random.default_rng(6), (1, 2, 11, 13)
    given = [walled(rng.standard_normal(size)) for _ in of(name, 0, 0)]
    grad = walled(rng.standard_normal((1, 2, *window.output(size[2:]))))
    found = []
    for blocks in (0, 1, 3):
        written = [np.full(count * 8 + 2 * WALL, 0xA5, np.uint8) for count in (*[x.size for x in given], 3 * grad.size)]
        *slopes, scratch = (ctypes.c_void_p(room.ctypes.data + WALL) for room in written)
        pointers = [(ctypes.c_void_p * len(given))(*of) for of in ((x.ctypes.data for x in given), slopes)]
        head = list(METHODS).index(name), *described(window, given[0]), pointers[0], ctypes.c_void_p(grad.ctypes.data)
        assert host.host_gradients(*head, pointers[1], scratch, Whole(blocks))
        assert all((room[:WALL] == 0xA5).all() and (room[-WALL:] == 0xA5).all() for room in written)
        found.append([room.tobytes() for room in written[: len(given)]])
    assert all(each == found[0] for each in found)
    assert np.isfinite(np.frombuffer(found[0][0][WALL:-WALL])).all()


def windows_of(host, window, size, cell):  # noqa: F811
    """The outputs whose windows hold a cell, and the blocks of a grid over all cells."""
    outputs, blocks = (Whole * 512)(), Whole()
    given = Whole(window.rank), whole(*size), window_numbers(window), Whole(cell), outputs, Whole(512)
    count = host.host_windows(*given, ctypes.byref(blocks))
    return list(outputs[:count]), blocks.value


def holding(window, axis, n, at):
    """By the definition, along one axis."""
    out = window.output((n,) * window.rank)[axis]
    starts = (
        (at + window.pad[axis] - k * window.dilation[axis], window.stride[axis]) for k in range(window.kernel[axis])
    )
    return sorted(
        start // stride for start, stride in starts if start >= 0 and start % stride == 0 and start // stride < out
    )


def test_the_windows_that_hold_a_cell(host):  # noqa: F811
    checked = 0
    for window, n in geometries():
        try:
            window.check((1, 1, n))
        except ArgumentError:
            continue
        for cell in range(n):
            assert windows_of(host, window, (1, 1, n), cell)[0] == holding(window, 0, n, cell)
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize(
    ("size", "arguments", "blocks"),
    [
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}, 8 * 64 * 49),
        ((2, 3, 2**33 + 1), {"kernel_size": 3, "stride": 2, "padding": 1}, 2**24),
        ((70000, 3, 200, 300), {"kernel_size": 3, "stride": 2, "padding": 1}, 2**24),
        (
            (1, 2, 70000, 90001),
            {"kernel_size": (4, 3), "padding": (2, 1), "dilation": (3, 2), "ceil_mode": True},
            2**24,
        ),
        ((3, 5, 3000, 2000, 1500), {"kernel_size": (2, 3, 5), "stride": (1, 2, 3), "padding": (1, 1, 2)}, 2**24),
        (*FAR, 17),
    ],
    ids=str,
)
def test_cells_of_tensors_beyond_32_bits(host, size, arguments, blocks):  # noqa: F811
    window = Window.of(len(size) - 2, **arguments)
    cells, out = int(np.prod(size, dtype=object)), window.output(size[2:])
    for cell in (0, cells - 1, *map(int, np.random.default_rng(0).integers(0, cells, 40))):
        rest, place = cell, []
        for n in reversed(size[2:]):
            rest, at = divmod(rest, n)
            place.insert(0, at)
        along = [holding(window, axis, n, at) for axis, (n, at) in enumerate(zip(size[2:], place, strict=True))]
        expected = []
        for windows in itertools.product(*along):
            index = rest
            for at, n in zip(windows, out, strict=True):
                index = index * n + at
            expected.append(index)
        assert windows_of(host, window, size, cell) == (expected, blocks)
