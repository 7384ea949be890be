"""How a module takes the inputs of the model that was exported from it, where nobody says how it was called.

PyTorch's exporter names an input after the argument of ``forward`` that it came from, and after its place inside of
that: ``batch_x`` is ``batch["x"]``, ``pyramid_0`` is ``pyramid[0]``. An arrangement is arguments without and with
names, in which each tensor's place holds the name of its input.

>>> arrangements(["x", "mask"], ["x", "scale", "mask"])
[((), {'x': 'x', 'mask': 'mask'})]
>>> arrangements(["batch_x", "batch_mask"], ["batch"])
[((), {'batch': {'x': 'batch_x', 'mask': 'batch_mask'}})]
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Arrangement: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]


def parameters(forward: Callable[..., Any]) -> list[str]:
    """The names by which ``forward`` can be given its arguments, in order."""
    try:
        found = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # some callables have none
        return []
    return [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def arrangements(names: Sequence[str], words: Sequence[str]) -> list[Arrangement]:
    """Every way in which ``forward`` with these arguments can take inputs of these names; the likeliest first.

    Names of one's own say nothing: inputs that have them are taken in order.
    """
    in_order: Arrangement = tuple(names), {}
    if set(names) <= set(words):
        return [in_order if list(names) == list(words[: len(names)]) else ((), {name: name for name in names})]
    grouped = _grouped(names, words)
    if grouped is None:
        return [in_order]
    sure = len(names) > len(words) or not set(names).isdisjoint(words)
    return [((), grouped)] if sure else [((), grouped), in_order]


def _grouped(names: Sequence[str], words: Sequence[str]) -> dict[str, Any] | None:
    """For each argument the name of its one input, or those of its parts; None where a name belongs to no argument."""
    found: dict[str, Any] = {}
    for name in names:
        owners = [word for word in words if name == word or name.startswith(f"{word}_")]
        if not owners:
            return None
        owner = max(owners, key=len)
        parts = found.setdefault(owner, name if name == owner else {})
        if name != owner and isinstance(parts, dict):
            parts[name.removeprefix(f"{owner}_")] = name
        elif parts != name:  # whole and in parts
            return None
    return {word: _listed(parts) for word, parts in found.items()}


def _listed(parts: Any) -> Any:
    """Parts that are numbered from 0 are those of a tuple."""
    numbered = isinstance(parts, dict) and list(parts) == [str(i) for i in range(len(parts))]
    return tuple(parts.values()) if numbered else parts
