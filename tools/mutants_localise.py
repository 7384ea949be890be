"""Planted faults, and whether per-node and bisect name the nodes that were changed: ``tools/mutants --localise``.

Each fault is a kind of mutation (tools/mutants_kinds.py) of a network (tools/mutants_networks.py). Every node that
differs from the right model is the fault; nodes that only take from an inserted one are not. Two questions, each with
the module as reference and with the golden file alone:

A right model must have no such node.

    named     the first node that ``validate --per-node`` names is one of these; "region" where it names a node and
              says "or one of n in front of it", one of which is the fault
    nodes     how many nodes ``bisect`` ends with, one of these among them
"""

import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mutants_kinds as kinds
import mutants_networks as networks
import numpy as np
import onnx_ir as ir

import onnxpool
from onnxpool.diagnosis.bisect import bisected, first_failing
from onnxpool.diagnosis.per_node import of_runs
from onnxpool.diagnosis.runs import run_both
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden import file as golden_file
from onnxpool.golden.file import Golden
from onnxpool.graph import subgraph
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.validation.foreign import Foreign
from onnxpool.validation.model import HeldModel

FAULTS = (
    ("convolutions", "one element x 1.01"),
    ("convolutions", "MaxPool is AveragePool"),
    ("batch norm", "weight x 1.001"),
    ("batch norm", "a value + 1e-4"),
    ("group norm", "epsilon x 10"),
    ("group norm", "Erf is Tanh"),
    ("group norm", "constant x 1.001"),
    ("instance norm", "a node left out"),
    ("standardised", "Sub is Add"),
    ("detector", "cast to float16 and back"),
    ("soft pool", "pads shifted"),
    ("soft pool", "body: Div is Mul"),
    ("local importance", "inputs exchanged"),
    ("mobile", "pads off"),
    ("mobile", "a value x 1.0001"),
    ("up", "alpha x 1.01"),
    ("classes", "axis"),
    ("unlike channels", "one element + 1e-3"),
    ("squeezed", "Mul is Add"),
    ("squeezed", "a value x 1.0001"),
    ("attention", "perm"),
    ("transformer", "two weights exchanged"),
    ("layer norm", "epsilon x 10"),
    ("lstm", "weight rolled"),
    ("gru", "linear_before_reset"),
    ("einsum", "equation"),
    ("branches", "branch: Tanh is Sigmoid"),
    ("loop", "branch: Tanh is Sigmoid"),
    ("half", "weight negated"),
    ("half", "Relu is Abs"),
    ("half", "MaxPool is AveragePool"),
)
"""Networks and kinds."""

WITHIN: dict[str, Literal["If", "Loop"]] = {"branches": "If", "loop": "Loop"}
"""Networks whose Tanh is in a branch, or in the body of a loop that runs once, before anything is planted."""

MOST = 3
"""Nodes that a bisection may end with."""

Named = Literal["yes", "region", "no"]


@dataclass(frozen=True)
class Located:
    """What was found of one fault: ``nodes`` is 0 where bisection ends without the fault, or with an error."""

    fault: str
    reference: Literal["module", "golden"]
    named: Named
    nodes: int
    told: str


class Faults:
    """One network, its model and golden file."""

    def __init__(self, name: str, folder: Path) -> None:
        network = networks.make(name)
        self.name, self.module, self.folder = name, network.module, folder
        path = folder / f"{name}.onnx"
        self.model = onnxpool.export(network.module, network.args, path, dynamic_shapes=network.dynamic)
        if name in WITHIN:
            within(self.model, WITHIN[name])
        self.golden = golden_file.load(golden_file.path_for(path))

    def blamed(self, reference: str) -> str:
        """What is said to be wrong in the right model, or nothing."""
        module = self.module if reference == "module" else None
        runs = run_both(HeldModel(self.model), self._golden(reference), None, module, "off", Foreign(()))
        first = of_runs(runs).first
        return first.sentence if first is not None else ""

    def _golden(self, reference: str) -> Golden:
        """The module gave the same answers, and tells nothing of the export."""
        return self.golden if reference == "golden" else replace(self.golden, fingerprints=None, trace=None)

    def located(self, kind: str, references: Sequence[str], seed: int = 0) -> Iterator[Located]:
        """What is found of one fault, by each reference."""
        mutant = self.model.clone()
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
        if not kinds.KINDS[kind].change(mutant, rng):
            raise ArgumentError(f"kind={kind!r} has no place in {self.name}")
        wrong = planted(self.model, mutant)
        for reference in references:
            yield self._located(f"{self.name}, {kind}", mutant, wrong, reference)

    def _located(self, fault: str, mutant: ir.Model, wrong: set[str], reference: Any) -> Located:
        held, theirs = HeldModel(mutant), Foreign(())
        module = self.module if reference == "module" else None
        golden = self._golden(reference)
        try:
            case = first_failing(held, golden, "off", theirs)
            runs = run_both(held, golden, case, module, "off", theirs)
            first = of_runs(runs).first
            nodes, told = 0, first.sentence if first else "nothing"
            region = first is not None and "or one of" in first.reason and set(runs.region_of(first.name)) & wrong
            named: Named = "yes" if first and first.name in wrong else "region" if region else "no"
            part = bisected(runs, Path(tempfile.mkdtemp(dir=self.folder)))
            nodes = len(part.nodes) if set(part.nodes) & wrong else 0
            told += f"; bisect: {', '.join(part.nodes)}"
        except OnnxpoolError as error:
            named, nodes, told = "no", 0, str(error)
        return Located(fault, reference, named, nodes, f"{told}; planted: {', '.join(sorted(wrong))}")


