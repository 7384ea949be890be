"""From a failing model to the smallest part of it that still fails, in a folder that anybody can run.

>>> bisect_model("network.onnx", "smallest")  # doctest: +SKIP

A node that is wrong although its inputs are right (:mod:`onnxpool.diagnosis.per_node`) is that part, with the nodes in
front of it whose values nobody knows. Where there is none, the fault is of several nodes together, such as a fusion of
ONNX Runtime: then the part is the shortest run of nodes, in the order of execution, that fails on right inputs. The
first end at which the model fails is searched by halving, and then the last start.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.diagnosis import bundle
from onnxpool.diagnosis.bundle import Bundle
from onnxpool.diagnosis.in_between import corrected, put_between
from onnxpool.diagnosis.per_node import of_runs
from onnxpool.diagnosis.runs import Runs, run_both, run_part
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case, Golden
from onnxpool.golden.trace import places
from onnxpool.graph import subgraph
from onnxpool.graph.forms import Model
from onnxpool.run.session import Kernels, load
from onnxpool.validation.foreign import Foreign
from onnxpool.validation.model import HeldModel
from onnxpool.validation.validate import Reference, answers_for


@dataclass(frozen=True)
class Bisection:
    """The nodes that still fail, why, and the folder that shows it."""

    nodes: tuple[str, ...]
    reason: str
    bundle: Bundle

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"nodes": [*self.nodes], "reason": self.reason, "bundle": self.bundle.to_json()}

    @property
    def summary(self) -> str:
        """How many nodes fail, and which."""
        return f"{len(self.nodes)} nodes fail: {', '.join(self.nodes)}"


def bisect_model(
    model: Model,
    folder: str | os.PathLike[str],
    reference: Reference = None,
    case: str | None = None,
    *,
    kernels: Kernels = "off",
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> Bisection:
    """Write the smallest part of ``model`` that fails on ``case``, by default the first case that fails.

    ``reference`` as in :func:`onnxpool.validate`, ``kernels`` and ``libraries`` as in :func:`onnxpool.load`.
    Raises :class:`ArgumentError` where nothing fails in ONNX Runtime, and for a folder that holds anything.
    """
    held = HeldModel(model)
    with Foreign(libraries).known(held.bare) as theirs:
        golden = answers_for(held, reference, case)
        failing = case or first_failing(held, golden, kernels, theirs)
        return bisected(run_both(held, golden, failing, reference, kernels, theirs), folder)


def bisected(runs: Runs, folder: str | os.PathLike[str]) -> Bisection:
    """The same of runs that were made already."""
    first = of_runs(runs).first
    wrong = first if first is not None and first.part == "introduces" else None
    node = next((node for node in runs.graph.graph if wrong is not None and node.name == wrong.name), None)
    if wrong is not None and node is not None and all(value.name in runs.known for value in node.outputs if value.name):
        names, reason = [*runs.region(node), wrong.name], wrong.sentence
        between = next((one for one in put_between(runs) if one.nodes[0] == wrong.name), None)
        if between is not None:
            runs, names = corrected(runs, between), [*between.nodes]
        elif wrong.name in runs.casts:  # what it rounds away shows where the type is wide again
            names = [wrong.name, *(str(user.name) for user, _ in node.outputs[0].uses() if user.op_type == "Cast")]
    else:
        names = _shortest(runs)
        reason = wrong.sentence if wrong is not None else "these nodes are right one by one, and wrong together"
        if runs.theirs.crashes:
            reason = runs.theirs.crashes[0]
    part = subgraph.segment(runs.graph, names, runs.feeds)
    for name in [str(value.name) for value in part.graph.outputs]:
        cells = runs.known[name].cells if name in runs.known and not runs.known[name].sound else None
        if cells is not None:  # of the rest nobody knows what it should be
            subgraph.pick(part, name, places(cells.shape))
    written = bundle.write(folder, part, *_case(runs, part, f"{runs.case.name}, part"), runs.theirs.libraries)
    return Bisection(tuple(names), reason, written)


def first_failing(held: HeldModel, golden: Golden, kernels: Kernels, theirs: Foreign) -> str:
    """The first case that fails in ONNX Runtime; :class:`ArgumentError` where none does."""
    try:
        session = None if theirs.libraries else load(held.source, kernels=kernels)
    except OnnxpoolError:  # then every case fails
        return golden.cases[0].name
    for case in golden.cases:
        try:
            outputs = session.run(case.inputs) if session else theirs.run(held.original, case.inputs, kernels)[0]
        except OnnxpoolError:
            return case.name
        for name, answer in case.answers.items():
            if name not in outputs:
                return case.name
            bound = bounds.network(answer, outputs[name].dtype, case.yardstick[name], golden.yardstick)
            if outputs[name].shape != answer.shape:
                return case.name
            if not bounds.measure(outputs[name], case.nearest(name, outputs[name]), bound.allowed).within:
                return case.name
    raise ArgumentError(f"none of {len(golden.cases)} cases fails in ONNX Runtime with kernels={kernels!r}")


def _shortest(runs: Runs) -> list[str]:
    """The shortest run of nodes that fails on reference inputs; it begins and ends where all values are known."""
    nodes = [node for node in runs.graph.graph if node.op_type != "Constant"]
    names = [str(node.name) for node in nodes]
    if not _fails(runs, names):
        raise ArgumentError(f"case={runs.case.name!r} does not fail in ONNX Runtime, node by node or as a whole")
    cuts = _cuts(nodes, _sound(runs))
    end = cuts[_halve(1, len(cuts) - 1, lambda last: _fails(runs, names[: cuts[last]]))]
    starts = [cut for cut in cuts if cut < end]
    start = starts[-_halve(1 - len(starts), 0, lambda first: _fails(runs, names[starts[-first] : end]))]
    return names[start:end]


def _cuts(nodes: Sequence[ir.Node], known: set[str]) -> list[int]:
    """How many nodes may stand in front of a cut: every value that crosses it is known."""
    last_use = {value: i for i, node in enumerate(nodes) for value in subgraph.taken(node)}
    cuts, crossing = [0], set[ir.Value]()
    for i, node in enumerate(nodes[:-1]):
        crossing = {value for value in (*crossing, *node.outputs) if last_use.get(value, -1) > i}
        if {str(value.name) for value in crossing} <= known:
            cuts.append(i + 1)
    return [*cuts, len(nodes)]


def _halve(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """The first number of which ``fails`` is true, where it is true of ``high`` and of all above the first."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return high


