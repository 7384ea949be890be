"""What is said of each node: at once, by the values that it takes and gives, or by what it does when it is switched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.errors import MissingExtra
from onnxpool.graph import mixed, subgraph
from onnxpool.pools import OPERATORS
from onnxpool.quantizing.ranges import MARGIN, Seen
from onnxpool.quantizing.switched import Places, To

SLACK = 2.0
"""What is measured may be the budget over this: other inputs than the samples do more."""

Verdict: TypeAlias = Literal["safe", "needs float32", "overflows", "has none"]


@dataclass(frozen=True)
class NodeAdvice:
    """``effect`` is how far the node alone moves the outputs, None where that was not tried; ``largest`` the largest
    magnitude of what it takes, gives and sums up, and ``value`` the name of what that is.
    """

    name: str
    op_type: str
    verdict: Verdict
    effect: float | None
    largest: float
    value: str
    reason: str

    @property
    def sentence(self) -> str:
        """What is advised, and why."""
        told = f"node {self.name!r} ({self.op_type}) {'is safe' if self.verdict == 'safe' else self.verdict}"
        return f"{told}: {self.reason}"


def node_names(base: ir.Model) -> list[str]:
    """Of all nodes that compute something."""
    return [str(node.name) for node in base.graph if node.op_type != "Constant"]


def sorted_out(base: ir.Model, seen: Seen, to: To) -> tuple[dict[str, NodeAdvice], dict[str, Places]]:
    """The nodes of which something is known at once, and the others, with what is rounded of them."""
    whole = _quantizable() if to == "int8" else frozenset[str]()
    known, candidates = dict[str, NodeAdvice](), dict[str, Places]()
    for node in base.graph:
        if node.op_type == "Constant":
            continue
        name = str(node.name)
        inputs, outputs = mixed.places(node, base.opset_imports)
        value, largest, room = _nearest(base, node, seen, inputs, outputs)
        if not outputs or (to == "int8" and node.op_type not in whole):
            reason = f"{node.op_type} stays as it is: {_why_none(node, to, bool(inputs or outputs))}"
            known[name] = NodeAdvice(name, node.op_type, "has none", None, largest, value, reason)
        elif not np.isfinite(largest):
            known[name] = NodeAdvice(
                name, node.op_type, "overflows", None, largest, value, f"its value {value!r} has NaN or infinity"
            )
        elif to == "float16" and largest * room > mixed.LARGEST:
            what = f"its sums reach {largest:.3g}" if value == name else f"its value {value!r} reaches {largest:.3g}"
            reason = f"{what}, float16 ends at {mixed.LARGEST:g}"
            known[name] = NodeAdvice(name, node.op_type, "overflows", None, largest, value, reason)
        else:
            candidates[name] = (inputs, outputs)
    return known, candidates


def _why_none(node: ir.Node, to: To, has_floats: bool) -> str:
    if any(True for _ in subgraph.bodies(node)):
        return "what branches and loops do is not looked into"
    if node.domain not in ("", "ai.onnx", DOMAIN):
        return f"an operator of {node.domain!r}, of which it is not known what types it takes"
    if not has_floats and all(value is None or value.dtype != ir.DataType.FLOAT for value in node.inputs):
        return "it takes no float32"
    return f"it has no form in {to} that gives the same kind of numbers"


def _quantizable() -> frozenset[str]:
    try:
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu", "quantize") from error
    return frozenset({*QDQRegistry, *QLinearOpsRegistry, *OPERATORS})


def _nearest(
    base: ir.Model, node: ir.Node, seen: Seen, inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[str, float, float]:
    """What of a node comes nearest to the end of float16, its magnitude, and how many times that must fit: a weight
    once. Sums inside have the node's own name.
    """
    names = [str(value.name) for i in inputs if (value := node.inputs[i]) is not None]
    names += [str(node.outputs[i].name) for i in outputs]
    weights = base.graph.initializers
    rooms = {name: 1.0 if name in weights else seen.margins.get(name, MARGIN) for name in names}
    found = [(name, seen.largest(name), room) for name, room in rooms.items()]
    own = str(node.name)
    found.append((own, seen.inside.get(own, 0.0), MARGIN))
    return max(found, key=lambda one: np.nan_to_num(one[1] * one[2], nan=np.inf))


def tried_alone(base: ir.Model, seen: Seen, name: str, effect: float, safe: Sequence[str], budget: float) -> NodeAdvice:
    """What is said of a node that alone has this ``effect``, where the nodes ``safe`` are so together."""
    node = next(node for node in base.graph if node.name == name)
    value, largest, _ = _nearest(base, node, seen, *mixed.places(node, base.opset_imports))
    alone = f"alone it moves the outputs by {100 * effect:.2g} %"
    if name in safe:
        return NodeAdvice(name, node.op_type, "safe", effect, largest, value, alone)
    limit = f"{100 * budget / SLACK:.2g} % is allowed here"
    more = "" if not effect <= budget / SLACK else "and beside the others by more; "
    reason = f"{alone}, {more}{limit}"
    return NodeAdvice(name, node.op_type, "needs float32", effect, largest, value, reason)