def within(model: ir.Model, op_type: Literal["If", "Loop"]) -> None:
    """Put the Tanh of a model into the branches of an If, or the body of a Loop."""
    node = next(node for node in model.graph if node.op_type == "Tanh")
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None

    def constant(name: str, array: Any) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(np.array(array), name=name))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape([])  # type: ignore[union-attr]
        model.graph.register_initializer(value)
        return value

    def branch(name: str, inputs: Sequence[ir.Value], given: ir.Value, first: Sequence[ir.Node] = ()) -> ir.Attr:
        inner = ir.node("Tanh", [given], name=f"{name}_tanh")
        inner.outputs[0].name, inner.outputs[0].type, inner.outputs[0].shape = f"{name}_y", y.type, y.shape
        outputs = [*(one.outputs[0] for one in first), inner.outputs[0]]
        return ir.AttrGraph(name, ir.Graph(inputs, outputs, nodes=[*first, inner], name=name))

    yes = constant("yes", True)
    if op_type == "If":
        attributes = [branch("then_branch", [], x), branch("else_branch", [], x)]
        made = ir.Node("", "If", [yes], attributes, num_outputs=1, name="choose")
    else:
        whole = ir.TensorType(ir.DataType.INT64), ir.TensorType(ir.DataType.BOOL)
        count = ir.Value(name="count", type=whole[0], shape=ir.Shape([]))
        going = ir.Value(name="going", type=whole[1], shape=ir.Shape([]))
        state = ir.Value(name="state", type=y.type, shape=y.shape)
        again = ir.node("Identity", [going], name="again")
        again.outputs[0].name, again.outputs[0].type, again.outputs[0].shape = "still", whole[1], ir.Shape([])
        body = branch("body", [count, going, state], state, [again])
        made = ir.Node("", "Loop", [constant("once", 1), yes, x], [body], num_outputs=1, name="repeat")
    made.metadata_props.update(node.metadata_props)
    made.outputs[0].type, made.outputs[0].shape = y.type, y.shape
    model.graph.insert_before(node, made)
    ir.convenience.replace_all_uses_with(y, made.outputs[0])
    model.graph.remove(node)
    made.outputs[0].name = y.name


def planted(right: ir.Model, mutant: ir.Model) -> set[str]:
    """Names of the nodes that differ."""
    theirs, ours = fingerprints(right), fingerprints(mutant)
    before, after = theirs["nodes"], ours["nodes"]
    bodies = {name for name, digest in ours["functions"].items() if theirs["functions"].get(name) != digest}
    known = {node.name for node in right.graph}
    new = {str(node.name) for node in mutant.graph if node.name not in known}
    made = {str(value.name) for node in mutant.graph if node.name in new for value in node.outputs}
    found = set(new)
    for node in mutant.graph:
        then, now = before.get(str(node.name)), after.get(str(node.name))
        if then is None or now is None:
            continue
        same = all(then[key] == now[key] for key in ("op", "attributes", "weights"))
        wires = [[source.partition(" ")[2] for source in one["inputs"]] for one in (then, now)]  # by name, not operator
        rewired = wires[0] != wires[1] and not {str(one.name) for one in subgraph.taken(node)} & made
        if not same or rewired or now["op"] in bodies:
            found.add(str(node.name))
    return found


def report(names: Sequence[str], references: Sequence[str] = ("module", "golden")) -> bool:
    """Plant every fault in networks of these names; print what is found, and say whether all are named."""
    found: list[Located] = []
    alarms = 0
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        for name in dict.fromkeys(network for network, _ in FAULTS if network in names):
            subject = Faults(name, Path(folder))
            for reference in references:
                if told := subject.blamed(reference):
                    alarms += 1
                    print(f"false alarm: {name}, by {reference}: {told}", flush=True)
            for kind in (kind for network, kind in FAULTS if network == name):
                for one in subject.located(kind, references):
                    found.append(one)
                    told = "" if one.named == "yes" and 0 < one.nodes <= MOST else f": {one.told}"
                    print(f"{one.fault}, by {one.reference}: named {one.named}, {one.nodes} nodes{told}", flush=True)
    for reference in references:
        own = [one for one in found if one.reference == reference]
        named = sum(one.named == "yes" for one in own)
        small = sum(0 < one.nodes <= MOST for one in own)
        region = sum(one.named == "region" for one in own)
        print(
            f"by {reference}: per-node names {named} of {len(own)} and {region} more by their region; "
            f"bisect ends with at most {MOST} nodes in {small}"
        )
    print(f"{alarms} right models called wrong")
    return alarms == 0 and all(one.named != "no" for one in found)
