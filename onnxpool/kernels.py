"""Finds the native library and registers it with ONNX Runtime, or says why that cannot be.

The library is optional: without it ONNX Runtime runs the function body that each model carries. It holds CPU kernels
for float32, float64, float16 and bfloat16 and needs ONNX Runtime 1.24 or newer.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from onnxpool.errors import KernelError

if TYPE_CHECKING:
    import onnxruntime

FILE_NAME = {"win32": "onnxpool.dll", "darwin": "libonnxpool.dylib"}.get(sys.platform, "libonnxpool.so")

OVERRIDE = "ONNXPOOL_LIBRARY"
"""Environment variable that names another library file, such as one built with a sanitizer."""


def library_path() -> Path:
    """The native library's file, to be given to ``SessionOptions.register_custom_ops_library`` or a C++ program.

    The environment variable ``ONNXPOOL_LIBRARY`` overrides the installed one.
    Raises :class:`KernelError` where there is none, with the reason and the remedy.
    """
    import onnxpool

    override = os.environ.get(OVERRIDE)
    places = [Path(override)] if override else [Path(folder, "lib", FILE_NAME) for folder in onnxpool.__path__]
    for place in places:
        if place.is_file():
            return place.resolve()
    if override:
        raise KernelError(f"{OVERRIDE}={override} names no file; unset it, or give the path of a built {FILE_NAME}")
    raise KernelError(
        f"onnxpool was installed without its native library ({FILE_NAME}); "
        "install a C++ compiler and run pip install again with ONNXPOOL_PURE unset"
    )


def why_missing() -> str | None:
    """Why there is no native library, or None where there is one."""
    try:
        library_path()
    except KernelError as error:
        return str(error)
    return None


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


_registered: "WeakSet[onnxruntime.SessionOptions]" = WeakSet()
