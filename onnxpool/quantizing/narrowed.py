"""A mixed model as a file: as many nodes in the narrower type as the budget allows, judged before it is written."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxpool.errors import FormError, GoldenError, OnnxpoolError
from onnxpool.golden import collect, from_model
from onnxpool.golden import file as golden_file
from onnxpool.golden.file import Answers, Case, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.perturbed import moved_inputs
from onnxpool.graph import forms, mixed
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.graph.forms import Model
from onnxpool.quantizing.calibration import Calibration, Samples
from onnxpool.quantizing.quantize import quantize
from onnxpool.quantizing.switched import apart
from onnxpool.quantizing.verdicts import node_names
from onnxpool.run.native_library import why_missing
from onnxpool.run.session import load
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate

HALF_ULP = 2.0**12
"""Half an ULP of float16 in ULP of float32: by so much inputs move in the runs that measure what rounding does."""


@dataclass(frozen=True)
class Task:
    """What is to be written, and by what it is judged.

    ``model`` is what the caller gave, ``base`` what :func:`onnxpool.graph.mixed.prepared` made of it. The nodes of
    ``order`` are to be narrow, the first ones sooner. ``tried`` are inputs and ``right`` the answers of the float32
    model to them, of which outputs may be off by ``most``.
    """

    model: Model
    base: ir.Model
    output: str | os.PathLike[str]
    order: Sequence[str]
    samples: Samples
    calibration: Calibration
    picture: Mapping[str, Any]
    tried: Sequence[Feeds]
    right: Sequence[Feeds]
    most: float

    def error(self, made: Model) -> float:
        """How far the outputs of this model are off, without native kernels."""
        session = load(made, kernels="off")
        return max(apart(session.run(feeds), right) for feeds, right in zip(self.tried, self.right, strict=True))

    def counts(self, to: str) -> Iterator[int]:
        """How many nodes to make narrow: all, and fewer each time; raises :class:`FormError` after one."""
        count = len(self.order)
        while count:
            yield count
            count = count * 3 // 4
        raise FormError(f"no node is safe in {to}, so that there is nothing to write; a larger budget allows more")


@dataclass(frozen=True)
class Written:
    """What was written: the first ``count`` nodes of the order in the narrower type."""

    count: int
    error: float
    size_bytes: int
    checked: str
    notes: tuple[str, ...]


def in_float16(task: Task) -> Written:
    """Write the model with nodes in float16, and its golden file; raises :class:`FormError` and writes nothing else."""
    for count in task.counts("float16"):
        made = forms.to_form(mixed.lowered(task.base, task.order[:count]), "function")
        error = task.error(made)
        if error <= task.most:
            break
    source = task.samples.source if task.calibration is not None else ""
    answered = _golden(task.model, task.base, made, task.samples.feeds(0), source)
    golden = replace(answered, fingerprints=fingerprints(made))
    needed: tuple[Literal["native"], ...] = ("native",) if forms.pool_nodes(made) and why_missing() is None else ()
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        path = Path(folder, "mixed.onnx")
        forms.write(made.clone(), path)
        report = validate(path, golden, require=needed)
        if not report.passed:
            raise FormError(f"the mixed model is wrong, and was not written: {'; '.join(sentences(report))}")
    forms.write(made, task.output)
    golden_file.save(golden, golden_file.path_for(task.output))
    checked = f"{report.summary}: against the float64 answers of the float32 model, {len(golden.cases)} cases"
    return Written(count, error, size_bytes(made), checked, report.notes)


def in_int8(task: Task) -> Written:
    """Write the model as :func:`onnxpool.quantize` makes it, with the other nodes excluded, and its golden file."""
    calibration: Calibration = [*task.samples]  # what was given may be an iterator, which has ended
    if isinstance(task.calibration, str | os.PathLike):
        calibration = task.calibration
    elif task.calibration is None and isinstance(task.model, str | os.PathLike):
        calibration = golden_file.path_for(task.model)
    picture = {name: value for name, value in task.picture.items() if value is not None}
    source: Model = forms.to_form(task.base, "function")
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        path = Path(folder, "int8.onnx")
        for count in task.counts("int8"):
            left = [name for name in node_names(task.base) if name not in task.order[:count]]
            done = quantize(source, path, calibration, exclude=left, **picture)
            error = task.error(path)
            if error <= task.most:
                break
        forms.write(forms.read(path), task.output)
        golden_file.save(golden_file.load(golden_file.path_for(path)), golden_file.path_for(task.output))
    return Written(count, error, done.size_after_bytes, done.checked, done.notes)


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


def size_bytes(model: ir.Model) -> int:
    """Of all weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
