"""Which nodes of a float32 model may compute in float16, or in 8 bits, and the model that does so, proven.

Each node is switched alone (:mod:`onnxpool.quantizing.switched`), on samples of what the network sees, and the outputs
looked at; then as many together as the budget allows, those that do least first.

    safe         in the type asked for
    needs float32    alone, or beside the others, it moves an output by more than half of the ``budget``
    overflows    a value that it takes or gives, or a sum inside, comes too near to the largest float16: within a factor
                 of 4, or of more where a few numbers are much larger than the others, as reciprocals are
    has none     no form in that type, or not one that is proven: what branches and loops do, types, comparisons

The budget is a share of the answer, or of the median answer where that is larger: 0.01 allows an error of 1 %. Half of
it is left for inputs that are like the samples and are not among them, and so is the distance to the largest number.
What was never seen, such as values ten times as large, is not promised.

>>> advice = precision("network.onnx", "network-float16.onnx", "photos")  # doctest: +SKIP
>>> advice.nodes[2].sentence  # doctest: +SKIP
"node 'exp' (Exp) overflows: its value 'exp_out' reaches 1.63e+05, float16 ends at 65504"
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, FormError, GoldenError, MissingExtra, OnnxpoolError
from onnxpool.golden import collect, from_model
from onnxpool.golden import file as golden_file
from onnxpool.golden.file import Answers, Case, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.perturbed import moved_inputs
from onnxpool.graph import forms, mixed, quantized, subgraph
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.graph.forms import Model
from onnxpool.pools import OPERATORS
from onnxpool.quantizing.calibration import Calibration, samples
from onnxpool.quantizing.inside import largest_inside
from onnxpool.quantizing.quantize import quantize
from onnxpool.quantizing.switched import Places, Switched, To, apart
from onnxpool.run.native_library import why_missing
from onnxpool.run.session import load
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import Progress, validate

BUDGET: dict[To, float] = {"float16": 0.01, "int8": 0.25}
"""What outputs may be off if nobody says otherwise."""

SLACK = 2.0
"""What is measured may be the budget by this: other inputs than the samples do more."""

MARGIN = 4.0
"""How far below the largest number of float16 values stay, for the same reason."""

FURTHER = 1000.0
"""So many times the numbers that were seen are to stay below it, too, where few of them are much larger than others."""

_TOP, _LEAST_COUNT = 64, 32

MOST_TRIED = 16
"""Samples that nodes are switched on; ranges are of all."""

SCALES: dict[To, tuple[float, ...]] = {"float16": (1.0, 0.5, 0.25), "int8": (1.0,)}
"""Each is tried at these sizes: what nearly vanishes in few inputs does so in others of them."""

MOST_RUNS = 1000
"""Of nodes that are switched alone, all together; of a large model each on fewer samples."""

HALF_ULP = 2.0**12
"""Half an ULP of float16 in ULP of float32: by so much inputs move in the runs that measure what rounding does."""

Verdict: TypeAlias = Literal["safe", "needs float32", "overflows", "has none"]


@dataclass(frozen=True)
class NodeAdvice:
    """``effect`` is how far the node alone moves the outputs, None where that was not tried; ``largest`` the largest
    magnitude of what it takes, gives and sums up, and ``value`` the name of what that is.
    """

    name: str
    op_type: str
    verdict: Verdict
    effect: float | None
    largest: float
    value: str
    reason: str

    @property
    def sentence(self) -> str:
        """What is advised, and why."""
        told = f"node {self.name!r} ({self.op_type}) {'is safe' if self.verdict == 'safe' else self.verdict}"
        return f"{told}: {self.reason}"


@dataclass(frozen=True)
class Precision:
    """What is advised of each node, and what was written; ``output`` and ``golden`` are "" where nothing was.

    ``error`` is how far all that is safe moves the outputs together, of ``budget`` that was allowed: of the file that
    was written, where one was.
    """

    model: str
    to: To
    budget: float
    source: str
    samples: int
    nodes: tuple[NodeAdvice, ...]
    error: float
    output: str
    golden: str
    size_before_bytes: int
    size_after_bytes: int
    checked: str
    notes: tuple[str, ...]

    @property
    def safe(self) -> tuple[str, ...]:
        """The names of the nodes that are safe."""
        return tuple(node.name for node in self.nodes if node.verdict == "safe")

    @property
    def exclude(self) -> tuple[str, ...]:
        """The names of the others, which :func:`onnxpool.quantize` takes."""
        return tuple(node.name for node in self.nodes if node.verdict != "safe")

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; an effect that is not finite is None."""
        values = asdict(self)
        for one in values["nodes"]:
            one.update(
                {name: None for name in ("effect", "largest") if one[name] is None or not np.isfinite(one[name])}
            )
        return {**values, "safe": [*self.safe], "exclude": [*self.exclude]}


