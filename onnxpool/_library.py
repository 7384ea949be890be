"""Where the native library is, or why there is none."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from onnxpool.errors import KernelError

FILE_NAME = {"win32": "onnxpool.dll", "darwin": "libonnxpool.dylib"}.get(sys.platform, "libonnxpool.so")

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
