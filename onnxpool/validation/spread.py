"""How the errors of one tensor are spread: over sizes, as a histogram, and over the last two axes, as a map.

Both are small enough to be kept for every output of every case, and are drawn by :mod:`onnxpool.validation.as_svg`.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxpool.dtypes import Array
from onnxpool.golden import bounds

EDGES = (0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper edges of the histogram's bins, in ULP of the output type at the answer; one more bin for all above."""

MOST = (24, 48)
"""Rows and columns that a map has at most."""


def histogram(actual: NDArray[Any], answer: Array) -> tuple[int, ...]:
    """How many elements err by so many ULP, by bin; a bin more for those where one side is not finite.

    >>> histogram(np.float32([1, 1 + 2**-22, np.nan]), np.array([1.0, 1.0, 1.0]))
    (1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    """
    result = actual.astype(np.float64)
    finite = np.isfinite(result) & np.isfinite(answer)
    unit = bounds.ulp(answer[finite], actual.dtype) if bounds.is_floating(actual.dtype) else 1
    distance = np.abs(result[finite] - answer[finite]) / unit
    counts = np.bincount(np.searchsorted(EDGES, distance), minlength=len(EDGES) + 1)
    odd = (np.isnan(result) != np.isnan(answer)) | (~finite & (result != answer) & ~np.isnan(answer))
    return (*counts.tolist(), int(np.count_nonzero(odd)))


def heat(actual: NDArray[Any], answer: Array, allowed: ArrayLike) -> tuple[tuple[float, ...], ...]:
    """The worst share of the allowed error over all but the last two axes, in blocks of these: rows of columns.

    Elements where one side is not finite count as infinite where they differ. Empty for an empty tensor.
    """
    if not actual.size:
        return ()
    with np.errstate(all="ignore"):
        distance = np.asarray(np.abs(actual.astype(np.float64) - answer))
        distance[np.isnan(distance) | (actual == answer)] = 0
        distance[np.isnan(actual.astype(np.float64)) != np.isnan(answer)] = np.inf
        share = np.where(distance == 0, 0, distance / np.asarray(allowed, np.float64))
    flat = share.reshape(-1, *((1, 1, *share.shape)[-2:])).max(0)
    starts = [
        np.linspace(0, size, min(size, most), endpoint=False, dtype=int)
        for size, most in zip(flat.shape, MOST, strict=True)
    ]
    blocks = np.maximum.reduceat(np.maximum.reduceat(flat, starts[0], 0), starts[1], 1)
    return tuple(tuple(float(f"{share:.3g}") for share in row) for row in blocks.tolist())
