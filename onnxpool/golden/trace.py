"""What a network computes on its way, at a few cells of each value, so that a golden file alone tells where it departs.

A value of at most :data:`WHOLE` cells is kept whole, of a larger one :data:`CELLS` cells: a Kronecker sequence, cell
``i`` at ``floor(frac((i + 1) sqrt(p)) n)`` of an axis of ``n``, where ``p`` is the prime of that axis. No index of an
axis of up to a hundred is left out, so that one wrong channel shows. Cells are float64: those of 100 values take at
most 0.8 MB.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array

WHOLE, CELLS = 1024, 512
"""Cells of a value that is kept whole, at most, and how many are kept of others. Files depend on both."""

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)

MOST_AXES = len(_PRIMES)
"""Values of more axes are left out."""


@dataclass(frozen=True)
class Cells:
    """A value of this ``shape``: what it is at :func:`places`, in float64."""

    shape: tuple[int, ...]
    values: Array

    @property
    def whole(self) -> Array | None:
        """All of it, if it was kept whole."""
        return self.values.reshape(self.shape) if math.prod(self.shape) <= WHOLE else None

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same cells of another array of this shape."""
        found: NDArray[Any] = array.reshape(-1)[places(self.shape)]
        return found


@dataclass(frozen=True)
class Trace:
    """The values of one case, by the names that they have in the model."""

    case: str
    values: dict[str, Cells]


def places(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Which cells of a value of this shape are kept, as flat indices in ascending order; eight axes at most."""
    size = math.prod(shape)
    if size <= WHOLE:
        return np.arange(size)
    steps = np.arange(1, CELLS + 1, dtype=np.float64)
    cells = [(np.modf(steps * math.sqrt(p))[0] * n).astype(np.int64) for p, n in zip(_PRIMES, shape, strict=False)]
    return np.unique(np.ravel_multi_index(tuple(cells), shape))


def of_array(array: NDArray[Any]) -> Cells:
    """The cells of a value of at most :data:`MOST_AXES` axes."""
    return Cells(array.shape, np.asarray(array.flat[places(array.shape)], np.float64))


# --- in a golden file


def listed(trace: Trace) -> tuple[dict[str, Any], Array]:
    """For JSON, and all cells one after the other."""
    shapes = [[name, list(one.shape)] for name, one in trace.values.items()]
    cells = [one.values for one in trace.values.values()]
    return {"case": trace.case, "values": shapes}, np.concatenate([*cells, np.zeros(0)])


def unlisted(header: Mapping[str, Any], cells: Array) -> Trace:
    """What :func:`listed` gave."""

    def found() -> Iterator[tuple[str, Cells]]:
        start = 0
        for name, shape in header["values"]:
            end = start + len(places(tuple(shape)))
            yield name, Cells(tuple(shape), cells[start:end])
            start = end
        if start != len(cells):
            raise ValueError(f"its trace has {len(cells)} cells in place of {start}")

    return Trace(header["case"], dict(found()))
