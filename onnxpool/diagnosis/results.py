"""What a comparison node by node found (:mod:`onnxpool.diagnosis.per_node`), as plain values."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from onnxpool.validation.report import Report

Part: TypeAlias = Literal["introduces", "propagates", "agrees"]
Doer: TypeAlias = Literal["model", "body", "runtime", ""]

_BY = {
    "model": "by the model itself",
    "body": "by its function body",
    "runtime": "by the runtime",
    "": "from its inputs",
}


@dataclass(frozen=True)
class NodeResult:
    """What was found about one node: see :mod:`onnxpool.diagnosis.per_node`.

    ``share`` is the largest part of the allowed error used with reference inputs, ``total`` with the inputs as they
    come; above 1 is wrong. ``line`` is where in the network's code the node comes from, and ``code`` what stands there,
    if the model notes it.
    """

    name: str
    op_type: str
    part: Part
    by: Doer
    share: float
    total: float
    reason: str
    line: str
    code: str

    @property
    def sentence(self) -> str:
        """What happened at this node."""
        if self.part == "agrees":
            return f"node {self.name!r} ({self.op_type}) agrees"
        place = f" ({self.line}: {self.code})" if self.line else ""
        return f"node {self.name!r} ({self.op_type}) {self.part} an error {_BY[self.by]}: {self.reason}{place}"


@dataclass(frozen=True)
class Nodes:
    """Every node of a model on one case; ``source`` says where the reference values come from."""

    case: str
    source: str
    results: tuple[NodeResult, ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> NodeResult | None:
        """The first node that introduces an error; where none does, the first that errors have added up to."""
        for part in ("introduces", "propagates"):
            for result in self.results:
                if result.part == part:
                    return result
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        shown = [{**asdict(one), "share": _plain(one.share), "total": _plain(one.total)} for one in self.results]
        return {**asdict(self), "results": shown, "first": self.first.sentence if self.first else None}


@dataclass(frozen=True)
class NodesOfReport:
    """A report, and the comparison node by node that follows it."""

    report: Report
    nodes: Nodes

    def to_json(self) -> dict[str, Any]:
        """The report's values, and ``nodes``."""
        return {**self.report.to_json(), "nodes": self.nodes.to_json()}


def _plain(share: float) -> float | str:
    return share if math.isfinite(share) else "inf"
