"""What a person reads of each value that a command shows: a function per type, which gives a page.

Commands hand one of them to :func:`onnxpool.cli.application.show` with the value. The last block of a page is what
``--quiet`` leaves. The types are imported for the type checker alone: neither the help nor a command whose value is
light loads what other commands work with.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from onnxpool.cli.layout import NO_BREAK, Block, Cell, Columns, Facts, Page, Row
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
    from onnxpool.run.downscale import Downscaled
    from onnxpool.run.optimize import Optimized
    from onnxpool.run.predict import Output, Predictions
    from onnxpool.serve.listening import Listening
    from onnxpool.validation.certificate import Verification
    from onnxpool.validation.history import Difference
    from onnxpool.validation.report import Report

_STYLE = {"skipped": "dim", "passed": "bold green", "noted": "yellow"}
"""Of a verdict that says that something is wrong: bold red."""


# --- proof


def report(value: "Report") -> Page:
    """The runs, every sentence, and the verdict."""
    from onnxpool.validation import as_text

    found = as_text.rows(value)
    rows = [Row((_styled(row.verdict), *row.cells[1:]), [_dim(row.worst)] if row.worst else ()) for row in found]
    origins = dict.fromkeys(f"allowed: {row.origin}" for row in found if row.origin)
    return [
        Text(f"{value.model} against {value.reference}", "bold"),
        Columns(as_text.COLUMNS, rows, right=("share of budget", "cases")),
        *origins,
        *([as_text.LEGEND] if origins else []),
        *as_text.sentences(value),
        _styled(value.verdict, value.summary),
    ]


def nodes(value: "Nodes") -> Page:
    """The nodes that do not agree, and how many do."""
    from onnxpool.validation.as_text import percent

    rows = [
        Row(
            (_styled(one.part), percent(one.share), percent(one.total), f"{one.name} ({one.op_type})"), _place(one.line)
        )
        for one in value.results
        if one.part != "agrees"
    ]
    page: list[Block] = [Text(f"node by node, case {value.case!r}, against {value.source}", "bold")]
    if rows:
        page.append(Columns(("verdict", "own share", "total share", "node"), rows, right=("own share", "total share")))
        page.append(
            "own share: of the allowed error, when the node is given right inputs; total share: when it is given what "
            "the nodes before it give; above 100% is wrong"
        )
    agree = sum(one.part == "agrees" for one in value.results)
    first = [f"first: {value.first.sentence}"] if value.first else []
    return [*page, *value.notes, *first, f"{agree} of {len(value.results)} nodes agree"]


def nodes_of_report(value: "NodesOfReport") -> Page:
    """The comparison, and the report with its verdict below it."""
    return [*nodes(value.nodes), "", *report(value.report)]


def bundle(value: "Bundle") -> Page:
    """Where it is, what is in it, and how to run it."""
    from onnxpool.diagnosis.bundle import COMMAND

    return [f"{value.folder}: case {value.case!r}", *value.files, f"run it there: {COMMAND}"]


def bisection(value: "Bisection") -> Page:
    """What fails, and where to run it."""
    return [value.summary, value.reason, *bundle(value.bundle)]


def verification(value: "Verification") -> Page:
    """A line for each fault and note, and for the verdict."""
    faults, notes = (f"fault: {one}" for one in value.faults), (f"note: {one}" for one in value.notes)
    return [*faults, *notes, Text(value.summary, "bold red" if value.faults else "bold green")]


def difference(value: "Difference") -> Page:
    """A line each."""
    kinds = (("worse", value.worse), ("missing", value.missing), ("better", value.better))
    lines = [f"{kind}: {line}" for kind, told in kinds for line in told]
    return [*lines, f"{value.same} results are as they were"]


# --- models


def description(value: "Description") -> Page:
    """What the model holds, and its pooling nodes."""
    size = value.size_bytes
    operators = (f"{name}{NO_BREAK}{count}" for name, count in value.operators.items())
    facts = [
        ("model", f"{value.model} ({f'{size / 1e6:.1f} MB' if size >= 1e6 else f'{size / 1e3:.1f} kB'})"),
        ("golden", value.golden or "none: validate needs a reference"),
        ("form", f"{value.form}, opset {value.opset}, IR version {value.ir_version}, from {value.producer}"),
        ("inputs", "\n".join(map(str, value.inputs))),
        ("outputs", "\n".join(map(str, value.outputs))),
        ("operators", ", ".join(operators)),
    ]
    if value.lost:
        facts.append(("written out", value.lost))
    if not value.pooling:
        return [Facts([*facts, ("pooling", "no node of onnxpool")])]
    rows = [Row((one.node, one.op_type, str(one.window), value.runs(one))) for one in value.pooling]
    return [Facts(facts), "", Columns(("pooling node", "operator", "window", "runs"), rows)]


def swapped(value: "Swapped") -> Page:
    """What became of each layer, and what rules cannot reach."""
    rows = []
    for one in value.replaced:
        new = f"{one.new}, {one.parameters:,} new parameters" if one.parameters else one.new
        rows.append(Row((_places(one.paths), new, one.rule), [f"was {one.old}"]))
    rows += [Row((_places(kept.paths), kept.layer, kept.rule), [f"kept: {kept.reason}"]) for kept in value.kept]
    return [Columns(("layer", "is now", "by the rule"), rows), *value.sentences()]


def lifted(value: "Lifted") -> Page:
    """What became a node, what looks like a pooling and is none, and what was compared."""
    folds = [Row((fold.node, f"{fold.op_type} {fold.window}", fold.spelling)) for fold in value.folds]
    others = [Row((refused.node, refused.likeness, refused.reason)) for refused in value.refused]
    page: list[Block] = []
    if folds:
        page.append(Columns(("lifted node", "became", "was"), folds))
    if others:
        page.append(Columns(("left as it is", "looks like", "reason"), others))
    return [*page, value.checked]


def optimized(value: "Optimized") -> Page:
    """Which pooling nodes are in blocks, and why others are not."""
    rows = [
        Row((node.name, f"{node.op_type} {node.window}", f"in blocks of {value.block_size} channels"))
        for node in value.in_blocks
    ]
    rows += [Row((name, "as it was", reason)) for name, reason in value.kept.items()]
    return [Columns(("pooling", "is now", "how"), rows)] if rows else ["the model has no pooling node of onnxpool"]


def quantized(value: "Quantized") -> Page:
    """What was written, how far each output is from the float model, and what was judged."""
    before, after = (f"{size / 1e6:.3g} MB" for size in (value.size_before_bytes, value.size_after_bytes))
    facts = Facts(
        [
            ("written", f"{value.output} and {value.golden}"),
            ("calibrated", f"with {value.samples} samples of {value.source}"),
            ("size", f"{before} before, {after} after"),
            ("nodes", f"{value.quantized} in whole numbers, {value.in_float} in float"),
            ("pooling", ", ".join(value.native) + " run natively" if value.native else "no node runs natively here"),
        ]
    )
    names = ("most off, steps", "most off", "SNR, dB", "output")
    rows = [
        Row(
            (f"{one.max_steps:.3g}", f"{one.max_abs:.3g}", f"{one.snr_db:.3g}", one.output),
            [f"worst in {one.case}; a step is {one.step:.3g}"],
        )
        for one in value.outputs
    ]
    judged = f"judged: each of {value.weights} weights within its rounding; {value.checked}"
    return [
        facts,
        "",
        Text(f"against the float model, on {value.compared} samples; reported, not judged", "bold"),
        Columns(names, rows, right=names[:3]),
        *value.notes,
        judged,
    ]


def precision(value: "Precision") -> Page:
    """Each node, then what was written and how far it is off."""
    names = ("verdict", "moves outputs by", "largest", "node")
    rows = []
    for node in value.nodes:
        effect = "" if node.effect is None else f"{100 * node.effect:.2g} %"
        cells = (node.verdict, effect, f"{node.largest:.3g}", f"{node.name} ({node.op_type})")
        rows.append(Row(cells, () if node.verdict == "safe" else [_dim(node.reason)]))
    page: list[Block] = [Columns(names, rows, right=names[1:3])]
    if value.output:
        before, after = (f"{size / 1e6:.3g} MB" for size in (value.size_before_bytes, value.size_after_bytes))
        page.append(f"written: {value.output} and {value.golden}; weights {before} before, {after} after")
        page.append(f"judged: {value.checked}")
    together = f"{len(value.safe)} of {len(value.nodes)} nodes are safe in {value.to}"
    off = f"together they move the outputs by {100 * value.error:.2g} %, of a budget of {100 * value.budget:g} %"
    return [*page, *value.notes, f"{together}; {off}, on {value.samples} samples of {value.source}"]


# --- running


def predictions(value: "Predictions") -> Page:
    """For each picture and output the best classes, or figures."""
    page: list[Block] = []
    for prediction in value.pictures:
        height, width = prediction.size
        told = f"{prediction.picture}, {height}x{width}, {prediction.time_s * 1e3:.1f} ms"
        page.append(Text(told, "bold"))
        for output in prediction.outputs:
            if output.classes:
                rows = [Row(cells) for cells in _classes(output)]
                page += [f"{output.name}:", Columns(("score", "class"), rows, right=("score",))]
            else:
                page.append(Facts([(output.name, _figures(output))]))
    return page


def downscaled(value: "Downscaled") -> Page:
    """What was written, and sizes."""
    (h, w), (height, width) = value.before, value.after
    return [f"{value.output}: {height}x{width} pixels, from {h}x{w}"]


def batch(value: "Batch") -> Page:
    """What was written, and how fast."""
    return [value.summary]


def package(value: "Package") -> Page:
    """What was written, what the server must hold, and what to know."""
    facts = [
        ("package", f"{value.folder}: {value.name}, {value.form} form"),
        ("files", "\n".join(value.files)),
        ("needs", "\n".join(value.needs)),
    ]
    if value.notes:
        facts.append(("notes", "\n".join(value.notes)))
    return [Facts(facts), *(["run it by", value.run.replace(" ", NO_BREAK)] if value.run else [])]


def listening(value: "Listening") -> Page:
    """What is served, where, and a line to copy, which is not wrapped."""
    *lines, line = value.text().split("\n")
    return [*lines, line.replace(" ", NO_BREAK)]


# --- this installation


def catalog(value: "Catalog") -> Page:
    """A line for each method."""
    rows = [
        Row((method.name, _native(method.native) if method.operator else "standard operators", method.summary))
        for method in value.methods
    ]
    lacking = [f"{where}: none here, {why}" for where, why in _lacking(value) if why]
    more = "'onnxpool pools SoftPool' tells all of one: its formula, source, modules and types"
    return [Columns(("method", "runs natively", "what it gives"), rows), *lacking, more]


def methods(value: "Catalog") -> Page:
    """All about each method."""
    page: list[Block] = []
    for method in value.methods:
        facts = [
            ("formula", method.formula),
            ("source", method.source),
            ("modules", ", ".join(f"onnxpool.nn.{name}" for name in method.modules)),
            ("types", ", ".join(method.dtypes)),
            ("in ONNX", f"{DOMAIN}::{method.operator}" if method.operator else "standard operators"),
        ]
        if method.operator:
            facts.append(("native", ", ".join(method.native) or f"none here: {value.no_kernels}"))
            facts.append(("on CUDA", ", ".join(method.cuda) or f"none here: {value.no_cuda}"))
        page += [Text(f"{method.name}: {method.summary}", "bold"), Facts(facts)]
    return page


def diagnosis(value: "Diagnosis") -> Page:
    """The facts, notes, problems with their remedies, and whether all is well."""
    facts = [
        ("python", f"{value.python}, {value.platform}"),
        *((package, version or "not installed") for package, version in value.versions.items()),
        ("providers", ", ".join(value.providers) or "none"),
        ("native library", value.library or "none"),
        ("CUDA kernels", value.cuda.library or "none"),
    ]
    if value.cuda.library:
        facts.append(("  code for", ", ".join(value.cuda.architectures) or "unknown"))
        facts.append(("  devices", str(value.cuda.devices)))
    if value.cuda.missing:
        facts.append(("  not used", value.cuda.missing))
    facts.append(("for OpenVINO", value.openvino or "none"))
    facts.append(("in PyTorch", f"not native: {value.pytorch}" if value.pytorch else "native on the CPU"))
    notes = [f"note: {note}" for note in value.notes]
    problems = [Text(f"problem: {found.what}; remedy: {found.remedy}", "red") for found in value.problems]
    verdict = Text("all that is installed works", "green") if value.healthy else Text("something is broken", "red")
    return [Facts(facts), *notes, *problems, verdict]


def built(value: "Built") -> Page:
    """Where it is, and what it is for."""
    made = "was there already" if value.cached else f"compiled in {value.time_s:.0f} s"
    return [f"{value.path}: for OpenVINO {value.release}, {made}"]


# --- parts


def _styled(verdict: str, text: str = "") -> Text:
    return Text(text or verdict, _STYLE.get(verdict, "bold red"))


def _dim(text: str) -> Text:
    return Text(text, "dim")


def _place(line: str) -> Sequence[Cell]:
    return [_dim(f"at {line}")] if line else ()


def _figures(output: "Output") -> str:
    """What is known of an output that holds no scores."""
    figures = {"least": output.least, "largest": output.largest, "mean": output.mean, "NaN": output.nan or None}
    told = (f"{name} {number:.4g}" for name, number in figures.items() if number is not None)
    return f"{output.shape}: {', '.join(told)}"


def _classes(output: "Output") -> Iterable[tuple[str, str]]:
    """Score and name of each class."""
    for one in output.classes:
        yield "not finite" if one.score is None else f"{one.score:.4f}", one.label or f"class {one.index}"


def _places(paths: Sequence[str]) -> str:
    return ", ".join(path or "(the network)" for path in paths)


def _native(types: Sequence[str]) -> str:
    return ", ".join(types) or "not here"


def _lacking(value: "Catalog") -> Iterable[tuple[str, str | None]]:
    yield "native kernels", value.no_kernels
    yield "on CUDA", value.no_cuda
