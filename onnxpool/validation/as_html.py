"""A report as one web page: no script, no other file, light and dark, readable without seeing colours."""

import math
from collections.abc import Sequence
from html import escape

from onnxpool.validation import as_svg
from onnxpool.validation.as_text import sentences
from onnxpool.validation.report import Report, Result, Run


def html_page(report: Report) -> str:
    """The whole page."""
    verdict, model = report.verdict, escape(report.model)
    told = "".join(f"<li>{escape(line)}</li>" for line in sentences(report))
    versions = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.environment.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{verdict}: {model}</title>
<style>{_STYLE}{as_svg.STYLE}</style>
</head>
<body>
<header class="{_class(verdict)}">
<h1>{_mark(verdict)} {escape(report.summary)}</h1>
<p><code>{model}</code> against {escape(report.reference)}, exit status {report.exit_status}</p>
</header>
<main>
{f"<ul>{told}</ul>" if told else ""}
<h2>Largest error of each case, in percent of what is allowed</h2>
{_matrix(report.runs)}
<h2>Runs</h2>
{"".join(map(_details, report.runs))}
<h2>Environment</h2>
<dl>{versions}</dl>
</main>
</body>
</html>
"""


_MARK = {"skipped": "–", "passed": "✓", "noted": "!"}
"""Of a verdict that says that something is wrong: ✗."""


def _matrix(runs: Sequence[Run]) -> str:
    """Runs down, cases and outputs across; runs that have no results take the whole line."""
    columns = list(dict.fromkeys((result.case, result.output) for run in runs for result in run.results))
    several = len({output for _, output in columns}) > 1
    names = [f"{case} · {output}" if several else case for case, output in columns]
    head = "".join(f'<th scope="col" class="slanted"><span>{escape(name)}</span></th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{escape(run.name)}</th><td>{_verdict(run.verdict)}</td>{_line(run, columns)}</tr>'
        for run in runs
    )
    return _table(f'<th scope="col">run</th><th scope="col">verdict</th>{head}', body, "matrix")


def _line(run: Run, columns: Sequence[tuple[str, str]]) -> str:
    found = {(result.case, result.output): result for result in run.results}
    if not found:
        return f'<td class="why" colspan="{max(1, len(columns))}">{escape(run.reason)}</td>'
    return "".join(_share(found.get(column)) for column in columns)


def _share(result: Result | None) -> str:
    """The share of the budget in percent, on a ground that is darker for a larger share."""
    if result is None:
        return '<td class="skipped" title="left out">–</td>'
    title = escape(f"{result.verdict}: {result.reason or result.origin}")
    if not result.origin:
        return f'<td class="{_class(result.verdict)}" title="{title}">{_mark(result.verdict)}</td>'
    failed = _class(result.verdict) == "failed"
    mark = {"failed": "✗", "noted": "!"}.get(_class(result.verdict), "")
    ground = "" if failed else f' style="--share:{min(1.0, result.share):.2f}"'
    return f'<td class="{_class(result.verdict)}" title="{title}"{ground}>{mark}{_percent(result.share)}</td>'


def _percent(share: float) -> str:
    """In percent, or in times of what is allowed where these would be thousands."""
    return f"{100 * share:.0f}" if share < 10 else f"{share:.0f}×" if share < 1e5 else f"{share:.0e}×"


def _details(run: Run) -> str:
    columns = ("case", "output", "verdict", "max abs", "max rel", "max ULP", "share", "allowed", "cosine", "SNR, dB")
    head = "".join(f'<th scope="col">{column}</th>' for column in (*columns, "remarks, origin of the bound"))
    counts = [f"{count} nodes on {provider}" for provider, count in run.providers.items()]
    lines = [f"version {run.version}", *counts, *run.pooling]
    places = "".join(f"<li>{escape(line)}</li>" for line in lines)
    rows = _table(head, "".join(map(_row, run.results)), "details")
    told = f"{_charts(run)}<ul>{places}</ul>{rows}" if run.results else ""
    return (
        f"<details{' open' if _class(run.verdict) == 'failed' else ''}>"
        f"<summary>{escape(run.name)}: {_verdict(run.verdict)} {escape(run.reason)}</summary>{told}</details>"
    )


def _charts(run: Run) -> str:
    """All elements of all results by their error, and where in its output the worst result errs."""
    counts = [sum(column) for column in zip(*(r.histogram for r in run.results if r.histogram), strict=True)]
    drawn = (
        f"<figure>{as_svg.histogram(counts)}<figcaption>elements by error in ULP</figcaption></figure>"
        if counts
        else ""
    )
    for result in (result for result in run.results if result.heat):
        where = escape(f"share of the allowed error over the last two axes of {result.output}, case {result.case}")
        drawn += f"<figure>{as_svg.heat(result.heat)}<figcaption>{where}</figcaption></figure>"
    return f'<div class="charts">{drawn}</div>'


def _row(result: Result) -> str:
    measured = (result.max_abs, result.max_rel, result.max_ulp, result.share, result.allowed)
    numbers = (*measured, result.cosine, result.snr_db)
    cells = "".join(
        f"<td>{number:.3g}</td>" if result.origin and not math.isnan(number) else "<td></td>" for number in numbers
    )
    zeros = f"{result.signed_zeros} zeros of unlike sign" if result.signed_zeros else ""
    why = "; ".join(filter(None, (result.reason, zeros, result.origin)))
    return (
        f'<tr><th scope="row">{escape(result.case)}</th><td>{escape(result.output)}</td>'
        f"<td>{_verdict(result.verdict)}</td>{cells}<td>{escape(why)}</td></tr>"
    )


def _verdict(verdict: str) -> str:
    return f'<span class="{_class(verdict)}">{_mark(verdict)} {verdict}</span>'


def _mark(verdict: str) -> str:
    return _MARK.get(verdict, "✗")


def _class(verdict: str) -> str:
    return verdict if verdict in _MARK else "failed"


def _table(head: str, body: str, name: str = "") -> str:
    kind = f' class="{name}"' if name else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #fff; --line: #d1d9e0; --soft: #f6f8fa; --bar: #0969da;
  --passed: #1a7f37; --noted: #8a5a00; --failed: #c21c2c; --skipped: #59636e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --line: #3d444d; --soft: #151b23;
  --bar: #4493f8; --passed: #3fb950; --noted: #d29922; --failed: #ff7b72; --skipped: #9198a1; } }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header, main { padding: 1rem max(1rem, calc(50vw - 42rem)); }
header { border-bottom: 4px solid; background: var(--soft); }
header p { color: var(--text); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin-top: 2rem; font-size: 1.15rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); vertical-align: bottom; }
tbody th { font-weight: normal; white-space: nowrap; }
.matrix { font-size: .85rem; }
.matrix th, .matrix td { padding: .15rem .5rem; white-space: nowrap; }
.matrix td[title] { text-align: right; }
.matrix td[style] { background: color-mix(in srgb, currentColor calc(5% + 45% * var(--share)), transparent);
  color: var(--text); }
.matrix td.noted[style] { color: var(--noted); font-weight: 600; }
.matrix .why { color: var(--skipped); white-space: normal; font-size: .8rem; }
.details { font-size: .85rem; }
.details td:not(:last-child) { white-space: nowrap; }
.details td:last-child { min-width: 20rem; }
.slanted { writing-mode: vertical-rl; font-weight: normal; }
.slanted span { transform: rotate(180deg); display: inline-block; }
.passed { color: var(--passed); } .noted { color: var(--noted); }
.failed { color: var(--failed); font-weight: 600; } .skipped { color: var(--skipped); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-end; }
figure { margin: .5rem 0; flex: 1 1 24rem; }
figcaption { font-size: .8rem; color: var(--skipped); }
summary { cursor: pointer; padding: .3rem 0; }
li { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
"""
