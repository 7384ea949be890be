"""Export proves itself: the model runs in ONNX Runtime and must give what the module gives, before anybody gets it.

It runs on the example and on two other sizes where axes may change, function bodies in place of native kernels. What is
right is the module's own answer in float64; how far off a model may be, the error of PyTorch's run in the module's type
decides (:mod:`onnxpool.golden.bounds`). Declared sizes of outputs that do not come out are corrected.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import from_bits, to_bits
from onnxpool.errors import ExportError, GoldenError
from onnxpool.golden import bounds
from onnxpool.golden.collect import first_line, own_error
from onnxpool.golden.file import Case, Golden
from onnxpool.golden.from_torch import Answering, from_torch, to_torch
from onnxpool.golden.inputs import Feeds, Input, at_sizes, batch_axes, changeable, inputs_of, modest, prime_above
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.graph import forms, shapes, subgraph
from onnxpool.network import lines, traced
from onnxpool.runtimes import onnxruntime

if TYPE_CHECKING:
    import torch

KEY = "onnxpool.proof"
"""Where an exported model's ``meta``, which is not part of the file, holds its :class:`Proof`."""

OTHER_SIZES = 2
"""How many sizes beside the example's are tried."""

_REMEDY = "check=False (--no-check) exports it all the same"


@dataclass(frozen=True)
class Proof:
    """The ``cases`` that the model was checked on, none where it was not; ``notes`` say what could not be, and why."""

    cases: tuple[str, ...]
    notes: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What was checked and what was not."""
        cases = "; ".join(self.cases)
        return [f"checked in ONNX Runtime: {cases}" if cases else "nothing was checked", *self.notes]


def why_not(answering: Answering | None) -> str:
    """Why nothing can be checked; empty where it can. Without ``answering`` the module could not be asked."""
    return onnxruntime.why_not({}) or ("" if answering else "inputs or outputs of module and model differ in number")


def prove(
    model: ir.Model, program: "torch.export.ExportedProgram", cases: Sequence[Case], notes: Sequence[str] = ()
) -> Proof:
    """Run ``model``, which was made of ``program``, on ``cases``; correct the sizes that it declares.

    ``notes`` are what is to be said of the cases (:func:`cases_of`).
    Raises :class:`ExportError` where ONNX Runtime refuses the model or gives something else, with the first node that
    is wrong.
    """
    whole = forms.to_form(model, "function") if forms.form_of(model) == "custom" else model
    notes = list(notes)
    try:
        run = opened(whole)
    except Exception as error:
        raise _refused(whole, error, "load") from error
    for case in cases:
        try:
            results = run(case.inputs)
        except Exception as error:
            raise _refused(whole, error, f"run, on {case.name},") from error
        for name, answer in case.answers.items():
            right = case.nearest(name, results[name]) if results[name].shape == answer.shape else answer
            if told := _difference(results[name], right, case.yardstick[name]):
                raise ExportError(
                    f"the exported model is wrong: on {case.name}, output {name!r} {told}; "
                    f"{_first_wrong(whole, program, case)}; {_REMEDY}"
                )
        notes += _corrected(model, case.inputs, results)
    return Proof(tuple(case.name for case in cases), tuple(dict.fromkeys(notes)))


def opened(model: ir.Model) -> Callable[[Feeds], Feeds]:
    """The model in ONNX Runtime, as a function of arrays by name. Raises whatever ONNX Runtime raises."""
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:  # a file, since weights may exceed one message
        path = Path(folder, "model.onnx")
        forms.write(model, path)
        run, _ = onnxruntime.open_model(str(path), {})

    def call(feeds: Feeds) -> Feeds:
        found = run({name: (array.dtype.name, to_bits(array)) for name, array in feeds.items()})
        return {name: from_bits(array, dtype) for name, (dtype, array) in found.items()}

    return call


# --- the cases


def cases_of(
    model: ir.Model, program: "torch.export.ExportedProgram", answering: Answering, known: Golden | None = None
) -> tuple[list[Case], list[str]]:
    """The example and other sizes that the module takes, answered; and what is to be said of the others.

    ``known`` holds answers that are there already.
    """
    assert answering.example is not None
    yardstick = own_error(answering.own, model, answering.otherwise, answering.pointed)

    def answered(name: str, feeds: Feeds) -> Case:
        answers = answering.double(feeds)
        measured = yardstick(feeds, answers)
        if measured.undetermined:
            raise GoldenError(measured.undetermined)
        return Case(name, feeds, answers, measured.yardstick, measured.choices, measured.pointed)

    cases, notes, refused = [], [], []
    try:
        first = known.cases[0] if known is not None and known.cases[0].name == "example" else None
        cases.append(first or answered("example", answering.example))
    except Exception as error:  # whatever a module raises in float64
        notes.append(f"the example was not checked, since there is no answer in float64: {_said(error)}")
    found = 0
    for sizes in _sizes(inputs_of(model, answering.example), _limits(model, program)):
        name, feeds = at_sizes(inputs_of(model, answering.example), sizes, answering.example)
        try:
            cases.append(answered(name, feeds))
        except Exception as error:  # too small for this module, say
            refused.append(f"{name.removeprefix('sizes ')} ({_said(error)})")
            continue
        if (found := found + 1) == OTHER_SIZES:
            break
    if refused:
        notes.append(f"sizes that the module itself refuses were not checked: {'; '.join(refused)}")
    return cases, notes


def _sizes(inputs: Sequence[Input], limits: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, int]]:
    """Other sizes of the axes that may change, the likeliest to show a fault first, within ``limits``."""
    axes, batches = changeable(inputs), batch_axes(inputs)
    ordinary = _independent(axes)
    small = ordinary | {name: size for name, size in changeable(modest(inputs)).items() if name in ordinary}
    names = list(ordinary)
    others = [name for name in names if name not in batches]
    plans: list[tuple[int, Callable[[int, str], int]]] = [
        (3, lambda i, name: prime_above(small[name] + 2 + 4 * i)),
        (1, lambda i, name: ordinary[name] // 2 + i),
        (3, lambda i, name: ordinary[name] + 1 + i),
        (1, lambda i, name: ordinary[name] + 32 * (i + 1)),
        (3, lambda _, name: 2 * ordinary[name]),
        (3, lambda _, name: ordinary[name]),
        (1, lambda _, name: ordinary[name]),
    ]
    tried = [{name: ordinary[name] for name in names}]
    for batch, at in plans:
        plan = {name: batch for name in names if name in batches} | {n: at(i, n) for i, n in enumerate(others)}
        plan = {name: _within(size, limits.get(name)) for name, size in plan.items()}
        sizes = {axis: size for axis in axes if (size := shapes.size_of(axis, plan)) is not None}
        if plan not in tried and len(sizes) == len(axes):
            tried.append(plan)
            yield sizes


def _independent(axes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the names that axes are made of: of ``16*h``, which is 64 here, ``h`` is 4."""
    sizes = {axis: size for axis, size in axes.items() if axis.isidentifier()}
    for axis, size in axes.items():
        unknown = set(_NAME.findall(axis)) - set(sizes)
        if len(unknown) == 1:
            name = unknown.pop()
            found = (n for n in range(1, size + 1) if shapes.size_of(axis, {**sizes, name: n}) == size)
            if (first := next(found, None)) is not None:
                sizes[name] = first
    return sizes


