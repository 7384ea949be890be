"""Finds the native library and registers it with ONNX Runtime, or says why that cannot be.

The library is optional: without it ONNX Runtime runs the function body that each model carries. It holds CPU kernels
for float32, float64, float16 and bfloat16 and needs ONNX Runtime 1.24 or newer. Where nvcc built it, a second library
beside it holds the same for CUDA; the first one loads it.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from onnxpool._library import (
    CUDA_FILE_NAME,
    CUDA_VERSION,
    FILE_NAME,
    OVERRIDE,
    CudaLibrary,
    cuda_library,
    library_path,
    why_missing,
)
from onnxpool.errors import KernelError

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "CPU",
    "CUDA",
    "CUDA_FILE_NAME",
    "CUDA_SWITCH",
    "FILE_NAME",
    "OVERRIDE",
    "CudaKernels",
    "CudaLibrary",
    "cuda_kernels",
    "cuda_library",
    "library_path",
    "register",
    "why_missing",
    "why_none_for",
]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
"""The providers of ONNX Runtime that there are kernels for."""

CUDA_SWITCH = "ONNXPOOL_CUDA"
"""Environment variable: ``off`` leaves the CUDA kernels out, ``on`` registers them even where there is no device."""


@dataclass(frozen=True)
class CudaKernels:
    """What there is for CUDA: the library's file, the architectures that it has code for (``90-virtual`` is for all
    newer ones), how many devices CUDA finds, and why pooling cannot run on them (None where it can).
    """

    library: str | None
    architectures: tuple[str, ...]
    devices: int
    missing: str | None


def cuda_kernels() -> CudaKernels:
    """Look for the CUDA kernels and for devices. This starts the CUDA driver, but takes nothing of a device."""
    if missing := why_missing():
        return CudaKernels(None, (), 0, missing)
    path = library_path().with_name(CUDA_FILE_NAME)
    if not path.is_file():
        remedy = "install CUDA's nvcc, 11.8 or newer, and run pip install again"
        return CudaKernels(None, (), 0, f"onnxpool was installed without CUDA kernels ({CUDA_FILE_NAME}); {remedy}")
    try:
        table = cuda_library(path)
    except (OSError, AttributeError) as error:
        return CudaKernels(str(path), (), 0, f"{path} cannot be loaded: {error}")
    if table.version != CUDA_VERSION:
        return CudaKernels(str(path), (), 0, f"{path} is of another build; install onnxpool again")
    why = ctypes.create_string_buffer(512)
    devices = table.devices(why, len(why))
    missing = why.value.decode() if devices == 0 else None
    if os.environ.get(CUDA_SWITCH) == "off":
        missing = f"environment variable {CUDA_SWITCH} is off"
    return CudaKernels(str(path), tuple(table.architectures.decode().split(", ")), devices, missing)


def why_none_for(provider: str) -> str | None:
    """Why there are no native kernels for this provider of ONNX Runtime, or None where there are."""
    if provider == CPU:
        return why_missing()
    if provider == CUDA:
        return cuda_kernels().missing
    return f"onnxpool has no native kernels for {provider}"


def register(options: "onnxruntime.SessionOptions") -> None:
    """Register the native library with these session options, once: a second call does nothing.

    Raises :class:`KernelError` where there is no library, or ONNX Runtime refuses it.
    """
    if options in _registered:
        return
    path = library_path()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise KernelError(f"ONNX Runtime refused {path}: {error}") from error
    _registered.add(options)


def is_registered(options: "onnxruntime.SessionOptions") -> bool:
    """Whether :func:`register` was called with these."""
    return options in _registered


def register_other(options: "onnxruntime.SessionOptions", library: str | os.PathLike[str]) -> None:
    """Register a library of custom operators by others, once.

    Raises :class:`KernelError` where ONNX Runtime refuses it.
    """
    path = str(Path(library).resolve())
    if path in _others.setdefault(options, set()):
        return
    try:
        options.register_custom_ops_library(path)
    except Exception as error:
        raise KernelError(f"ONNX Runtime refused {library}: {error}") from error
    _others[options].add(path)


_registered: "WeakSet[onnxruntime.SessionOptions]" = WeakSet()
_others: "WeakKeyDictionary[onnxruntime.SessionOptions, set[str]]" = WeakKeyDictionary()
"""What these options have already: ONNX Runtime refuses a library that it is given twice."""
