"""Bounds: units and metrics at values computed by hand, and each allowed error seen to hold and to fail."""

import math
from functools import reduce
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from onnxpool.golden import bounds
from onnxpool.pools import OPERATORS
from onnxpool.window import Window

SOFT = OPERATORS["SoftPool"].reference


@pytest.mark.parametrize(
    ("dtype", "x", "expected"),
    [
        ("float32", 1.0, 2.0**-23),
        ("float32", -1.999, 2.0**-23),
        ("float32", 2.0, 2.0**-22),
        ("float32", 0.0, 2.0**-149),
        ("float32", 1e-40, 2.0**-149),
        ("float32", 2.0**-126, 2.0**-149),
        ("float64", 1.0, 2.0**-52),
        ("float64", 0.0, 2.0**-1074),
        ("float16", 1.0, 2.0**-10),
        ("float16", 60000.0, 32.0),
        ("float16", 1e-7, 2.0**-24),
        (ml_dtypes.bfloat16, 1.0, 2.0**-7),
        (ml_dtypes.bfloat16, 200.0, 1.0),
        (ml_dtypes.bfloat16, 0.0, 2.0**-133),
    ],
)
def test_ulp_at_hand_values(dtype, x, expected):
    assert bounds.ulp(x, dtype) == expected


def test_ulp_is_the_spacing_numpy_knows():
    x = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-30, 30, 0.06)
    assert np.array_equal(bounds.ulp(x.astype(np.float32), "float32"), np.spacing(np.abs(x.astype(np.float32))))


def test_ulp_of_what_is_not_finite():
    assert np.isnan(bounds.ulp([np.inf, -np.inf, np.nan], "float32")).all()


def test_magnitude_takes_the_cells_of_each_window():
    x = np.array([[[[1.0, -5.0, 2.0], [0.5, 3.0, -np.inf], [np.nan, -7.0, 4.0]]]])
    assert bounds.magnitude(Window.of(2, 2, 1), x).tolist() == [[[[5, 5], [7, 7]]]]
    assert bounds.magnitude(Window.of(2, 2, 2, ceil_mode=True), x).tolist() == [[[[5, 2], [7, 4]]]]
    assert bounds.magnitude(Window.of(2, 3, 2, 1), x).tolist() == [[[[5, 5], [7, 7]]]]
    assert bounds.magnitude(Window.of(1, 2, 1, dilation=2), x[0, :, :1]).tolist() == [[[2]]]


def test_measure_at_hand_values():
    answer = np.array([[1.0, 2.0], [0.0, -4.0]])
    actual = np.array([[1.0, 2.5], [0.25, -4.0]], np.float32)
    error = bounds.measure(actual, answer, np.array([[1, 1], [1, 1]]))
    assert (error.max_abs, error.max_rel, error.share, error.element) == (0.5, 0.25, 0.5, (0, 1))
    assert error.max_ulp == 0.25 * 2**149  # at 0 the unit is the smallest subnormal
    assert error.within
    assert not bounds.measure(actual, answer, 0.49).within
    assert bounds.measure(actual, actual.astype(float), 0).share == 0


def test_measure_counts_nan_and_infinity():
    answer = np.array([np.nan, 1.0, np.inf, np.inf, -np.inf, 1e39, 1.0])
    same = answer.astype(np.float64).copy()
    same[5] = np.inf  # 1e39 in float32
    assert bounds.measure(same.astype(np.float32), answer, 0).within
    wrong = np.array([0.0, np.nan, np.inf, -np.inf, 3e38, np.inf, np.inf], np.float32)
    error = bounds.measure(wrong, answer, 1e300)
    assert (error.nan, error.infinite) == (2, 3)
    assert not error.within


def test_cosine_and_signal_to_noise_at_hand_values():
    answer = np.array([3.0, 4.0])
    error = bounds.measure(np.array([3.0, 3.5], np.float32), answer, 1)
    assert error.cosine == pytest.approx((9 + 14) / (5 * math.sqrt(21.25)))
    assert error.snr_db == pytest.approx(20)  # 5 against 0.5
    assert bounds.measure(-answer, answer, 1).cosine == -1
    assert bounds.measure(answer, answer, 0).snr_db == math.inf
    assert bounds.measure(answer, 0 * answer, 9).snr_db == -math.inf
    assert bounds.measure(0 * answer, answer, 9).cosine == 0
    huge = np.array([1e308, -1e308])
    error = bounds.measure(huge, huge * 0.9, 1e308)
    assert (error.cosine, error.snr_db) == (pytest.approx(1), pytest.approx(20 * math.log10(9)))