_NAME = re.compile(r"[A-Za-z_]\w*")


def _within(size: int, limits: tuple[int, int] | None) -> int:
    return size if limits is None else min(max(size, limits[0]), limits[1])


_ENDLESS = 2**31
"""Above the largest size that anybody tries."""


def _limits(model: ir.Model, program: "torch.export.ExportedProgram") -> dict[str, tuple[int, int]]:
    """The smallest and largest size of every axis that may change, as the module was traced for."""
    given = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [given[str(name)].meta["val"] for name in program.graph_signature.user_inputs if name in given]
    limits: dict[str, tuple[int, int]] = {}
    for value, tensor in zip(model.graph.inputs, (one for one in tensors if hasattr(one, "shape")), strict=False):
        for dim, size in zip(value.shape or (), tensor.shape, strict=False):
            if not isinstance(dim, int) and dim.value:
                span = program.range_constraints.get(getattr(getattr(size, "node", None), "expr", None))
                ends = (1, _ENDLESS) if span is None else (_number(span.lower, 1), _number(span.upper, _ENDLESS))
                limits[dim.value] = (ends[0] if ends[0] > _SPECIAL else 1, ends[1])
    return limits


_SPECIAL = 2
"""PyTorch says "at least 2" of any axis, since it takes sizes of 0 and 1 for special; programs are right for 1."""


