"""Long lists of numbers in JSON, read and written in parts, between which other threads of Python run.

A parser of JSON holds the interpreter until it is through: 4 MiB of numbers would keep the event loop from answering
health for tens of milliseconds. So the lists are taken out of the text, the little that is left is parsed as usual, and
each list goes into its array part by part.
"""

import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
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
_SPACE = b" \t\r\n"
_KINDS = bytes(byte if byte in b"[]," else ord("0") for byte in range(256))


@dataclass(slots=True)
class Lists:
    """The lists of one text, and what marks their places in it: nothing that a client can know beforehand."""

    texts: list[bytes] = field(default_factory=list)
    mark: str = field(default_factory=partial(secrets.token_hex, 16))
    _taken: set[int] = field(default_factory=set)

    def take(self, data: list[Any] | None) -> bytes | None:
        """The list that stood here; None where this is what the client wrote."""
        if not data or len(data) != 2 or data[0] != self.mark:
            return None
        self._taken.add(data[1])
        text: bytes = self.texts[data[1]]
        return text

    def check_others(self, most: int) -> None:
        """Refuse those that nobody took where one is not JSON (400), or they are longer than ``most`` (413)."""
        others = [text for i, text in enumerate(self.texts) if i not in self._taken]
        if (size := sum(map(len, others))) > most:
            raise Refusal(413, f"{size} bytes of lists that are no input's data; the limit is {most}")
        for text in others:
            _parsed(text, "a list under a key data")


def taken_out(text: bytes) -> tuple[bytes, Lists]:
    """JSON with a short list in the place of each under a key "data" in which no text and no object is; those lists.

    An unescaped quote before ``data"`` begins a key wherever the text is JSON; where it is not, what is left is not
    JSON either, or a list is not.
    """
    kept: list[bytes] = []
    lists = Lists()
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
            kept += (text[done:begin], b'["%s",%d]' % (lists.mark.encode(), len(lists.texts)))
            lists.texts.append(text[begin:end])
            done = at = end
    return b"".join([*kept, text[done:]]), lists


def from_text(info: TensorInfo, shape: tuple[int, ...], text: bytes) -> Tensor:
    """The tensor whose elements are in this list, flat or nested as its shape; refuses (400) what is no such list."""
    count, wanted = 0, math.prod(shape)
    parts: list[Tensor] = []
    brackets: list[bytes] = []
    another = Refusal(400, f"input {info.name!r} has data of another shape; its shape says {list(shape)}")
    if not wanted:
        if text.translate(None, _SPACE) not in (b"[]", _empty(shape, len(text))):
            raise another
        return from_list(info, []).reshape(shape)
    for part in _parts(text):
        kinds = part.translate(_KINDS, _SPACE)
        if b"0[" in kinds or b"]0" in kinds:
            raise Refusal(400, f"the data of input {info.name!r} is not JSON: a number beside a bracket")
        numbers = _parsed(b"[" + part.translate(None, b"[]") + b"]", f"the data of input {info.name!r}")
        count += len(numbers)
        if count > wanted:
            break
        parts.append(from_list(info, numbers))
        brackets.append(kinds.replace(b"0", b""))
    # sizes are the client's: nothing of theirs is made before as many numbers came
    if count != wanted or b",".join(brackets) not in (_brackets((wanted,)), _brackets(shape)):
        raise another
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


def _parsed(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"{what} is not JSON: {error}") from error


def _empty(shape: tuple[int, ...], most: int) -> bytes:
    """Nested lists of this shape, which has no elements, where these are no longer than that."""
    return _brackets(shape) if 0 < math.prod(shape[:-1]) <= most else b""


def _brackets(shape: tuple[int, ...]) -> bytes:
    """What is left of nested lists of this shape without their numbers, such as ``[[,],[,]]`` of (2, 2)."""
    *outer, inner = shape or (1,)
    text = b"[" + b"," * (inner - 1) + b"]"
    for size in reversed(outer):
        text = b"[" + b",".join([text] * size) + b"]"
    return text
