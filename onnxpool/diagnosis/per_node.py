"""Node by node: which node of a model makes an error, and which only hands one on.

>>> nodes = compare_nodes("network.onnx", network)  # doctest: +SKIP
>>> nodes.first.sentence  # doctest: +SKIP
"node 'pool' (AveragePool) introduces an error by the model itself: it is right with count_include_pad=1 (net.py:12)"

Every value has a reference in float64: what PyTorch computes there where ``reference`` is the module and the model
notes which value is which (:mod:`onnxpool.network.traced`), and what the model's own nodes make of these elsewhere.
One run gives every value, with errors that have added up; a second run gives each node its reference inputs, so that
what is wrong there is the node's own doing:

    introduces   wrong although its inputs are right; by the ``model``: evaluated in float64 it is not what PyTorch
                 computes, or its type is too narrow; by its function ``body``, or by the ``runtime``: what ran is not
                 what the node means
    propagates   right if its inputs are right; wrong as they are
    agrees       within its bound both times

Bounds are those of :mod:`onnxpool.golden.bounds`: analysis for pooling nodes, for others the error that onnx's
reference evaluator makes in the model's own type. Where every value is an output, ONNX Runtime fuses no nodes: a model
that is right node by node is run once more as it is, and a note says if that is wrong.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.diagnosis import in_between, usual_mistakes
from onnxpool.diagnosis.reference_values import Known
from onnxpool.diagnosis.results import Doer, NodeResult, Nodes, NodesOfReport, Part
from onnxpool.diagnosis.runs import Runs, run_both, run_part
from onnxpool.domain import DOMAIN
from onnxpool.errors import FormError, GoldenError, OnnxpoolError, SessionError
from onnxpool.golden import bounds
from onnxpool.golden.collect import widen
from onnxpool.graph import shapes, subgraph
from onnxpool.graph.forms import Model
from onnxpool.network import lines
from onnxpool.run.session import Kernels
from onnxpool.validation import patterns
from onnxpool.validation.foreign import Foreign
from onnxpool.validation.model import HeldModel
from onnxpool.validation.report import Report, failed
from onnxpool.validation.validate import Reference, answers_for


def compare_nodes(
    model: Model,
    reference: Reference = None,
    case: str | None = None,
    *,
    kernels: Kernels = "off",
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> Nodes:
    """Compare every node of ``model``, as it is in the file, on one case; by default the export's example.

    Where a file carries no function bodies, those of this version run. ``reference`` as in :func:`onnxpool.validate`;
    ``kernels`` and ``libraries`` as in :func:`onnxpool.load`.
    Raises :class:`ArgumentError` for a case that there is none of, and :class:`GoldenError` for a model that onnx's
    reference evaluator cannot run.
    """
    held = HeldModel(model)
    with Foreign(libraries).known(held.bare) as theirs:
        return of_runs(run_both(held, answers_for(held, reference, case), case, reference, kernels, theirs))


def compare_nodes_of_report(
    report: Report,
    model: Model,
    reference: Reference = None,
    *,
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> NodesOfReport:
    """The comparison on the first case that failed in ``report``, or the first; natively where that alone failed.

    Arguments and errors as of :func:`compare_nodes`, but that what the model is at fault for is a note.
    """
    wrong = [run for run in report.runs if any(failed(result.verdict) for result in run.results)]
    natively = bool(wrong) and all(run.kernels for run in wrong)
    case = report.failing_case or next((result.case for run in report.runs for result in run.results), None)
    kernels: Kernels = "require" if natively else "off"
    try:
        nodes = compare_nodes(model, reference, case, kernels=kernels, libraries=libraries)
    except (FormError, GoldenError, SessionError) as error:  # the report says what is wrong; this cannot say where
        nodes = Nodes(str(case), report.reference, (), (f"nodes were not compared: {error}",))
    return NodesOfReport(report, nodes)


def of_runs(runs: Runs) -> Nodes:
    """What both runs say about each node."""
    nodes = [node for node in runs.graph.graph if node.op_type != "Constant"]
    blamed = _blamed(runs)
    results = tuple(
        _result(runs, node, blamed) for node in nodes if any(value.name in runs.known for value in node.outputs)
    )
    if runs.casts and not any(one.part == "introduces" for one in results):
        results = tuple(_rounding(one, runs) for one in results)
    if runs.stopped and not any(one.part == "introduces" for one in results):
        results = _stopped(results, nodes, runs.stopped)
    notes = [*runs.notes, *_undeclared(runs)]
    if len(nodes) > len(results):
        notes.append(f"{len(nodes) - len(results)} nodes have no reference: onnx's evaluator does not know them")
    if {one.part for one in results} == {"agrees", "propagates"}:
        notes.append("no node is wrong by itself: the errors of several add up")
    if {one.part for one in results} == {"agrees"} and _fused(runs):
        notes.append("right node by node, and wrong as a whole, where nodes are fused: onnxpool bisect finds which")
    return Nodes(runs.case.name, runs.source, results, tuple(notes))


def _stopped(results: tuple[NodeResult, ...], nodes: Sequence[ir.Node], told: str) -> tuple[NodeResult, ...]:
    """The same, with the node that ONNX Runtime names as the one for which it refuses the model, if it names one."""
    named = max(
        (
            node
            for node in nodes
            if node.name and re.search(rf"[Nn](?:od|am)e\W{{1,3}}{re.escape(node.name)}(?!\w)", told)
        ),
        key=lambda node: len(str(node.name)),
        default=None,
    )
    if named is None:
        return results
    reason = f"for it ONNX Runtime refuses the model: {told}"
    refused = NodeResult(
        str(named.name), named.op_type, "introduces", "model", np.inf, np.inf, reason, *lines.line_of(named)
    )
    known = {one.name: one for one in results} | {refused.name: refused}
    return tuple(known[str(node.name)] for node in nodes if node.name in known)


def _blamed(runs: Runs) -> dict[str, str]:
    """Why nodes are wrong whose values are not known, by name; and "" for each that only takes from one of them."""
    found: dict[str, str] = {}
    for one in in_between.put_between(runs):
        found[one.nodes[0]] = f"node {one.user!r} is right where it takes {one.other!r} in the place of {one.value!r}"
        found[one.user] = ""
    return found


def _fused(runs: Runs) -> bool:
    """Whether the model as it is gives what it does not give where every value is an output."""
    try:
        outputs, _ = run_part(runs.graph, runs.feeds, runs.kernels, runs.theirs)
    except OnnxpoolError:
        return True
    return any(runs.grown(name, y) > 1 for name, y in outputs.items() if name in runs.known)


def _undeclared(runs: Runs) -> Iterator[str]:
    """The values whose shapes are not what the model declares."""
    graph = runs.graph.graph
    sizes = shapes.sizes_of(graph.inputs, {name: array.shape for name, array in runs.case.inputs.items()})
    for value in subgraph.made(runs.graph):
        if value.name in runs.known:
            shape = runs.known[str(value.name)].reference.shape
            if told := shapes.contradiction(f"value {value.name!r}", value, shape, sizes):
                yield told
    known = (value for value in subgraph.made(runs.graph) if value.name in runs.known)
    if unchecked := shapes.unchecked(known, [sizes]):
        yield f"declared sizes were not checked, since they cannot be evaluated: {', '.join(unchecked)}"


def _result(runs: Runs, node: ir.Node, blamed: Mapping[str, str]) -> NodeResult:
    names = [str(value.name) for value in node.outputs if value.name in runs.known]
    faults: list[tuple[Doer, str]] = [fault for name in names for fault in _faults(runs, node, name)]
    if node.name in blamed:
        faults = [("model", told)] if (told := blamed[str(node.name)]) else []
    share = max(_alone_error(runs, node, name) for name in names)
    total = max(runs.grown(name, runs.total.get(name)) for name in names)
    part: Part = "introduces" if faults else "propagates" if total > 1 else "agrees"
    by, reason = faults[0] if faults else ("", f"{total:.3g} times what is allowed" if total > 1 else "")
    return NodeResult(str(node.name), node.op_type, part, by, share, total, reason, *lines.line_of(node))


def _rounding(result: NodeResult, runs: Runs) -> NodeResult:
    """The same, if it is a Cast that was not exported: where no node is wrong by itself, such a one is."""
    if result.name not in runs.casts:
        return result
    reason = f"it rounds to {runs.casts[result.name]}, which the network does not"
    return replace(result, part="introduces", by="model", reason=reason)


def _faults(runs: Runs, node: ir.Node, name: str) -> Iterator[tuple[Doer, str]]:
    """What is wrong with a value although its node takes the right inputs, and by whom."""
    known = runs.known[name]
    if node.name in runs.refused:
        yield "model", f"it cannot take what the network gives it: {runs.refused[str(node.name)]}"
        return
    if runs.departs(node, name) > 1:
        others = runs.region(node)
        listed = ", ".join(others[:4])
        more = f"; or one of {len(others)} nodes in front of it, whose values are not known ({listed})"
        yield "model", _difference(runs, node, name) + (more if others else "")
    if _overflows(runs, node, name) and any(_broken(runs, one) for one in runs.known):
        largest = np.abs(known.reference[np.isfinite(known.reference)]).max()
        yield "model", f"its values reach {largest:.3g}, beyond the range of {known.given.dtype}"
    actual = runs.local.get(name)
    if runs.error(node, name, actual, known.meant) > 1:
        ran_body = node.domain == DOMAIN and node.name not in runs.native
        assert actual is not None
        assert known.meant is not None
        yield "body" if ran_body else "runtime", _told(actual, known.meant, runs.bound(node, name, known.meant))


def _alone_error(runs: Runs, node: ir.Node, name: str) -> float:
    """The larger of what the model's node and what its run err with reference inputs, as shares."""
    known = runs.known[name]
    ran = runs.error(node, name, runs.local.get(name), known.meant)
    return max(ran, runs.departs(node, name))


