"""What wrong elements suggest: a sentence on the likely cause, from where they lie and what stands in them.

>>> answer = np.arange(6.0).reshape(1, 1, 2, 3)
>>> of_shapes((1, 1, 3, 2), answer.shape)
'height and width are transposed'
>>> of_elements(2 * answer, answer, 1e-6)
'every wrong element is 2 times its answer'

These are guesses for the reader; no verdict depends on them.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxpool.dtypes import Array


def of_shapes(actual: tuple[int, ...], answer: tuple[int, ...]) -> str:
    """What may be wrong where a result of shape ``actual`` should have the shape of ``answer``; "" for no idea."""
    if len(actual) != len(answer):
        return f"it has {len(actual)} axes in place of {len(answer)}"
    if actual != answer and sorted(actual) == sorted(answer):
        swapped = [axis for axis in range(len(answer)) if actual[axis] != answer[axis]]
        return "height and width are transposed" if swapped == [2, 3] else f"axes {swapped} are in another order"
    missing = [want - size for size, want in zip(actual, answer, strict=True)]
    if actual[:2] == answer[:2] and set(missing) <= {0, 1} and any(missing):
        return "its last row or column is missing: is ceil_mode off, or padding smaller?"
    if actual[:2] == answer[:2] and set(missing) <= {0, -1} and any(missing):
        return "it has a row or column too many: is ceil_mode on, or padding larger?"
    return ""


def of_elements(actual: NDArray[Any], answer: Array, allowed: ArrayLike) -> str:
    """What may be wrong where elements of ``actual`` are further than ``allowed`` from the float64 ``answer``."""
    return next(_suggestions(actual, answer, np.broadcast_to(np.asarray(allowed, np.float64), answer.shape)), "")


def _suggestions(actual: NDArray[Any], answer: Array, allowed: Array) -> Iterator[str]:
    """The likely cause first."""
    result = actual.astype(np.float64)
    wrong = _wrong(result, answer, allowed)
    if not wrong.any():
        return
    if (~np.isfinite(result) & np.isfinite(answer)).any():
        yield (
            f"an intermediate result overflows {actual.dtype} or is undefined; poolings that are spelled out with exp "
            "do so, and onnxpool lift replaces them"
        )
    for one, other in combinations(range(2, answer.ndim), 2):
        if answer.shape[one] == answer.shape[other]:
            turned = np.swapaxes(result, one, other)
            if not _wrong(turned, answer, allowed).any():
                yield (
                    "height and width are transposed" if (one, other) == (2, 3) else f"axes {one}, {other} are swapped"
                )
    with np.errstate(all="ignore"):
        ratios = (result / answer)[wrong & (answer != 0)]
    if ratios.size > 1 and np.ptp(ratios) <= 1e-3 * abs(ratios[0]) and abs(ratios[0] - 1) > 1e-3:
        yield f"every wrong element is {ratios[0]:.4g} times its answer"
    yield from _places(wrong)


def _wrong(result: Array, answer: Array, allowed: Array) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        wrong: NDArray[np.bool_] = ~(
            (np.abs(result - answer) <= allowed) | (result == answer) | (np.isnan(result) & np.isnan(answer))
        )
    return wrong


def _places(wrong: NDArray[np.bool_]) -> Iterator[str]:
    """What the places of the wrong elements have in common."""
    inner: tuple[Any, ...] = (..., *(slice(1, -1) for _ in range(2, wrong.ndim)))
    last: tuple[Any, ...] = (..., *(slice(0, -1) for _ in range(2, wrong.ndim)))
    if wrong.ndim > 2 and min(wrong.shape[2:]) > 2:
        if not wrong[last].any():
            yield "only the last row or column is wrong: look at ceil_mode and at padding at the end"
        if not wrong[inner].any():
            yield "only elements along the border are wrong: look at the padding and whether it counts"
    if wrong.ndim > 1:
        channels = np.flatnonzero(np.moveaxis(wrong, 1, 0).reshape(wrong.shape[1], -1).any(axis=1))
        if len(channels) <= wrong.shape[1] // 2:
            yield f"only channels {', '.join(map(str, channels[:8]))} of {wrong.shape[1]} are wrong"
