"""Bodies of REST: the Open Inference Protocol's JSON with the binary tensor extension, to tensors and back.

    {"id": "1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2]}]}

With the header ``Inference-Header-Content-Length: N`` the first N bytes are that JSON, and what follows are the raw
elements of every input that has ``"parameters": {"binary_data_size": ...}``, in the order of the inputs. Outputs come
back that way where ``binary_data`` of the output, or ``binary_data_output`` of the request, is true.

Fields and parameters that are not known are ignored, as clients expect, but for those that would change the answer
(:func:`onnxpool.serve.requests.refuse`); null is absent; duplicates of an input or output are refused (400). Sizes are
checked before anything of that size is made.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from onnxpool.serve.limits import MOST_JSON_BYTES, MOST_OTHER_JSON_BYTES, Refusal
from onnxpool.serve.numbers import Lists, from_text, taken_out, to_text
from onnxpool.serve.repository import Served
from onnxpool.serve.requests import find, refuse, seconds, wanted
from onnxpool.serve.tensors import Tensors, check, datatype, from_bytes, from_numbers, to_bytes, to_numbers

HEADER = "Inference-Header-Content-Length"

_LONG_BYTES = 64 << 10
"""JSON above this is read and written in parts."""


@dataclass(frozen=True)
class Asked:
    """A request: its inputs, the outputs that it wants (and whether in binary), its own limit of time, and its id."""

    feeds: Tensors
    outputs: tuple[tuple[str, bool], ...]
    timeout_s: float | None
    id: str | None


def decode(served: Served, body: bytes, header: str | None, max_tensor_bytes: int) -> Asked:
    """The request in a body, which fits this model; ``header`` is the length of its JSON where it is not all."""
    length = _length(header, len(body))
    try:
        text, lists = _shortened(body[:length]) if length > _LONG_BYTES else (body[:length], Lists())
        message = _object(text)
    except Refusal as refused:
        if header is None and b"binary_data_size" in body[:_LONG_BYTES]:
            raise Refusal(refused.status, f"{refused}; where tensors follow, {HEADER} says where they begin") from None
        raise
    message = known(message, "request", id=str, parameters=dict, inputs=list, outputs=list)
    parameters = _parameters(message, "request", timeout=int, binary_data_output=bool)
    feeds = _inputs(served, message.get("inputs", []), lists, memoryview(body)[length:], max_tensor_bytes)
    lists.check_others(MOST_OTHER_JSON_BYTES)
    outputs = _outputs(served, message.get("outputs", []), parameters.get("binary_data_output", False))
    return Asked(feeds, outputs, seconds(parameters.get("timeout")), message.get("id"))


def encode(served: Served, asked: Asked, outputs: Tensors) -> tuple[bytes, dict[str, str]]:
    """A body, and its headers."""
    described, raws = [], []
    for name, binary in asked.outputs:
        tensor = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": datatype(tensor.dtype), "shape": tensor.shape}
        if binary:
            raws.append(to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            numbers = to_numbers(name, tensor)
            entry["data"] = to_text(numbers) if tensor.nbytes > _LONG_BYTES else numbers
        described.append(entry)
    message = {"model_name": served.name, "model_version": served.version, "outputs": described}
    if asked.id is not None:
        message["id"] = asked.id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raws:
        return head, {"content-type": "application/json"}
    return b"".join([head, *raws]), {"content-type": "application/octet-stream", HEADER: str(len(head))}


def fields(body: bytes) -> dict[str, Any]:
    """The JSON object in a body that may be empty."""
    if len(body) > MOST_OTHER_JSON_BYTES:
        raise Refusal(413, f"{len(body)} bytes of JSON; the limit is {MOST_OTHER_JSON_BYTES} where no tensors come")
    return _object(body) if body.strip() else {}


def known(given: Any, where: str, **kinds: type) -> dict[str, Any]:
    """Those of these fields that ``given``, an object, has and that are not null; refuses (400) one of another type."""
    if type(given) is not dict:
        raise Refusal(400, f"{where} must be an object")
    found = {name: given[name] for name in kinds if given.get(name) is not None}
    for name, value in found.items():
        if type(value) is not kinds[name]:
            raise Refusal(400, f"{name!r} of {where} must be {_SPELLED[kinds[name]]}")
    return found


_SPELLED = {str: "a string", int: "an integer", bool: "true or false", dict: "an object", list: "a list"}


def _parameters(owner: dict[str, Any], where: str, **kinds: type) -> dict[str, Any]:
    """Those of these parameters that a request, an input or an output has."""
    given = owner.get("parameters", {})
    refuse(given, where)
    return known(given, f"parameters of {where}", **kinds)


def _length(header: str | None, most: int) -> int:
    if header is None:
        return most
    if not re.fullmatch("[0-9]{1,18}", header) or int(header) > most:
        raise Refusal(400, f"{HEADER}: {header:.40} is not a length within a body of {most} bytes")
    return int(header)


def _shortened(text: bytes) -> tuple[bytes, Lists]:
    """Without its lists of numbers, and these."""
    if len(text) > MOST_JSON_BYTES:
        raise Refusal(413, f"{len(text)} bytes of JSON; the limit is {MOST_JSON_BYTES}: send tensors as binary data")
    text, lists = taken_out(text)
    if len(text) > MOST_OTHER_JSON_BYTES:
        raise Refusal(
            413, f"{len(text)} bytes of JSON besides lists of numbers in data; the limit is {MOST_OTHER_JSON_BYTES}"
        )
    return text, lists


def _object(text: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the request is not JSON: {error}") from error
    if type(message) is not dict:
        raise Refusal(400, "the request is not a JSON object")
    return message


def _inputs(served: Served, entries: list[Any], lists: Lists, rest: memoryview, max_tensor_bytes: int) -> Tensors:
    feeds: Tensors = {}
    for given in entries:
        entry = known(given, "an input", name=str, datatype=str, shape=list, parameters=dict, data=list)
        info = find(served, entry.get("name"), feeds)
        shape = check(info, entry.get("datatype"), entry.get("shape"), max_tensor_bytes)
        size = _parameters(entry, repr(info.name), binary_data_size=int).get("binary_data_size")
        if size is None:
            data = entry.get("data")
            text = lists.take(data) if lists.texts else None
            feeds[info.name] = from_numbers(info, shape, data) if text is None else from_text(info, shape, text)
        elif "data" in entry or not 0 <= size <= len(rest):
            raise Refusal(
                400, f"input {info.name!r}: binary_data_size={size}, but {len(rest)} bytes follow, or has data too"
            )
        else:
            feeds[info.name] = from_bytes(info, shape, rest[:size])
            rest = rest[size:]
    if len(rest):
        raise Refusal(400, f"{len(rest)} bytes are left after the last input")
    return feeds


def _outputs(served: Served, entries: list[Any], binary: bool) -> tuple[tuple[str, bool], ...]:
    """Each output that is wanted, and whether in binary; ``binary`` is what holds where an output says nothing."""
    names, said = [], {}
    for given in entries:
        entry = known(given, "an output", name=str, parameters=dict)
        names.append(entry.get("name", ""))
        said[names[-1]] = _parameters(entry, "an output", binary_data=bool).get("binary_data", binary)
    return tuple((name, said.get(name, binary)) for name in wanted(served, names))
