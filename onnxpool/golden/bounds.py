"""Where every allowed error comes from: the only tolerances in the project.

Every result is compared with an answer in float64. How far it may be from that answer is a :class:`Bound`, one allowed
absolute error per element, with the reason for it in words. NaN must stand where the answer has NaN and nowhere else,
infinities must be equal: no bound forgives those.

**One pooling node** (:func:`pooling`): by analysis. Notation: ``u`` is half an epsilon of the type that is computed in
(float32 for float16, bfloat16 and float32; float64 for float64), ``n`` the number of cells of the window, ``M`` the
largest magnitude in the window, ``D = m - y >= 0`` how far the result lies below the window's maximum ``m``. One ULP of
``M`` is between ``u M`` and ``2 u M``, so what follows in units of ``u M`` also holds in ULP of ``M``.

- A sum of ``n`` terms, in whatever order, errs by at most ``(n - 1) u`` times the sum of their magnitudes (Higham,
  *Accuracy and Stability of Numerical Algorithms*, 2nd edition, section 4.2). An ``exp`` errs by :data:`EXP` ``u``. A
  weight is computed once and taken above and below, which moves ``y`` by at most ``EXP u`` times the weighted mean of
  ``|x - y|``, and that is at most ``M``. ``p`` are the weights divided by their sum.
- As a ratio, ``y = sum(x w) / sum(w)``: ``n + 1`` above (the product and a division by the count of cells), ``n``
  below, and the last division: ``2 n + 2 + EXP``, all times ``sum(p |x|) <= M``. Local importance, ``w = exp(d)`` with
  ``d`` a logit less the largest one, divides by no count; the rounding of ``d`` moves its weight by ``|d|``, ``y`` by
  ``sum(p |d| |x - y|) <= 1.003 M ln n`` (see CUDA below). Stochastic pooling, ``w = x / m``: ``2 n + 4``.
- SoftPool shifted, ``y = m + sum(d w) / sum(w)`` with ``d = x - m`` and ``w = exp(d)``, adds one cell after the other,
  in the loop of the function body and in the standard form: cell ``i`` goes through ``c_i <= n - i + 1`` additions.
  With the roundings of ``d``, products, division and last addition: ``sum(p |d| (c + 2)) + D sum(p c) + D + M +
  EXP sum(p |x - y|) + sum(p |d| |x - y|)``. That is largest for one cell at ``M`` behind all others at ``-M``, with
  ``M`` towards 0: below ``(2 n + 8.5) M``. (tests/test_bounds.py bounds it over all windows, by a multiplier.)
- A runtime may add in another order, and in one of its own for each sum. ``sum(g c)`` is the sum of what all partial
  sums hold. One with ``k - 1`` that are no smaller is of ``n - k + 1`` terms at most, so that no order is worse than
  one after the other with the largest terms first. Fused products round less often.
- Local importance divides cells by a power of two, below ``4 n``, and multiplies the mean by it. Below the normal
  numbers each such quotient and each product errs by half the smallest number ``e``, however small it is itself: with
  weights of 1 at most and a sum of 1 or more ``(n + 1) e / 2`` of the mean, ``e / 2`` for its division, and all that
  ``4 n`` times: ``(2 n^2 + 4 n) e``, beside everything else. It matters for windows of nothing but tiny numbers.
- So :func:`body_ulps` is ``2 n + ln n + 2 EXP``, and that times itself and ``u`` for products of roundings. One large
  value in front of many whose weights are just below half an ULP of its own comes within a factor of two.
- If roundings are independent and of mean zero, ``sum(e_k g_k)`` with ``|e_k| <= u`` exceeds ``L u sqrt(sum(g_k^2))``
  with a probability of ``2 exp(-L^2 / 2)`` at most (Hoeffding; Higham and Mary, *A new approach to probabilistic
  rounding error analysis*, SIAM J. Sci. Comput. 2019). Of additions ``g_k`` is a partial sum, so that ``sum(g_k^2)`` is
  at most the largest one, ``2 M``, times their sum, which is part of the above: ``4 n + 2 ln n + 14``, and 14 for all
  other roundings; ratios stay below. ``EXP`` and the rounding of exponents are taken as they are: :func:`likely_ulps`.
  It is no bound: windows that are made for it exceed it, and nothing is judged by it.
- A native kernel computes each weight once, with an error of :data:`NATIVE_EXP` ``u``, and takes that same weight above
  and below. So these errors move ``y`` by at most ``NATIVE_EXP u`` times the weighted mean of ``|x - y|``, which is at
  most ``M``. (What ``log 2`` lacks in one float32, 3e-9 of itself, moves logits in proportion: ``0.05 M ln n u`` by the
  lines on CUDA below, and :data:`NATIVE_EXP` has room for that.) It sums along one axis after the other, along each
  pairs of cells, then up to :data:`NATIVE_RUN` cells of these, and then those sums: ``d`` additions for any term, by
  :func:`native_ulps`; in a plane that is one window in a tree, with no more of them. That is ``d`` below and ``d + 1``
  above, with the product, and 2 for the quotient: ``2 d + 3 + NATIVE_EXP``. Scaling by powers of two adds nothing.
- Where it takes a second look (float32, windows 2 or 3 wide along rows), ``y = y1 + sum(w (x - y1)) / sum(w)`` errs
  by at most 6 for the terms of the sum, relative to the mean of ``|x - y1|``, 1 for the last addition, and
  ``NATIVE_EXP``: what the first look lost, 2^-14 and some ``u``, enters in second order. 3x3 windows one apart take it
  by columns with means ``c``: a term rounds at most 7 times relative to ``|x - c|``, a column at most 6 times relative
  to ``|c - y1|``. The squares of the means of these two add up to the variance at most, so both together come to
  ``sqrt(7^2 + 6^2) = 9.3``, and all to ``12.8``. The promise covers each of these.
- float16 and bfloat16 are computed as float32, so the same number of ULP of float32 stands beside half an ULP of their
  own. The other half is at least 2^12 ULP of float32: a native kernel is within 1 ULP of the magnitude in these types.
- A CUDA kernel promises :func:`cuda_ulps`: it takes ``2^x`` from the GPU's own unit, relative to the window's largest
  logit. With ``p`` the weights, ``d <= 0`` a cell's logit less the largest one, and ``|x| <= M``:
  a weight errs by :data:`CUDA_EXP`, and by ``2.23 |d|`` for the subtraction, the product with ``log2 e`` and that
  constant. In the mean that is ``sum(p (CUDA_EXP + 2.23 |d|) |x - y|)``: at most ``CUDA_EXP M``, as a mean distance
  from the mean is at most ``M``, and ``2.23 M sqrt(sum(p d^2))`` by Cauchy and Schwarz. That sum is largest with all
  ``d`` but one alike, and its root then at most ``1.003 ln n``: ``2.25 M ln n``.
  In march.h, windows of up to 9 cells, the second look rounds each ``w (x - y)`` at most 6 times (the subtraction,
  three products and sums along a row, two sums of rows), which is ``6 M``, and the result once; what the first look and
  the reciprocal err is multiplied by their own error, and vanishes: ``CUDA_EXP + 7`` together.
  In pool.h sums keep what rounding takes. SoftPool there rounds ``d`` and ``d w``, both sums and the quotient, each in
  proportion to ``D``, which with a mean distance from the mean is at its worst for two values ``2 M`` apart:
  ``2 M max(2 CUDA_EXP q (1 - q) + 5 q) < 10.6 M`` for a share ``q`` of the lower one, and the result once; the other
  methods stay below. So ``12`` covers both. Local importance has the ``d`` of its logits, SoftPool that of its values,
  stochastic pooling none.
- A narrower output type adds one ULP of that type at the answer, for its rounding.
- For float64 the answer itself was rounded like a result, by at most :func:`reference_ulps`.

**Pooling of tokens**, with ``n`` of them and ``M`` the largest magnitude among them (:func:`token_ulps`): counts are
exact up to ``2^24``. A mean errs by ``n - 1`` for the sum and 1 for the quotient, relative to ``mean |x| <= M``; with
the square root of ``n`` in place of ``n`` it is one more, and all of it ``sqrt(n)`` times that. In a weighted mean the
sum of places errs by ``n - 1``, the quotient by 1, each product by 1, and the sum of products by ``n - 1``. A maximum,
and one token, are exact. Attentive statistics (:func:`statistics_ulps`), for the scores as they are: the mean is
shifted as above, summed in whatever order: ``4 n + 4 EXP + 4 ln n + 3`` of ``M``, since ``D <= 2 M``. The deviation is
that of cells around a mean that errs so much, which adds at most as much again; its own weights, squares, sum and root
stay below that by the same count, as no distance is above ``2 M`` and the root halves relative errors.

**A pooling node that takes and gives stored numbers of 8 bits** (:func:`quantized_steps`), in ``u`` of float32 and
steps of what goes in, of which no number is more than 255: a weight errs by ``5 u`` at most, for three factors and
their products, which moves a mean by that times half of 255. Sums of at most :data:`QUANTIZED_RUN` cells are of floats,
with ``d`` additions, those of larger windows of such sums in double: ``d + 1`` above, with the product, and ``d``
below; 2 for the quotient, and 4 for the ratio of steps, its product, the zero point and their sum: ``255 (2 d + 9.5)
u``. Where the exact quotient lies that close to the middle of two whole numbers, the node may give the other one.

**A quantised network**: by measurement on itself, one step of the output and what moved roundings change; see
:mod:`onnxpool.golden.from_quantized`, which gives a yardstick for :func:`network`.

**A whole network** (:func:`network`): by measurement. The network's own float32 (or float16) runs have errors against
the same float64 answers: one as it is, and several in which every operator rounds a little otherwise
(:mod:`onnxpool.golden.perturbed`). The worst of them, among answers of about one magnitude
(:mod:`onnxpool.golden.magnitude`), is the yardstick: another program may have :data:`YARDSTICK_FACTOR` times that, and
:data:`ELEMENT_ULPS` of the answer itself. Where a single number is all that is known, it is :data:`FLOOR_ULPS` of the
largest answer, for when that one run was lucky.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from onnxpool.dtypes import Array
from onnxpool.golden.likeness import likeness
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.window import Window

NATIVE_EXP = 2.5
"""What the native kernels' ``exp`` may err, in ``u``: a table's entry, the last addition, and half for all else."""

NATIVE_RUN = 8
"""How many cells, in pairs, the native kernels add one after the other before they add those sums."""

QUANTIZED_RUN = 16
"""How many cells the native kernels for 8 bits add in floats."""

EXP = 4.0
"""What one ``exp`` may err, in ``u``: 2 ULP, more than any of the libraries in use. There is room for 3 ULP, save 1 %
in windows of 3 cells; an ``exp`` whose error grows with its argument, as that of WebGPU may, is not provided for."""

LIKELY_FAILURE = 1e-9
"""The share of windows that :func:`likely_ulps` leaves out."""

CUDA_EXP = 4.0
"""What one ``2^x`` of a GPU may err, in ``u``: 2 ULP, NVIDIA's own bound for ``ex2.approx`` and ``exp2f``."""

