"""Saved results: read back, held against other bounds, and compared with later ones.

>>> report = load_report("network.certificate.json")  # doctest: +SKIP
>>> rescale_report(report, 0.5).passed  # half of each bound  # doctest: +SKIP
>>> compare_reports(report, load_report("later.json")).worse  # doctest: +SKIP

A file is a certificate, or what ``onnxpool validate --json`` printed. Nothing is run.
"""

import json
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.validation.report import EXIT_STATUS, SCHEMA, Report, Result, Run, failed, worst

WORSE = 2.0
"""An error has got worse, or better, where its share of the budget is more than so many times what it was,"""

NOISE = 0.05
"""and not below this part of the budget both times."""

_Value = TypeVar("_Value", Result, Run, Report)


@dataclass(frozen=True)
class Difference:
    """What became worse and better from one validation to another, a sentence each; ``missing``: no longer there."""

    worse: tuple[str, ...]
    better: tuple[str, ...]
    missing: tuple[str, ...]
    same: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"worse": [*self.worse], "better": [*self.better], "missing": [*self.missing], "same": self.same}


def load_report(path: str | os.PathLike[str]) -> Report:
    """The report in a certificate, or in what ``onnxpool validate --json`` printed.

    Raises :class:`GoldenError` for a file that is neither, or of another version.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        values = values.get("content", values)
        values = _checked(values.get("report", values))
        runs = tuple(
            replace(_made(Run, run), results=tuple(_made(Result, result) for result in run["results"]))
            for run in values["runs"]
        )
        return replace(_made(Report, values), runs=runs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise GoldenError(f"{path} holds no results ({error}); give a certificate, or validate --json") from error


def rescale_report(report: Report, scale: float) -> Report:
    """The same numbers with every bound multiplied by ``scale``.

    NaN and infinities out of place, wrong shapes and crashes stay what they are: no bound forgives them.
    Raises :class:`ArgumentError` for a scale that is not positive.
    """
    if not scale > 0 or math.isinf(scale):
        raise ArgumentError(f"scale={scale!r} must be a positive number")
    runs = tuple(_run(run, scale) for run in report.runs)
    verdicts = [run.verdict for run in report.runs]
    other = report.verdict if failed(report.verdict) and report.verdict not in verdicts else "skipped"
    note = f"judged again, with {scale:g} times each bound"
    return replace(
        report, runs=runs, verdict=worst([*(run.verdict for run in runs), other]), notes=(*report.notes, note)
    )


def compare_reports(old: Report, new: Report) -> Difference:
    """What became worse and better, by run, case and output; runs that were skipped either time do not count."""
    before, after = _results(old), _results(new)
    told: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    for key in sorted(before.keys() & after.keys()):
        then, now = before[key], after[key]
        sentence = f"{', '.join(key)}: {then.verdict} at {then.share:.3g} became {now.verdict} at {now.share:.3g}"
        told[_change(then, now)].append(sentence)
    missing = sorted(", ".join(key) for key in before.keys() - after.keys())
    return Difference(tuple(told[1]), tuple(told[-1]), tuple(missing), len(told[0]))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if values["schema"] != SCHEMA:
        raise ValueError(f"its schema is {values['schema']}, this onnxpool reads {SCHEMA}")
    return values


def _run(run: Run, scale: float) -> Run:
    if not run.results:
        return run
    results = tuple(_result(result, scale) for result in run.results)
    return replace(run, results=results, verdict=worst(result.verdict for result in results))


def _result(result: Result, scale: float) -> Result:
    if not result.origin or result.verdict not in ("passed", "noted", "mismatch"):
        return result
    share, forgivable = result.share / scale, result.nan == result.infinite == 0
    result = replace(result, share=share, allowed=result.allowed * scale, origin=f"{scale:g} x ({result.origin})")
    if share > 1:
        return replace(result, verdict="mismatch", reason=f"error {share:.3g} times the {result.allowed:.2g} allowed")
    return replace(result, verdict="passed", reason="") if forgivable and result.verdict == "mismatch" else result


def _results(report: Report) -> dict[tuple[str, str, str], Result]:
    return {
        (run.name, result.case, result.output): result
        for run in report.runs
        for result in run.results
        if result.verdict != "skipped"
    }


def _change(then: Result, now: Result) -> int:
    """1 for worse, -1 for better, 0 for neither."""
    old, new = EXIT_STATUS[then.verdict] > 0, EXIT_STATUS[now.verdict] > 0
    if old != new:
        return 1 if new else -1
    shares = [max(NOISE, one.share) if not math.isnan(one.share) else NOISE for one in (then, now)]
    return 1 if shares[1] > WORSE * shares[0] else -1 if shares[0] > WORSE * shares[1] else 0


def _made(kind: type[_Value], values: dict[str, Any]) -> _Value:
    """The dataclass from plain values, as :meth:`Report.to_json` makes them; what they lack gets its default."""
    names = {one.name: one for one in fields(kind)}
    known = {name: _unplain(values[name], names[name].type) for name in names if name in values}
    return kind(**known)


def _unplain(value: Any, kind: Any) -> Any:
    """What JSON holds of a value of this kind, made that value again: lists become tuples, numbers finite or not."""
    if kind is float:
        return math.nan if value is None else float(value)
    return tuple(_unplain(entry, get_args(kind)[0]) for entry in value) if isinstance(value, list) else value
