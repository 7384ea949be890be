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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir

from onnxpool.errors import ArgumentError, FormError
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms, mixed, quantized
from onnxpool.graph.forms import Model
from onnxpool.quantizing.calibration import Calibration, samples
from onnxpool.quantizing.narrowed import Task, in_float16, in_int8, size_bytes
from onnxpool.quantizing.ranges import seen_in
from onnxpool.quantizing.switched import Switched, To
from onnxpool.quantizing.verdicts import SLACK, NodeAdvice, node_names, sorted_out, tried_alone
from onnxpool.run.session import load
from onnxpool.validation.validate import Progress

BUDGET: dict[To, float] = {"float16": 0.01, "int8": 0.25}
"""What outputs may be off if nobody says otherwise."""

MOST_TRIED = 16
"""Samples that nodes are switched on; ranges are of all."""

SCALES: dict[To, tuple[float, ...]] = {"float16": (1.0, 0.5, 0.25), "int8": (1.0,)}
"""Each is tried at these sizes: what nearly vanishes in few inputs does so in others of them."""

MOST_RUNS = 1000
"""Of nodes that are switched alone, all together; of a large model each on fewer samples."""


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

    What is written has passed :func:`onnxpool.validate` by the golden file beside it: of float16 against the float64
    answers of the float32 model, of int8 as :func:`onnxpool.quantize` judges. It stays within half of the budget on all
    samples that were tried.

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
    seen = seen_in(base, given)
    scales = SCALES[to] if any(info.dtype.kind == "f" for info in running.inputs) else (1.0,)
    tried = [_scaled(given.feeds(i), by) for i in range(min(len(given), MOST_TRIED)) for by in scales]
    right = [running.run(feeds) for feeds in tried]
    known, candidates = sorted_out(base, seen, to)
    switched = Switched(base, candidates, to, seen.ranges)
    few = max(2, MOST_RUNS // (2 * max(1, len(candidates))))
    effects: dict[str, float] = {}
    for i, name in enumerate(candidates):
        told(i, len(candidates), name)
        effects[name] = switched.effect(tried[:few], right[:few], {name})
    order = sorted((name for name in effects if effects[name] <= budget / SLACK), key=lambda name: effects[name])
    told(0, len(order), "all that are safe alone, together")
    count = _most(len(order), lambda n: switched.effect(tried, right, order[:n]) <= budget / SLACK)

    written = None
    if output is not None:
        told(0, 1, "writing")
        task = Task(model, base, output, order[:count], given, calibration, picture, tried, right, budget / SLACK)
        written = in_float16(task) if to == "float16" else in_int8(task)
        count = written.count
    safe = order[:count]
    nodes = [known.get(name) or tried_alone(base, seen, name, effects[name], safe, budget) for name in node_names(base)]
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
        size_before_bytes=size_bytes(base),
        size_after_bytes=written.size_bytes if written else 0,
        checked=written.checked if written else "",
        notes=(*_notes(calibration, original), *(written.notes if written else ())),
    )


def _scaled(feeds: Feeds, by: float) -> Feeds:
    """The same, times a number where it is of floating point."""
    return {name: array * array.dtype.type(by) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def _prepared(original: ir.Model) -> ir.Model:
    if quantized.is_quantized(original):
        raise FormError("the model is quantised already; take its float original")
    for value in (*original.graph.inputs, *original.graph.initializers.values()):
        if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise FormError(
                f"the model computes in {value.dtype.numpy().name} ({value.name!r}); take the float32 model that "
                "it was made from, or export it in float32"
            )
    return mixed.prepared(original)


def _most(count: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` for which it holds, if it holds for all smaller ones; 0 where for none."""
    least, most = 0, count
    if count and holds(count):
        return count
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if holds(middle) else (least, middle)
    return least


def _notes(calibration: Calibration, original: ir.Model) -> Iterator[str]:
    if calibration is None:
        yield "judged on golden inputs, which are drawn: pictures or other real data are better"
    if (was := forms.form_of(original)) != "function" and forms.pool_nodes(original):
        yield f"the model was in {was} form; names are those of its function form, in which it is written"
