"""Validation: every form of a model against float64 answers, with and without native kernels.

>>> report = validate("network.onnx")  # doctest: +SKIP
>>> report.passed  # doctest: +SKIP
True

For each run, case and output the report gives the measured error, the allowed error and where that comes from
(:mod:`onnxpool.bounds`). A run that raises an error has failed; a run that cannot be tried here is skipped, and shown.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool import answers, bounds, patterns
from onnxpool import golden as golden_file
from onnxpool.cases import Feeds
from onnxpool.errors import ArgumentError, FormError, OnnxpoolError
from onnxpool.fingerprint import Change, changes, fingerprints
from onnxpool.forms import Form, Model, form_of, read, to_form
from onnxpool.golden import Case, Golden
from onnxpool.kernels import why_missing
from onnxpool.pool import DOMAIN, Array
from onnxpool.report import Report, Result, Run, Verdict, failed, worst
from onnxpool.session import Kernels, Session, load
from onnxpool.window import Window

if TYPE_CHECKING:
    import torch

Reference: TypeAlias = "Golden | str | os.PathLike[str] | torch.nn.Module | Callable[[Feeds], Mapping[str, Any]] | None"

_DROPS_NAN = ("MaxPool", "GlobalMaxPool", "ReduceMax")
"""Standard operators in which ONNX Runtime's CPU provider may lose a NaN that PyTorch keeps."""


def validate(
    model: Model,
    reference: Reference = None,
    *,
    forms: Sequence[Form] = get_args(Form),
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
    threads: int | None = None,
) -> Report:
    """Run ``model`` in each of ``forms`` and compare every output with float64 answers.

    ``reference`` gives the answers: a :class:`Golden` or the path of one, the PyTorch module that was exported, or a
    function ``{name: float64 array} -> {name: array}``. By default it is the golden file beside ``model``; where there
    is none, a small model is judged by onnx's reference evaluator in float64. ``providers`` and ``threads`` as in
    :func:`onnxpool.session.load`.

    Raises :class:`ArgumentError` for unknown forms, :class:`FormError` for what is no model, and :class:`GoldenError`
    where no answers can be had. Whatever goes wrong while the model runs is in the report.
    """
    if not forms or not set(forms) <= set(get_args(Form)):
        raise ArgumentError(f"forms={forms!r} must be some of {', '.join(get_args(Form))}")
    original = read(model)
    golden = answers_for(model, reference)
    bare = _bare(original)

    def start(form: Form, kernels: Kernels) -> Session:
        """The model's own form is run as it is, with the function bodies that it carries."""
        given = model if form_of(original) == form else to_form(original, form)
        return load(given, providers=providers, kernels=kernels, threads=threads)

    judge = _Judge(golden, bare)
    plan = _plan(forms, any(node.domain == DOMAIN for node in bare.graph.all_nodes()))
    runs = tuple(_run(form, kernels, start, judge) for form, kernels in plan)
    found = changes(golden.fingerprints, fingerprints(original)) if golden.fingerprints else []
    verdict = worst(run.verdict for run in runs)
    if any(change.fault for change in found) and not failed(verdict):
        verdict = "structure"  # the model is another one, even where no answer shows it
    return Report(
        model=os.fspath(model) if isinstance(model, str | os.PathLike) else original.graph.name or "model",
        verdict=verdict,
        reference=golden.source,
        runs=runs,
        causes=tuple(change.text for change in found),
        notes=(*golden.notes, *_notes(runs, verdict, found, golden)),
        environment=_environment(),
    )


def answers_for(model: Model, reference: Reference = None) -> Golden:
    """What a model is judged by; argument and errors as of :func:`validate`."""
    if isinstance(reference, Golden):
        return reference
    if isinstance(reference, str | os.PathLike):
        return golden_file.load(reference)
    if reference is None:
        if isinstance(model, str | os.PathLike) and golden_file.path_for(model).exists():
            return golden_file.load(golden_file.path_for(model))
        from onnxpool.judge import judge

        return judge(read(model))
    if hasattr(reference, "state_dict"):  # a PyTorch module, without importing PyTorch
        return answers.record(reference, read(model))  # type: ignore[arg-type]
    if callable(reference):
        return answers.from_callable(reference, read(model))
    raise ArgumentError(
        f"reference={reference!r:.80} must be a golden file, a PyTorch module, a function, or None for the default"
    )


def _plan(forms: Sequence[Form], pools: bool) -> list[tuple[Form, Kernels]]:
    """Which forms to run, without and with native kernels; the standard form has nothing that these could run."""
    if not pools:
        return [("standard", "off")]
    able: dict[Form, tuple[Kernels, ...]] = {
        "function": ("off", "require"),
        "standard": ("off",),
        "custom": ("require",),
    }
    return [(form, kernels) for form in forms for kernels in able[form]]


# --- one run


def _run(form: Form, kernels: Kernels, start: Callable[[Form, Kernels], Session], judge: "_Judge") -> Run:
    native = kernels == "require"
    if native and (reason := why_missing()):
        return Run(form, native, "skipped", reason)
    try:
        session = start(form, kernels)
    except OnnxpoolError as error:
        return Run(form, native, "unloadable", str(error))
    results = tuple(result for case in judge.golden.cases for result in judge.results(session, case, native))
    return Run(
        form,
        native,
        worst(result.verdict for result in results),
        providers=tuple(session.inner.get_providers()),
        pooling=tuple(
            f"{place.node} ({place.op_type}): {place.provider or 'standard operators'}" for place in session.placements
        ),
        results=results,
    )


