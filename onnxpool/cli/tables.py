"""What a person reads of each value that a command shows: a function per type, which gives what rich prints.

Commands hand one of them to :func:`onnxpool.cli.application.show` with the value. The types are imported for the type
checker alone: neither the help nor a command whose value is light loads what other commands work with.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxpool.domain import DOMAIN

if TYPE_CHECKING:
    from onnxpool.about.machine import Diagnosis
    from onnxpool.about.methods import Catalog
    from onnxpool.about.model import Description
    from onnxpool.deploy.batch import Batch
    from onnxpool.deploy.triton import Package
    from onnxpool.diagnosis.bisect import Bisection
    from onnxpool.diagnosis.bundle import Bundle
    from onnxpool.diagnosis.results import Nodes, NodesOfReport
    from onnxpool.lifting.lift import Lifted
    from onnxpool.network.swap import Swapped
    from onnxpool.openvino import Built
    from onnxpool.quantizing.precision import Precision
    from onnxpool.quantizing.quantize import Quantized
    from onnxpool.run.predict import Output, Predictions
    from onnxpool.validation.certificate import Verification
    from onnxpool.validation.history import Difference
    from onnxpool.validation.report import Report

_STYLE = {"skipped": "dim", "passed": "bold green", "noted": "yellow"}
"""Of a verdict that says that something is wrong: bold red."""


# --- proof


def report(value: "Report") -> RenderableType:
    """The runs, every sentence, and the verdict."""
    from onnxpool.validation import as_text

    def styled(text: str, verdict: str) -> Text:
        return Text(text, _STYLE.get(verdict, "bold red"))

    rows = as_text.rows(value)
    table = _columns(as_text.COLUMNS, title=f"{value.model} against {value.reference}")
    for row in rows:
        name, verdict, *others = row.cells
        table.add_row(name, styled(verdict, verdict), *others)
    origins = dict.fromkeys(f"allowed: {row.origin}" for row in rows if row.origin)
    return Group(table, *map(Text, (*origins, *as_text.sentences(value))), styled(value.summary, value.verdict))


def nodes(value: "Nodes") -> RenderableType:
    """The nodes that do not agree, and how many do."""
    columns = ("node", "operator", "verdict", "own share", "total share", "line")
    table = _columns(columns, title=f"Node by node, case {value.case!r}, against {value.source}")
    for one in value.results:
        if one.part != "agrees":
            table.add_row(one.name, one.op_type, one.part, f"{one.share:.3g}", f"{one.total:.3g}", one.line)
    agree = sum(one.part == "agrees" for one in value.results)
    lines = [f"{agree} of {len(value.results)} nodes agree", *value.notes]
    lines += [f"first: {value.first.sentence}"] if value.first else []
    return Group(*([table] if table.row_count else []), *map(Text, lines))


def nodes_of_report(value: "NodesOfReport") -> RenderableType:
    """The one under the other."""
    return Group(report(value.report), nodes(value.nodes))


def bundle(value: "Bundle") -> str:
    """Where it is, what is in it, and how to run it."""
    from onnxpool.diagnosis.bundle import COMMAND

    return "\n".join([f"{value.folder}: case {value.case!r}", *value.files, f"run it there: {COMMAND}"])


def bisection(value: "Bisection") -> str:
    """What fails, and where to run it."""
    return f"{value.summary}\n{value.reason}\n{bundle(value.bundle)}"


def verification(value: "Verification") -> str:
    """A line for the verdict, and for each fault and note."""
    faults, notes = (f"fault: {one}" for one in value.faults), (f"note: {one}" for one in value.notes)
    return "\n".join([value.summary, *faults, *notes])


def difference(value: "Difference") -> str:
    """A line each."""
    kinds = (("worse", value.worse), ("missing", value.missing), ("better", value.better))
    lines = [f"{kind}: {line}" for kind, told in kinds for line in told]
    return "\n".join([*lines, f"{value.same} results are as they were"])


# --- models


def description(value: "Description") -> RenderableType:
    """What the model holds, and a table of its pooling nodes."""
    size = value.size_bytes
    facts = _facts(
        ("model", f"{value.model} ({f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} kB'})"),
        ("golden", value.golden or "none: validate needs a reference"),
        ("form", f"{value.form}, opset {value.opset}, IR version {value.ir_version}, from {value.producer}"),
        ("inputs", "\n".join(map(str, value.inputs))),
        ("outputs", "\n".join(map(str, value.outputs))),
        ("operators", ", ".join(f"{name} {count}" for name, count in value.operators.items())),
    )
    if value.lost:
        facts.add_row("written out", Text(value.lost))
    if not value.pooling:
        facts.add_row("pooling", "no node of onnxpool")
        return facts
    table = _columns(("pooling node", "operator", "window", "runs"))
    for pool in value.pooling:
        table.add_row(pool.node, pool.op_type, str(pool.window), Text(value.runs(pool)))
    return Group(facts, table)


def swapped(value: "Swapped") -> RenderableType:
    """What became of each layer, and what rules cannot reach."""
    table = _columns(("layer", "was", "is", "rule"))
    for one in value.replaced:
        new = one.new + (f"\n{one.parameters:,} new parameters" if one.parameters else "")
        table.add_row(*map(Text, (_places(one.paths), one.old, new, one.rule)))
    for kept in value.kept:
        table.add_row(*map(Text, (_places(kept.paths), kept.layer, f"kept: {kept.reason}", kept.rule)))
    return Group(table, *map(Text, value.sentences()))


def lifted(value: "Lifted") -> RenderableType:
    """What became a node, what looks like a pooling and is none, and what was compared."""
    folds = _columns(("node", "became", "window", "was"), title="lifted")
    for fold in value.folds:
        folds.add_row(fold.node, fold.op_type, fold.window, fold.spelling)
    others = _columns(("node", "looks like", "reason"), title="left as they are")
    for refused in value.refused:
        others.add_row(refused.node, refused.likeness, refused.reason)
    return Group(*(table for table in (folds, others) if table.row_count), value.checked)


def quantized(value: "Quantized") -> RenderableType:
    """What was written, how far each output is from the float model, and what was judged."""
    before, after = (f"{size / 1e6:.3g} MB" for size in (value.size_before_bytes, value.size_after_bytes))
    facts = _facts(
        ("written", f"{value.output} and {value.golden}"),
        ("calibrated", f"with {value.samples} samples of {value.source}"),
        ("size", f"{before} before, {after} after"),
        ("nodes", f"{value.quantized} in whole numbers, {value.in_float} in float"),
        ("pooling", ", ".join(value.native) + " run natively" if value.native else "no node runs natively here"),
    )
    names = ("output", "step", "most off, steps", "most off", "signal to noise, dB", "worst")
    table = _columns(names, title=f"against the float model, on {value.compared} samples")
    for one in value.outputs:
        figures = (one.step, one.max_steps, one.max_abs, one.snr_db)
        table.add_row(one.output, *(f"{number:.3g}" for number in figures), one.case)
    judged = f"judged: each of {value.weights} weights within its rounding; {value.checked}"
    return Group(facts, table, *map(Text, (judged, "the table is reported, not judged", *value.notes)))


def precision(value: "Precision") -> RenderableType:
    """Each node, then what was written and how far it is off."""
    table = _columns(("node", "operator", "verdict", "moves outputs by", "largest", "why"))
    for node in value.nodes:
        effect = "" if node.effect is None else f"{100 * node.effect:.2g} %"
        table.add_row(node.name, node.op_type, node.verdict, effect, f"{node.largest:.3g}", node.reason)
    together = f"{len(value.safe)} of {len(value.nodes)} nodes are safe in {value.to}"
    off = f"together they move the outputs by {100 * value.error:.2g} %, of a budget of {100 * value.budget:g} %"
    parts: list[RenderableType] = [table, Text(f"{together}; {off}, on {value.samples} samples of {value.source}")]
    if value.output:
        before, after = (f"{size / 1e6:.3g} MB" for size in (value.size_before_bytes, value.size_after_bytes))
        parts.append(Text(f"written: {value.output} and {value.golden}; weights {before} before, {after} after"))
        parts.append(Text(f"judged: {value.checked}"))
    return Group(*parts, *map(Text, value.notes))


# --- running


def predictions(value: "Predictions") -> RenderableType:
    """For each picture and output the best classes, or figures."""
    table = _columns(("picture", "output", "class", "score"))
    table.columns[-1].justify = "right"
    for prediction in value.pictures:
        told = f"{prediction.picture}\n{prediction.time_s * 1e3:.1f} ms"
        for output in prediction.outputs:
            table.add_row(told, output.name, *_cells(output), end_section=output is prediction.outputs[-1])
            told = ""
    return table


def batch(value: "Batch") -> RenderableType:
    """What was written, and how fast."""
    return Text(value.summary)


def package(value: "Package") -> RenderableType:
    """What was written, what the server must hold, and what to know."""
    facts = _facts(
        ("package", f"{value.folder}: {value.name}, {value.form} form"),
        ("files", "\n".join(value.files)),
        ("needs", "\n".join(value.needs)),
    )
    if value.notes:
        facts.add_row("notes", "\n".join(value.notes))
    if value.run:
        facts.add_row("run", Text(value.run, no_wrap=True, overflow="ignore"))
    return facts


# --- this installation


def catalog(value: "Catalog") -> RenderableType:
    """Each method in some lines."""
    parts = []
    for method in value.methods:
        facts = _facts(
            (method.name, method.summary),
            ("  formula", method.formula),
            ("  source", method.source),
            ("  modules", ", ".join(f"onnxpool.nn.{name}" for name in method.modules)),
            ("  types", ", ".join(method.dtypes)),
            ("  in ONNX", f"{DOMAIN}::{method.operator}" if method.operator else "standard operators"),
        )
        if method.operator:
            facts.add_row("  native", Text(", ".join(method.native) or f"none here: {value.no_kernels}"))
            facts.add_row("  on CUDA", Text(", ".join(method.cuda) or f"none here: {value.no_cuda}"))
        parts.append(facts)
    return Group(*parts)


def diagnosis(value: "Diagnosis") -> RenderableType:
    """The facts, notes, problems with their remedies, and whether all is well."""
    facts = _facts(
        ("python", f"{value.python}, {value.platform}"),
        *((package, version or "not installed") for package, version in value.versions.items()),
        ("providers", ", ".join(value.providers) or "none"),
        ("native library", value.library or "none"),
        ("CUDA kernels", value.cuda.library or "none"),
    )
    if value.cuda.library:
        facts.add_row("  code for", ", ".join(value.cuda.architectures) or "unknown")
        facts.add_row("  devices", str(value.cuda.devices))
    if value.cuda.missing:
        facts.add_row("  not used", value.cuda.missing)
    facts.add_row("for OpenVINO", value.openvino or "none")
    facts.add_row("in PyTorch", f"not native: {value.pytorch}" if value.pytorch else "native on the CPU")
    notes = [Text(f"note: {note}") for note in value.notes]
    problems = [Text(f"problem: {found.what}; remedy: {found.remedy}", "red") for found in value.problems]
    verdict = Text("all that is installed works", "green") if value.healthy else Text("something is broken", "red")
    return Group(facts, *notes, *problems, verdict)


def built(value: "Built") -> RenderableType:
    """Where it is, and what it is for."""
    made = "was there already" if value.cached else f"compiled in {value.time_s:.0f} s"
    return Text(f"{value.path}: for OpenVINO {value.release}, {made}")


# --- parts


def _columns(names: Sequence[str], title: str | None = None) -> Table:
    """An empty table whose cells are folded, never cut off."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _facts(*rows: tuple[str, str]) -> Table:
    """Names and what they are, without lines."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for row in rows:
        facts.add_row(*row)
    return facts


def _cells(output: "Output") -> tuple[str, str]:
    """Classes and scores, or figures where the output holds no scores."""
    if not output.classes:
        figures = {"least": output.least, "largest": output.largest, "mean": output.mean, "NaN": output.nan or None}
        told = (f"{name} {number:.4g}" for name, number in figures.items() if number is not None)
        return f"{output.shape}: {', '.join(told)}", ""
    names = (one.label or f"class {one.index}" for one in output.classes)
    scores = ("not finite" if one.score is None else f"{one.score:.4f}" for one in output.classes)
    return "\n".join(names), "\n".join(scores)


def _places(paths: Sequence[str]) -> str:
    return "\n".join(path or "(the network)" for path in paths)
