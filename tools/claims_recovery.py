"""Signals from their pooled values: whether a power average over groups of a frame can be inverted.

A signal x of n numbers goes through a random frame F of m rows; groups of L rows are pooled by an l1, l2 or maximum
norm, which loses signs and places. Alternating projections get x back: coefficients are moved to the nearest ones with
these pooled values, then to the nearest ones that are F of a signal. Starts are random; of several the one counts whose
pooled values fit best. With a rectifier before the pooling, coefficients below zero are free up to zero. Recovered
means a cosine with the signal above 0.99; without a rectifier its sign cannot be known and does not count.

Signals are scikit-learn's digits, less their mean picture, so that n is 64. Fewer pooled values than
numbers, m / L < n, cannot be inverted: that is measured beside it, and must fail.
"""

import math
from collections.abc import Callable

import torch
from claims_data import Claim, Interval, Measured, small_digits

from onnxpool import nn

GROUP = "recovery"
GROUPS_OF = 2
SIGNALS = 10
NUMBERS = 64
STEPS = 300
STARTS = 2
TIMES = {"half as many": 0.5, "8 times as many": 8.0}
NORMS = {"l1": 1.0, "l2": 2.0, "max": math.inf}


def pooled(coefficients: torch.Tensor, p: float, rectified: bool) -> torch.Tensor:
    """``(N, m) -> (N, m / L)``, by the project's own pooling."""
    x = coefficients.clamp(min=0) if rectified else coefficients
    values: torch.Tensor = nn.PowerAvgPool1d(GROUPS_OF, p=p)(x[:, None])[:, 0]
    return values


def nearest(group: torch.Tensor, value: torch.Tensor, p: float) -> torch.Tensor:
    """The nearest to ``group`` ``(..., L)``, of numbers of 0 or more, with this norm ``(..., 1)``."""
    if p == math.inf:
        return _with_largest(group, value)
    if p == 2:
        size = group.norm(dim=-1, keepdim=True)
        return torch.where(size > 0, group * (value / size.clamp(min=1e-30)), value / group.shape[-1] ** 0.5)
    ordered = group.sort(dim=-1, descending=True).values
    counts = torch.arange(1, group.shape[-1] + 1, dtype=group.dtype)
    steps = (ordered.cumsum(-1) - value) / counts
    kept = (ordered > steps).sum(-1, keepdim=True).clamp(min=1)
    return (group - steps.gather(-1, kept - 1)).clamp(min=0)


def nearest_rectified(group: torch.Tensor, value: torch.Tensor, p: float) -> torch.Tensor:
    """The nearest to ``group`` ``(..., L)`` whose parts above zero have this norm: the best of so many parts above."""
    if p == math.inf:
        return torch.where(value > 0, _with_largest(group, value), group.clamp(max=0))
    ordered, places = group.sort(dim=-1, descending=True)
    best = ordered.clamp(max=0)
    least = torch.where(value > 0, math.inf, 0.0)
    for above in range(1, group.shape[-1] + 1):
        top, rest = ordered[..., :above], ordered[..., above:].clamp(max=0)
        if above == 1:
            moved, fits = value, value > 0
        elif p == 1:
            moved = top + (value - top.sum(-1, keepdim=True)) / above
            fits = moved[..., -1:] > 0
        else:
            moved = top * (value / top.norm(dim=-1, keepdim=True).clamp(min=1e-30))
            fits = top[..., -1:] > 0
        found = torch.cat([moved, rest], -1)
        cost = (found - ordered).square().sum(-1, keepdim=True)
        better = fits & (cost < least)
        best, least = torch.where(better, found, best), torch.where(better, cost, least)
    return torch.zeros_like(group).scatter(-1, places, best)


