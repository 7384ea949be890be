"""The two runs behind a comparison node by node (:mod:`onnxpool.diagnosis.per_node`): the model as a whole, and each
node alone.

As a whole, every value is an output, so that each shows the errors that have added up to it. Alone, each node takes
reference inputs, all nodes in one run of a graph that is cut at every value.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.diagnosis import traced
from onnxpool.diagnosis.reference_values import walk
from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array
from onnxpool.errors import ExportError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms, subgraph
from onnxpool.graph.forms import Model
from onnxpool.graph.subgraph import OWN
from onnxpool.run.session import Kernels, load
from onnxpool.validation.validate import Reference
from onnxpool.window import Window


class Runs:
    """What came of both runs on one case of ``golden``, beside what is ``known`` of each value.

    ``total`` holds the values of the model as a whole, ``local`` what each node makes of reference inputs, ``refused``
    why a node cannot run on these, ``native`` the pooling nodes that ran natively.
    """

    def __init__(self, model: Model, golden: Golden, case: str | None, reference: Reference, kernels: Kernels) -> None:
        bare = forms.form_of(model) == "custom"
        self.graph = subgraph.flat(forms.to_form(model, "function") if bare else forms.read(model))
        self.case, self.kernels = golden.case(case), kernels
        self.notes: list[str] = []
        self.known = walk(self.graph, self.case.inputs, self.case.answers | self._inside(reference))
        anchored = sum(value.anchored for value in self.known.values())
        self.source = f"{golden.source} ({anchored} of {len(self.known)} values; the model in float64 between them)"
        self.given = {name: value.given for name, value in self.known.items()}
        self.feeds = {**self.given, **self.case.inputs}
        self.refused: dict[str, str] = {}
        self.native: set[str] = set()
        self.total, self.local = self._whole(), self._alone()

    def _inside(self, reference: Reference) -> dict[str, Array]:
        """The values that a module computes on its way, where there is one."""
        try:
            known = hasattr(reference, "state_dict")
            return traced.values(reference, self.graph, self.case.inputs) if known else {}  # type: ignore[arg-type]
        except ExportError as error:
            self.notes.append(f"values inside the module are not known: {error}")
            return {}

    def run(self, model: ir.Model) -> Feeds:
        """What a part of the graph makes of reference inputs in ONNX Runtime."""
        session = load(model, kernels=self.kernels)
        self.native |= {place.node for place in session.placements if place.native}
        return session.run({info.name: self.feeds[info.name] for info in session.inputs})

    def _whole(self) -> Feeds:
        """Every value, with the errors that have added up to it; none where the model cannot run."""
        try:
            return self.run(subgraph.opened(self.graph, self.given))
        except OnnxpoolError as error:
            self.notes.append(f"the model as a whole does not run: {error}")
            return {}

    def _alone(self) -> Feeds:
        """What each node makes of reference inputs: all in one run, or one by one where some cannot run."""
        try:
            every = self.run(subgraph.cut(self.graph, self.given))
            return {name.removesuffix(OWN): array for name, array in every.items()}
        except OnnxpoolError:
            found: Feeds = {}
            for node in self.graph.graph:
                if node.op_type != "Constant" and {str(value.name) for value in node.outputs} <= set(self.known):
                    try:
                        found |= self.run(subgraph.segment(self.graph, [str(node.name)], self.feeds))
                    except OnnxpoolError as error:
                        self.refused[str(node.name)] = str(error)
            return found

    def error(self, node: ir.Node, name: str, actual: NDArray[Any] | None, answer: NDArray[Any] | None) -> float:
        """The share of its allowed error that a value uses; infinite for a wrong shape and for NaN out of place."""
        if actual is None or answer is None:
            return 0.0
        if actual.shape != answer.shape:
            return np.inf
        error = bounds.measure(actual, np.asarray(answer, np.float64), self.bound(node, name, answer).allowed)
        return error.share if error.nan == error.infinite == 0 else np.inf

    def grown(self, name: str, actual: NDArray[Any] | None) -> float:
        """The share of its allowed error that a value uses, with errors that have added up to it."""
        known = self.known[name]
        if actual is None:
            return 0.0
        if actual.shape != known.reference.shape:
            return np.inf
        answer = np.asarray(known.reference, np.float64)
        allowed = bounds.network(answer, actual.dtype, known.total_error, "the reference evaluator's own error").allowed
        error = bounds.measure(actual, answer, allowed)
        return error.share if error.nan == error.infinite == 0 else np.inf

    def bound(self, node: ir.Node, name: str, answer: NDArray[Any]) -> bounds.Bound:
        """What a node may err in one of its values: by analysis for pooling nodes, by measurement for others."""
        dtype = self.known[name].given.dtype
        x = self.feeds.get(str(node.inputs[0].name)) if node.inputs and node.inputs[0] else None
        if node.domain == DOMAIN and x is not None and node.name not in self.refused:
            window = Window.from_attributes({key: attribute.value for key, attribute in node.attributes.items()})
            if window.check(x.shape) == answer.shape:
                native = node.name in self.native
                return bounds.pooling(window, x.astype(np.float64), np.asarray(answer), dtype, native=native)
        own_error = self.known[name].own_error
        return bounds.network(np.asarray(answer, np.float64), dtype, own_error, "the reference evaluator's own error")

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
