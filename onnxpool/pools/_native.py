"""The native kernels on PyTorch's tensors, forward and backward, in eager mode on the CPU; needs PyTorch.

The native library knows nothing of PyTorch: its table ``OnnxpoolCpu`` (``custom_ops/pointers.h``) takes pointers,
shapes and a window, and shares its tasks over PyTorch's own threads by a function of libtorch that it is given. So one
library serves every release of PyTorch; one without that function (below 2.10) runs it on one thread.

Bits depend neither on the number of threads nor on the run. Where there is no library, and for every tensor that is not
a plain one on the CPU, methods take PyTorch operators in its place, which give the same to rounding. The environment
variable ``ONNXPOOL_TORCH=off`` has all of them do that; it is read when the first tensor is pooled.
"""

import ctypes
import os
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

_VERSION = 1
_HEAD = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_TAIL = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)


class _CpuLibrary(ctypes.Structure):
    """The table of ``custom_ops/pointers.h``, which says what its functions take."""

    _fields_ = (
        ("version", ctypes.c_int64),
        ("pool", ctypes.CFUNCTYPE(ctypes.c_int, *_HEAD, ctypes.c_void_p, *_TAIL)),
        ("gradients", ctypes.CFUNCTYPE(ctypes.c_int, *_HEAD, ctypes.c_void_p, ctypes.c_void_p, *_TAIL)),
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


def are_plain(*tensors: Tensor) -> bool:
    """Whether these are plain tensors on the CPU, of types that there are kernels for, and PyTorch just computes.

    Not while it traces or compiles, while a mode watches what operators run, or with forward-mode derivatives.
    """
    return (
        all(
            type(tensor) in _TYPES
            and tensor.dtype in ELEMENTS
            and not torch._C._dispatch_keys(tensor).raw_repr() & _PLAIN
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
    _call(_library()[0].pool, op_type, window, dtype, ready, y.data_ptr())
    return laid_out(y, inputs[0])


def gradients(op_type: str, window: Window, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What ``grad``, of the output, comes to for each of the ``inputs`` of :func:`pool`."""
    dtype, ready = _alike(inputs)
    slopes = [torch.empty_like(tensor) for tensor in ready]
    grad = grad.to(dtype).contiguous()
    _call(_library()[0].gradients, op_type, window, dtype, ready, grad.data_ptr(), _pointers(slopes))
    return tuple(laid_out(slope, tensor) for slope, tensor in zip(slopes, inputs, strict=True))


def _call(function: Any, op_type: str, window: Window, dtype: torch.dtype, inputs: list[Tensor], *outputs: Any) -> None:
    shape = inputs[0].shape
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    why = ctypes.create_string_buffer(1024)
    head = (op_type.encode(), ELEMENTS[dtype], window.rank, sizes, _numbers(window), _pointers(inputs))
    if function(*head, *outputs, _parallel(), why, len(why)):
        raise KernelError(f"the native kernel failed: {why.value.decode()}")


@cache
def _numbers(window: Window) -> Any:
    """The window as the library takes it."""
    numbers = (*window.kernel, *window.stride, *window.pad, *window.pad, *window.dilation, int(window.ceil))
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _pointers(tensors: list[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _alike(inputs: tuple[Tensor, ...]) -> tuple[torch.dtype, list[Tensor]]:
    """The type that holds the values of all inputs, and they in that type, contiguous."""
    dtype = inputs[0].dtype
    for tensor in inputs[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype, [tensor.to(dtype).contiguous() for tensor in inputs]


def laid_out(found: Tensor, like: Tensor) -> Tensor:
    """``found`` in the type and memory format of the input that it belongs to."""
    found = found.to(like.dtype)
    for rank, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if like.dim() == rank and like.is_contiguous(memory_format=memory_format) and not like.is_contiguous():
            return found.contiguous(memory_format=memory_format)
    return found