def _number(end: Any, otherwise: int) -> int:
    try:
        return min(int(end), _ENDLESS)
    except (TypeError, ValueError, OverflowError, AttributeError):  # what SymPy's infinities raise
        return otherwise


# --- what is wrong


def _difference(result: NDArray[Any], answer: NDArray[Any], yardstick: float | ByMagnitude) -> str:
    """How a result differs from its answer by more than is allowed, or nothing."""
    if result.shape != answer.shape:
        return f"has shape {result.shape} in place of {answer.shape}"
    bound = bounds.network(answer, result.dtype, yardstick, "PyTorch's own error")
    error = bounds.measure(result, answer, bound.allowed)
    if error.within:
        return ""
    if error.nan or error.infinite:
        return f"has NaN or infinity in {error.nan + error.infinite} elements where they do not belong"
    return f"errs by {error.max_abs:.3g}, {error.share:.3g} times what is allowed"


def _first_wrong(model: ir.Model, program: "torch.export.ExportedProgram", case: Case) -> str:
    """A clause on the first node whose value is not what PyTorch's program has there."""
    flat = subgraph.flat(model)
    inputs = [to_torch(case.inputs[str(value.name)]) for value in flat.graph.inputs]
    try:
        own = {name: from_torch(tensor) for name, tensor in traced.tensors(program, inputs, flat).items()}
        wide = traced.tensors(program, inputs, flat, wide=True)
        right = {name: from_torch(tensor) for name, tensor in wide.items()}
        found = opened(subgraph.opened(flat, own))(case.inputs)
    except Exception as error:  # whatever PyTorch or ONNX Runtime raises
        return f"which node is wrong is not known ({_said(error)})"
    for node in flat.graph:
        for value in node.outputs:
            name = str(value.name)
            if name in found and name in own:
                answer = np.asarray(right[name], np.float64)
                yardstick = bounds.measure(own[name], answer, 0).max_abs if own[name].shape == answer.shape else 0.0
                if told := _difference(found[name], answer, yardstick):
                    return f"the first wrong node is {_named(node)}, which {told}"
    return "no node differs from what PyTorch traced: the trace holds a size, or a branch, of the example alone"


def _refused(model: ir.Model, error: Exception, what: str) -> ExportError:
    """ONNX Runtime's refusal, with the node that it speaks of."""
    text = str(error)
    nodes = [node for node in subgraph.flat(model).graph if node.name and node.name in text]
    place = f" because of node {_named(max(nodes, key=lambda node: len(str(node.name))))}" if nodes else ""
    return ExportError(f"ONNX Runtime cannot {what} the exported model{place}: {_said(error)}; {_REMEDY}")


def _named(node: ir.Node) -> str:
    layer = lines.layer_of(node)
    places = (node.op_type, f"layer {layer!r}" if layer else "", *lines.line_of(node))
    return f"{node.name!r} ({', '.join(filter(None, places))})"


_RUNTIME_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
"""What ONNX Runtime puts in front of what it says, with the name of a file that is gone by then."""


def _said(error: Exception) -> str:
    """The first line of an error, without what ONNX Runtime puts in front."""
    return _RUNTIME_PREFIX.sub("", first_line(error)).strip()


# --- declared sizes


def _corrected(model: ir.Model, feeds: Feeds, results: Feeds) -> list[str]:
    """Leave open each size that outputs declare and that does not come out; a sentence on each.

    The declared sizes of all values between, which are then as doubtful, are left open too.
    """
    sizes = shapes.sizes_of(model.graph.inputs, {name: array.shape for name, array in feeds.items()})
    told = []
    for value in model.graph.outputs:
        shape = results[str(value.name)].shape
        if reason := shapes.contradiction(f"output {value.name!r}", value, shape, sizes):
            told.append(f"corrected: {reason}")
            axes = list(value.shape or ())
            kept = len(axes) == len(shape)
            value.shape = ir.Shape(
                [
                    axes[i] if kept and _size(axes[i], sizes) == size else None if sizes else size
                    for i, size in enumerate(shape)
                ]
            )
    for value in subgraph.made(model) if told else ():
        if value.shape is not None and not value.is_graph_output():
            value.shape = ir.Shape([None] * len(value.shape))
    return told


def _size(axis: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | None:
    return shapes.size_of(axis if isinstance(axis, int) else str(axis.value), sizes)