def test_measure_counts_zeros_of_unlike_sign_and_forgives_them():
    error = bounds.measure(np.array([0.0, -0.0, 0.0, 1.0], np.float32), np.array([-0.0, -0.0, -1e-60, 1.0]), 0.1)
    assert error.signed_zeros == 2  # -1e-60 rounds to -0
    assert error.within
    assert bounds.measure(np.array([np.nan]), np.array([np.nan]), 0).signed_zeros == 0


def test_measure_of_one_number():
    error = bounds.measure(np.array(1.5, np.float32), np.array(1.0), 0.25)
    assert (error.max_abs, error.share, error.element) == (0.5, 2, ())


def test_measure_of_integers_is_exact():
    assert bounds.measure(np.array([3, 4]), np.array([3.0, 4.0]), 0).within
    assert not bounds.measure(np.array([3, 5]), np.array([3.0, 4.0]), 0).within


def test_measure_of_nothing_finite_and_of_no_elements():
    assert bounds.measure(np.array([np.nan], np.float32), np.array([np.nan]), 0).within
    assert bounds.measure(np.empty((0, 3), np.float32), np.empty((0, 3)), 0).within


WINDOWS = [Window.of(2, 2), Window.of(2, 3, 2, 1), Window.of(2, 5, 1, 2, ceil_mode=True), Window.of(2, 13)]


def shifted(window: Window, x: np.ndarray) -> np.ndarray:
    """SoftPool in the type of ``x``, one cell after the other: the least careful sum that a body may use."""
    out = np.empty(window.check(x.shape), x.dtype)
    for position, cells in window.windows(x.shape[2:]):
        values = x[(..., *cells)].reshape(*x.shape[:2], -1)
        top = values.max(-1)
        total = moment = np.zeros_like(top)
        for i in range(values.shape[-1]):
            depth = values[..., i] - top
            total = total + np.exp(depth)
            moment = moment + depth * np.exp(depth)
        out[(..., *position)] = top + moment / total
    return out


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4])
def test_body_bound_holds_and_is_far_below_the_values(window, scale):
    x = (np.random.default_rng(1).normal(size=(1, 2, 14, 27)) * scale).astype(np.float32)
    answer = SOFT(window, x.astype(np.float64))
    bound = bounds.pooling(window, x, answer, "float32", native=False)
    error = bounds.measure(shifted(window, x), answer, bound.allowed)
    assert error.share < 0.5
    assert (bound.allowed <= 1e-4 * bounds.magnitude(window, x)).all()
    spoilt = shifted(window, x) + 2e-4 * bounds.magnitude(window, x).astype(np.float32)
    assert not bounds.measure(spoilt, answer, bound.allowed).within


def _additions(cells):
    """How many additions each term of a sum goes through, one cell after the other."""
    return np.minimum(np.arange(cells, 0, -1.0), cells - 1)


def _largest_ratio(slope, offset, deepest):
    """The largest ``sum(w (slope d + offset)) / sum(w)`` with ``w = e^-d``, each ``0 <= d <= deepest``, one of them 0.

    By Dinkelbach's iteration, over the last axis: for a ratio ``r`` each ``(slope d + offset - r) e^-d`` is largest by
    itself, at ``1 + (r - offset) / slope``.
    """
    ratio = np.zeros((*np.broadcast_shapes(slope.shape, offset.shape)[:-1], 1))
    while True:
        d = np.where(slope > 0, np.clip(1 + (ratio - offset) / np.maximum(slope, 1e-9), 0, deepest), 0)
        loss = (slope * d + offset - ratio) * np.exp(-d) - (offset - ratio)
        np.put_along_axis(d, loss.argmin(-1)[..., None], 0.0, -1)
        weight = np.exp(-d)
        better = (weight * (slope * d + offset)).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)
        if (better - ratio).max() <= 1e-6 * deepest:
            return better[..., 0]
        ratio = np.maximum(ratio, better)


