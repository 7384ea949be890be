"""What goes in and out of a model, and what is said where something else comes."""

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import BFLOAT16, BY_NAME, BY_ONNX, to_bits
from onnxpool.errors import ArgumentError, SessionError, nearest
from onnxpool.graph.shapes import fits
from onnxpool.run.options import onnxruntime_itself


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model: a number per fixed axis, a name or None per axis that may change."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def sizes(self) -> list[int]:
        """The shape as the inference protocol writes it: -1 for an axis that may change."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    def __str__(self) -> str:
        """Short form, for example ``x: float32 (batch, 3, 224, 224)``."""
        return f"{self.name}: {self.dtype} ({', '.join(str('?' if size is None else size) for size in self.shape)})"


def described(argument: Any) -> TensorInfo:
    """What a ``NodeArg`` of ONNX Runtime says; :class:`SessionError` for what is not a tensor."""
    element = BY_ONNX.get(argument.type.removeprefix("tensor(").removesuffix(")"))
    if element is None:
        raise SessionError(f"{argument.name!r} is a {argument.type}; onnxpool runs models of plain tensors")
    sizes = (None if size == "?" or (isinstance(size, int) and size < 0) else size for size in argument.shape)
    return TensorInfo(argument.name, element.dtype, tuple(sizes))


def checked(info: TensorInfo, value: Any) -> NDArray[Any]:
    """The value as an array in C order; :class:`ArgumentError` for another type or shape than the input takes."""
    array = value if type(value) is np.ndarray else np.asarray(value)
    if array.dtype != info.dtype:
        raise ArgumentError(_other_type(info, array.dtype))
    if not fits(array.shape, info.shape):
        raise ArgumentError(f"input {info.name!r} has shape {array.shape}; this model takes {info.shape}")
    # np.ascontiguousarray would give a scalar an axis
    return array if array.flags.c_contiguous else np.asarray(array, order="C")


def _other_type(info: TensorInfo, dtype: np.dtype[Any]) -> str:
    """Why an array of this type is not taken, and what to do."""
    told = f"input {info.name!r} has dtype {dtype}; this model takes {info.dtype}: use .astype({info.dtype.name!r})"
    whole = dtype.kind in "iub" and info.dtype.kind not in "iub"
    return (
        f"{told}, and scale it as the network was trained: pixels from 0 to 255 seldom go in as such" if whole else told
    )


def unlike(inputs: Sequence[TensorInfo], feeds: Mapping[str, Any]) -> str:
    """Which names are not those of the inputs, and which are meant."""
    known = [info.name for info in inputs]
    unknown, missing = [name for name in feeds if name not in known], [name for name in known if name not in feeds]
    told = [f"inputs {missing} are missing"] if missing else []
    if unknown:
        told.append(f"inputs {unknown} are unknown{nearest(str(unknown[0]), known)}")
    return f"{' and '.join(told)}; this model takes {known}"


def to_value(array: NDArray[Any]) -> Any:
    """An ``OrtValue`` of ONNX Runtime."""
    make = onnxruntime_itself().OrtValue
    if array.dtype == BFLOAT16:  # NumPy has no such type of its own: ONNX Runtime takes the bits
        return make.ortvalue_from_numpy_with_onnx_type(to_bits(array), BY_NAME[BFLOAT16.name].code)
    return make.ortvalue_from_numpy(array)


def to_array(info: TensorInfo, value: Any) -> NDArray[Any]:
    """What such a value holds."""
    if info.dtype != BFLOAT16:
        array: NDArray[Any] = value.numpy()
        return array
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return (
        np.frombuffer(bits, np.uint16).reshape(shape).view(BFLOAT16).copy() if len(bits) else np.empty(shape, BFLOAT16)
    )
