"""What is tried before a model serves: its golden inputs on this machine, and whether its requests may be joined.

The golden answers are the float64 ones that were stored at export; the allowed error is
:func:`onnxpool.golden.bounds.network`. A NaN that ONNX Runtime's max-pools drop is not a mismatch, nor is
another known limit of the runtime (:mod:`onnxpool.validation.limits`). Without a golden file the model runs once on
made inputs, and its answers are unknown; one that does not run at invented sizes is served all the same, since its
clients may know others, and its requests are never joined.

Requests may be joined where the first axis of every input and output has one name, and joined rows come out as they do
alone: *exactly*, or within 16 ULP of the largest, since a matrix product of one row takes another path than that of
many. What differs more depends on its neighbours, and is never joined.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.errors import ArgumentError, FormError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import generate, inputs_of
from onnxpool.graph import forms
from onnxpool.run.session import Session
from onnxpool.runtimes import RUNTIMES
from onnxpool.serve.tensors import Tensors
from onnxpool.validation import limits

_SIZED = {
    **dict.fromkeys(("Range", "ConstantOfShape", "HannWindow", "HammingWindow", "BlackmanWindow", "If"), 0),
    **dict.fromkeys(("NonZero", "Compress", "Unique", "NonMaxSuppression", "MelWeightMatrix"), 0),
    **dict.fromkeys(("Expand", "Tile", "Resize", "Upsample", "OneHot", "Pad", "Col2Im", "AffineGrid"), 1),
    **dict.fromkeys(("Slice", "Split", "TopK", "CenterCropPad"), 1),
    "MaxUnpool": 2,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), 4),
}
"""Operators whose outputs are as large, or whose work is as much, as values say that they take: from this input on."""

_SIZES = ("Constant", "Shape", "Size")
"""Operators that give what is known of sizes alone."""

Joins: TypeAlias = Literal["exactly", "within rounding", "never"]
Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Trial:
    """How it went. ``share`` is the largest measured over allowed error, None where there are no golden answers.

    A model is ``straight`` where the sizes of its inputs alone decide how long it runs: nothing loops, chooses between
    graphs, or makes as much as its data say.
    ``fault`` says which case does not come out, in one sentence, or is empty. ``shapes`` are sizes of inputs that are
    known to run, unless ``untried`` says why none are.
    """

    share: float | None
    fault: str
    joins: Joins
    shapes: dict[str, tuple[int, ...]]
    untried: str = ""
    straight: bool = False

    def __str__(self) -> str:
        """The golden answers in words."""
        if self.untried:
            return f"no golden answers beside it, and invented inputs do not run: {self.untried}"
        if self.share is None:
            return "no golden answers beside it"
        return self.fault or f"golden answers hold, at most {self.share:.2g} of the allowed error"


def attempt(session: Session, path: Path) -> Trial:
    """Try a model that was loaded from ``path``.

    Raises :class:`GoldenError` for a golden file that is damaged, and :class:`SessionError` where the model cannot run
    on its inputs.
    """
    if golden_file.path_for(path).exists():
        known = golden_file.load(golden_file.path_for(path))
        operators = _operators(path)
        shares = [_share(session, known, case, operators) for case in known.cases]
        worst, fault = max(shares, default=(0.0, ""))
        examples = {case.name: case.inputs for case in known.cases}
    else:
        worst, fault, examples = None, "", {}
    if not examples:
        try:
            examples = dict(generate(inputs_of(forms.read(path, in_place=True))))
            session.run(examples["ordinary"])
        except OnnxpoolError as reason:
            shapes = {info.name: tuple(max(size, 1) for size in info.sizes) for info in session.inputs}
            return Trial(worst, fault, "never", shapes, str(reason))
    example = examples.get("ordinary") or next(iter(examples.values()))
    session.run(example)
    shapes = {name: tensor.shape for name, tensor in example.items()}
    return Trial(worst, fault, _joins(session, example), shapes, straight=_is_straight(path))


def _is_straight(path: Path) -> bool:
    """Whether sizes decide how long it runs, as they do in bodies of ours; no for a file that cannot be read."""
    try:
        model = forms.read(path, in_place=True)
    except FormError:
        return False
    bodies = (function.all_nodes() for function in model.functions.values() if function.domain != DOMAIN)
    known: set[ir.Value | None] = {None}
    return all(_is_sized(node, known) for node in chain(model.graph.all_nodes(), *bodies))


def _is_sized(node: ir.Node, known: set[ir.Value | None]) -> bool:
    """Whether sizes decide how long a node runs; its outputs become ``known`` where sizes decide them, too.

    A node that runs a graph again and again, such as Loop, has it as an attribute, as nothing but If has otherwise.
    """
    alone = [value in known or (value is not None and value.const_value is not None) for value in node.inputs]
    graphs = any(one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for one in node.attributes.values())
    if node.op_type in _SIZES or (all(alone) and not graphs):
        known.update(node.outputs)
    return all(alone[_SIZED.get(node.op_type, len(alone)) :]) and (not graphs or node.op_type == "If")


def _operators(path: Path) -> set[str]:
    """What the model's nodes are; nothing of a file that ONNX Runtime alone reads, such as an .ort file."""
    try:
        return {node.op_type for node in forms.read(path, in_place=True).graph.all_nodes()}
    except FormError:
        return set()


