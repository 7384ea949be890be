"""What outputs of indices point at, seen while PyTorch runs: the numbers that were compared to make them.

An output that argmax, argmin, max, min, sort, topk or a max-pooling made, or a view or another integer type of such a
one, has a source: see :class:`onnxpool.golden.choices.Pointed`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.golden import bounds
from onnxpool.golden.choices import Pointed, of_runs

if TYPE_CHECKING:
    import torch

MOST_ELEMENTS = 2_000_000
"""A source with more numbers is not kept: its indices must be equal."""

_REDUCED = ("argmax", "argmin")
_PAIRED = ("max", "min", "sort", "topk", "mode", "kthvalue")
_POOLED = {
    f"{kind}max_pool{rank}d{end}": rank
    for kind in ("", "adaptive_")
    for rank in (2, 3)
    for end in ("", "_with_indices")
}
_KEPT = ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_to_copy", "clone", "detach", "alias")

Source = tuple["torch.Tensor", int]
"""What was compared, the compared axis last, and the axis of the indices that goes last."""


@contextmanager
def watched() -> Iterator[Callable[[Any], Source | None]]:
    """A function that gives the source of a tensor that was made meanwhile, if it holds indices."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sources: dict[int, tuple[Any, Source]] = {}  # with the tensors, so that their ids stay theirs

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            name = func._schema.name.split("::")[-1]
            if name in _KEPT and id(args[0]) in sources:
                _, (values, _axis) = sources[id(args[0])]
                sources[id(found)] = found, (values, -1 if found.ndim else 0)
            elif (made := _indices(name, args, kwargs or {}, found)) is not None:
                sources[id(made[0])] = made
            return found

    with Watching():  # type: ignore[no-untyped-call]
        yield lambda tensor: sources[id(tensor)][1] if id(tensor) in sources else None


def _indices(name: str, args: Any, kwargs: Mapping[str, Any], found: Any) -> "tuple[torch.Tensor, Source] | None":
    """Indices, and their source, that this operator made."""
    if not args:
        return None
    x: Any = args[0]
    if name in _REDUCED:
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if axis is None:
            return found, (x.flatten(), -1)
        return found, (x.movedim(axis, -1), axis if found.ndim == x.ndim else -1)
    if name in _PAIRED and isinstance(found, tuple | list) and len(found) == 2:
        place = {"topk": 2, "kthvalue": 2}.get(name, 1)
        given = args[place] if len(args) > place and isinstance(args[place], int) else kwargs.get("dim", -1)
        kept = found[1].ndim == x.ndim
        return found[1], (x.movedim(given, -1) if x.ndim else x.reshape(1), given if kept else -1)
    if name in _POOLED and isinstance(found, tuple | list) and len(found) == 2:
        rank = _POOLED[name]
        return found[1], (x.flatten(x.ndim - rank), -1)
    return None


def pointed(exact: "Source | None", own: "Source | None", to_array: Callable[[Any], Array]) -> Pointed | None:
    """What an output of indices points at, from a run in float64 and one in the network's own type."""
    if exact is None or own is None or exact[0].shape != own[0].shape or exact[0].numel() > MOST_ELEMENTS:
        return None
    dtype = str(own[0].dtype).removeprefix("torch.")
    values, near = (np.asarray(to_array(one[0]), np.float64) for one in (exact, own))
    curve, _ = of_runs(values, [near], floating=bounds.is_floating(dtype), dtype=dtype)
    return Pointed(values, exact[1], dtype, curve)
