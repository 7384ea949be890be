"""Tensors of the protocol: from bytes or JSON numbers to arrays and back, every declared size checked first.

    BOOL  INT8 INT16 INT32 INT64  UINT8 UINT16 UINT32 UINT64  FP16 BF16 FP32 FP64

BYTES is refused: these models have no strings. Bytes are in C order, little endian, as the protocol has them. Numbers
in JSON are finite, and in the range of their type; integers and booleans are never guessed from other types.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import BFLOAT16, BY_NAME
from onnxpool.golden.bounds import is_floating
from onnxpool.graph.shapes import fits
from onnxpool.run.session import TensorInfo
from onnxpool.serve.limits import Refusal

Tensor: TypeAlias = NDArray[Any]
Tensors: TypeAlias = dict[str, Tensor]

_WHOLE: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}}


@cache
def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of an element type."""
    return BY_NAME[dtype.name].protocol


def check(info: TensorInfo, declared: Any, shape: Any, max_bytes: int) -> tuple[int, ...]:
    """The shape that a client declares for this input, when it fits the model and the limit."""
    wanted = datatype(info.dtype)
    if declared != wanted:
        raise Refusal(400, f"input {info.name!r} is declared {declared!r:.40}; this model takes {wanted}")
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise Refusal(400, f"input {info.name!r} has shape {shape!r:.80}; write a list of sizes, each 0 or more")
    if not fits(shape, info.shape):
        raise Refusal(400, f"input {info.name!r} has shape {list(shape)!r:.80}; this model takes {_spelled(info)}")
    # NumPy has a limit for arrays without elements, too: it leaves the sizes of 0 out.
    size_bytes = math.prod(size or 1 for size in shape) * info.dtype.itemsize
    if size_bytes > max_bytes:
        raise Refusal(413, f"input {info.name!r} is declared {size_bytes:.3g} bytes; the limit is {max_bytes}")
    return tuple(shape)


def agree(infos: Sequence[TensorInfo], tensors: Mapping[str, Tensor]) -> None:
    """Refuse inputs that are missing, and axes of one name that have different sizes."""
    if missing := [info.name for info in infos if info.name not in tensors]:
        raise Refusal(400, f"inputs {missing} are missing; this model takes {[info.name for info in infos]}")
    seen: dict[str, int] = {}
    for info in infos:
        for axis, size in zip(info.shape, tensors[info.name].shape, strict=True):
            if isinstance(axis, str) and seen.setdefault(axis, size) != size:
                raise Refusal(400, f"axis {axis!r} of input {info.name!r} is {size}, but {seen[axis]} elsewhere")


def from_bytes(info: TensorInfo, shape: tuple[int, ...], raw: bytes | memoryview) -> Tensor:
    """The tensor whose elements are ``raw``; its memory is shared where it is aligned."""
    expected = math.prod(shape) * info.dtype.itemsize
    if len(raw) != expected:
        raise Refusal(400, f"input {info.name!r} came as {len(raw)} bytes; {list(shape)} of this type is {expected}")
    if info.dtype == np.bool_ and (np.frombuffer(raw, np.uint8) > 1).any():
        raise Refusal(400, f"input {info.name!r} holds bytes other than 0 and 1, which are not BOOL")
    tensor = np.frombuffer(raw, info.dtype).reshape(shape)
    return tensor if tensor.flags.aligned else tensor.copy()


def from_numbers(info: TensorInfo, shape: tuple[int, ...], data: Any) -> Tensor:
    """The tensor whose elements are in a list, flat or nested as its shape."""
    nested, flat = _flatten(info, data)
    if len(flat) != math.prod(shape) or (len(nested) > 1 and nested != shape):
        raise Refusal(400, f"input {info.name!r} has data of shape {list(nested)}; its shape says {list(shape)}")
    return from_list(info, flat).reshape(shape)


def from_list(info: TensorInfo, flat: list[Any]) -> Tensor:
    """The elements of a flat list; refuses (400) those that are none of this input's type."""
    kinds = _WHOLE.get(info.dtype.kind, {int, float})
    if wrong := set(map(type, flat)) - kinds:
        found = " and ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in wrong))
        raise Refusal(400, f"input {info.name!r} is {datatype(info.dtype)} and has data of type {found}")
    return _converted(info, flat)


def to_bytes(tensor: Tensor) -> bytes:
    """The elements of a tensor as the protocol has them."""
    return tensor.tobytes()


def to_numbers(name: str, tensor: Tensor) -> Tensor:
    """The elements of a tensor, flat, in a type that orjson knows."""
    if is_floating(tensor.dtype) and not np.isfinite(tensor).all():
        raise Refusal(422, f"output {name!r} holds NaN or infinity, which JSON has no number for: ask for binary data")
    flat = np.ascontiguousarray(tensor).reshape(-1)
    return flat.astype(np.float32) if tensor.dtype == BFLOAT16 else flat


def _flatten(info: TensorInfo, data: Any) -> tuple[tuple[int, ...], list[Any]]:
    if type(data) is not list:
        raise Refusal(400, f"input {info.name!r} has no data: give a list, or binary_data_size")
    shape = [len(data)]
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise Refusal(400, f"input {info.name!r} has lists of different lengths in its data")
        shape.append(len(data[0]))
        data = list(chain.from_iterable(data))
    return tuple(shape), data


def _converted(info: TensorInfo, flat: list[Any]) -> Tensor:
    if is_floating(info.dtype):
        with np.errstate(over="ignore"):
            tensor = np.array(flat, np.float64).astype(info.dtype)
        fits = bool(np.isfinite(tensor).all())
    else:
        least, most = (0, 1) if info.dtype == np.bool_ else (np.iinfo(info.dtype).min, np.iinfo(info.dtype).max)
        fits = not flat or (min(flat) >= least and max(flat) <= most)
        tensor = np.array(flat if fits else [], info.dtype)
    if not fits:
        raise Refusal(400, f"input {info.name!r} has a number that {datatype(info.dtype)} cannot hold")
    return tensor


def _spelled(info: TensorInfo) -> list[int | str]:
    return [-1 if axis is None else axis for axis in info.shape]