YARDSTICK_FACTOR = 4.0
"""How many times PyTorch's own error another implementation of the same network may have."""

ELEMENT_ULPS = 2.0
"""What any network may err in one element, in ULP of that answer, beside what its own runs err."""

FLOOR_ULPS = 16.0
"""What a network may err of which one run is known, in ULP of the largest magnitude of an output tensor."""

Native = bool | Literal["cuda"]
"""Whether a native kernel computed a value: ``"cuda"`` for one of the CUDA kernels, True for one of the CPU's."""

FLOAT32_IN_FLOAT64 = 2.0**-29
"""What an error of a network in float32 is worth for the same network in float64: 52 bits of fraction, not 23."""


@dataclass(frozen=True)
class Bound:
    """The allowed absolute error of each element, and where that number comes from."""

    allowed: Array
    origin: str


@dataclass(frozen=True)
class Error:
    """The measured error of one tensor against its float64 answer, each the worst over all elements.

    ``max_rel`` leaves out elements whose answer is 0. ``max_ulp`` counts in ULP of the output type at the answer, so it
    is large near 0. ``share`` is error over allowed error, ``element`` is where that is worst, ``allowed`` belongs to
    it. ``cosine`` and ``snr_db`` compare all finite elements at once: ``cos(result, answer)`` in [-1, 1], and
    ``20 log10(|answer| / |result - answer|)``, infinite where they are equal. ``nan`` and ``infinite`` count the
    elements where one side alone is NaN, or infinite, or infinities differ; ``signed_zeros`` those where both are 0
    with unlike signs, which is shown and is not a fault.
    """

    max_abs: float
    max_rel: float
    max_ulp: float
    cosine: float
    snr_db: float
    share: float
    allowed: float
    element: tuple[int, ...]
    nan: int
    infinite: int
    signed_zeros: int

    @property
    def within(self) -> bool:
        """Whether every element is within its allowed error, and NaN and infinities are where they belong."""
        return self.share <= 1 and self.nan == self.infinite == 0


