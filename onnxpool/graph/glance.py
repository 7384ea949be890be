"""A model file whose large tensors stay where they are: parsed in milliseconds, whatever it weighs.

protobuf holds Python's interpreter while it parses, 0.1 s for 100 MB. Here the model gets the place in the file of each
weight with more than 4 KiB, which is what ONNX calls external data. The file is not mapped, since a mapped one that
somebody else cuts off ends the process.
Only lengths change on the way there: of the tensor, and of every message around it.
"""

import os
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import onnx

_LARGE_BYTES = 4096

_BLOCK_BYTES = 4096
"""Read at once, where one byte is asked for."""

_Fields: TypeAlias = dict[int, Any]

_TENSOR: _Fields = {9: {}}
_MODEL: _Fields = {7: {5: _TENSOR}}
"""Numbers of onnx.proto: graph, its initializers, their raw data. Tensors elsewhere are left as they are."""


def glance(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model in a file, with large tensors as external data in that file.

    It is true as long as the file does not change. Raises OSError for a file that cannot be read, ValueError for an
    empty one, and protobuf's DecodeError for what is not a model.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ValueError("it is empty")
        try:
            text = b"".join(_shortened(_Bytes(file), 0, size, _MODEL, Path(path).name))
        except (IndexError, _Damaged):
            file.seek(0)
            text = file.read()  # the parser says what is wrong
    model = onnx.ModelProto()
    model.ParseFromString(text)
    return model


class _Damaged(Exception):  # noqa: N818 - it never leaves this file
    """The bytes are no message."""


class _Bytes:
    """A file, a byte or a part at a time; IndexError for what is not there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block, self._begin = b"", 0

    def part(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        found = self._file.read(end - begin)
        if len(found) < end - begin:
            raise IndexError
        return found

    def __getitem__(self, at: int) -> int:
        if not 0 <= at - self._begin < len(self._block):
            self._file.seek(at)
            self._block, self._begin = self._file.read(_BLOCK_BYTES), at
        return self._block[at - self._begin]


def _shortened(data: _Bytes, begin: int, end: int, fields: _Fields, name: str) -> list[bytes]:
    """The fields of the message between two places, without large tensors."""
    kept, since, at = [], begin, begin
    place: list[bytes] = []  # it comes last, since the last of two values holds, and a tensor may say that it is here
    while at < end:
        here = at
        key, at = _number(data, at)
        number, wire = key >> 3, key & 7
        if wire != 2:
            at = _number(data, at)[1] if wire == 0 else at + {1: 8, 5: 4}.get(wire, end)
            if at > end:
                raise _Damaged
            continue
        size, at = _number(data, at)
        if at + size > end:
            raise _Damaged
        if size > _LARGE_BYTES and number in fields:
            kept.append(data.part(since, here))
            if fields is _TENSOR:
                place = [_elsewhere(name, at, size)]
            else:
                inner = _shortened(data, at, at + size, fields[number], name)
                kept += [_written(key), _written(sum(map(len, inner))), *inner]
            since = at + size
        at += size
    return [*kept, data.part(since, end), *place]


def _elsewhere(name: str, offset: int, size: int) -> bytes:
    """Fields of a tensor that say where its bytes are."""
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": name, "offset": str(offset), "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)
    fields: bytes = tensor.SerializeToString()
    return fields


def _number(data: _Bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise _Damaged


def _written(number: int) -> bytes:
    text = bytearray()
    while number > 127:
        text.append(number & 127 | 128)
        number >>= 7
    text.append(number)
    return bytes(text)
