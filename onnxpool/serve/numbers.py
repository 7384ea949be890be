"""Long lists of numbers in JSON, read and written in parts, between which other threads of Python run.

A parser of JSON holds the interpreter until it is through: 4 MiB of numbers would keep the event loop from answering
health for tens of milliseconds. So the lists are taken out of the text, the little that is left is parsed as usual, and
each list goes into its array part by part.
"""

import math
import re
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from onnxpool.run.session import TensorInfo
from onnxpool.serve.limits import Refusal
from onnxpool.serve.tensors import Tensor, from_list

_PART_BYTES = 1 << 16
_PART_NUMBERS = 1 << 13

_KEY = b'"data"'
_OPENS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\[")
_TOKEN = secrets.token_hex(16)
"""What no client writes."""

_SPACE = b" \t\r\n"
_KINDS = bytes(byte if byte in b"[]," else ord("0") for byte in range(256))


def taken_out(text: bytes) -> tuple[bytes, list[bytes]]:
    """JSON with a short list in the place of each under a key "data" in which no text and no object is; those lists.

    :func:`place` tells which of them a short list stands for. An unescaped quote before ``data"`` begins a key wherever
    the text is JSON; where it is not, what is left is not JSON either, or a list is not.
    """
    kept: list[bytes] = []
    lists: list[bytes] = []
    done = at = 0
    while (key := text.find(_KEY, at)) >= 0:
        at = key + len(_KEY)
        opened = _OPENS.match(text, at)
        if opened is None or text[key - 1 : key] == b"\\":
            continue
        begin = opened.end() - 1
        end = text.find(b'"', begin)
        end = len(text) if end < 0 else end
        for other in (b"{", b"}"):
            found = text.find(other, begin, end)
            end = found if found >= 0 else end
        end = text.rfind(b"]", begin, end) + 1
        if end:
            kept += (text[done:begin], b'["%s",%d]' % (_TOKEN.encode(), len(lists)))
            lists.append(text[begin:end])
            done = at = end
    return b"".join([*kept, text[done:]]), lists


def place(data: list[Any] | None) -> int | None:
    """Which of the lists that were taken out stood here; None where this is what the client wrote."""
    return data[1] if data and len(data) == 2 and data[0] == _TOKEN else None


def from_text(info: TensorInfo, shape: tuple[int, ...], text: bytes) -> Tensor:
    """The tensor whose elements are in this list, flat or nested as its shape; refuses (400) what is no such list."""
    count, wanted = 0, math.prod(shape)
    parts: list[Tensor] = []
    brackets: list[bytes] = []
    for part in _parts(text):
        kinds = part.translate(_KINDS, _SPACE)
        if b"0[" in kinds or b"]0" in kinds:
            raise Refusal(400, f"the data of input {info.name!r} is not JSON: a number beside a bracket")
        try:
            numbers = orjson.loads(b"[" + part.translate(None, b"[]") + b"]")
        except orjson.JSONDecodeError as error:
            raise Refusal(400, f"the data of input {info.name!r} is not JSON: {error}") from error
        count += len(numbers)
        if count > wanted:
            break
        parts.append(from_list(info, numbers))
        brackets.append(kinds.replace(b"0", b""))
    nested = _brackets(shape) if wanted else b""
    if count != wanted or b",".join(brackets) not in (_brackets((wanted,)), nested):
        raise Refusal(400, f"input {info.name!r} has data of another shape; its shape says {list(shape)}")
    return np.concatenate(parts).reshape(shape)


def to_text(flat: Tensor) -> orjson.Fragment:
    """A list of numbers, as part of what orjson writes."""
    parts = (flat[i : i + _PART_NUMBERS] for i in range(0, len(flat), _PART_NUMBERS))
    return orjson.Fragment(
        b"[" + b",".join(orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for part in parts) + b"]"
    )


def _parts(text: bytes) -> Iterator[bytes]:
    """A list in parts that end at commas."""
    begin = 0
    while begin < len(text):
        end = text.find(b",", begin + _PART_BYTES)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end + 1


def _brackets(shape: tuple[int, ...]) -> bytes:
    """What is left of nested lists of this shape without their numbers, such as ``[[,],[,]]`` of (2, 2)."""
    *outer, inner = shape or (1,)
    text = b"[" + b"," * (inner - 1) + b"]"
    for size in reversed(outer):
        text = b"[" + b",".join([text] * size) + b"]"
    return text