# --- units


def ulp(x: ArrayLike, dtype: DTypeLike) -> Array:
    """The distance between neighbouring numbers of ``dtype`` at ``|x|``; NaN where ``x`` is not finite.

    >>> ulp([1.0, 1.5, 2.0], "float32") * 2**23
    array([1., 1., 2.])
    """
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    x = np.asarray(x, np.float64)
    finite = np.isfinite(x)
    exponent = np.frexp(np.where(finite, x, 1))[1] - 1
    smallest = math.frexp(float(info.smallest_normal))[1] - 1
    exponent = np.where(x == 0, smallest, np.maximum(exponent, smallest))
    return np.where(finite, np.ldexp(1.0, exponent - info.nmant), np.nan)


def wide(dtype: DTypeLike) -> np.dtype[Any]:
    """The type that pooling of ``dtype`` computes in: float32, or float64 for float64."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def body_ulps(cells: int) -> float:
    """What a function body or the standard form may err in a window of so many cells, in ULP of its magnitude.

    >>> round(body_ulps(9), 1)
    28.2
    """
    first = 2 * cells + math.log(cells) + 2 * EXP
    return first * (1 + first * 2.0**-24)


def likely_ulps(cells: int, failure: float = LIKELY_FAILURE) -> float:
    """What a function body errs if roundings are independent, in all but a share ``failure`` of windows, in these ULP.

    Never more than :func:`body_ulps`, which holds for all of them.

    >>> round(likely_ulps(1024)), round(body_ulps(1024))
    (432, 2063)
    """
    certainty = math.sqrt(2 * math.log(2 / failure))
    root = math.sqrt(4 * cells + 2 * math.log(cells) + 28)
    return min(body_ulps(cells), EXP + math.log(cells) + certainty * root)


def cuda_ulps(cells: int) -> float:
    """What a CUDA kernel may err in a window of so many cells, in ULP of its magnitude.

    >>> round(cuda_ulps(9), 1)
    16.9
    """
    return CUDA_EXP + 8 + 2.25 * math.log(cells)


def native_ulps(kernel: Sequence[int]) -> float:
    """What a native kernel may err in a window of this shape, in ULP of its magnitude.

    >>> native_ulps((2, 2)), native_ulps((3, 3)), native_ulps((7, 7)), native_ulps((1,))
    (9.5, 13.5, 21.5, 5.5)
    """
    return 2 * sum(_additions(k) for k in kernel) + 3 + NATIVE_EXP


def _additions(cells: int) -> int:
    """How many additions any of so many cells along an axis goes through: in its pair, of pairs, and of runs."""
    pairs = math.ceil(min(cells, NATIVE_RUN) / 2)
    return min(cells - 1, 1) + pairs - 1 + math.ceil(cells / NATIVE_RUN) - 1


def token_ulps(mode: str, tokens: int) -> float:
    """What pooling of so many tokens may err, in ULP of the largest magnitude among them; ``mode`` of ``TokenPool``.

    >>> token_ulps("mean", 512), token_ulps("max", 512)
    (512.0, 0.0)
    """
    if mode in ("max", "cls", "lasttoken"):
        return 0.0
    return float({"mean": tokens, "weightedmean": 2 * tokens, "mean_sqrt_len_tokens": (tokens + 1) * tokens**0.5}[mode])


def statistics_ulps(tokens: int) -> float:
    """What the mean and deviation of so many tokens may err, in ULP of the largest magnitude among them.

    >>> round(statistics_ulps(9))
    128
    """
    return 2 * (4 * tokens + 4 * EXP + 4 * math.log(tokens) + 3)


def quantized_steps(kernel: Sequence[int], ratio: float) -> float:
    """How close to the middle of two numbers a kernel for 8 bits may round to the other one, in steps of what it gives.

    ``ratio`` is the step of what goes in by that of what comes out.

    >>> round(1 / quantized_steps((3, 3), 1.0))
    2580
    """
    additions = min(math.prod(kernel), QUANTIZED_RUN) - 1
    return ratio * 255 * (2 * additions + 9.5) * 2.0**-24


def reference_ulps(cells: int) -> float:
    """What a float64 answer itself may err, in ULP of float64: normalised weights, then one sum."""
    return 2 * cells + 2 * EXP + 2 * math.log(cells) + 2


# --- bounds


def pooling(window: Window, x: Array, answer: Array, dtype: DTypeLike, *, native: Native) -> Bound:
    """The bound for one pooling node: ``x`` is its input ``(N, C, *spatial)``, ``answer`` the float64 output."""
    cells = math.prod(window.kernel)
    computed = wide(dtype)
    ulps = cuda_ulps(cells) if native == "cuda" else native_ulps(window.kernel) if native else body_ulps(cells)
    origin = f"{'promise of the native kernel' if native else 'rounding analysis'}, {cells} cells: {ulps:.3g} ULP"
    if not native and likely_ulps(cells) < ulps:
        origin += f" ({likely_ulps(cells):.3g} if roundings are independent, but for {LIKELY_FAILURE:g} of windows)"
    if computed == np.float64:
        ulps += reference_ulps(cells)
        origin += f" + {reference_ulps(cells):.3g} of the float64 answer itself"
    largest = magnitude(window, x)
    allowed = ulps * ulp(largest, computed)
    origin += f" ({computed}) of the window's largest magnitude"
    below_normal = (2 * cells**2 + 4 * cells) * float(np.finfo(computed).smallest_subnormal)
    matters = (largest > 0) & (below_normal > 0.01 * allowed)
    if not native and matters.any():
        allowed = allowed + np.where(matters, below_normal, 0)
        origin += f", {below_normal:.2g} for what is below the normal numbers"
    if np.dtype(dtype) != computed:
        allowed = allowed + np.nan_to_num(ulp(answer, dtype))
        origin += f", 1 ULP to round to {np.dtype(dtype)}"
    return Bound(allowed, origin)


def network(answer: Array, dtype: DTypeLike, yardstick: float | ByMagnitude, source: str) -> Bound:
    """The bound for one output of a network: ``yardstick`` holds the errors that ``source`` had at these answers.

    Outputs that are not floating point numbers must be equal, unless ``source`` is one number and was wrong too.
    """
    if isinstance(yardstick, ByMagnitude):
        return _by_magnitude(answer, dtype, yardstick, source)
    allowed = YARDSTICK_FACTOR * yardstick
    origin = f"{YARDSTICK_FACTOR:g} x {source} ({yardstick:.2g})"
    if is_floating(dtype):
        allowed += floor(answer, dtype)
        origin += f" + {FLOOR_ULPS:g} ULP ({np.dtype(dtype)}) of the largest answer"
    return Bound(np.asarray(allowed), origin)


def _by_magnitude(answer: Array, dtype: DTypeLike, yardstick: ByMagnitude, source: str) -> Bound:
    if not is_floating(dtype):
        return Bound(np.zeros(answer.shape), "whole numbers must be equal")
    allowed = YARDSTICK_FACTOR * yardstick.at(answer) + ELEMENT_ULPS * np.nan_to_num(ulp(answer, dtype))
    origin = (
        f"{YARDSTICK_FACTOR:g} x {source} at answers of this magnitude (at most {yardstick.largest:.2g}) "
        f"+ {ELEMENT_ULPS:g} ULP ({np.dtype(dtype)})"
    )
    if np.dtype(dtype) != np.float16:  # which programs compute in float32: no result of that is subnormal there
        info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        allowed = allowed + float(info.smallest_normal)
    return Bound(allowed, origin)


def floor(answer: Array, dtype: DTypeLike) -> float:
    """What any network may err in an output of a floating point type: :data:`FLOOR_ULPS` of its largest answer."""
    largest = np.abs(answer, where=np.isfinite(answer), out=np.zeros(answer.shape)).max(initial=0)
    return FLOOR_ULPS * float(ulp(largest, dtype))


def magnitude(window: Window, x: Array) -> Array:
    """The largest finite ``|x|`` in each window: ``(N, C, *spatial) -> (N, C, *output)``."""
    finite = np.where(np.isfinite(x), np.abs(x), 0)
    padded = np.pad(finite, [(0, 0), (0, 0), *zip(window.pad, window.tail, strict=True)])
    spans = [n - extent + 1 for n, extent in zip(padded.shape[2:], window.extent, strict=True)]
    largest = np.zeros(window.check(x.shape))
    for offset in window.offsets():
        axes = zip(offset, spans, window.stride, strict=True)
        cell: tuple[Any, ...] = (..., *(slice(start, start + span, stride) for start, span, stride in axes))
        np.maximum(largest, padded[cell], out=largest)
    return largest


def is_floating(dtype: DTypeLike) -> bool:
    """Whether this is a floating point type, NumPy's own or bfloat16."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16