class _Judge:
    """Compares what a session gives with the answers; knows the bare model, so which bounds apply."""

    def __init__(self, golden: Golden, bare: ir.Model) -> None:
        self.golden = golden
        self.single = _single(bare)
        self.drops_nan = sorted({node.op_type for node in bare.graph.all_nodes()}.intersection(_DROPS_NAN))

    def results(self, session: Session, case: Case, native: bool) -> list[Result]:
        try:
            outputs = session.run(case.inputs)
        except ArgumentError as error:  # the case is right: it is the model that takes other inputs
            return [Result(case.name, name, "structure", str(error)) for name in case.answers]
        except OnnxpoolError as error:
            return [Result(case.name, name, "unloadable", str(error)) for name in case.answers]
        return [self.result(case, name, outputs.get(name), native) for name in case.answers]

    def result(self, case: Case, name: str, actual: NDArray[Any] | None, native: bool) -> Result:
        if actual is None:
            return Result(case.name, name, "structure", "the model has no such output")
        answer, dtype = case.answers[name], self.golden.dtypes.get(name, str(actual.dtype))
        if (actual.shape, str(actual.dtype)) != (answer.shape, dtype):
            reason = f"came as {actual.dtype} {actual.shape}, expected {dtype} {answer.shape}"
            reason = "; ".join(filter(None, (reason, patterns.of_shapes(actual.shape, answer.shape))))
            return Result(case.name, name, "structure", reason)
        bound = self.bound(case, name, answer, actual.dtype, native)
        error = bounds.measure(actual, answer, bound.allowed)
        verdict, reason = self.verdict(error, actual, answer)
        if failed(verdict) and (guess := patterns.of_cells(actual, answer, bound.allowed)):
            reason += f"; {guess}"
        return Result(
            case=case.name,
            output=name,
            verdict=verdict,
            reason=reason,
            max_abs=error.max_abs,
            max_rel=error.max_rel,
            max_ulp=error.max_ulp,
            cosine=error.cosine,
            snr_db=error.snr_db,
            nan=error.nan,
            infinite=error.infinite,
            signed_zeros=error.signed_zeros,
            share=error.share,
            allowed=error.allowed,
            origin=bound.origin,
        )

    def bound(self, case: Case, name: str, answer: Array, dtype: np.dtype[Any], native: bool) -> bounds.Bound:
        if self.single:
            source, window = self.single
            x = case.inputs[source].astype(np.float64)
            if window.check(x.shape) == answer.shape:
                return bounds.pooling(window, x, answer, dtype, native=native)
        return bounds.network(answer, dtype, case.yardstick[name], self.golden.yardstick)

    def verdict(self, error: bounds.Error, actual: NDArray[Any], answer: Array) -> tuple[Verdict, str]:
        if error.within:
            return "passed", ""
        lost_only = not (np.isnan(actual) & ~np.isnan(answer)).any()
        if self.drops_nan and lost_only and error.infinite == 0 and error.share <= 1:
            return "noted", f"{error.nan} NaN were dropped on the way through {', '.join(self.drops_nan)}"
        faults = []
        if error.share > 1:
            faults.append(
                f"error {error.share:.3g} times the {error.allowed:.2g} allowed at {error.cell} "
                f"(max {error.max_abs:.3g}, {error.max_ulp:.3g} ULP)"
            )
        if error.nan:
            faults.append(f"NaN in {error.nan} cells where the answer has none, or none where it has")
        if error.infinite:
            faults.append(f"infinity in {error.infinite} cells where the answer has none, or another")
        return "mismatch", "; ".join(faults)


def _bare(model: ir.Model) -> ir.Model:
    """The model with bare pooling nodes; as it is where it cannot be brought into that form (its runs will say so)."""
    try:
        return to_form(model, "custom")
    except FormError:
        return model


def _single(bare: ir.Model) -> tuple[str, Window] | None:
    """The input and window of a model that is one pooling node and nothing else."""
    nodes = [node for node in bare.graph if node.op_type not in ("Identity", "Constant")]
    if len(nodes) != 1 or nodes[0].domain != DOMAIN or nodes[0].inputs[0] not in bare.graph.inputs:
        return None
    try:
        window = Window.from_attributes({name: attribute.value for name, attribute in nodes[0].attributes.items()})
    except ArgumentError:
        return None  # every run will say what is wrong with it
    return str(nodes[0].inputs[0].name), window  # type: ignore[union-attr]


# --- what the report adds


def _notes(runs: Sequence[Run], verdict: Verdict, found: Sequence[Change], golden: Golden) -> list[str]:
    notes = []
    if any(run.verdict == "noted" for run in runs):
        notes.append(
            f"known deviation: ONNX Runtime's CPU kernels of {', '.join(_DROPS_NAN)} lose NaN, PyTorch's keep it"
        )
    if skipped := [run.name for run in runs if run.verdict == "skipped"]:
        notes.append(f"skipped, so not known to be right: {'; '.join(skipped)}")
    if found and not failed(verdict):
        notes.append("another program has rewritten this model since its export; all answers are still right")
    if failed(verdict) and not found:
        exported = golden.fingerprints and golden.fingerprints["nodes"]
        known = "no node has changed since the export" if exported else "nothing tells what the export was"
        notes.append(f"{known}: look at the versions that ran, and at how the bounds were exceeded")
    return notes


def _environment() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("onnxpool", "onnxruntime", "onnxruntime-gpu", "onnx", "onnx-ir", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"native library": why_missing() or "present"}