def _fails(runs: Runs, names: Sequence[str]) -> bool:
    part = subgraph.segment(runs.graph, names, runs.feeds)
    try:
        outputs, _ = run_part(part, runs.feeds, runs.kernels, runs.theirs)
    except OnnxpoolError:
        return True
    return any(runs.grown(name, array) > 1 for name, array in outputs.items() if name in runs.known)


def _sound(runs: Runs) -> set[str]:
    """The values of which it is known what they should be."""
    return {name for name, one in runs.known.items() if one.sound}


def _case(runs: Runs, part: ir.Model, name: str) -> tuple[Case, dict[str, float], dict[str, str]]:
    """What the part takes, what it should give, and how far off it may be."""
    inputs = {str(value.name): runs.feeds[str(value.name)] for value in part.graph.inputs}
    known = {str(value.name): runs.known[str(value.name)] for value in part.graph.outputs}
    answers = {
        key: np.asarray(one.reference if one.sound or one.cells is None else one.cells.values, np.float64)
        for key, one in known.items()
    }
    dtypes = {key: str(one.given.dtype) for key, one in known.items()}
    bound = {key: bounds.network(answers[key], dtypes[key], one.total_error, "") for key, one in known.items()}
    return Case(name, inputs, answers, {}), {key: float(one.allowed) for key, one in bound.items()}, dtypes
