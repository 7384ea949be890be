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
from onnxpool.diagnosis.per_node import of_runs
from onnxpool.diagnosis.runs import Runs, run_both, run_part
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case, Golden
from onnxpool.graph import subgraph
from onnxpool.graph.forms import Model
from onnxpool.run.session import Kernels, load
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
) -> Bisection:
    """Write the smallest part of ``model`` that fails on ``case``, by default the first case that fails.

    ``reference`` as in :func:`onnxpool.validate`, ``kernels`` as in :func:`onnxpool.load`.
    Raises :class:`ArgumentError` where nothing fails in ONNX Runtime, and for a folder that holds anything.
    """
    held = HeldModel(model)
    golden = answers_for(held, reference, case)
    failing = case or _first_failing(model, golden, kernels)
    runs = run_both(held, golden, failing, reference, kernels)
    first = of_runs(runs).first
    if first is not None and first.part == "introduces":
        node = next(node for node in runs.graph.graph if node.name == first.name)
        names, reason = [*runs.region(node), first.name], first.sentence
        if first.name in runs.casts:  # what it rounds away shows where the type is wide again
            names = [first.name, *(str(user.name) for user, _ in node.outputs[0].uses() if user.op_type == "Cast")]
    else:
        names, reason = _shortest(runs), "these nodes are right one by one, and wrong together"
    part = subgraph.segment(runs.graph, names, runs.feeds)
    written = bundle.write(folder, part, *_case(runs, part, f"{failing}, part"))
    return Bisection(tuple(names), reason, written)


def _first_failing(model: Model, golden: Golden, kernels: Kernels) -> str:
    session = load(model, kernels=kernels)
    for case in golden.cases:
        try:
            outputs = session.run(case.inputs)
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
    """The shortest run of nodes that fails on reference inputs."""
    names = [str(node.name) for node in runs.graph.graph if node.op_type != "Constant"]
    if not _fails(runs, names):
        raise ArgumentError(f"case={runs.case.name!r} does not fail in ONNX Runtime, node by node or as a whole")
    end = _halve(0, len(names) - 1, lambda last: _fails(runs, names[: last + 1]))
    start = -_halve(-end, 0, lambda first: _fails(runs, names[-first : end + 1]))
    return names[start : end + 1]


def _halve(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """The first number of which ``fails`` is true, where it is true of ``high`` and of all above the first."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle + 1, high)
    return high


def _fails(runs: Runs, names: Sequence[str]) -> bool:
    part = subgraph.segment(runs.graph, names, runs.feeds)
    try:
        outputs, _ = run_part(part, runs.feeds, runs.kernels)
    except OnnxpoolError:
        return True
    return any(runs.grown(name, array) > 1 for name, array in outputs.items() if name in runs.known)


def _case(runs: Runs, part: ir.Model, name: str) -> tuple[Case, dict[str, float], dict[str, str]]:
    """What the part takes, what it should give, and how far off it may be."""
    inputs = {str(value.name): runs.feeds[str(value.name)] for value in part.graph.inputs}
    known = {str(value.name): runs.known[str(value.name)] for value in part.graph.outputs}
    answers = {key: np.asarray(one.reference, np.float64) for key, one in known.items()}
    dtypes = {key: str(one.given.dtype) for key, one in known.items()}
    bound = {key: bounds.network(answers[key], dtypes[key], one.total_error, "") for key, one in known.items()}
    return Case(name, inputs, answers, {}), {key: float(one.allowed) for key, one in bound.items()}, dtypes