def _shifted_ulps(cells, step=1.04, parts=16):
    """The most that a shifted SoftPool may err, over all windows, from above, for ``M`` and ``C = sum(p c)`` in
    intervals.

    With ``C`` in ``[C0, C1]``, ``D C <= C1 D`` and ``0 <= a (C - C0)`` for any ``a``; a mean distance from the mean is
    at most ``2 D (1 - D / 2M)``, below each tangent. What is left is a mean of something of each cell.
    """
    additions, worst, largest = _additions(cells), 0.0, 0.01
    while largest < 1.2 * math.log(cells) + 1:  # beyond, D <= ln n, and (2 n + 3) D is less
        smallest, largest = largest, largest * step
        deepest = 2 * largest
        lightest = math.exp(-deepest)
        front, count = np.cumsum(additions), np.arange(1, cells + 1)
        most = ((front + lightest * (front[-1] - front)) / (count + lightest * (cells - count))).max()
        edges = np.concatenate([[0], np.linspace(front[-1] / cells, most, parts)])
        low, high = (part[:, None, None, None] for part in (edges[:-1], edges[1:]))
        multiplier = np.array([0, 0.15, 0.3, 0.5, 0.75, 1])[:, None, None] * deepest
        at = np.array([0.5, 0.75, 1.0])[:, None]
        spread = (bounds.EXP + deepest) * 2 * deepest
        slope = additions + 3 + high + spread * (1 - 2 * at) / deepest + 0 * multiplier
        offset = multiplier * (additions - low) + spread * at**2
        worst = max(worst, (_largest_ratio(slope, offset, deepest).min((1, 2)).max() + largest) / smallest)
    return worst


def _shifted_ulps_of(x, exp=bounds.EXP, worst_order=False):
    """The same of one window, as it stands in the derivation; or with each sum in the order that is worst for it."""
    d, additions = x.max() - x, _additions(len(x))
    p = np.exp(-d) / np.exp(-d).sum()
    depth, distance, order = p @ d, np.abs(x - p @ x), (lambda g: -np.sort(-g)) if worst_order else (lambda g: g)
    first = order(p * d) @ additions + 2 * depth + depth * (order(p) @ additions) + depth + exp * (p @ distance)
    return (first + p @ (d * distance)) / np.abs(x).max() + 1


@pytest.mark.parametrize("cells", [2, 9])
def test_body_bound_is_above_all_windows_and_near_the_worst(cells):
    at_worst = _shifted_ulps_of(np.array([-1e-3] * (cells - 1) + [1e-3]))
    assert at_worst <= _shifted_ulps(cells) < 1.07 * at_worst
    assert _shifted_ulps(cells) < bounds.body_ulps(cells) < at_worst + 3
    for size in (0.1, 1, 5):
        for x in np.random.default_rng(cells).normal(size=(300, cells)) * size:
            assert _shifted_ulps_of(x) < at_worst


def _depths(tree):
    """How many additions each leaf goes through, in a tree of pairs."""
    return [0] if tree is None else [1 + depth for branch in tree for depth in _depths(branch)]