def _difference(runs: Runs, node: ir.Node, name: str) -> str:
    """Why a node of the model is not what the network does."""
    known = runs.known[name]
    assert known.exact is not None
    inputs = widen({str(value.name): array for value, array in _inputs(runs, node)})
    guess = usual_mistakes.explain(node, inputs, lambda y: runs.is_right(node, name, y), runs.graph.opset_imports)
    return guess or _told(*runs.compared(node, name, known.exact))


def _inputs(runs: Runs, node: ir.Node) -> Iterator[tuple[ir.Value, NDArray[Any]]]:
    for value in node.inputs:
        if value is not None and value.name in runs.feeds:
            yield value, runs.feeds[str(value.name)]
        elif value is not None and (constant := ir.convenience.get_const_tensor(value)) is not None:
            yield value, constant.numpy()


def _told(actual: NDArray[Any], answer: NDArray[Any], bound: bounds.Bound) -> str:
    if actual.shape != answer.shape:
        told = f"it gives shape {actual.shape} in place of {answer.shape}"
        return "; ".join(filter(None, (told, patterns.of_shapes(actual.shape, answer.shape))))
    error = bounds.measure(actual, np.asarray(answer, np.float64), bound.allowed)
    told = f"error {error.max_abs:.3g}, {error.share:.3g} times what is allowed"
    if error.nan or error.infinite:
        told = f"NaN or infinity in {error.nan + error.infinite} elements where they do not belong"
    return "; ".join(filter(None, (told, patterns.of_elements(actual, answer, bound.allowed))))


def _broken(runs: Runs, name: str) -> bool:
    """Whether NaN came where there should be none, or the other way."""
    actual, right = runs.total.get(name), runs.known[name].reference
    return actual is not None and actual.shape == right.shape and bounds.measure(actual, right, np.inf).nan > 0


def _overflows(runs: Runs, node: ir.Node, name: str) -> bool:
    """Whether values become infinite here by their type alone."""

    def lost(one: Known) -> bool:
        return bool((np.isfinite(one.reference) & ~np.isfinite(one.given.astype(np.float64))).any())

    taken = [runs.known[str(value.name)] for value in subgraph.taken(node) if value.name in runs.known]
    return lost(runs.known[name]) and not any(map(lost, taken))
