"""A yardstick that knows how large an answer is: the errors that a network's own runs had, by magnitude of the answer.

One large constant among the answers, such as the ``-1e9`` of a mask, says nothing about the others. So each element is
held against elements of about its own magnitude: those of its octave, three octaves below and one above, and more on
both sides until there are :data:`ENOUGH`. Upwards that goes on only across neighbours: a gap of :data:`GAP` octaves
ends it, unless fewer than :data:`FEW` elements lie below.

Slices along one axis may err unlike each other, as channels of other scales do: a small number in a large channel errs
as its channel does. So the median error of its slice counts too, along the axis whose slices differ most.

>>> answer = np.array([1.0, -2.0, 1.5, 3.0, -1e9])
>>> known = of_errors(answer, np.array([1e-7, 2e-7, 0.0, 1e-7, 64.0]))
>>> known.at(answer).tolist()
[2e-07, 2e-07, 2e-07, 2e-07, 64.0]
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array

ENOUGH = 64
"""Elements other than 0 whose errors are taken together, if there are so many."""

GAP = 8
"""Octaves without an element, above which others begin."""

UNLIKE = 4.0
"""Slices whose median errors differ by more are unlike each other."""

FEW = 4
"""Elements that lie so far below all others by chance: of four, one in 256 to the power of four."""


@dataclass(frozen=True)
class ByMagnitude:
    """The largest error by the binary exponent of the answer, ascending; a 0 counts to the lowest.

    ``slices`` are the median errors of the slices along ``axis``, none where there is no such axis.
    """

    exponents: tuple[int, ...]
    errors: tuple[float, ...]
    axis: int = 0
    slices: tuple[float, ...] = ()

    def at(self, answer: Array) -> Array:
        """The yardstick of each element of ``answer``; 0 where nothing was measured."""
        if not self.exponents:
            return np.zeros(answer.shape)
        places = np.searchsorted(self.exponents, _exponents(answer), side="right") - 1
        found: Array = np.asarray(self.errors)[np.maximum(places, 0)]
        if self.slices and answer.ndim > self.axis and answer.shape[self.axis] == len(self.slices):
            along = [1] * answer.ndim
            along[self.axis] = -1
            found = np.maximum(found, np.asarray(self.slices).reshape(along))
        return found

    @property
    def largest(self) -> float:
        """Of all errors."""
        return max(self.errors, default=0.0)

    def scaled(self, factor: float) -> "ByMagnitude":
        """The same with every error multiplied."""
        return ByMagnitude(
            self.exponents,
            tuple(factor * error for error in self.errors),
            self.axis,
            tuple(factor * error for error in self.slices),
        )


def of_errors(answer: Array, error: Array) -> ByMagnitude:
    """From the measured error of each element; elements where either is not finite do not count."""
    finite = np.isfinite(answer) & np.isfinite(error)
    if not finite.any():
        return ByMagnitude((), ())
    axis, slices = _slices(np.where(finite, error, np.nan))
    answer, error = answer[finite], error[finite]
    exponents, places = np.unique(_exponents(answer), return_inverse=True)
    largest = np.zeros(len(exponents))
    np.maximum.at(largest, places, error)
    counts = np.bincount(places, weights=answer != 0, minlength=len(exponents)).astype(int)
    found = [_pooled(i, exponents, counts, largest) for i in range(len(exponents))]
    return ByMagnitude(tuple(exponents.tolist()), tuple(found), axis, slices)


def _slices(error: Array) -> tuple[int, tuple[float, ...]]:
    """The axis, not the first, along which medians differ most, and these; of slices with enough elements alone."""
    best: tuple[float, int, tuple[float, ...]] = (UNLIKE, 0, ())
    for axis in range(1, error.ndim):
        size = error.shape[axis]
        if size < 2 or error.size / size < ENOUGH / 4:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a slice without a number
            medians = np.nan_to_num(np.nanmedian(np.moveaxis(error, axis, 0).reshape(size, -1), axis=1))
        spread = float(medians.max() / medians[medians > 0].min()) if (medians > 0).any() else 1.0
        if spread > best[0]:
            best = spread, axis, tuple(medians.tolist())
    return best[1:]


def _pooled(i: int, exponents: NDArray[np.int64], counts: NDArray[np.int64], largest: Array) -> float:
    """The largest error around the octave at ``i``."""
    low = int(np.searchsorted(exponents, exponents[i] - 3))
    high = int(np.searchsorted(exponents, exponents[i] + 1, side="right"))
    while counts[low:high].sum() < ENOUGH and (low > 0 or high < len(exponents)):
        closed = high == len(exponents) or (exponents[high] - exponents[high - 1] > GAP and counts[:high].sum() >= FEW)
        if low == 0 and closed:
            break
        low, high = max(0, low - 1), high if closed else high + 1
    return float(largest[low:high].max())


def _exponents(answer: Array) -> NDArray[np.int64]:
    """Of each element; a 0, and what is not finite, below all others."""
    usual = np.isfinite(answer) & (answer != 0)
    exponents: NDArray[np.int64] = np.where(usual, np.frexp(np.where(usual, answer, 1.0))[1], -(2**12)).astype(np.int64)
    return exponents