def _with_largest(group: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """All at most ``value``, and the first of the largest equal to it."""
    first = torch.nn.functional.one_hot(group.argmax(-1), group.shape[-1]).bool()
    return torch.where(first, value, torch.minimum(group, value))


def fitted(coefficients: torch.Tensor, values: torch.Tensor, p: float, rectified: bool) -> torch.Tensor:
    """The nearest coefficients ``(N, m)`` with these pooled values."""
    groups = coefficients.unflatten(-1, (-1, GROUPS_OF))
    if rectified:
        return nearest_rectified(groups, values[..., None], p).flatten(-2)
    return (nearest(groups.abs(), values[..., None], p) * torch.where(groups < 0, -1.0, 1.0)).flatten(-2)


def recovered(signals: torch.Tensor, times: float, p: float, rectified: bool, seed: int) -> float:
    """The share of signals ``(N, n)`` that come back, in per cent."""
    draw = torch.Generator().manual_seed(seed)
    rows = round(times * NUMBERS) * GROUPS_OF
    frame = torch.randn(NUMBERS, rows, generator=draw, dtype=torch.float64) / NUMBERS**0.5
    back = torch.linalg.pinv(frame)
    values = pooled(signals @ frame, p, rectified)
    best = torch.full((len(signals),), math.inf, dtype=torch.float64)
    cosine = torch.zeros(len(signals), dtype=torch.float64)
    for _ in range(STARTS):
        x = torch.randn(signals.shape, generator=draw, dtype=torch.float64)
        for _ in range(STEPS):
            x = fitted(x @ frame, values, p, rectified) @ back
        misfit = (pooled(x @ frame, p, rectified) - values).square().sum(-1)
        found = torch.nn.functional.cosine_similarity(x, signals)
        better = misfit < best
        best, cosine = torch.where(better, misfit, best), torch.where(better, found, cosine)
    return 100 * ((cosine if rectified else cosine.abs()) > 0.99).double().mean().item()


def signals(seed: int) -> torch.Tensor:
    """``(SIGNALS, 64)`` in float64."""
    pictures = small_digits().images.flatten(1).double()
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:SIGNALS]
    return pictures[chosen] - pictures.mean(0)


def _measured(seeds: int) -> Measured:
    return {
        f"{norm}{' rectified' * rectified} {name}": [
            recovered(signals(seed), times, p, rectified, seed) for seed in range(seeds)
        ]
        for norm, p in NORMS.items()
        for rectified in (False, True)
        for name, times in TIMES.items()
    }


def parts() -> dict[str, Callable[[int], Measured]]:
    """One."""
    return {"digits": _measured}


# --- what follows


def recovery(found: Measured) -> Claim:
    """Bruna, Szlam, LeCun."""
    many, few = "8 times as many", "half as many"
    plain = {norm: Interval.of(found[f"{norm} {many}"]) for norm in NORMS}
    rectified = {norm: Interval.of(found[f"{norm} rectified {many}"]) for norm in NORMS}
    hopeless = max(Interval.of(values).mean for name, values in found.items() if name.endswith(few))
    failing = [norm for norm in NORMS if plain[norm].mean < 90]
    failing += [f"{norm} rectified" for norm in NORMS if rectified[norm].mean < 90]
    held = not failing and hopeless < 10
    return Claim(
        name="Power average pooling",
        paper="Bruna, Szlam, LeCun, ICML 2014",
        where="section 4, figures",
        says="l1, l2 and maximum pooling of a redundant frame can be inverted by phase recovery, rectified or not",
        theirs="curves over redundancy, for MNIST and patches of pictures; no table",
        ours="digits that come back from 8 values a number: "
        + ", ".join(f"{norm} {value.text(0)} %" for norm, value in plain.items())
        + "; rectified: "
        + ", ".join(f"{norm} {value.text(0)} %" for norm, value in rectified.items())
        + f"; from half a value a number at most {hopeless:.0f} %",
        distance="no figure to compare with",
        verdict="reproduced" if held else "not reproduced",
        why="at least 90 % come back, for every norm"
        if held
        else f"less than 90 % come back: {', '.join(failing)}"
        if failing
        else "signals come back that cannot",
    )


CLAIMS = (recovery,)