# --- measuring


def measure(actual: NDArray[Any], answer: Array, allowed: ArrayLike) -> Error:
    """Compare a result with its float64 answer of the same shape; ``allowed`` is one number, or one per element.

    An answer beyond the range of the result's type counts as the infinity that it rounds to.
    """
    floating = is_floating(actual.dtype)
    with np.errstate(over="ignore"):
        rounded = answer.astype(actual.dtype).astype(np.float64) if floating else answer
    result = actual.astype(np.float64)
    unknown, endless = np.isnan(answer), np.isinf(rounded) | np.isinf(result)
    nan = int(np.count_nonzero(np.isnan(result) != unknown))
    infinite = int(np.count_nonzero(endless & (result != rounded) & ~unknown & ~np.isnan(result)))
    zeros = (result == 0) & (rounded == 0)
    signed_zeros = int(np.count_nonzero(zeros & (np.signbit(result) != np.signbit(rounded))))
    finite = np.isfinite(result) & np.isfinite(rounded)
    if not finite.any():
        return Error(0.0, 0.0, 0.0, 1.0, math.inf, 0.0, 0.0, (), nan, infinite, signed_zeros)

    right, budget = answer[finite], np.broadcast_to(np.asarray(allowed, np.float64), answer.shape)[finite]
    distance = np.abs(result[finite] - right)
    with np.errstate(all="ignore"):
        share = np.where(distance == 0, 0, distance / budget)
        relative = np.where(right == 0, 0, distance / np.abs(right))
        units = distance / ulp(right, actual.dtype) if floating else distance
    worst = int(share.argmax())
    cosine, snr_db = likeness(result[finite], right)
    return Error(
        max_abs=float(distance.max()),
        max_rel=float(relative.max()),
        max_ulp=float(units.max()),
        cosine=cosine,
        snr_db=snr_db,
        share=float(share[worst]),
        allowed=float(budget[worst]),
        element=tuple(map(int, np.unravel_index(np.flatnonzero(finite)[worst], answer.shape))),
        nan=nan,
        infinite=infinite,
        signed_zeros=signed_zeros,
    )
