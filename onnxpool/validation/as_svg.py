"""Pictures of how errors are spread (:mod:`onnxpool.validation.spread`), as SVG that stands inside of a web page.

Colours come from the page: ``currentColor`` for bars and, with an opacity for each step of ten, for the map.
"""

import math
from collections.abc import Sequence
from html import escape

from onnxpool.validation.spread import EDGES

_LABELS = ("0", *(f"{edge:g}" for edge in EDGES[1:]), "more", "NaN, inf")
_BAR, _HEIGHT = 46, 90

_STEPS = (1e-3, 1e-2, 0.1, 0.3, 0.6, 1.0)
"""Upper edges of the map's steps, as shares of what is allowed, each a darker shade; three more, in red, are above."""

_CELL = 12


def histogram(counts: Sequence[int]) -> str:
    """Bars over bins of ULP, their heights logarithmic, each with its count."""
    top = math.log10(max(counts) + 1) or 1.0
    bars = "".join(_bar(i, count, top) for i, count in enumerate(counts))
    told = ", ".join(f"{count} up to {label}" for label, count in zip(_LABELS, counts, strict=True) if count)
    return (
        f'<svg class="histogram" viewBox="0 -14 {_BAR * len(counts)} {_HEIGHT + 34}" role="img" '
        f'aria-label="elements by error in ULP: {told}">{bars}</svg>'
    )


def _bar(i: int, count: int, top: float) -> str:
    height = _HEIGHT * math.log10(count + 1) / top
    x, middle = i * _BAR, (i + 0.5) * _BAR
    bar = f'<rect x="{x + 3}" y="{_HEIGHT - height:.1f}" width="{_BAR - 6}" height="{height:.1f}"/>' if count else ""
    number = f'<text x="{middle}" y="{_HEIGHT - height - 3:.1f}">{_short(count)}</text>' if count else ""
    return f'{bar}{number}<text x="{middle}" y="{_HEIGHT + 14}">{escape(_LABELS[i])}</text>'


def _short(count: int) -> str:
    """A count in at most four letters."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * size:
            return f"{count // size}{unit}"
    return str(count)


def heat(rows: Sequence[Sequence[float]]) -> str:
    """A map of shares of the allowed error: a darker cell for a larger share, red where it exceeds what is allowed."""
    worst = max(max(row) for row in rows)
    steps = (*_STEPS, max(1.0, worst / 10), max(1.0, worst / 2))
    paths = [""] * (len(steps) + 1)
    for y, row in enumerate(rows):
        for x, share in enumerate(row):
            if share > 0:
                paths[sum(share > step for step in steps)] += f"M{x} {y}h1v1h-1z"
    drawn = "".join(f'<path class="step{i}" d="{path}"/>' for i, path in enumerate(paths) if path)
    width, height = len(rows[0]), len(rows)
    told = f"map of {height} by {width} blocks, worst {worst:.1%} of what is allowed"
    return (
        f'<svg class="heat" viewBox="0 0 {width} {height}" width="{width * _CELL}" height="{height * _CELL}" '
        f'preserveAspectRatio="none" role="img" aria-label="{told}">'
        f'<rect width="{width}" height="{height}"/>{drawn}</svg>'
    )


STYLE = """
.histogram { width: 100%; max-width: 40rem; height: auto; fill: var(--bar); }
.histogram text { font: 11px system-ui, sans-serif; fill: var(--text); text-anchor: middle; }
.heat { border: 1px solid var(--line); max-width: 100%; height: auto; min-height: .75rem; fill: var(--bar); }
.heat rect { fill: var(--page); }
.step0 { opacity: .08; } .step1 { opacity: .2; } .step2 { opacity: .4; } .step3 { opacity: .6; }
.step4 { opacity: .8; } .step5 { opacity: 1; } .step6, .step7, .step8 { fill: var(--failed); }
.step6 { opacity: .4; } .step7 { opacity: .7; }
"""
