"""A report as one web page: no script, no other file, light and dark, readable without seeing colours."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from onnxpool.validation import as_html_nodes, as_svg
from onnxpool.validation.as_text import sentences
from onnxpool.validation.report import Report, Result, Run


def html_page(report: Report, nodes: as_html_nodes.Nodes | None = None, when: datetime | None = None) -> str:
    """The whole page; with ``nodes`` of :func:`onnxpool.diagnosis.compare_nodes`, if there are any.

    ``when`` is the date that it bears, by default now.
    """
    verdict, model = report.verdict, escape(report.model)
    date = (when or datetime.now(UTC)).astimezone(UTC)
    files = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in _files(report))
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
<p><code>{model}</code> against {escape(report.reference)}, exit status {report.exit_status},
<time datetime="{date.isoformat(timespec="seconds")}">{date:%Y-%m-%d %H:%M} UTC</time></p>
</header>
<main>
{f"<ul>{told}</ul>" if told else ""}
<h2>Largest error of each case, in percent of what is allowed</h2>
{_matrix(report.runs)}
{_LEGEND}
{as_html_nodes.section(nodes) if nodes else ""}
<h2>Runs</h2>
{"".join(map(_details, report.runs))}
<h2>Files</h2>
<dl>{files}</dl>
<h2>Environment</h2>
<dl>{versions}</dl>
</main>
</body>
</html>
"""


_LEGEND = """<details class="legend"><summary>How to read this</summary><dl>
<dt>share of budget</dt><dd>The worst error of any number of an output, in percent of what that number may err. What it
may err follows from answers in float64 and from the arithmetic of its type. Above 100 the case fails; 20 means that it
was five times as exact as it must be.</dd>
<dt><span class="passed">✓ passed</span></dt><dd>every number is within its budget</dd>
<dt><span class="noted">! noted</span></dt><dd>deviates in a way that is known and explained, and not the model's
fault</dd>
<dt><span class="skipped">– skipped</span></dt><dd>could not be tried here; never counts as passed</dd>
<dt><span class="failed">✗ mismatch</span></dt><dd>numbers are off</dd>
<dt><span class="failed">✗ unloadable</span></dt><dd>the runtime cannot load or run the model, or a kernel
is missing</dd>
<dt><span class="failed">✗ structure</span></dt><dd>a shape, type or name is not what it should be</dd>
<dt><span class="failed">✗ crashed</span></dt><dd>the runtime itself died, or did not answer</dd>
<dt>ULP</dt><dd>units in the last place: how many numbers of its type lie between what came and the answer</dd>
<dt>SNR</dt><dd>signal to noise, 20 log10 of the answer's norm over the error's: 120 dB are six digits</dd>
</dl></details>"""


def _files(report: Report) -> Iterator[tuple[str, str]]:
    """What ran, with the SHA-256 of each file, in HTML."""
    yield "model", f"<code>{escape(report.model)}</code>"
    if report.evidence is None:
        yield "digests", "none: the model was not a file"
        return
    digests = report.evidence.digests
    known = {"model, SHA-256": digests.model}
    known |= {f"{name}, SHA-256": digest for name, digest in {**digests.weights, **digests.libraries}.items()}
    known |= {"golden file beside it, SHA-256": digests.golden or "", "native library, SHA-256": digests.library or ""}
    for name, digest in known.items():
        yield name, f"<code>{digest}</code>" if digest else "none"


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
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.legend { margin: .7rem 0; font-size: .9rem; }
.nodes td:nth-child(4), .nodes td:nth-child(5) { text-align: right; }
@media (max-width: 40rem) { tbody th { white-space: normal; min-width: 8rem; }
  .matrix th[scope="row"] { white-space: normal; } dl { grid-template-columns: minmax(0, 1fr); }
  dt { font-weight: 600; margin-top: .4rem; } }
"""