def precision(
    model: Model,
    output: str | os.PathLike[str] | None = None,
    calibration: Calibration = None,
    *,
    to: To = "float16",
    budget: float | None = None,
    size: tuple[int, int] | None = None,
    crop: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Precision:
    """Advise on each node of a float32 ``model``; written to ``output``, in function form, if that is given.

    ``calibration``, ``size``, ``crop``, ``mean`` and ``std`` are as of :func:`onnxpool.quantize`; by default the golden
    inputs beside the model. ``to`` is ``"float16"`` or ``"int8"``, which :func:`onnxpool.quantize` writes, with what is
    not safe excluded. ``budget`` is what outputs may be off (:data:`BUDGET`), above 0 and below 1.

    What is written has passed :func:`onnxpool.validate` against the float64 answers of the float32 model, which are
    written beside it, and stays within half of the budget on all samples that were tried.

    Raises :class:`ArgumentError` for what cannot be used, :class:`MissingExtra` without ONNX Runtime, and
    :class:`FormError` for a model that is not of float32, and where no node is safe or what was made is wrong: then
    nothing is written.
    """
    if to not in get_args(To):
        raise ArgumentError(f"to={to!r} is unknown; use one of {', '.join(get_args(To))}")
    budget = BUDGET[to] if budget is None else budget
    if not 0 < budget < 1:
        raise ArgumentError(f"budget={budget!r} must be a share above 0 and below 1, such as {BUDGET[to]}")
    if output is not None and isinstance(model, str | os.PathLike) and Path(output).resolve() == Path(model).resolve():
        raise ArgumentError(f"output={os.fspath(output)!r} is the model itself; write to another file")
    told = progress or (lambda *_: None)
    original = forms.read(model)
    base = _prepared(original)
    running = load(forms.to_form(base, "function"), kernels="off")
    picture = {"size": size, "crop": crop, "mean": mean, "std": std}
    given = samples(calibration, model, running.inputs, picture)
    told(0, len(given), "looking at values")
    seen = _seen(base, [given.feeds(i) for i in range(len(given))])
    tried = [_scaled(given.feeds(i), by) for i in range(min(len(given), MOST_TRIED)) for by in SCALES[to]]
    right = [running.run(feeds) for feeds in tried]
    known, candidates = _sorted(base, seen, to)
    switched = Switched(base, candidates, to, seen.ranges)
    few = max(2, MOST_RUNS // (2 * max(1, len(candidates))))
    effects: dict[str, float] = {}
    for i, name in enumerate(candidates):
        told(i, len(candidates), name)
        effects[name] = switched.effect(tried[:few], right[:few], {name})
    order = sorted((name for name in effects if effects[name] <= budget / SLACK), key=lambda name: effects[name])
    count = _most(len(order), lambda n: switched.effect(tried, right, order[:n]) <= budget / SLACK)

    written = None
    if output is not None:
        told(0, 1, "writing")
        make = _in_float16 if to == "float16" else _in_int8
        written = make(model, base, output, order[:count], given, calibration, picture, budget, tried, right)
        count = written.count
    safe = order[:count]
    nodes = [known.get(name) or _advice(base, seen, name, effects[name], safe, budget) for name in _names(base)]
    told(1, 1, "done")
    return Precision(
        model=os.fspath(model) if isinstance(model, str | os.PathLike) else original.graph.name or "model",
        to=to,
        budget=budget,
        source=given.source,
        samples=len(given),
        nodes=tuple(nodes),
        error=written.error if written else switched.effect(tried, right, safe),
        output=os.fspath(output) if written and output is not None else "",
        golden=str(golden_file.path_for(output)) if written and output is not None else "",
        size_before_bytes=_size_bytes(base),
        size_after_bytes=written.size_bytes if written else 0,
        checked=written.checked if written else "",
        notes=(*_notes(calibration, original), *(written.notes if written else ())),
    )


def _scaled(feeds: Feeds, by: float) -> Feeds:
    """The same, times a number where it is of floating point."""
    return {name: array * array.dtype.type(by) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _names(base: ir.Model) -> list[str]:
    return [str(node.name) for node in base.graph if node.op_type != "Constant"]


def _prepared(original: ir.Model) -> ir.Model:
    if quantized.is_quantized(original):
        raise FormError("the model is quantised already; take its float original")
    base = mixed.prepared(original)
    for value in (*base.graph.inputs, *base.graph.initializers.values()):
        if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise FormError(
                f"the model computes in {value.dtype.numpy().name} ({value.name!r}); advice is on float32: export it "
                "with that"
            )
    return base


# --- what is seen


@dataclass(frozen=True)
class _Seen:
    """Of each value the least and the largest number, and how much larger others may come; of each node the largest
    inside.
    """

    ranges: dict[str, tuple[float, float]]
    margins: dict[str, float]
    inside: dict[str, float]

    def largest(self, name: str) -> float:
        least, most = self.ranges.get(name, (0.0, 0.0))
        return float(np.maximum(abs(least), abs(most)))


def _seen(base: ir.Model, every: Sequence[Feeds]) -> _Seen:
    """Every value of the model in ONNX Runtime, on all samples; NaN where one of them leads to NaN."""
    floats = {
        str(value.name): np.zeros(0, np.float32)
        for node in base.graph
        for value in node.outputs
        if value.name and value.dtype == ir.DataType.FLOAT
    }
    opened = load(forms.to_form(subgraph.opened(base, floats), "function"), kernels="off")
    weights = {
        str(name): value.const_value.numpy()
        for name, value in base.graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT
    }
    ranges = {name: (float(array.min()), float(array.max())) for name, array in weights.items() if array.size}
    inside: dict[str, float] = {}
    tops: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for feeds in every:
        arrays = {**weights, **feeds, **opened.run(feeds)}
        for name, array in arrays.items():
            if name in weights or array.dtype != np.float32 or not array.size:
                continue
            least, most = float(array.min()), float(array.max())
            before = ranges.get(name, (least, most))
            ranges[name] = (float(np.minimum(before[0], least)), float(np.maximum(before[1], most)))
            tops[name] = np.sort(np.concatenate([tops.get(name, np.zeros(0)), _top(array)]))[-_TOP:]
            counts[name] = counts.get(name, 0) + array.size
        wide: dict[str, Array] = {name: array for name, array in arrays.items() if array.dtype == np.float32}
        for node in base.graph:
            inside[str(node.name)] = max(inside.get(str(node.name), 0.0), largest_inside(node, wide))
    margins = {name: _margin(top, counts[name]) for name, top in tops.items()}
    return _Seen(ranges, margins, inside)


def _top(array: Array) -> Array:
    """The largest magnitudes."""
    flat = np.abs(array).reshape(-1)
    return np.asarray(np.partition(flat, -_TOP)[-_TOP:] if flat.size > _TOP else flat, np.float64)


def _margin(top: Array, count: int) -> float:
    """How many times the largest of ``count`` numbers one of :data:`FURTHER` times as many may be: by the index of a
    tail that falls as a power (Hill, Annals of Statistics, 1975), as that of a reciprocal does, and at least
    :data:`MARGIN`.
    """
    some = top[-min(_TOP, count // 4) :]
    if count < _LEAST_COUNT or not some.size or not 0 < some[0] <= some[-1] < np.inf:
        return MARGIN
    return max(MARGIN, float(FURTHER ** np.mean(np.log(some / some[0]))))


def _sorted(base: ir.Model, seen: _Seen, to: To) -> tuple[dict[str, NodeAdvice], dict[str, Places]]:
    """The nodes of which something is known at once, and the others, with what is rounded of them."""
    whole = _quantizable() if to == "int8" else frozenset[str]()
    known, candidates = dict[str, NodeAdvice](), dict[str, Places]()
    for node in base.graph:
        if node.op_type == "Constant":
            continue
        name = str(node.name)
        inputs, outputs = mixed.places(node, base.opset_imports)
        value, largest = _largest(node, seen, inputs, outputs)
        if not outputs or (to == "int8" and node.op_type not in whole):
            reason = f"{node.op_type} stays as it is: it has no form in {to} that gives the same kind of numbers"
            known[name] = NodeAdvice(name, node.op_type, "has none", None, largest, value, reason)
        elif not np.isfinite(largest):
            known[name] = NodeAdvice(
                name, node.op_type, "overflows", None, largest, value, f"its value {value!r} has NaN or infinity"
            )
        elif to == "float16" and largest * _room(base, seen, value) > mixed.LARGEST:
            what = f"its sums reach {largest:.3g}" if value == name else f"its value {value!r} reaches {largest:.3g}"
            reason = f"{what}, float16 ends at {mixed.LARGEST:g}"
            known[name] = NodeAdvice(name, node.op_type, "overflows", None, largest, value, reason)
        else:
            candidates[name] = (inputs, outputs)
    return known, candidates


def _quantizable() -> frozenset[str]:
    try:
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu", "quantize") from error
    return frozenset({*QDQRegistry, *QLinearOpsRegistry, *OPERATORS})


def _room(base: ir.Model, seen: _Seen, value: str) -> float:
    """How many times that value must fit into float16: a weight once."""
    return 1.0 if value in base.graph.initializers else seen.margins.get(value, MARGIN)


def _largest(node: ir.Node, seen: _Seen, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[str, float]:
    """What of a node comes nearest to the end of float16, and its magnitude; the node's own name for its sums."""
    values = [str(value.name) for i in inputs if (value := node.inputs[i]) is not None]
    values += [str(node.outputs[i].name) for i in outputs]
    found = [(seen.largest(name) * seen.margins.get(name, 1.0), name) for name in values]
    inside = seen.inside.get(str(node.name), 0.0)
    _, name = max([*found, (inside, str(node.name))], key=lambda one: np.nan_to_num(one[0], nan=np.inf))
    return name, inside if name == node.name else seen.largest(name)


def _advice(base: ir.Model, seen: _Seen, name: str, effect: float, safe: Sequence[str], budget: float) -> NodeAdvice:
    node = next(node for node in base.graph if node.name == name)
    value, largest = _largest(node, seen, *mixed.places(node, base.opset_imports))
    alone = f"alone it moves the outputs by {100 * effect:.2g} %"
    if name in safe:
        return NodeAdvice(name, node.op_type, "safe", effect, largest, value, alone)
    limit = f"{100 * budget / SLACK:.2g} % is allowed here"
    told = (
        f"{alone}, {limit}" if not effect <= budget / SLACK else f"{alone}, and beside the others by more than {limit}"
    )
    return NodeAdvice(name, node.op_type, "needs float32", effect, largest, value, told)


def _most(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` for which it holds, if it holds for all smaller ones; 0 where for none."""
    least, most = 0, count
    if count and holds(count):
        return count
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if holds(middle) else (least, middle)
    return least


# --- what is written


@dataclass(frozen=True)
class _Written:
    count: int
    error: float
    size_bytes: int
    checked: str
    notes: tuple[str, ...]


def _in_float16(
    model: Model,
    base: ir.Model,
    output: str | os.PathLike[str],
    order: Sequence[str],
    given: Any,
    calibration: Calibration,
    picture: Mapping[str, Any],  # noqa: ARG001 - as the other
    budget: float,
    tried: Sequence[Feeds],
    right: Sequence[Feeds],
) -> _Written:
    def made_of(names: Sequence[str]) -> tuple[ir.Model, float]:
        made = forms.to_form(mixed.lowered(base, names), "function")
        session = load(made, kernels="off")
        pairs = zip(tried, right, strict=True)
        return made, max(apart(session.run(feeds), answers) for feeds, answers in pairs)

    count = len(order)
    while count:
        made, error = made_of(order[:count])
        if error <= budget / SLACK:
            break
        count = count * 3 // 4
    else:
        raise FormError("no node is safe in float16, so that there is nothing to write; a larger budget allows more")
    answered = _golden(model, base, made, given.feeds(0), given.source if calibration is not None else "")
    golden = replace(answered, fingerprints=fingerprints(made))
    needed: tuple[Literal["native"], ...] = ("native",) if forms.pool_nodes(made) and why_missing() is None else ()
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        path = Path(folder, "mixed.onnx")
        forms.write(made.clone(), path)
        report = validate(path, golden, require=needed)
        if not report.passed:
            raise FormError(f"the mixed model is wrong, and was not written: {'; '.join(sentences(report))}")
    forms.write(made, output)
    golden_file.save(golden, golden_file.path_for(output))
    checked = f"{report.summary}: against the float64 answers of the float32 model, {len(golden.cases)} cases"
    return _Written(count, error, _size_bytes(made), checked, report.notes)


def _in_int8(
    model: Model,
    base: ir.Model,
    output: str | os.PathLike[str],
    order: Sequence[str],
    given: Any,  # noqa: ARG001 - as the other
    calibration: Calibration,
    picture: Mapping[str, Any],
    budget: float,
    tried: Sequence[Feeds],
    right: Sequence[Feeds],
) -> _Written:
    count = len(order)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        path = Path(folder, "int8.onnx")
        source: Model = forms.to_form(base, "function")
        feeds = calibration
        if calibration is None and isinstance(model, str | os.PathLike):
            feeds = golden_file.path_for(model)
        pictures = {name: value for name, value in picture.items() if value is not None}
        while count:
            left = [name for name in _names(base) if name not in order[:count]]
            done = quantize(source, path, feeds, exclude=left, **pictures)
            session = load(path, kernels="off")
            error = max(apart(session.run(one), answers) for one, answers in zip(tried, right, strict=True))
            if error <= budget / SLACK:
                break
            count = count * 3 // 4
        else:
            raise FormError("no node is safe in int8, so that there is nothing to write; a larger budget allows more")
        forms.write(forms.read(path), output)
        golden_file.save(golden_file.load(golden_file.path_for(path)), golden_file.path_for(output))
    return _Written(count, error, done.size_after_bytes, done.checked, done.notes)


def _golden(model: Model, base: ir.Model, made: ir.Model, first: Feeds, source: str) -> Golden:
    """The answers of the float32 model, by its golden file or in float64, with what the mixed model errs of them."""
    session = load(made, kernels="off")

    def otherwise(feeds: Feeds, seed: int, ulps: float) -> Feeds:
        return session.run(moved_inputs(feeds, np.random.default_rng(seed), ulps * HALF_ULP))

    yardstick = collect.own_error(session.run, made, otherwise)
    beside = golden_file.path_for(model) if isinstance(model, str | os.PathLike) else None
    if beside is not None and beside.exists():
        return _measured(golden_file.load(beside), yardstick)
    exact = from_model.evaluator(from_model.in_dtype(base, ir.DataType.DOUBLE))

    def answer(feeds: Feeds) -> Answers:
        return {name: np.asarray(array, np.float64) for name, array in exact(feeds).items()}

    weights = sum(value.const_value.size for value in base.graph.initializers.values() if value.const_value)
    return collect.collect(
        base,
        answer,
        yardstick,
        source=f"the float32 model in float64 ({source or 'by itself'})",
        yardstick_source=_YARDSTICK,
        example=first,
        only="example" if weights > from_model.MOST_WEIGHTS else None,
    )


_YARDSTICK = "the mixed model's own errors in ONNX Runtime"


def _measured(golden: Golden, yardstick: collect.Yardstick) -> Golden:
    """The same answers with another yardstick; cases that float16 cannot represent are left out, with a note."""
    cases: list[Case] = []
    refused: list[str] = []
    for case in golden.cases:
        try:
            measured = yardstick(case.inputs, case.answers)
        except OnnxpoolError:
            refused.append(case.name)
            continue
        if measured.undetermined:
            refused.append(case.name)
            continue
        cases.append(replace(case, yardstick=measured.yardstick, choices=measured.choices))
    if not cases:
        raise GoldenError("the mixed model gives no number for any golden case")
    lost = f"left out, since float16 has no numbers for them: case {', '.join(map(repr, refused))}"
    notes = (*golden.notes, *([lost] if refused else []))
    return replace(golden, yardstick=_YARDSTICK, cases=tuple(cases), notes=notes)


def _size_bytes(model: ir.Model) -> int:
    """Of all weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _notes(calibration: Calibration, original: ir.Model) -> Iterator[str]:
    if calibration is None:
        yield "judged on golden inputs, which are drawn: pictures or other real data are better"
    if (was := forms.form_of(original)) != "function" and forms.pool_nodes(original):
        yield f"the model was in {was} form; names are those of its function form, in which it is written"
