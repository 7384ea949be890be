"""Rules for a request that REST and gRPC share: which inputs, outputs, parameters and limit of time a client may name.

Clients send more than the protocol knows. What is not known is ignored, but for the few parameters that would change
the answer, which no answer here heeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from onnxpool.run.session import TensorInfo
from onnxpool.serve.limits import Refusal
from onnxpool.serve.repository import Served

_REFUSED = ("sequence_id", "classification", "shared_memory_region")
"""Parameters of a request, an input or an output that ask for another answer, wherever they are not 0 or empty."""


def refuse(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse (400) parameters that would change the answer."""
    if wrong := [name for name in _REFUSED if parameters.get(name)]:
        raise Refusal(400, f"parameters {wrong} of {where} are not offered here, and the answer would be another")


def find(served: Served, name: Any, seen: Mapping[str, Any]) -> TensorInfo:
    """The input of this name, which has not been seen yet; refuses (400) any other."""
    for info in served.session.inputs:
        if info.name == name and name not in seen:
            return info
    names = [info.name for info in served.session.inputs]
    raise Refusal(400, f"input {name!r:.80} is unknown or named twice; this model takes {names}")


def wanted(served: Served, names: Sequence[str]) -> list[str]:
    """These outputs, or all where none is named; refuses (400) one that is unknown or named twice."""
    there = [info.name for info in served.session.outputs]
    if len(set(names)) != len(names) or not set(names) <= set(there):
        raise Refusal(400, f"outputs {list(names)!r:.200} are unknown or named twice; this model gives {there}")
    return list(names) or there


def seconds(timeout_us: int | None) -> float | None:
    """A client's own limit of time; refuses (400) one that is not above 0."""
    if timeout_us is not None and timeout_us <= 0:
        raise Refusal(400, f"timeout={timeout_us} must be a number of microseconds above 0")
    return timeout_us and timeout_us / 1e6
