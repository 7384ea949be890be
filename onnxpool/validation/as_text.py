"""A report as text for a terminal: a table of runs, and sentences; runs that differ in options alone share a line."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import RenderableType

Values: TypeAlias = Mapping[str, Any]

_STYLE = {"skipped": "dim", "passed": "bold green", "noted": "yellow"}
"""Of a verdict that says that something is wrong: bold red."""

_NUMBER = re.compile(r"\b\d[\d.]*(e[+-]\d+)?")

_MOST_LINES = 4
_MOST_NAMES = 2


def table(report: Values) -> "RenderableType":
    """The runs, every sentence, and the verdict, for ``rich.print``; from what ``Report.to_json`` gives."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def styled(text: str, verdict: str) -> Text:
        return Text(text, _STYLE.get(verdict, "bold red"))

    rows = Table(title=f"{report['model']} against {report['reference']}", title_justify="left")
    for column in ("run", "verdict", "cases", "share of budget", "max abs", "max ULP", "SNR, dB", "worst case"):
        rows.add_column(column, overflow="fold")
    origins: dict[str, None] = {}
    for runs in _alike(report["runs"]):
        worst = max((result for run in runs for result in run["results"]), key=_share, default=None)
        measured = worst is not None and worst["origin"]
        rows.add_row(
            _name(runs),
            styled(runs[0]["verdict"], runs[0]["verdict"]),
            _cases(runs),
            *(_numbers(worst) if worst and measured else ()),
        )
        origins |= {f"allowed: {worst['origin']}": None} if worst and measured else {}
    lines = [Text(line) for line in (*origins, *sentences(report))]
    return Group(rows, *lines, styled(report["summary"], report["verdict"]))


def sentences(report: Values) -> list[str]:
    """Why runs were skipped or failed, what changed in the model, and the notes."""
    told: dict[str, tuple[str, list[Values]]] = {}
    for run in report["runs"]:
        for line in _reasons(run):  # lines that differ in a few numbers alone are one
            told.setdefault(_NUMBER.sub("#", line), (line, []))[1].append(run)
    return [
        *(f"{_some([_name(alike) for alike in _alike(runs)])}: {line}" for line, runs in told.values()),
        *(f"cause: {cause}" for cause in report["causes"]),
        *(f"note: {note}" for note in report["notes"]),
    ]


def _alike(runs: Iterable[Values]) -> list[list[Values]]:
    """Runs of one runtime, form and verdict together."""
    found: dict[tuple[Any, ...], list[Values]] = {}
    for run in runs:
        found.setdefault(tuple(run[key] for key in ("runtime", "form", "kernels", "verdict")), []).append(run)
    return list(found.values())


def _name(runs: Sequence[Values]) -> str:
    if len(runs) == 1:
        return str(runs[0]["name"])
    kernels = ", native kernels" if runs[0]["kernels"] else ""
    return f"{runs[0]['runtime']}, {runs[0]['form']}{kernels}, {len(runs)} variants"


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMES
    return "; ".join([*names[:_MOST_NAMES], *([f"and {left} more"] if left > 0 else [])])


def _cases(runs: Sequence[Values]) -> str:
    every = [result for run in runs for result in run["results"]]
    return f"{sum(result['verdict'] in ('passed', 'noted') for result in every)}/{len(every)}" if every else ""


def _share(result: Values) -> float:
    return float(result["share"]) if result["origin"] else -1.0


def _numbers(worst: Values) -> list[str]:
    return [
        f"{_share(worst):.1%}",
        f"{float(worst['max_abs']):.2g}",
        f"{float(worst['max_ulp']):.3g}",
        f"{float(worst['snr_db']):.3g}",
        worst["case"],
    ]


def _reasons(run: Values) -> list[str]:
    """Why this run, or results of it, failed, cases with one reason together, and not too many lines."""
    reasons: dict[str, list[str]] = {}
    for result in run["results"]:
        if result["verdict"] not in ("passed", "noted"):
            reasons.setdefault(f"{result['output']}: {result['reason']}", []).append(result["case"])
    lines = [
        f"{' and '.join((cases[0], f'{len(cases) - 1} more') if len(cases) > 1 else cases)}, {reason}"
        for reason, cases in reasons.items()
    ]
    left = len(lines) - _MOST_LINES
    whole = [f"{run['verdict']}: {run['reason']}"] if run["reason"] else []
    return [*whole, *([*lines[:_MOST_LINES], f"and {left} other failures"] if left > 1 else lines)]
