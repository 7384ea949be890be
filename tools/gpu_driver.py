"""NVIDIA's driver by ctypes: memory, streams, graphs and times, without CUDA's toolkit or PyTorch."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

COMPUTE_MAJOR, COMPUTE_MINOR, MULTIPROCESSORS = 75, 76, 16
"""Attributes of a device, as cuda.h numbers them."""

_RELAXED = 2


class DriverError(Exception):
    """A call of the driver failed."""


@dataclass(frozen=True)
class Graph:
    """Launches that start together, so that Python's time between them does not count."""

    handle: ctypes.c_void_p
    launches: int


class Driver:
    """The first device, with one stream."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._device, context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(self.stream), 0)  # after copies of the null stream
        self._begin, self._end = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (self._begin, self._end):
            self._call("cuEventCreate", ctypes.byref(event), 0)

    def _call(self, name: str, *arguments: object) -> None:
        status: int = getattr(self._library, name)(*arguments)
        if status != 0:
            reason = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(reason))
            raise DriverError(f"{name}: {(reason.value or b'status %d' % status).decode()}")

    def facts(self) -> dict[str, str | int]:
        """Name, compute capability, multiprocessors and driver."""
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self._call("cuDeviceGetName", name, len(name), self._device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        major, minor = self._attribute(COMPUTE_MAJOR), self._attribute(COMPUTE_MINOR)
        return {
            "name": name.value.decode(),
            "compute_capability": f"{major}.{minor}",
            "multiprocessors": self._attribute(MULTIPROCESSORS),
            "cuda_of_driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def allocate(self, size_bytes: int) -> int:
        """The address of so much memory."""
        at = ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(size_bytes))
        return at.value or 0

    def free(self, at: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_void_p(at))

    def put(self, at: int, array: NDArray[Any], size_bytes: int) -> None:
        """Write the beginning of a contiguous array to the device."""
        size = ctypes.c_size_t(size_bytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_void_p(at), ctypes.c_void_p(array.ctypes.data), size)

    def get(self, array: NDArray[Any], at: int) -> None:
        """Fill a contiguous array from the device."""
        size = ctypes.c_size_t(array.nbytes)
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_void_p(at), size)

    def copy(self, to: int, start: int, size_bytes: int) -> None:
        """Start a copy on the device."""
        size = ctypes.c_size_t(size_bytes)
        self._call("cuMemcpyDtoDAsync_v2", ctypes.c_void_p(to), ctypes.c_void_p(start), size, self.stream)

    def synchronize(self) -> None:
        """Wait for all that was started."""
        self._call("cuStreamSynchronize", self.stream)

    def graph(self, start: Callable[[], None], launches: int) -> Graph:
        """So many calls of ``start``, captured."""
        captured, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, _RELAXED)
        for _ in range(launches):
            start()
        self._call("cuStreamEndCapture", self.stream, ctypes.byref(captured))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), captured, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", captured)
        return Graph(ready, launches)

    def time_ms(self, graph: Graph) -> float:
        """The time of one launch of those in a graph, by the device's clock."""
        elapsed = ctypes.c_float()
        self._call("cuEventRecord", self._begin, self.stream)
        self._call("cuGraphLaunch", graph.handle, self.stream)
        self._call("cuEventRecord", self._end, self.stream)
        self._call("cuEventSynchronize", self._end)
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), self._begin, self._end)
        return elapsed.value / graph.launches

    def drop(self, graph: Graph) -> None:
        """Give a graph's memory back."""
        self._call("cuGraphExecDestroy", graph.handle)


class Memory:
    """Memory on the device, given back at the end of a ``with``."""

    def __init__(self, driver: Driver, size_bytes: int) -> None:
        self._driver, self.size_bytes, self.at = driver, size_bytes, driver.allocate(size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._driver.free(self.at)

    def fill(self, block: NDArray[Any]) -> None:
        """Write a block over and over; the last time, as much of it as fits."""
        for at in range(0, self.size_bytes, block.nbytes):
            self._driver.put(self.at + at, block, min(block.nbytes, self.size_bytes - at))

    def read(self, array: NDArray[Any]) -> None:
        """Fill an array with what lies at the beginning."""
        self._driver.get(array, self.at)
