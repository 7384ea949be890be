"""Where the native library is, and that for CUDA beside it, or why there is none."""

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxpool.errors import KernelError

FILE_NAME = {"win32": "onnxpool.dll", "darwin": "libonnxpool.dylib"}.get(sys.platform, "libonnxpool.so")

CUDA_FILE_NAME = "libonnxpool_cuda.so"

CUDA_VERSION = 2
"""Of the table that it offers."""

OVERRIDE = "ONNXPOOL_LIBRARY"
"""Environment variable that names another library file, such as one built with a sanitizer."""


def library_path() -> Path:
    """The native library's file, to be given to ``SessionOptions.register_custom_ops_library`` or a C++ program.

    The environment variable ``ONNXPOOL_LIBRARY`` overrides the installed one.
    Raises :class:`KernelError` where there is none, with the reason and the remedy.
    """
    override = os.environ.get(OVERRIDE)
    places = [Path(override)] if override else [Path(folder, "lib", FILE_NAME) for folder in folders()]
    for place in places:
        if place.is_file():
            return place.resolve()
    if override:
        raise KernelError(f"{OVERRIDE}={override} names no file; unset it, or give the path of a built {FILE_NAME}")
    raise KernelError(
        f"onnxpool was installed without its native library ({FILE_NAME}); "
        "install a C++ compiler and run pip install again with ONNXPOOL_PURE unset"
    )


def folders() -> list[str]:
    """Where the package is: two folders where it is installed editable, one of sources and one of what was built."""
    spec = find_spec("onnxpool")
    return list(spec.submodule_search_locations or ()) if spec else []


def why_missing() -> str | None:
    """Why there is no native library, or None where there is one."""
    try:
        library_path()
    except KernelError as error:
        return str(error)
    return None


_WHY = (ctypes.c_char_p, ctypes.c_size_t)


def _on_device(pointers: int) -> Any:
    """A function of the table: of an operator's name, a type, a window over a shape, and so many pointers."""
    given = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int64)
    return ctypes.CFUNCTYPE(ctypes.c_int, *given, *[ctypes.c_void_p] * (2 + pointers), *_WHY)


class CudaLibrary(ctypes.Structure):
    """The table of ``custom_ops/cuda/library.h``, which says what its functions take. ``pool`` and ``gradients`` are
    for programs with pointers to device memory and no ONNX Runtime.
    """

    _fields_ = (
        ("version", ctypes.c_int64),
        ("architectures", ctypes.c_char_p),
        ("devices", ctypes.CFUNCTYPE(ctypes.c_int, *_WHY)),
        ("launch", ctypes.c_void_p),
        ("pool", _on_device(3)),
        ("gradients", _on_device(5)),
    )


def cuda_library(path: str | Path) -> CudaLibrary:
    """The table of a built ``libonnxpool_cuda.so``.

    Raises OSError where the file cannot be loaded, and AttributeError where it is not such a library.
    """
    get = ctypes.CDLL(str(path)).OnnxpoolCuda
    get.restype = ctypes.POINTER(CudaLibrary)
    table: CudaLibrary = get().contents
    return table
