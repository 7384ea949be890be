"""What tools/quality found, as numbers with intervals, as the tables of docs/which-pooling.md, and as its pictures.

Intervals are of 95 per cent, by Student's t: over seeds, or over tiles of the photographs. A row is in bold where its
paired differences from the row that all are held against are not zero by a t-test at 5 per cent, after Holm's
correction for all rows of the column. That a row is not in bold does not show that it is equal.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from quality_network import HEADS
from quality_network import MEASURES as OF_NETWORKS
from quality_pictures import MEASURES as OF_PHOTOGRAPHS
from scipy import stats

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Row, measure, and a value for each seed or tile."""

NETWORK, PHOTOGRAPH = "MaxPool", "box"  # what rows are held against
UNEQUAL = 0.05


@dataclass(frozen=True)
class Measured:
    """A mean and half its interval; whether it differs from the row that all are held against."""

    mean: float
    half: float
    differs: bool = False

    def __str__(self) -> str:
        text = f"{self.mean:.1f}\u00a0±\u00a0{self.half:.1f}"  # on one line of a table
        return f"**{text}**" if self.differs else text


def interval(values: Sequence[float]) -> Measured:
    """Mean and half the interval of 95 per cent; 0 of one value."""
    if len(values) < 2:
        return Measured(float(np.mean(values)), 0.0)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return Measured(float(np.mean(values)), float(half))


def difference(values: Sequence[float], others: Sequence[float]) -> Measured:
    """That of the means, pair by pair."""
    return interval([a - b for a, b in zip(values, others, strict=True)])


def chance(values: Sequence[float], others: Sequence[float]) -> float:
    """Of differences as large, were there none: the paired t-test's p, 1 where all are 0."""
    found = difference(values, others)
    if found.half == 0 or len(values) < 2:
        return float(found.mean == 0 or len(values) < 2)
    return float(stats.ttest_rel(values, others).pvalue)


def holm(chances: Mapping[str, float]) -> set[str]:
    """Which of so many are unequal: the k-th smallest of n is compared with 0.05 / (n - k + 1), until one is larger."""
    found: set[str] = set()
    for k, row in enumerate(sorted(chances, key=lambda row: chances[row])):
        if chances[row] > UNEQUAL / (len(chances) - k):
            break
        found.add(row)
    return found


def summary(values: Values, against: str, measures: Sequence[str]) -> dict[str, dict[str, Measured]]:
    """Every row and measure."""
    found: dict[str, dict[str, Measured]] = {row: {} for row in values}
    for measure in measures:
        base = values[against][measure]
        unequal = holm({row: chance(values[row][measure], base) for row in values if row != against})
        for row in values:
            one = interval(values[row][measure])
            found[row][measure] = Measured(one.mean, one.half, row in unequal)
    return found


# --- tables


