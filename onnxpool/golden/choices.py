"""Outputs that jump: where rounding alone decides between values far apart, each of these is right.

An index says which of several numbers is the largest; a rounded number, which whole one is next. Where two numbers are
equal but for rounding, another program may choose the other one, and nothing follows for any other element. So

    Pointed    an output of indices is judged by the numbers that they point at
    Choices    an element that came out otherwise in one of the network's own runs may be either value

Neither makes the allowed error of any other element larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.golden import bounds
from onnxpool.golden.magnitude import ByMagnitude, of_errors

FAR = 300.0
"""Values that differ by so much less than others are one value, each time a little otherwise,"""

APART = 10.0
"""and those that differ by so much less at most are others."""

LEAST_ULPS = 32.0
"""Errors below that are no jumps, in ULP of the answer."""

MOST_JUMPS = 0.05
"""Of all elements: where more jump, that is how this network is, and none is taken out."""


@dataclass(frozen=True)
class Choices:
    """Elements that may have several values: ``places`` (n,) in the flat output, and their ``values`` (n, runs)."""

    places: NDArray[np.int64]
    values: Array


@dataclass(frozen=True)
class Pointed:
    """What indices point at: ``values`` (..., n) in float64, into whose last axis they point, and their yardstick.

    ``axis`` of the indices goes last; the others are in the order of ``values``.
    """

    values: Array
    axis: int
    dtype: str
    yardstick: ByMagnitude

    def same(self, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        """Where indices of ``one`` point at what those of ``other`` do, but for rounding of both."""
        (a, inside), (b, known) = self._at(one), self._at(other)
        allowed = 2 * bounds.network(b, self.dtype, self.yardstick, "").allowed
        with np.errstate(invalid="ignore"):
            alike = (np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b))
        return np.asarray(self._back(alike & inside & known, one.shape))

    def at(self, index: NDArray[Any]) -> Array:
        """The numbers that these indices point at; NaN for those that point nowhere."""
        found, inside = self._at(index)
        return np.asarray(self._back(np.where(inside, found, np.nan), index.shape))

    def _at(self, index: NDArray[Any]) -> tuple[Array, NDArray[np.bool_]]:
        lead, size = self.values.shape[:-1], self.values.shape[-1]
        moved = np.moveaxis(index, self.axis, -1) if index.ndim else index
        flat = moved.reshape(*lead, -1) if index.size else np.zeros((*lead, 0))
        whole = flat.astype(np.int64)
        inside = (whole >= -size) & (whole < size)
        return np.take_along_axis(self.values, np.where(inside, whole, 0), -1), inside

    def _back(self, found: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if not shape:
            return found.reshape(shape)
        moved = (*shape[: self.axis % len(shape)], *shape[self.axis % len(shape) + 1 :], shape[self.axis])
        return np.moveaxis(found.reshape(moved), -1, self.axis)


def nearest(
    answer: Array, actual: NDArray[Any], choices: Choices | None = None, pointed: Pointed | None = None
) -> Array:
    """The right answer that is next to ``actual``, of the same shape."""
    if choices is None and pointed is None:
        return answer
    found, result = answer.copy(), actual.astype(np.float64)
    if pointed is not None:
        same = pointed.same(result, answer)
        found[same] = result[same]
    if choices is not None and len(choices.places):
        every = np.concatenate([found.flat[choices.places][:, None], choices.values], axis=1)
        came = result.flat[choices.places][:, None]
        with np.errstate(invalid="ignore"):
            away = np.where((every == came) | (np.isnan(every) & np.isnan(came)), -1, np.abs(every - came))
        best = np.nan_to_num(away, nan=np.inf).argmin(axis=1)
        found.flat[choices.places] = np.take_along_axis(every, best[:, None], 1)[:, 0]
    return found


def of_runs(
    answer: Array, runs: Sequence[Array], further: Sequence[Array] = (), *, floating: bool, dtype: str
) -> tuple[ByMagnitude, Choices]:
    """The yardstick that ``runs`` of one shape give, and the elements at which they, or ``further`` ones, jump."""
    every = [*runs, *further]
    if not floating:
        jumped = np.any([run != answer for run in every], axis=0)
        return ByMagnitude((), ()), _choices(every, jumped)
    error = _error(answer, runs)
    jumped = _jumped(answer, error, runs, dtype)
    if jumped.sum() > MOST_JUMPS * answer.size:
        jumped[:] = False
    curve = of_errors(answer, np.where(jumped, np.nan, error))
    if jumped.any() and further:
        jumped |= _jumped(answer, _error(answer, every), every, dtype)
    return curve, _choices(every, jumped)


def _error(answer: Array, runs: Sequence[Array]) -> Array:
    with np.errstate(invalid="ignore"):
        errors = [np.nan_to_num(np.abs(run - answer), nan=0.0, posinf=0.0) for run in runs]
    error: Array = np.max(errors, axis=0) if errors else np.zeros(answer.shape)
    error[~np.isfinite(answer)] = 0
    return error


def _jumped(answer: Array, error: Array, runs: Sequence[Array], dtype: str) -> NDArray[np.bool_]:
    """The elements whose values lie in two or three places far apart, and nowhere between."""
    jumped = np.zeros(answer.shape, bool)
    if len(runs) < 2:
        return jumped
    least = LEAST_ULPS * np.nan_to_num(bounds.ulp(answer, dtype)) + float(np.finfo(np.float32).smallest_normal)
    places = np.flatnonzero(error > least)
    values = np.sort(np.stack([answer.flat[places], *(run.flat[places] for run in runs)], axis=1), axis=1)
    with np.errstate(invalid="ignore"):
        steps = np.diff(values, axis=1)
        largest = steps.max(axis=1, keepdims=True, initial=0)
        far, near = steps > largest / APART, steps <= largest / FAR
    apart = (far | near).all(axis=1) & (far.sum(axis=1) <= 2) & (near.sum(axis=1) > 0)
    jumped.flat[places[apart]] = True
    return jumped


def _choices(runs: Sequence[Array], jumped: NDArray[np.bool_]) -> Choices:
    places = np.flatnonzero(jumped)
    return Choices(places, np.stack([run.flat[places] for run in runs], axis=1) if runs else np.zeros((0, 0)))
