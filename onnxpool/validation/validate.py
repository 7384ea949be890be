"""Validation: a model in every form, in every runtime that is asked for, against float64 answers.

>>> report = validate("network.onnx")  # doctest: +SKIP
>>> report.passed  # doctest: +SKIP
True

For each run, case and output the report gives the measured error, the allowed error and where that comes from
(:mod:`onnxpool.golden.bounds`). Every runtime runs in a process of its own: one that dies has crashed, and the others
go on. A run that cannot be tried here is skipped, and shown; so is a case in a bounded standard form whose range it
exceeds. The worst verdict decides (:mod:`onnxpool.validation.report`).
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from onnxpool.domain import Form
from onnxpool.errors import ArgumentError, FormError, GoldenError, OnnxpoolError, nearest
from onnxpool.golden import bounds, from_function, from_torch
from onnxpool.golden import file as golden_file
from onnxpool.golden.file import Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.graph import shapes
from onnxpool.graph.fingerprint import Change, changes
from onnxpool.graph.forms import Model, range_of
from onnxpool.graph.inlined import inlined
from onnxpool.graph.quantized import is_quantized
from onnxpool.run.native_library import why_missing
from onnxpool.runtimes import RUNTIMES
from onnxpool.validation import invariance, limits, quantized
from onnxpool.validation.blame import sides
from onnxpool.validation.compare import Judge
from onnxpool.validation.evidence import Watch, gather
from onnxpool.validation.foreign import Foreign, unknown_domains
from onnxpool.validation.matrix import Files, Matrix
from onnxpool.validation.model import HeldModel
from onnxpool.validation.plan import plan
from onnxpool.validation.report import Report, Run, Verdict, failed, worst
from onnxpool.validation.within import beyond

if TYPE_CHECKING:
    import torch

Reference: TypeAlias = "Golden | str | os.PathLike[str] | torch.nn.Module | Callable[[Feeds], Mapping[str, Any]] | None"
Progress: TypeAlias = Callable[[int, int, str], None]


def validate(
    model: Model,
    reference: Reference = None,
    *,
    case: str | None = None,
    without: Sequence[str] = (),
    on: Sequence[str] | Literal["all"] | None = None,
    forms: Sequence[Form] = get_args(Form),
    pythons: Sequence[str | os.PathLike[str]] = (),
    require: Sequence[Literal["native"]] = (),
    threads: int | None = None,
    timeout_s: float = 600,
    progress: Progress | None = None,
    max_steps: float | None = None,
    libraries: Sequence[str | os.PathLike[str]] = (),
    invariant: Sequence[Literal["batch", "threads", "runs"]] = (),
) -> Report:
    """Run ``model`` in each of ``forms`` and compare every output with float64 answers.

    ``reference`` gives the answers: a :class:`Golden` or the path of one, the PyTorch module that was exported, or a
    function ``{name: float64 array} -> {name: array}``. By default it is the golden file beside ``model``; where there
    is none, a small model is judged by onnx's reference evaluator in float64. ``case`` names the only one to replay;
    all are drawn from fixed seeds, so that a case is the same each time. ``without`` names cases that are left out,
    which a note says; ``*`` in a name stands for anything.

    ``reference`` may also be the path of another ONNX file, whose golden file, or float64 evaluation, answers. For a
    quantised model that is its float original: the model itself answers, exactly, each weight is compared with the
    original's, and how far the outputs are from the original's is a note, or judged where that is more than
    ``max_steps`` steps of the output (:mod:`onnxpool.validation.quantized`).

    ``on`` names runtimes of :mod:`onnxpool.runtimes`, or is ``"all"``: each is tried in all of its variants. By default
    it is ONNX Runtime as it comes, without and with native kernels. ``pythons`` are Python programs of other
    environments, whose releases of ONNX Runtime are tried too. ``threads`` is for every run in ONNX Runtime.
    ``require=("native",)`` fails where a pooling node of the model, in the form that it has, is not proven to run
    natively. One answer of a runtime may take ``timeout_s`` seconds. ``progress`` is called before each run with how
    many are done, of how many, and the name of the next.

    ``libraries`` are files of custom operators by others, which every run in ONNX Runtime registers, in its process; a
    model without answers is then judged by itself, with what these operators give there.

    ``invariant`` asks whether answers depend on what they should not, in ONNX Runtime: rows on others in their batch,
    all on the number of threads and on earlier runs (:mod:`onnxpool.validation.invariance`). The notes say of each
    output whether it is the same bit for bit or within rounding; it fails where it is neither.

    Raises :class:`ArgumentError` for an argument that names nothing, :class:`FormError` for what is not a model, and
    :class:`GoldenError` where no answers can be had. Whatever goes wrong while the model runs is in the report.
    """
    names = _checked(on, forms, require, threads, timeout_s, max_steps)
    ways = invariance.checked(invariant)
    theirs = Foreign(libraries, timeout_s)
    watch = Watch(model, libraries)
    held = HeldModel(model)
    digests = watch.digests()
    original = quantized.original_of(held, reference)
    with theirs.known(held.bare):
        golden, unanswered = _answers(held, reference, case)
        golden = golden.without(without)
        outside = beyond(held, golden)
    unlike, told = quantized.judge(held, golden, original, max_steps)
    forms = ["custom"] if held.optimised else forms
    configurations = plan(names, forms, [os.fspath(python) for python in pythons], threads, pools=held.pools)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder, theirs.known(held.bare):
        module: Any = reference if hasattr(reference, "state_dict") else None
        files, judge = Files(held, module, Path(folder), theirs.libraries), Judge(golden, held)
        matrix = Matrix(files, judge, timeout_s, outside)
        runs = tuple(matrix.run(configurations, progress or (lambda *_: None)))
        examined, invariances = invariance.examine(files, judge, ways, threads, timeout_s)
        runs = (*runs, *examined)
    if unanswered and {run.verdict for run in runs} - {"skipped"} != {"unloadable"}:
        raise unanswered
    found = changes(golden.fingerprints, held.fingerprints()) if golden.fingerprints else []
    unproven = _unproven(held, runs) if "native" in require else []
    verdict = worst([*(run.verdict for run in runs), "unloadable" if unproven else "skipped"])
    if any(change.fault for change in found) and not failed(verdict):
        verdict = "structure"  # the model is another one, even where no answer shows it
    if unlike:
        verdict = worst([verdict, "mismatch"])
    with theirs.known(held.bare):
        wrong = sides(held, golden, runs, matrix.differing)
    return Report(
        model=held.name,
        verdict=verdict,
        reference=golden.source,
        runs=runs,
        causes=(*(change.text for change in found), *unlike, *unproven),
        notes=(
            *wrong,
            *told,
            *golden.notes,
            *invariances,
            *_without_libraries(held, libraries, verdict),
            *_promised(held, outside),
            *_unchecked(held, golden),
            *_loose(golden),
            *_notes(
                runs, verdict, found, golden, missing=bool(unproven) and not any(failed(run.verdict) for run in runs)
            ),
        ),
        environment=_environment(runs),
        evidence=gather(watch, digests, held.form, golden, reference, case),
    )


def _checked(
    on: Sequence[str] | None,
    forms: Sequence[str],
    require: Sequence[str],
    threads: int | None,
    timeout_s: float,
    max_steps: float | None,
) -> list[str] | None:
    """The names of runtimes, None for the default."""
    if not forms or not set(forms) <= set(get_args(Form)):
        raise ArgumentError(f"forms={forms!r} must be some of {', '.join(get_args(Form))}")
    names = None if on is None else [*RUNTIMES] if on == "all" else [*on]
    if names is not None and (not names or not set(names) <= set(RUNTIMES)):
        close = nearest(next((str(name) for name in names if name not in RUNTIMES), ""), RUNTIMES)
        raise ArgumentError(f"on={on!r}{close} must be 'all', or some of {', '.join(RUNTIMES)}")
    if not set(require) <= {"native"}:
        raise ArgumentError(f"require={require!r} must be ('native',) or empty")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError(f"threads={threads!r} must be a positive int, or None")
    if max_steps is not None and not max_steps > 0:
        raise ArgumentError(f"max_steps={max_steps!r} must be a positive number of steps, or None")
    if not timeout_s > 0:
        raise ArgumentError(f"timeout_s={timeout_s!r} must be a positive number of seconds")
    return names


def _answers(held: HeldModel, reference: Reference, case: str | None) -> tuple[Golden, OnnxpoolError | None]:
    """What the model is judged by; none, and why, where the model alone should give it and cannot.

    A model with an operator that is missing here does not load: the report is to say that.
    """
    try:
        return answers_for(held, reference, case), None
    except (FormError, GoldenError) as error:
        if reference is not None:
            raise
        return Golden(f"nothing: {error}", "", {}, (), (), None), error


def answers_for(held: HeldModel, reference: Reference = None, case: str | None = None) -> Golden:
    """What a model is judged by, on every case or on one; arguments and errors as of :func:`validate`."""
    if isinstance(reference, Golden):
        return reference.only(case)
    if reference is None or isinstance(reference, str | os.PathLike):
        return _in_a_file(held, reference, case)
    if hasattr(reference, "state_dict"):  # a PyTorch module, without importing PyTorch
        return from_torch.record(reference, held.original, only=case)  # type: ignore[arg-type]
    if callable(reference):
        return from_function.record(reference, held.original, only=case)
    raise ArgumentError(
        f"reference={reference!r:.80} must be a golden file, an ONNX file, a PyTorch module, a function, or None for "
        "the default"
    )


def _in_a_file(held: HeldModel, reference: str | os.PathLike[str] | None, case: str | None) -> Golden:
    """From a golden file, from the model itself, or from another ONNX file."""
    beside = _beside(held)
    if reference is None:
        return golden_file.load(beside).only(case) if beside else _of_itself(held, case)
    if not quantized.is_model(reference):
        return golden_file.load(reference).only(case)
    if is_quantized(held.original):
        fingerprints = golden_file.load(beside).fingerprints if beside else None
        return replace(_of_itself(held, case), fingerprints=fingerprints)
    return answers_for(HeldModel(reference), None, case)


def _beside(held: HeldModel) -> Path | None:
    """The golden file beside the file of a model, if there is one."""
    found = golden_file.path_for(held.source) if isinstance(held.source, str | os.PathLike) else None
    return found if found is not None and found.exists() else None


def _of_itself(held: HeldModel, case: str | None) -> Golden:
    from onnxpool.golden import from_model, from_quantized  # bring onnx's evaluator

    record = from_quantized.record_bare if is_quantized(held.original) else from_model.record_bare
    return record(held.converted("custom"), only=case)


# --- what the report adds


def _without_libraries(held: HeldModel, libraries: Sequence[object], verdict: Verdict) -> Iterator[str]:
    """What would let a model load that has operators of other libraries."""
    if verdict == "unloadable" and not libraries and (domains := unknown_domains(held.original)):
        yield f"it has operators of {', '.join(domains)}: name the library that brings them by --library (libraries=)"


def _promised(held: HeldModel, outside: Mapping[str, str]) -> Iterator[str]:
    """The range that the model is right for."""
    limit = range_of(held.original)
    if limit is not None:
        left_out = f"; not judged beyond it: {', '.join(outside)}" if outside else ", which no case goes beyond"
        yield f"right where no input of its pooling nodes has a magnitude above {limit:g}{left_out}"


def _unchecked(held: HeldModel, golden: Golden) -> Iterator[str]:
    """The declared sizes of outputs that no case gives a value to."""
    graph = held.original.graph
    every = (
        shapes.sizes_of(graph.inputs, {name: array.shape for name, array in case.inputs.items()})
        for case in golden.cases
    )
    if unchecked := shapes.unchecked(graph.outputs, every):
        yield f"declared sizes were not checked, since they cannot be evaluated: {', '.join(unchecked)}"


LOOSE = 0.01
"""Of the median answer: an allowed error above that is worth a warning."""


def _loose(golden: Golden) -> Iterator[str]:
    """The outputs whose allowed errors are large beside what they are."""
    found: dict[str, list[tuple[float, str]]] = {}
    for case in golden.cases:
        if "subnormal" in limits.kinds(case.inputs):  # anything is much beside these
            continue
        for name, answer in case.answers.items():
            usual = np.abs(answer[np.isfinite(answer) & (answer != 0)])
            stepped = not isinstance(case.yardstick[name], ByMagnitude)  # of a quantised model: its step says enough
            if usual.size and not stepped and bounds.is_floating(dtype := golden.dtypes.get(name, "float32")):
                allowed = bounds.network(answer, dtype, case.yardstick[name], golden.yardstick).allowed
                part = float(np.median(np.broadcast_to(allowed, answer.shape)) / np.median(usual))
                if part > LOOSE:
                    found.setdefault(name, []).append((part, case.name))
    for name, cases in found.items():
        part, worst_one = max(cases)
        more = f" and {len(cases) - 1} other cases" if len(cases) > 1 else ""
        told = f"warning: what {name!r} is allowed to err exceeds 1 % of its median answer"
        yield f"{told}: {part:.2g} times it in {worst_one!r}{more}"


def _notes(
    runs: Sequence[Run], verdict: Verdict, found: Sequence[Change], golden: Golden, *, missing: bool
) -> list[str]:
    """What else is to be said; ``missing``: all that ran is right, and the causes say what did not run."""
    notes = []
    noted = [(run.runtime, result) for run in runs for result in run.results if result.verdict == "noted"]
    if lost := list(dict.fromkeys(name for name, result in noted if not result.reason.startswith(limits.TOLD))):
        notes.append(f"known deviation: {', '.join(lost)} may lose NaN where PyTorch keeps it")
    told: dict[str, dict[str, None]] = {}
    for _, result in noted:
        if result.reason.startswith(limits.TOLD):
            told.setdefault(result.reason.split(";")[0], {})[result.case] = None
    notes += [f"{sentence} (case {', '.join(map(repr, cases))})" for sentence, cases in told.items()]
    notes += [
        f"{run.name}: {len(run.left_out)} cases of other sizes left out, since they cost much there"
        for run in runs
        if run.left_out
    ]
    if found and not failed(verdict):
        notes.append("another program has rewritten this model since its export; all answers are still right")
    if failed(verdict) and not found and not missing:
        exported = golden.fingerprints and golden.fingerprints["nodes"]
        known = "no node has changed since the export" if exported else "nothing tells what the export was"
        notes.append(f"{known}: look at the versions that ran; onnxpool validate --per-node names the first wrong node")
    return notes


def _unproven(held: HeldModel, runs: Sequence[Run]) -> list[str]:
    """The pooling nodes that no run of the model, in the form that it has, has shown to run natively."""
    own = [run for run in runs if run.form == held.form and run.kernels]
    proven = {node for run in own for node in run.native}
    why = next((run.reason for run in own if run.reason), f"its own form, {held.form}, was not tried")
    if held.form == "standard":
        why = "it is spelled out in standard operators, which 'onnxpool form --to function' undoes"
    nodes = held.nodes(held.form)
    if not nodes:
        lost = "; another program wrote them out, which 'onnxpool lift' undoes" if inlined(held.original) else ""
        return [f"native kernels are required: the model has no pooling node of ours{lost}"]
    return [
        f"node {node.name!r} ({node.op_type}) is required to run natively: {why}"
        for node in nodes
        if node.name not in proven
    ]


def _environment(runs: Sequence[Run]) -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("onnxpool", "onnxruntime", "onnxruntime-gpu", "onnx", "onnx-ir", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    ran = {run.runtime: run.version for run in runs if run.version}
    return versions | ran | {"native library": why_missing() or "present"}
