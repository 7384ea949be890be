"""The two runs behind a comparison node by node (:mod:`onnxpool.diagnosis.per_node`): the model as a whole, and each
node alone.

As a whole, every value is an output, so that each shows the errors that have added up to it. Alone, each node takes
reference inputs, all nodes in one run of a graph that is cut at every value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.diagnosis.reference_values import Known, walk
from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array
from onnxpool.errors import ExportError, GoldenError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.perturbed import SATURATING
from onnxpool.graph import subgraph
from onnxpool.graph.fingerprint import changes
from onnxpool.graph.subgraph import OWN
from onnxpool.network import traced
from onnxpool.run.session import Kernels, load
from onnxpool.validation.foreign import Foreign
from onnxpool.validation.model import HeldModel
from onnxpool.validation.validate import Reference
from onnxpool.window import Window

_YARDSTICK = "the reference evaluator's own error"


@dataclass(frozen=True)
class Runs:
    """What came of both runs of ``graph`` on one case, beside what is ``known`` of each value.

    ``source`` says where the reference values come from, ``feeds`` holds these values in the types that nodes take.
    ``total`` holds the values of the model as a whole, ``local`` what each node makes of reference inputs, ``refused``
    why a node cannot run on these, ``native`` the pooling nodes that ran natively, ``casts`` what nodes round to that
    were not exported so, in a model that fails, ``stopped`` why the model as a whole does not run, if it does not,
    ``notes`` what else a reader should know. ``kernels`` are those that
    ran, ``theirs`` what runs the operators of other libraries.
    """

    graph: ir.Model
    case: Case
    kernels: Kernels
    source: str
    known: Mapping[str, Known]
    feeds: Feeds
    total: Feeds
    local: Feeds
    refused: Mapping[str, str]
    native: frozenset[str]
    casts: Mapping[str, str]
    stopped: str
    notes: tuple[str, ...]
    theirs: Foreign

    def departs(self, node: ir.Node, name: str) -> float:
        """The share of its allowed error that what a node makes in float64 uses, where its inputs are known; else 0."""
        known = self.known[name]
        if not known.anchored or not self.given_right(node):
            return 0.0
        if known.exact is None:
            return 0.0
        actual, answer, bound = self.compared(node, name, known.exact)
        return np.inf if actual.shape != answer.shape else _share(actual, np.asarray(answer, np.float64), bound)

    def compared(
        self, node: ir.Node, name: str, actual: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], bounds.Bound]:
        """A value, what it should be and may err: cells of all three, where only these are known."""
        known = self.known[name]
        if known.cells is None or actual.shape != known.cells.shape:
            answer = known.reference if known.cells is None else np.zeros(known.cells.shape)
            return actual, answer, self.bound(node, name, answer)
        bound = self.bound(node, name, known.reference)
        allowed = known.cells.of(np.broadcast_to(bound.allowed, actual.shape))
        return known.cells.of(actual), known.cells.values, bounds.Bound(allowed, bound.origin)

    def is_right(self, node: ir.Node, name: str, array: NDArray[Any]) -> bool:
        """Whether a value is what it should be, as far as is known."""
        actual, answer, bound = self.compared(node, name, array)
        if actual.shape != answer.shape:
            return False
        return bounds.measure(actual, np.asarray(answer, np.float64), np.maximum(bound.allowed, 1e-12)).within

    def given_right(self, node: ir.Node) -> bool:
        """Whether all that a node takes is what it should be, as far as is known."""
        return all(self.known[str(v.name)].sound for v in subgraph.taken(node) if v.name in self.known)

    def error(self, node: ir.Node, name: str, actual: NDArray[Any] | None, answer: NDArray[Any] | None) -> float:
        """The share of its allowed error that a value uses; infinite for a wrong shape and for NaN out of place."""
        if actual is None or answer is None:
            return 0.0
        if actual.shape != answer.shape:
            return np.inf
        return _share(actual, np.asarray(answer, np.float64), self.bound(node, name, answer))

    def grown(self, name: str, actual: NDArray[Any] | None) -> float:
        """The share of its allowed error that a value uses, with errors that have added up to it."""
        known = self.known[name]
        if actual is None:
            return 0.0
        answer = np.asarray(known.reference, np.float64)
        if known.cells is not None and not known.sound:
            if actual.shape != known.cells.shape:
                return np.inf
            actual, answer = known.cells.of(actual), known.cells.values
        if actual.shape != answer.shape:
            return np.inf
        bound = bounds.network(answer, actual.dtype, known.total_error, _YARDSTICK)
        return _share(actual, answer, bounds.Bound(bound.allowed + self._saturating(self._makers[name]), bound.origin))

    def bound(self, node: ir.Node, name: str, answer: NDArray[Any]) -> bounds.Bound:
        """What a node may err in one of its values: by analysis for pooling nodes, by measurement for others."""
        dtype = self.known[name].given.dtype
        x = self.feeds.get(str(node.inputs[0].name)) if node.inputs and node.inputs[0] else None
        if node.domain == DOMAIN and x is not None and node.name not in self.refused:
            window = Window.from_attributes({key: attribute.value for key, attribute in node.attributes.items()})
            if window.check(x.shape) == answer.shape:
                native = node.name in self.native
                return bounds.pooling(window, x.astype(np.float64), np.asarray(answer), dtype, native=native)
        found = bounds.network(np.asarray(answer, np.float64), dtype, self.known[name].own_error, _YARDSTICK)
        return bounds.Bound(found.allowed + self._saturating(node), found.origin)

    def _saturating(self, node: ir.Node) -> float:
        """What any program may err where a function saturates, whatever the answer is."""
        name = str(node.outputs[0].name)
        if name not in self.known or self.known[name].given.dtype == np.float64:
            return 0.0
        x = self.feeds.get(str(node.inputs[0].name)) if node.op_type == "Gelu" and node.inputs[0] else None
        scale = 1.0 if x is None else float(np.abs(x[np.isfinite(x)]).max(initial=0))
        return scale * SATURATING.get(node.op_type.lower(), 0.0)

    @cached_property
    def _makers(self) -> dict[str, ir.Node]:
        return {str(value.name): node for node in self.graph.graph for value in node.outputs}

    def region_of(self, name: str) -> list[str]:
        """:meth:`region` of the node of that name."""
        return self.region(next(node for node in self.graph.graph if node.name == name))

    def region(self, node: ir.Node) -> list[str]:
        """The nodes in front whose values are not known from outside, any of which may be the wrong one."""
        found: dict[str, None] = {}
        queue = [node]
        while queue:
            unknown = (v for v in subgraph.taken(queue.pop()) if v.name in self.known)
            makers = [v.producer() for v in unknown if not self.known[str(v.name)].anchored]
            queue += [maker for maker in makers if maker is not None and str(maker.name) not in found]
            found |= {str(maker.name): None for maker in makers if maker is not None}
        return list(found)


def _share(actual: NDArray[Any], answer: Array, bound: bounds.Bound) -> float:
    error = bounds.measure(actual, answer, bound.allowed)
    return error.share if error.nan == error.infinite == 0 else np.inf


def run_both(
    held: HeldModel, golden: Golden, case: str | None, reference: Reference, kernels: Kernels, theirs: Foreign
) -> Runs:
    """Run the model as a whole, and each node alone, on one case of ``golden``, by default the first.

    ``reference`` as in :func:`onnxpool.validate`: a module there gives the values within. What cannot run is noted.
    """
    graph, chosen = subgraph.flat(held.runnable), golden.case(case)
    taken = {str(value.name) for value in graph.graph.inputs if not value.is_initializer()}
    if taken != set(chosen.inputs):
        raise GoldenError(f"the answers are for inputs {sorted(chosen.inputs)}, this model takes {sorted(taken)}")
    inside, untraced = _inside(reference, graph, chosen)
    right = _right(graph, chosen, kernels, theirs)
    casts = {} if right else _narrowing(graph, golden)
    of_this_case = golden.trace is not None and golden.trace.case == chosen.name
    cells = golden.trace.values if golden.trace is not None and of_this_case and not right and not inside else {}
    whole = {name: one.whole for name, one in cells.items() if one.whole is not None}
    known = walk(graph, chosen.inputs, {**whole, **chosen.answers, **inside}, casts, cells)
    anchored = sum(value.anchored for value in known.values())
    given = {name: value.given for name, value in known.items()}
    feeds = {**given, **chosen.inputs}
    total, native, stopped = _whole(graph, given, feeds, kernels, theirs)
    local, also_native, refused = _alone(graph, given, feeds, kernels, theirs)
    return Runs(
        graph=graph,
        case=chosen,
        kernels=kernels,
        source=f"{golden.source} ({anchored} of {len(known)} values; the model in float64 between them)",
        known=known,
        feeds=feeds,
        total=total,
        local=local,
        refused=refused,
        native=native | also_native,
        casts=casts,
        stopped=stopped,
        notes=(
            *untraced,
            *([f"the model as a whole does not run: {stopped}"] if stopped else []),
            *_changed(held, golden),
        ),
        theirs=theirs,
    )


def _right(graph: ir.Model, case: Case, kernels: Kernels, theirs: Foreign) -> bool:
    """Whether the model as a whole gives the answers of a case."""
    try:
        outputs, _ = run_part(graph, case.inputs, kernels, theirs)
    except (OnnxpoolError, KeyError):
        return False
    for name, answer in case.answers.items():
        if name not in outputs or outputs[name].shape != answer.shape:
            return False
        bound = bounds.network(answer, outputs[name].dtype, case.yardstick[name], "")
        if not bounds.measure(outputs[name], case.nearest(name, outputs[name]), bound.allowed).within:
            return False
    return True


_NARROW = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def _narrowing(graph: ir.Model, golden: Golden) -> dict[str, str]:
    """The Casts to a narrower floating point type that were not exported, and to which."""
    exported = (golden.fingerprints or {}).get("nodes", {})
    found = {}
    for node in graph.graph:
        if node.op_type == "Cast" and node.name not in exported:
            to = ir.DataType(node.attributes["to"].as_int())
            given = node.inputs[0].dtype if node.inputs[0] is not None else None
            if to in _NARROW and given not in _NARROW:
                found[str(node.name)] = _NARROW[to]
    return found


def _changed(held: HeldModel, golden: Golden) -> list[str]:
    """What has changed since the export, where that is known."""
    if not (golden.fingerprints and golden.fingerprints["nodes"]):
        return []
    return [f"since the export: {change.text}" for change in changes(golden.fingerprints, held.fingerprints())]


def run_part(part: ir.Model, feeds: Feeds, kernels: Kernels, theirs: Foreign) -> tuple[Feeds, frozenset[str]]:
    """What a part of a graph makes of reference inputs in ONNX Runtime, and the pooling nodes that ran natively.

    With other libraries it runs in another process, which may die.
    """
    if theirs.libraries:
        return theirs.run(part, feeds, kernels)
    session = load(part, kernels=kernels)
    outputs = session.run({info.name: feeds[info.name] for info in session.inputs})
    return outputs, frozenset(place.node for place in session.placements if place.native)


def _inside(reference: Reference, graph: ir.Model, case: Case) -> tuple[dict[str, Array], list[str]]:
    """The values that a module computes on its way, where there is one, and a note where they cannot be known."""
    if not hasattr(reference, "state_dict"):
        return {}, []
    try:
        return traced.values(reference, graph, case.inputs), []  # type: ignore[arg-type]
    except ExportError as error:
        return {}, [f"values inside the module are not known: {error}"]


def _whole(
    graph: ir.Model, given: Feeds, feeds: Feeds, kernels: Kernels, theirs: Foreign
) -> tuple[Feeds, frozenset[str], str]:
    """Every value, with the errors that have added up to it; none, and why, where the model cannot run."""
    try:
        return *run_part(subgraph.opened(graph, given), feeds, kernels, theirs), ""
    except OnnxpoolError as error:
        return {}, frozenset(), str(error)


def _alone(
    graph: ir.Model, given: Feeds, feeds: Feeds, kernels: Kernels, theirs: Foreign
) -> tuple[Feeds, frozenset[str], dict[str, str]]:
    """What each node makes of reference inputs, all in one run, or one by one where some cannot run; and why not."""
    try:
        every, native = run_part(subgraph.cut(graph, given), feeds, kernels, theirs)
        return {name.removesuffix(OWN): array for name, array in every.items()}, native, {}
    except OnnxpoolError:
        return _one_by_one(graph, given, feeds, kernels, theirs)


def _one_by_one(
    graph: ir.Model, given: Feeds, feeds: Feeds, kernels: Kernels, theirs: Foreign
) -> tuple[Feeds, frozenset[str], dict[str, str]]:
    found: Feeds = {}
    natives: frozenset[str] = frozenset()
    refused: dict[str, str] = {}
    for node in graph.graph:
        if node.op_type != "Constant" and _is_known(node, given, feeds):
            try:
                outputs, native = run_part(subgraph.segment(graph, [str(node.name)], feeds), feeds, kernels, theirs)
            except OnnxpoolError as error:
                refused[str(node.name)] = str(error)
            else:
                found, natives = found | outputs, natives | native
    return found, natives, refused


def _is_known(node: ir.Node, given: Feeds, feeds: Feeds) -> bool:
    """Whether there is a reference for all that a node takes and gives."""
    taken = (value for value in subgraph.taken(node) if ir.convenience.get_const_tensor(value) is None)
    return {str(value.name) for value in node.outputs} <= set(given) and {str(v.name) for v in taken} <= set(feeds)
