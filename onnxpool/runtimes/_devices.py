"""Whether there is a device for a provider of ONNX Runtime, by what the drivers say.

ONNX Runtime lists the providers that it was built with. One that is asked for without its device prints errors and
leaves the model to the CPU, where kernels that were chosen for the device are missing.
"""

import ctypes
import sys
from collections.abc import Sequence

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

_DRIVER = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
_TENSORRT = tuple(name.format(release) for release in (10, 11, 9, 8) for name in ("libnvinfer.so.{}", "nvinfer_{}.dll"))


def why_no_device(provider: str) -> str:
    """Why this provider cannot start here, or nothing: also for a provider that this knows no device of."""
    if provider not in (CUDA, TENSORRT):
        return ""
    driver = _library(_DRIVER)
    if driver is None:
        return "no GPU: no NVIDIA driver is installed"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return f"no GPU: the NVIDIA driver finds none (status {status})"
    if provider == TENSORRT and _library(_TENSORRT) is None:
        return "TensorRT is not installed: there is no libnvinfer"
    return ""


def _library(names: Sequence[str]) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
