"""The native kernels on PyTorch's tensors, forward and backward, in eager mode on the CPU; needs PyTorch.

The native library knows nothing of PyTorch: its table ``OnnxpoolCpu`` (``custom_ops/pointers.h``) takes pointers,
shapes and a window, and shares its tasks over PyTorch's own threads by a function of libtorch that it is given. So one
library serves every release of PyTorch; one without that function (below 2.10) runs it on one thread.

Bits depend neither on the number of threads nor on the run. Where there is no library, and for every tensor that is not
a plain one on the CPU, methods take PyTorch operators in its place, which give the same to rounding. The environment
variable ``ONNXPOOL_TORCH=off`` has all of them do that; it is read when the first tensor is pooled.
"""

import ctypes
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from onnxpool._library import library_path
from onnxpool.errors import KernelError
from onnxpool.window import Window

SWITCH = "ONNXPOOL_TORCH"
"""Environment variable: ``off`` leaves all pooling to PyTorch's own operators."""

ELEMENTS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""The types that there are kernels for, and their numbers in the library."""

PLACES = {torch.float32: torch.int32, torch.float64: torch.int64}
"""The type of places in a plane, for each type that is computed in."""

MOST_PLACES = 2**31 - 1
"""Cells of a plane at most, where cells are drawn from it."""

_VERSION = 2
_POINTER = ctypes.c_void_p
_TAIL = (_POINTER, ctypes.c_char_p, ctypes.c_size_t)


def _prototype(*pointers: Any, named: bool = True) -> Any:
    """A function of the table: of an operator's name (or none), a type, a window over a shape, and these pointers."""
    head = (ctypes.c_char_p,) if named else ()
    given = (ctypes.c_int, ctypes.c_int64, _POINTER, _POINTER)
    return ctypes.CFUNCTYPE(ctypes.c_int, *head, *given, *pointers, *_TAIL)


class _CpuLibrary(ctypes.Structure):
    """The table of ``custom_ops/pointers.h``, which says what its functions take."""

    _fields_ = (
        ("version", ctypes.c_int64),
        ("pool", _prototype(*[_POINTER] * 2)),
        ("gradients", _prototype(*[_POINTER] * 3)),
        ("draw", _prototype(*[_POINTER] * 4, named=False)),
        ("drawn_slopes", _prototype(*[_POINTER] * 3, named=False)),
        ("turn", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, *[ctypes.c_int64] * 3, *[_POINTER] * 2, *_TAIL)),
    )


@cache
def _library() -> tuple[Any, str]:
    """The library's table, or None and the reason."""
    if os.environ.get(SWITCH) == "off":
        return None, f"environment variable {SWITCH} is off"
    try:
        path = library_path()
    except KernelError as error:
        return None, str(error)
    try:
        get = ctypes.CDLL(str(path)).OnnxpoolCpu
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded for PyTorch: {error}"
    get.restype = ctypes.POINTER(_CpuLibrary)
    table = get().contents
    if table.version != _VERSION:
        return None, f"{path} is of another build; install onnxpool again"
    return table, ""


def why_not() -> str | None:
    """Why PyTorch's tensors are not pooled natively, or None where they are."""
    return _library()[1] or None


@cache
def _parallel() -> int | None:
    """The address of libtorch's function that shares work over PyTorch's threads; None where it has none."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).is_file():
            share = getattr(ctypes.CDLL(str(folder / name)), "torch_parallel_for", None)
            return None if share is None else ctypes.cast(share, ctypes.c_void_p).value
    return None


_PLAIN = ~torch._C._dispatch_keys(torch.empty(0)).raw_repr()
"""What no plain tensor on the CPU has: whatever PyTorch would do with a tensor besides running a CPU kernel."""


def takes(*tensors: Tensor) -> bool:
    """Whether there is a library, and these are tensors for it."""
    return are_plain(*tensors) and _library()[0] is not None


def may_take(*tensors: Tensor) -> bool:
    """Whether there is a library, and these stand for tensors that it can take: where PyTorch compiles or batches."""
    return (
        all(
            type(tensor) in _TYPES
            and tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and tensor.dtype in ELEMENTS
            for tensor in tensors
        )
        and _is_there()
    )


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _is_there() -> bool:
    return _library()[0] is not None


def are_plain(*tensors: Tensor, but: int = _PLAIN) -> bool:
    """Whether these are plain tensors on the CPU, of types that there are kernels for, and PyTorch just computes.

    Not while it traces or compiles, while a mode watches what operators run, or with forward-mode derivatives. ``but``
    are the keys that no plain tensor has, on another device.
    """
    return (
        all(
            type(tensor) in _TYPES and tensor.dtype in ELEMENTS and not torch._C._dispatch_keys(tensor).raw_repr() & but
            for tensor in tensors
        )
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
    )


_TYPES = (Tensor, torch.nn.Parameter)


def pool(op_type: str, window: Window, *inputs: Tensor) -> Tensor:
    """The pooling of ``inputs``, which :func:`takes` takes: one shape, one that ``window`` fits."""
    dtype, ready = _alike(inputs)
    x = ready[0]
    y = x.new_empty((*x.shape[:2], *window.output(x.shape[2:])))
    name = op_type.encode()
    _call(_library()[0].pool, name, *over(window, dtype, x.shape), pointers(ready), y.data_ptr())
    return laid_out(y, inputs[0])


def gradients(op_type: str, window: Window, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What ``grad``, of the output, comes to for each of the ``inputs`` of :func:`pool`."""
    dtype, ready = _alike(inputs)
    slopes = [torch.empty_like(tensor) for tensor in ready]
    grad = _planes(grad.to(dtype))
    head = (op_type.encode(), *over(window, dtype, ready[0].shape))
    _call(_library()[0].gradients, *head, pointers(ready), grad.data_ptr(), pointers(slopes))
    return tuple(laid_out(slope, tensor) for slope, tensor in zip(slopes, inputs, strict=True))


