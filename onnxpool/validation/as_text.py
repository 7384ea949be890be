"""A report as text: rows of a table, and sentences; runs that differ in options alone share a row."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxpool.validation.report import Report, Result, Run, Verdict

COLUMNS = ("verdict", "share of budget", "cases", "run")
"""What the cells of a :class:`Row` hold."""

LEGEND = (
    "share of budget: the worst error of any number, as a part of what that number may err, which follows from float64 "
    "answers and the arithmetic of its type; above 100% the run fails. dB: signal to noise"
)
"""What the share says."""

_NUMBER = re.compile(r"\b\d[\d.]*(e[+-]\d+)?")

_MOST_LINES = 4
_MOST_NAMES = 2


@dataclass(frozen=True)
class Row:
    """Runs of one runtime, form and verdict: a cell for each of :data:`COLUMNS`, empty where nothing was measured.

    ``worst`` tells of the result that used most of its budget, ``origin`` where the bound of that comes from; both are
    empty where nothing was measured.
    """

    verdict: Verdict
    cells: tuple[str, ...]
    worst: str
    origin: str


def rows(report: Report) -> list[Row]:
    """The runs of a report, those that differ in options alone together."""
    return [_row(runs) for runs in _alike(report.runs)]


def sentences(report: Report) -> list[str]:
    """Why runs were skipped or failed, what changed in the model, and the notes."""
    told: dict[str, tuple[str, list[Run]]] = {}
    for run in report.runs:
        for line in _reasons(run):  # lines that differ in a few numbers alone are one
            told.setdefault(_NUMBER.sub("#", line), (line, []))[1].append(run)
    return [
        *(f"{_some([_name(alike) for alike in _alike(runs)])}: {line}" for line, runs in told.values()),
        *(f"cause: {cause}" for cause in report.causes),
        *(f"note: {note}" for note in report.notes),
    ]


def _row(runs: Sequence[Run]) -> Row:
    every = [result for run in runs for result in run.results]
    verdict = runs[0].verdict
    right = sum(result.verdict in ("passed", "noted") for result in every)
    cases = f"{right}/{len(every)}" if every else ""
    worst = max(every, key=_share, default=None)
    if worst is None or not worst.origin:
        return Row(verdict, (verdict, "", cases, _name(runs)), "", "")
    told = f"worst: {worst.case}, error {worst.max_abs:.2g}, {worst.max_ulp:.3g} ULP, {worst.snr_db:.3g} dB"
    return Row(verdict, (verdict, percent(worst.share), cases, _name(runs)), told, worst.origin)


def percent(share: float) -> str:
    """A share of the budget in percent, or in times where these would be thousands; nothing of NaN, not measured.

    >>> percent(0.1234), percent(25), percent(float("inf")), percent(float("nan"))
    ('12.3%', '25 times', 'inf times', '')
    """
    if math.isnan(share):
        return ""
    return f"{share:.1%}" if share < 10 else f"{share:.3g} times"


def _alike(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs of one runtime, form and verdict together."""
    found: dict[tuple[str, str, bool, Verdict], list[Run]] = {}
    for run in runs:
        found.setdefault((run.runtime, run.form, run.kernels, run.verdict), []).append(run)
    return list(found.values())


def _name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    kernels = ", native kernels" if runs[0].kernels else ""
    return f"{runs[0].runtime}, {runs[0].form}{kernels}, {len(runs)} variants"


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMES
    return "; ".join([*names[:_MOST_NAMES], *([f"and {left} more"] if left > 0 else [])])


def _share(result: Result) -> float:
    return result.share if result.origin else -1.0


def _reasons(run: Run) -> list[str]:
    """Why this run, or results of it, failed, cases with one reason together, and not too many lines."""
    reasons: dict[str, list[str]] = {}
    for result in run.results:
        if result.verdict not in ("passed", "noted"):
            reasons.setdefault(f"{result.output}: {result.reason}", []).append(result.case)
    lines = [
        f"{' and '.join((cases[0], f'{len(cases) - 1} more') if len(cases) > 1 else cases)}, {reason}"
        for reason, cases in reasons.items()
    ]
    left = len(lines) - _MOST_LINES
    whole = [f"{run.verdict}: {run.reason}"] if run.reason else []
    return [*whole, *([*lines[:_MOST_LINES], f"and {left} other failures"] if left > 1 else lines)]