def table(rows: Mapping[str, Mapping[str, Measured]], first: str, more: Mapping[str, Mapping[str, str]]) -> str:
    """In Markdown; ``more`` has columns without an interval."""
    names = [*next(iter(rows.values()))]
    lines = [f"| {' | '.join([first, *names, *more])} |", "|---" * (1 + len(names) + len(more)) + "|"]
    for row, found in rows.items():
        cells = [row, *(str(found[name]) for name in names), *(column[row] for column in more.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(facts: Mapping[str, object]) -> dict[str, str]:
    """The page's parts that are written from docs/which-pooling.json, by the name of their mark."""
    networks: Values = facts["networks"]  # type: ignore[assignment]
    photographs: Values = facts["photographs"]  # type: ignore[assignment]
    parameters: Mapping[str, int] = facts["parameters"]  # type: ignore[assignment]
    seconds: Mapping[str, float] = facts["seconds"]  # type: ignore[assignment]
    measures = list(OF_NETWORKS)
    first, *others = HEADS
    poolings = {row: found for row, found in networks.items() if row not in HEADS}
    heads = {first: networks[NETWORK]} | {row: networks[row] for row in others if row in networks}
    more = {
        "parameters": {row: str(parameters[row]) for row in poolings},
        "time": {row: f"{seconds[row] / seconds[NETWORK]:.1f}" for row in poolings},
    }
    many = len(next(iter(poolings.values()))["accuracy"])
    ran = (
        f"{many} seeds, {facts['epochs']} epochs, {len(networks) * many} networks: "
        f"{float(facts['total']) / 60:.0f} minutes of one processor core, which other work shared; "  # type: ignore[arg-type]
        f"{facts['date']}, PyTorch {facts['torch']}."
    )
    return {
        "networks": table(summary(poolings, NETWORK, measures), "pooling", more),
        "heads": table(
            {row.removeprefix("at the end: "): found for row, found in summary(heads, first, measures).items()},
            "at the end",
            {},
        ),
        "photographs": table(summary(photographs, PHOTOGRAPH, list(OF_PHOTOGRAPHS)), "made small by", {}),
        "ran": ran,
    }


# --- pictures


INK, FAINT, MARK = "#1c1c28", "#b9bdc9", "#3949ab"
LEFT, RIGHT, ROW, HEAD = 208, 18, 19, 46


def signed(number: str) -> str:
    """With a minus as wide as a digit."""
    return number.replace("-", "\N{MINUS SIGN}")


def forest(title: str, unit: str, rows: Mapping[str, Measured], *, zero: bool = False, least: float = -np.inf) -> str:
    """SVG: a dot and its interval for each row, in the order of the means; a line at zero if they are differences.

    Rows below ``least`` would leave the others no room: they are written as numbers.
    """
    ordered = sorted(rows.items(), key=lambda one: -one[1].mean)
    low = max(least, min(one.mean - one.half for one in rows.values()))
    high = max(one.mean + one.half for one in rows.values())
    step = next(n for n in (0.5, 1, 2, 5, 10, 20, 50) if (high - low) / n <= 7)
    low, high = np.floor(low / step) * step, np.ceil(high / step) * step
    width, height = 480, HEAD + ROW * len(ordered) + 34

    def across(value: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * (max(value, low) - low) / (high - low)

    bottom = HEAD + ROW * len(ordered)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold">{html.escape(title)}</text>',
    ]
    for value in np.arange(low, high + step / 2, step):
        x, strong = across(value), zero and abs(value) < step / 2
        lines += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 6}" y2="{bottom}" stroke="{INK if strong else FAINT}" '
            f'stroke-width="{1.2 if strong else 0.6}"/>',
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" font-size="12">{signed(f"{value:g}")}</text>',
        ]
    lines.append(
        f'<text x="{width - RIGHT}" y="{bottom + 29}" text-anchor="end" font-size="12">{html.escape(unit)}</text>'
    )
    for i, (row, one) in enumerate(ordered):
        y = HEAD + ROW * i + ROW / 2
        lines.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{html.escape(row)}</text>')
        if one.mean < low:
            number = signed(f"{one.mean:.1f} ± {one.half:.1f}")
            lines.append(
                f'<path d="M{LEFT + 3} {y:.1f}l7 -4v8z" fill="{MARK}"/>'
                f'<text x="{LEFT + 14}" y="{y + 4:.1f}" font-size="12">{number}</text>'
            )
            continue
        lines += [
            f'<line x1="{across(one.mean - one.half):.1f}" x2="{across(one.mean + one.half):.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}" stroke="{MARK}" stroke-width="2"/>',
            f'<circle cx="{across(one.mean):.1f}" cy="{y:.1f}" r="3.6" fill="{MARK}"/>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def drawings(facts: Mapping[str, object]) -> dict[str, str]:
    """The page's two charts, by file name."""
    networks: Values = facts["networks"]  # type: ignore[assignment]
    base = networks[NETWORK]["accuracy"]
    poolings = {row: found for row, found in networks.items() if row not in HEADS}
    return {
        "consistency.svg": forest(
            "Digits whose class stays when they move",
            "% of digits and shifts, 95 % interval",
            {row: interval(found["consistency"]) for row, found in poolings.items()},
        ),
        "accuracy.svg": forest(
            "Accuracy less that of MaxPool",
            "points, paired by seed, 95 % interval",
            {row: difference(found["accuracy"], base) for row, found in poolings.items() if row != NETWORK},
            zero=True,
            least=-6,
        ),
    }