def _trees(leaves):
    if leaves == 1:
        yield None
    for left in range(1, leaves // 2 + 1):
        yield from product(_trees(left), _trees(leaves - left))


@pytest.mark.parametrize("cells", [2, 3, 5, 7])
def test_no_order_is_worse_than_the_largest_terms_first(cells):
    orders = {tuple(sorted(_depths(tree), reverse=True)) for tree in _trees(cells)}
    assert len(orders) >= cells // 2
    for terms in -np.sort(-(np.random.default_rng(cells).exponential(size=(50, cells)) ** 3)):
        assert max(order @ terms for order in map(np.array, orders)) <= _additions(cells) @ terms + 1e-12


@pytest.mark.parametrize("cells", [2, 3, 4, 9, 25, 1024])
def test_body_bound_has_room_for_any_order_and_a_worse_exp(cells):
    """Of a few cells at the top, some half-way and the rest below, as a search over all windows ends with these."""
    worst = 0.0
    for top, between, depth in product((1, 2, cells // 2), (0, 0.5), (1e-3, 0.1, 0.5, 1, 2, math.log(cells) + 2)):
        x = np.full(cells, -depth / 2)
        x[: math.ceil((cells + top) / 2)] = depth * (between - 0.5) if between else -depth / 2
        x[:top] = depth / 2
        assert _shifted_ulps_of(x, worst_order=True) < bounds.body_ulps(cells)
        worst = max(worst, _shifted_ulps_of(x, exp=6.0, worst_order=True))
    assert worst < bounds.body_ulps(cells) * (1.01 if cells == 3 else 1)


@pytest.mark.parametrize("cells", [1, 2, 9, 49, 1024, 2**20])
def test_body_bound_is_above_ratios_with_the_products_of_roundings(cells):
    for exp in (bounds.EXP, 6.0):
        first = max(2 * cells + 2 + exp, 2 * cells + exp + 1.003 * math.log(cells), 2 * cells + 4)
        assert math.expm1(first * 2.0**-24) * 2.0**24 <= bounds.body_ulps(cells)


def test_a_large_value_before_many_that_are_lost_comes_near_to_the_body_bound():
    """One after the other, 48 weights of just below half an ULP vanish beside 1: a ratio loses them above and below."""
    x = np.full((1, 1, 7, 7), 8.02 - 24.15 * math.log(2), np.float32)
    x[0, 0, 0, 0] = 8.02
    weight = np.exp(x - np.float32(8.02))
    above = reduce(np.add, (weight * x).flat)
    y = np.reshape(above / reduce(np.add, weight.flat), (1, 1, 1, 1))
    window = Window.of(2, 7)
    answer = SOFT(window, x.astype(np.float64))
    bound = bounds.pooling(window, x, answer, "float32", native=False)
    assert 0.3 < bounds.measure(y, answer, bound.allowed).share < 1


def test_likely_ulps_hold_for_windows_that_are_drawn():
    """Of 4096 cells; one in a hundred may be beyond what is likely by one in a hundred."""
    window = Window.of(1, 4096)
    x = np.random.default_rng(5).normal(size=(1, 200, 4096)).astype(np.float32)
    answer = SOFT(window, x.astype(np.float64))
    unit = bounds.ulp(bounds.magnitude(window, x), "float32")
    share = np.abs(shifted(window, x) - answer) / (bounds.likely_ulps(4096, 0.01) * unit)
    assert 0.02 < share.max() < 1
    assert bounds.likely_ulps(4096, 0.01) < bounds.likely_ulps(4096) < bounds.body_ulps(4096) / 8
    assert "independent" in bounds.pooling(window, x, answer, "float32", native=False).origin
    assert bounds.likely_ulps(4) == bounds.body_ulps(4)


def test_native_bound_at_hand_values():
    """2x2: one addition along each axis, 2 x 2 + 3 + 2.5."""
    x = np.full((1, 1, 2, 2), 1.5)
    bound = bounds.pooling(Window.of(2, 2), x, x[..., :1, :1], "float32", native=True)
    assert bound.allowed.item() == 9.5 * 2**-23
    assert "9.5 ULP" in bound.origin
    nine = np.full((1, 1, 1, 1), 1.5 + 9 * 2**-23, np.float32)
    assert bounds.measure(nine, x[..., :1, :1], bound.allowed).within
    ten = np.full((1, 1, 1, 1), 1.5 + 10 * 2**-23, np.float32)
    assert not bounds.measure(ten, x[..., :1, :1], bound.allowed).within


@pytest.mark.parametrize(
    ("kernel", "additions"), [((1,), 0), ((8,), 4), ((9,), 5), ((3, 3, 3), 6), ((7, 7), 8), ((1, 64), 11)]
)
def test_native_bound_counts_additions(kernel, additions):
    assert bounds.native_ulps(kernel) == 2 * additions + 5.5


def _additions_in_a_tree(cells, lanes):
    """Of a plane that is one window: pairs of registers in rows of eight, rows in a tree, then the lanes."""
    registers, depth = math.ceil(cells / lanes), {}
    rows = math.ceil(registers / 8)
    for row in range(rows):
        own, level = math.ceil(math.log2(min(registers - 8 * row, 8))), 0
        while row >> level & 1:
            own, level = max(own, depth[level]) + 1, level + 1
        depth[level] = own
    total, *others = (depth[level] for level in range(rows.bit_length()) if rows >> level & 1)
    for other in others:
        total = max(total, other) + 1
    return total + math.ceil(math.log2(min(cells, lanes)))


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_plane_that_is_one_window_has_no_more_additions(lanes):
    for kernel in [(k,) for k in range(1, 2048, 5)] + [(a, b) for a in range(1, 40, 2) for b in range(1, a + 1)]:
        assert 2 * _additions_in_a_tree(math.prod(kernel), lanes) + 5.5 <= bounds.native_ulps(kernel), kernel


def test_native_bound_of_short_types_is_below_one_ulp():
    """Half an ULP to round, and what float32 may err in windows of 1000 cells a side is less than another half."""
    assert 0.5 + bounds.native_ulps((1000, 1000, 1000)) * 2.0**-23 / 2.0**-10 < 1


@pytest.mark.parametrize("cells", [2, 3, 4, 9, 25, 49, 1000, 10**6, 2**24])
def test_rounding_of_exponents_in_cuda_kernels(cells):
    """The mean square distance of a logit from the largest is at its worst where all but one are as far."""
    distance = np.linspace(0, 60, 600_001)
    weight = (cells - 1) * np.exp(-distance)
    worst = math.sqrt((distance**2 * weight / (1 + weight)).max())
    assert 2.23 * worst <= bounds.cuda_ulps(cells) - bounds.CUDA_EXP - 8 <= 2.23 * worst + 7


def test_rounding_of_sums_in_cuda_kernels():
    share = np.linspace(0, 1, 100_001)
    assert 2 * (2 * bounds.CUDA_EXP * share * (1 - share) + 5 * share).max() + 1 <= bounds.CUDA_EXP + 8


def test_cuda_bound_is_its_promise():
    x = np.full((1, 1, 2, 2), 1.5)
    bound = bounds.pooling(Window.of(2, 2), x, x[..., :1, :1], "float32", native="cuda")
    assert bound.allowed.item() == bounds.cuda_ulps(4) * 2**-23
    assert bounds.cuda_ulps(1) == 12


def test_numbers_below_the_normal_ones():
    """Local importance's body divides by 32 for 9 cells: what is lost there is 32 times as much in the end."""
    least = np.float32(2.0**-149)
    rng = np.random.default_rng(8)
    x = rng.integers(-3000, 3000, (20_000, 9)).astype(np.float32) * least
    logit = np.exp(rng.normal(size=x.shape) * 2).astype(np.float32)
    weights = np.exp(logit - logit.max(-1, keepdims=True))
    y = (x / np.float32(32) * weights).sum(-1) / weights.sum(-1) * np.float32(32)
    wide = np.exp(logit.astype(np.float64) - logit.max(-1, keepdims=True))
    answer = (x * wide).sum(-1) / wide.sum(-1)
    planes = x.astype(np.float64).reshape(1, -1, 3, 3)
    window, answers = Window.of(2, 3), answer.reshape(1, -1, 1, 1)
    bound = bounds.pooling(window, planes, answers, "float32", native=False)
    error = np.abs(y - answer)
    assert bounds.body_ulps(9) * least < error.max()
    assert (error <= bound.allowed.ravel()).all()
    assert bound.origin.endswith(", 2.8e-43 for what is below the normal numbers")
    for sizes, native in ((planes, True), (planes / least, False), (np.zeros((1, 2, 3, 3)), False)):
        ordinary = bounds.pooling(window, sizes, answers[:, : sizes.shape[1]], "float32", native=native)
        assert "below" not in ordinary.origin
        ulps = bounds.native_ulps(window.kernel) if native else bounds.body_ulps(9)
        np.testing.assert_array_equal(
            ordinary.allowed, ulps * bounds.ulp(bounds.magnitude(window, sizes), np.float32), strict=True
        )


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_narrow_types_round_once(dtype):
    x = np.random.default_rng(2).normal(size=(1, 8, 16, 16)).astype(dtype).astype(np.float64)
    window = Window.of(2, 3, 2, 1)
    answer = SOFT(window, x)
    bound = bounds.pooling(window, x, answer, dtype, native=True)
    assert bounds.measure(answer.astype(dtype), answer, bound.allowed).share <= 0.5
    two_off = (answer + 2 * bounds.ulp(answer, dtype)).astype(dtype)
    assert not bounds.measure(two_off, answer, bound.allowed).within


def test_float64_allows_for_the_answers_own_rounding():
    window = Window.of(2, 3)
    x = np.random.default_rng(3).normal(size=(1, 1, 30, 30))
    answer = SOFT(window, x)
    bound = bounds.pooling(window, x, answer, "float64", native=True)
    assert (bound.allowed < 50 * np.spacing(bounds.magnitude(window, x))).all()
    assert "float64 answer itself" in bound.origin
    assert bounds.measure(shifted(window, x), answer, bound.allowed).within


def test_network_bound_is_the_yardstick_and_a_floor():
    answer = np.array([1.0, -3.0, np.nan, np.inf])
    bound = bounds.network(answer, "float32", 1e-5, "PyTorch's own error")
    assert bound.allowed == 4e-5 + 16 * 2**-22
    assert "PyTorch's own error" in bound.origin
    assert bounds.network(np.array([1, 2]), "int64", 0, "").allowed == 0


def test_reference_ulps_cover_the_reference():
    mpmath = pytest.importorskip("mpmath")
    window = Window.of(1, 40)
    x = np.random.default_rng(4).normal(size=(1, 1, 400)) * 20
    for i, y in enumerate(SOFT(window, x).flat):
        cells = [mpmath.mpf(value) for value in x[0, 0, 40 * i : 40 * i + 40]]
        with mpmath.workdps(50):
            weights = [mpmath.exp(cell) for cell in cells]
            exact = sum(w * cell for w, cell in zip(weights, cells, strict=True)) / sum(weights)
            error = float(abs(exact - mpmath.mpf(y))) / np.spacing(np.abs(x[0, 0, 40 * i : 40 * i + 40]).max())
        assert error < bounds.reference_ulps(40) / 4
    assert math.isclose(bounds.reference_ulps(1), 12)
