"""The CUDA kernels on PyTorch's tensors, forward and backward, in eager mode: **never run on a device yet**.

So they are asked for: by the environment variable ``ONNXPOOL_TORCH_CUDA=on``, which is read when the first tensor on a
GPU is pooled. Work goes on PyTorch's current stream, scratch memory comes from its allocator, and nothing waits. All
other tensors, and everything without the variable, take PyTorch's operators, which give the same to rounding.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from onnxpool._library import CUDA_FILE_NAME, CUDA_VERSION, cuda_library, library_path
from onnxpool.errors import KernelError
from onnxpool.pools import _native
from onnxpool.window import Window

SWITCH = "ONNXPOOL_TORCH_CUDA"
"""Environment variable: ``on`` pools tensors on a GPU by our kernels."""


@cache
def _library() -> tuple[Any, str]:
    """The table of the library for CUDA, or None and the reason."""
    if os.environ.get(SWITCH) != "on":
        return None, f"environment variable {SWITCH} is not on"
    if os.environ.get(_native.SWITCH) == "off":
        return None, f"environment variable {_native.SWITCH} is off"
    try:
        path = library_path().with_name(CUDA_FILE_NAME)
        table = cuda_library(path)
    except (KernelError, OSError, AttributeError) as error:
        return None, f"there are no CUDA kernels for PyTorch: {error}"
    return (
        (table, "") if table.version == CUDA_VERSION else (None, f"{path} is of another build; install onnxpool again")
    )


def why_not() -> str | None:
    """Why PyTorch's tensors on a GPU are not pooled by our kernels, or None where they are."""
    return _library()[1] or None


def plain_keys(device: str) -> int:
    """The dispatch keys of a plain tensor on a device such as ``CUDA``, by their names: there may be no such device."""
    names = (device, f"Autograd{device}", f"Autocast{device}", "ADInplaceOrView")
    keys = (torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)) for name in names)
    return reduce(int.__or__, (key.raw_repr() for key in keys))


_NOT_PLAIN = ~plain_keys("CUDA")


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels are asked for and there, and these are plain tensors for them, all on one GPU."""
    devices = {tensor.device for tensor in tensors}
    is_one_gpu = len(devices) == 1 and devices.pop().type == "cuda"
    return is_one_gpu and _library()[0] is not None and _native.are_plain(*tensors, but=_NOT_PLAIN)


def pool(op_type: str, window: Window, *inputs: Tensor) -> Tensor:
    """The pooling of ``inputs``, which :func:`takes` takes: one shape, one that ``window`` fits."""
    ready = _alike(inputs)
    y = ready[0].new_empty((*ready[0].shape[:2], *window.output(ready[0].shape[2:])))
    _call(_library()[0].pool, op_type, window, ready, y.data_ptr())
    return _native.laid_out(y, inputs[0])


def gradients(op_type: str, window: Window, grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What ``grad``, of the output, comes to for each of the ``inputs`` of :func:`pool`."""
    ready = _alike(inputs)
    slopes = [torch.empty_like(tensor) for tensor in ready]
    grad = grad.to(ready[0].dtype).contiguous()
    scratch = grad.new_empty((*grad.shape, 3), dtype=torch.promote_types(grad.dtype, torch.float32))
    pointers = (grad.data_ptr(), _native.pointers(slopes), scratch.data_ptr())
    _call(_library()[0].gradients, op_type, window, ready, *pointers)
    return tuple(_native.laid_out(slope, tensor) for slope, tensor in zip(slopes, inputs, strict=True))


def _alike(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The inputs in the type that holds the values of all of them, contiguous."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in inputs))
    return [tensor.to(dtype).contiguous() for tensor in inputs]


@contextmanager
def _stream(device: torch.device) -> Iterator[int]:
    """PyTorch's stream on a device, which is the current one while this is open."""
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def _call(function: Any, op_type: str, window: Window, inputs: list[Tensor], *pointers: Any) -> None:
    x, why = inputs[0], ctypes.create_string_buffer(1024)
    head = (op_type.encode(), *_native.over(window, x.dtype, x.shape), _native.pointers(inputs))
    with _stream(x.device) as stream:
        if function(*head, *pointers, stream, why, len(why)):
            raise KernelError(f"the CUDA kernel failed: {why.value.decode()}")