def _share(
    session: Session, known: golden_file.Golden, case: golden_file.Case, operators: set[str]
) -> tuple[float, str]:
    """The largest part of its allowed error that an output used, and what is wrong with it.

    Of a case that meets a known limit of ONNX Runtime, nothing is.
    """
    if limits.known(session.runtime, operators, case, "dies"):
        return 0.0, ""
    try:
        outputs = session.run(case.inputs)
    except OnnxpoolError as reason:
        if limits.known(session.runtime, operators, case, "stops") or any(
            limit in str(reason) for limit in RUNTIMES[session.runtime].limits
        ):
            return 0.0, ""
        return np.inf, f"golden case {case.name!r} does not run: {reason}"
    worst = (0.0, "")
    for name, answer in case.answers.items():
        if name not in outputs or outputs[name].shape != answer.shape:
            return np.inf, f"golden case {case.name!r}: output {name!r} is missing, or of another shape"
        bound = bounds.network(answer, outputs[name].dtype, case.yardstick[name], known.yardstick)
        error = bounds.measure(outputs[name], case.nearest(name, outputs[name]), bound.allowed)
        made_up = bool((np.isnan(outputs[name]) & ~np.isnan(answer)).any())
        share = np.inf if error.infinite or made_up else error.share
        fault = f"golden case {case.name!r}, output {name!r}: error {error.max_abs:.3g} is {share:.3g} of the allowed"
        worst = max(worst, (share, fault if share > 1 else ""))
    excused = limits.known(session.runtime, operators, case, "drops", "clips", "vanishes")
    return (0.0, "") if worst[1] and excused else worst


def _joins(session: Session, example: Tensors) -> Joins:
    """Whether rows come out of one run as they do out of two."""
    if not session.batched:
        return "never"
    rows = _two_rows(example)
    try:
        alone = [session.run(row) for row in rows]
        joined = session.run({name: np.concatenate([row[name] for row in rows]) for name in example})
    except (OnnxpoolError, ArgumentError):
        return "never"
    apart = {name: np.concatenate([outputs[name] for outputs in alone]) for name in joined}
    if _everywhere(joined, apart, lambda a, b: a.tobytes() == b.tobytes()):
        return "exactly"
    return "within rounding" if _everywhere(joined, apart, _close) else "never"


def _two_rows(example: Tensors) -> tuple[Tensors, Tensors]:
    """The first row of the example, and another: its last, backwards."""
    one = {name: tensor[:1] for name, tensor in example.items()}
    other = {name: tensor[-1:].reshape(-1)[::-1].reshape(tensor[:1].shape) for name, tensor in example.items()}
    return one, other


def _everywhere(joined: Tensors, apart: Tensors, same: Callable[[Any, Any], bool]) -> bool:
    return all(joined[name].shape == apart[name].shape and same(joined[name], apart[name]) for name in joined)


def _close(joined: Any, apart: Any) -> bool:
    answer = apart.astype(np.float64)
    return bounds.measure(joined, answer, bounds.network(answer, joined.dtype, 0, "").allowed).within
