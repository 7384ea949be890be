"""A report as one web page: no script, no other file, light and dark, readable without seeing colours."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

Values: TypeAlias = Mapping[str, Any]


def render(report: Values, summary: str, sentences: Sequence[str]) -> str:
    """The whole page, from what :meth:`onnxpool.report.Report.to_json` gives."""
    verdict = report["verdict"]
    told = "".join(f"<li>{escape(line)}</li>" for line in sentences)
    versions = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report["environment"].items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{verdict}: {escape(report["model"])}</title>
<style>{_STYLE}</style>
</head>
<body>
<header class="{_class(verdict)}">
<h1>{_mark(verdict)} {escape(summary)}</h1>
<p><code>{escape(report["model"])}</code> against {escape(report["reference"])}</p>
</header>
<main>
{f"<ul>{told}</ul>" if told else ""}
<h2>Error as a share of what is allowed</h2>
{_matrix(report["runs"])}
<h2>Runs</h2>
{"".join(map(_details, report["runs"]))}
<h2>Environment</h2>
<dl>{versions}</dl>
</main>
</body>
</html>
"""


_MARK = {"skipped": "–", "passed": "✓", "noted": "!"}
"""Of a verdict that says that something is wrong: ✗."""


def _matrix(runs: Sequence[Values]) -> str:
    """Cases and outputs down, runs across."""
    found = {(i, result["case"], result["output"]): result for i, run in enumerate(runs) for result in run["results"]}
    rows = dict.fromkeys((case, output) for _, case, output in found)
    several = len({output for _, output in rows}) > 1
    head = "".join(f'<th scope="col">{escape(run["name"])}<br>{_verdict(run["verdict"])}</th>' for run in runs)
    body = "".join(
        f'<tr><th scope="row">{escape(case)}{f" · {escape(output)}" if several else ""}</th>'
        + "".join(f"<td>{_bar(found.get((i, case, output)))}</td>" for i in range(len(runs)))
        + "</tr>"
        for case, output in rows
    )
    return _table(f'<th scope="col">case</th>{head}', body)


def _bar(result: Values | None) -> str:
    """The share of the budget: a bar that is full at 100%, and the number."""
    if result is None or not result["origin"]:
        return _verdict(result["verdict"] if result else "skipped")
    share, verdict = float(result["share"]), result["verdict"]
    return (
        f'<span class="{_class(verdict)}" title="{escape(result["reason"] or result["origin"])}">'
        f'<svg viewBox="0 0 100 8" aria-hidden="true" preserveAspectRatio="none"><rect class="budget" width="100" '
        f'height="8"/><rect width="{100 * min(1.0, share):.2f}" height="8"/></svg>{_mark(verdict)} {share:.1%}</span>'
    )


def _details(run: Values) -> str:
    columns = ("case", "output", "verdict", "max abs", "max rel", "max ULP", "share", "allowed", "origin of the bound")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    places = "".join(f"<li>{escape(place)}</li>" for place in (", ".join(run["providers"]), *run["pooling"]))
    told = f"<ul>{places}</ul>{_table(head, ''.join(map(_row, run['results'])))}" if run["results"] else ""
    return (
        f"<details{' open' if _class(run['verdict']) == 'failed' else ''}>"
        f"<summary>{escape(run['name'])}: {_verdict(run['verdict'])} {escape(run['reason'])}</summary>{told}</details>"
    )


def _row(result: Values) -> str:
    numbers = (result[key] for key in ("max_abs", "max_rel", "max_ulp", "share", "allowed"))
    cells = "".join("<td></td>" if number is None else f"<td>{float(number):.3g}</td>" for number in numbers)
    why = "; ".join(filter(None, (result["reason"], result["origin"])))
    return (
        f'<tr><th scope="row">{escape(result["case"])}</th><td>{escape(result["output"])}</td>'
        f"<td>{_verdict(result['verdict'])}</td>{cells}<td>{escape(why)}</td></tr>"
    )


def _verdict(verdict: str) -> str:
    return f'<span class="{_class(verdict)}">{_mark(verdict)} {verdict}</span>'


def _mark(verdict: str) -> str:
    return _MARK.get(verdict, "✗")


def _class(verdict: str) -> str:
    return verdict if verdict in _MARK else "failed"


def _table(head: str, body: str) -> str:
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --page: #fff; --line: #d1d9e0; --soft: #f6f8fa;
  --passed: #1a7f37; --noted: #8a5a00; --failed: #c21c2c; --skipped: #59636e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --page: #0d1117; --line: #3d444d; --soft: #151b23;
  --passed: #3fb950; --noted: #d29922; --failed: #ff7b72; --skipped: #9198a1; } }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header, main { padding: 1rem max(1rem, calc(50vw - 38rem)); }
header { border-bottom: 4px solid; background: var(--soft); }
header p { color: var(--text); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin-top: 2rem; font-size: 1.15rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
tbody th { font-weight: normal; white-space: nowrap; }
.passed { color: var(--passed); } .noted { color: var(--noted); }
.failed { color: var(--failed); font-weight: 600; } .skipped { color: var(--skipped); }
svg { width: 6rem; height: .5rem; margin-right: .5rem; fill: currentColor; }
svg .budget { fill: var(--line); }
summary { cursor: pointer; padding: .3rem 0; }
li { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
"""