def draw(window: Window, x: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that ``uniforms``, a number for each window, draw, and their places, in :data:`PLACES`."""
    ready, uniforms = _planes(x), _planes(uniforms)
    y = ready.new_empty(uniforms.shape)
    places = ready.new_empty(uniforms.shape, dtype=PLACES[uniforms.dtype])
    tensors = (ready, uniforms, y, places)
    _call(_library()[0].draw, *over(window, x.dtype, x.shape), *(tensor.data_ptr() for tensor in tensors))
    return laid_out(y, x), places


def drawn_slopes(window: Window, grad: Tensor, places: Tensor, spatial: Sequence[int]) -> Tensor:
    """What ``grad``, of drawn cells, comes to for an input with this ``spatial`` size."""
    ready, places = _planes(grad), places.contiguous()
    slopes = ready.new_empty((*grad.shape[:2], *spatial))
    tensors = (ready, places, slopes)
    head = over(window, grad.dtype, slopes.shape)
    _call(_library()[0].drawn_slopes, *head, *(tensor.data_ptr() for tensor in tensors))
    return laid_out(slopes, grad)


def _call(function: Any, *args: Any) -> None:
    why = ctypes.create_string_buffer(1024)
    if function(*args, _parallel(), why, len(why)):
        raise KernelError(f"the native kernel failed: {why.value.decode()}")


def over(window: Window, dtype: torch.dtype, shape: Sequence[int]) -> tuple[Any, ...]:
    """A type, and a window over a shape, as the library takes them."""
    return ELEMENTS[dtype], window.rank, (ctypes.c_int64 * len(shape))(*shape), _numbers(window)


@cache
def _numbers(window: Window) -> Any:
    """The window as the library takes it."""
    numbers = (*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))
    return (ctypes.c_int64 * len(numbers))(*numbers)


def pointers(tensors: list[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _alike(inputs: tuple[Tensor, ...]) -> tuple[torch.dtype, list[Tensor]]:
    """The type that holds the values of all inputs, and they in that type, contiguous."""
    dtype = inputs[0].dtype
    for tensor in inputs[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype, [_planes(tensor.to(dtype)) for tensor in inputs]


def _is_last(x: Tensor) -> bool:
    """Whether channels stand last in memory, and nothing else is out of order."""
    form = _CHANNELS_LAST.get(x.dim())
    return form is not None and not x.is_contiguous() and x.is_contiguous(memory_format=form)


_TURNED = (4, 8)
"""Bytes of a number where the library copies from one memory format to another; where PyTorch does, it takes longer."""

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _planes(x: Tensor) -> Tensor:
    """A plain tensor with one plane after the other."""
    if not (_is_last(x) and x.element_size() in _TURNED):
        return x.contiguous()
    planes = x.new_empty(x.shape)
    _turn(x, planes, math.prod(x.shape[2:]), x.shape[1])
    return planes


def _turn(x: Tensor, to: Tensor, rows: int, columns: int) -> None:
    _call(_library()[0].turn, x.element_size(), x.shape[0], rows, columns, x.data_ptr(), to.data_ptr())


def laid_out(found: Tensor, like: Tensor) -> Tensor:
    """``found`` in the type and memory format of the input that it belongs to."""
    found = found.to(like.dtype)
    if not _is_last(like):
        return found
    form = _CHANNELS_LAST[like.dim()]
    if not (takes(found) and found.is_contiguous() and found.element_size() in _TURNED):
        return found.contiguous(memory_format=form)
    last = torch.empty_like(found, memory_format=form)
    _turn(found, last, found.shape[1], math.prod(found.shape[2:]))
    return last
