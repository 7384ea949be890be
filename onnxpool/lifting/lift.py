"""Poolings that a model spells out in standard operators, folded into nodes of our domain: safe, and fast.

``AveragePool(x exp(x)) / AveragePool(exp(x))`` is SoftPool, but overflows above x = 84 in float32 and 9 in float16.
Whoever exported the model, :func:`lift` finds such a graph (:mod:`onnxpool.lifting`), puts one node in its place, and
compares the two models before it returns the new one. Values that anything else needs stay.

>>> lift("network.onnx").folds  # doctest: +SKIP
(Fold(node='/pool/SoftPool', op_type='SoftPool', window='3x3 s2 p1', ...),)
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import DOMAIN, OPSETS
from onnxpool.errors import FormError, OnnxpoolError
from onnxpool.golden import bounds, collect, from_function
from onnxpool.golden.file import Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.graph.forms import Model, read, to_form
from onnxpool.lifting.recognise import Match, Refused, label, recognise
from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.values import attribute, producer
from onnxpool.lifting.views import attempt, view
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._onnx_ops import Builder
from onnxpool.run.session import Session, load


@dataclass(frozen=True)
class Fold:
    """What became a pooling node: its name, operator, window, inputs, and how it was spelled."""

    node: str
    op_type: str
    window: str
    inputs: tuple[str, ...]
    spelling: str


@dataclass(frozen=True)
class Lifted:
    """The lifted ``model`` in function form (or the model as it was where ``folds`` is empty), and what was found.

    ``refused`` are the nodes that look like poolings and are other functions, with the reason. ``checked`` says what
    the lifted model was compared with.
    """

    model: ir.Model
    folds: tuple[Fold, ...]
    refused: tuple[Refused, ...]
    checked: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; without the model."""
        return {
            "folds": [asdict(fold) for fold in self.folds],
            "refused": [asdict(refused) for refused in self.refused],
            "checked": self.checked,
        }


def lift(model: Model) -> Lifted:
    """Fold each pooling that ``model`` spells out in standard operators into one node; the argument is left as it is.

    A power mean, which has no operator of its own, becomes standard operators that cannot overflow. Opsets below 18
    become 18. The lifted model is compared with the original wherever that is finite: in float64 where the model is
    small, else in ONNX Runtime.

    Raises :class:`FormError` for what is no model, where an old opset cannot be converted, and where the lifted model
    disagrees with the original; :class:`MissingExtra` without ONNX Runtime.
    """
    original = read(model)
    bare = to_form(original, "custom")
    matches, refused = _search(bare)
    if matches and bare.opset_imports.get("", 0) < OPSETS[0]:
        bare = _newer(bare)
        matches, refused = _search(bare)
    if not matches:
        return Lifted(original, (), tuple(refused), "nothing was lifted")
    folds = _fold(matches)
    passes.RemoveUnusedNodesPass()(bare)
    lifted = to_form(bare, "function")
    return Lifted(lifted, folds, tuple(refused), _check(original, lifted))


# --- finding


def _search(model: ir.Model) -> tuple[list[tuple[ir.Graph, Match]], list[Refused]]:
    """Every pooling, its window known, with the graph that it stands in; and what is none."""
    passes.NameFixPass()(model)
    matches: list[tuple[ir.Graph, Match]] = []
    refused: list[Refused] = []
    with _inferred(model):
        for graph in model.graphs():
            for found in recognise(graph):
                settled = found if isinstance(found, Refused) else _settle(model, found)
                if isinstance(settled, Refused):
                    refused.append(settled)
                else:
                    matches.append((graph, settled))
    return matches, refused


@contextmanager
def _inferred(model: ir.Model) -> Iterator[None]:
    """Inside, every value has the shape that onnx can infer; afterwards, the one that it had.

    (onnx infers sizes of AveragePool with ceil_mode that neither ONNX Runtime nor PyTorch give.)
    """
    known = {value: value.shape for graph in model.graphs() for node in graph for value in node.outputs}
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # of a model that onnx cannot infer anything in, less is known
    try:
        passes.ShapeInferencePass(strict_mode=False)(model)
    finally:
        logger.setLevel(level)
    try:
        yield
    finally:
        for value, shape in known.items():
            value.shape = shape


def _settle(model: ir.Model, match: Match) -> Match | Refused:
    """With the window, and sure that the operator takes these inputs."""
    try:
        if match.cells is not None and not match.inputs:
            found = view(model, match.cells)
            match = replace(match, window=found.window, inputs=found.inputs, shape=found.shape)
        return _narrowed(_checked(match))
    except Mismatch as reason:
        return Refused(label(match.node), match.op_type, str(reason))


def _checked(match: Match) -> Match:
    x, *others = match.inputs
    if len(dtypes := {value.dtype for value in match.inputs}) > 1:
        raise Mismatch(f"values and weights have the element types {', '.join(sorted(map(str, dtypes)))}")
    if match.window is not None and x.shape is not None and len(x.shape) != match.window.rank + 2:
        raise Mismatch(f"{x.name!r} has {len(x.shape)} axes, its window {match.window.rank}")
    for logit in others:
        if x.shape is None or logit.shape is None or not _differ(x.shape, logit.shape):
            continue
        one = (logit.shape[0], 1, *logit.shape[2:])
        if _differ(logit.shape, ir.Shape(one)) or _differ(x.shape, ir.Shape((one[0], x.shape[1], *one[2:]))):
            raise Mismatch(f"values of shape {x.shape} have weights of shape {logit.shape}")
        match = replace(match, expand=True)
    return match


def _differ(a: ir.Shape, b: ir.Shape) -> bool:
    """Whether two shapes differ for sure."""
    return len(a) != len(b) or any(
        isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(a, b, strict=True)
    )


def _narrowed(match: Match) -> Match:
    """Without casts to a wider type around the pooling: its operator computes in that type, and rounds once."""
    casts = [producer(value, "Cast") for value in match.inputs]
    narrow = [node.inputs[0] for node in casts if node is not None and node.inputs[0] is not None]
    dtypes = {value.dtype for value in narrow}
    output = match.node.outputs[0]
    back = [attribute(user, "to", None) if user.op_type == "Cast" else None for user in output.consumers()]
    narrowing = len(narrow) == len(casts) and len(dtypes) == 1 and dtypes <= {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    if not narrowing or output.is_graph_output() or {*back} != {int(dtype) for dtype in dtypes if dtype is not None}:
        return match
    return replace(match, inputs=tuple(narrow))


def _newer(model: ir.Model) -> ir.Model:
    opset = model.opset_imports.get("", 0)
    try:
        newer = onnx.version_converter.convert_version(ir.to_proto(model), OPSETS[0])
    except Exception as error:
        raise FormError(
            f"pooling nodes need opset {OPSETS[0]}, the model has {opset} and onnx cannot convert it ({error}); export "
            "it again"
        ) from error
    return ir.from_proto(newer)


# --- folding


def _fold(matches: Sequence[tuple[ir.Graph, Match]]) -> tuple[Fold, ...]:
    """Put nodes in place of the last node of each spelling; what nobody needs then goes later."""
    folds = []
    new: dict[ir.Value, ir.Value] = {}
    for graph, match in matches:
        inputs = [new.get(value, value) for value in match.inputs]
        name = _name(graph, match)
        op = Builder(f"{name}/")
        made = _power(op, match, inputs[0]) if match.op_type == "PowerAverage" else _pool(op, match, inputs, name)
        if match.shape is not None:
            made = op.Reshape(made, onnx_ops.ints(op, *match.shape))
        old = match.node.outputs[0]
        new[old] = made
        made.name, made.shape = old.name, old.shape
        ir.convenience.replace_nodes_and_values(graph, match.node, [match.node], op.nodes, [old], [made])
        if inputs[0].dtype is not None:
            made.dtype = inputs[0].dtype  # another one than before where casts went
        window = "all" if match.window is None else str(match.window)
        folds.append(Fold(name, match.op_type, window, tuple(str(value.name) for value in inputs), match.spelling))
    return tuple(folds)


def _pool(op: Builder, match: Match, inputs: list[ir.Value], name: str) -> ir.Value:
    """The node itself, of that name."""
    assert match.window is not None
    if match.expand:
        inputs = [inputs[0], op.Expand(inputs[1], op.Shape(inputs[0]))]
    (made,) = op.write(match.op_type, inputs, match.window.attributes(), domain=DOMAIN)
    node = op.nodes[-1]
    node.name = name
    node.metadata_props.update(match.node.metadata_props)
    if inputs[0].dtype is not None:
        made.dtype = inputs[0].dtype
    return made


def _power(op: Builder, match: Match, x: ir.Value) -> ir.Value:
    """``t mean((x/t)^p)^(1/p)`` with ``t`` the largest value of the window, as PowerAvgPool does it."""
    wide = onnx_ops.wide_for(ir.DataType.FLOAT if x.dtype is None else x.dtype)

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def write(x: Any) -> Any:
        size, axes = op.Abs(x), onnx_ops.ints(op, *match.spatial)
        cells = [size] if match.window is None else list(onnx_ops.cells(op, size, match.window, 0, wide))
        top = op.ReduceMax(size, axes, keepdims=1) if match.window is None else op.Max(*cells)
        scale, powers = onnx_ops.relative_powers(op, cells, top, number(match.exponent), wide)
        if match.window is None:
            mean = op.ReduceMean(*powers, axes, keepdims=1)
        else:
            count = onnx_ops.count(op, x, match.window, wide, include_pad=match.padded)
            mean = op.Div(op.Sum(*powers), count)
        y = op.Mul(scale, op.Pow(mean, number(1 / match.exponent)))
        return y if match.factor == 1 else op.Mul(y, number(match.factor))

    return cast(ir.Value, onnx_ops.computed_in(op, x, wide, write))


def _name(graph: ir.Graph, match: Match) -> str:
    """The name of the node that goes, with its operator's name exchanged, and unlike any other."""
    old = match.node
    stem, slash, last = label(old).rpartition("/")
    wanted = f"{stem}{slash}{match.op_type}" if last.startswith(old.op_type) else label(old)
    taken = {node.name for node in graph.all_nodes() if node is not old}
    return next(name for name in (wanted, *(f"{wanted}_{i}" for i in range(len(taken) + 1))) if name not in taken)


# --- checking


def _check(original: ir.Model, lifted: ir.Model) -> str:
    """What the lifted model agrees with.

    The float64 judge comes first; where it cannot judge, or differs (onnx's evaluator has errors of its own), the
    original in ONNX Runtime decides.
    """
    from onnxpool.golden import from_model  # brings onnx's evaluator, which nothing else here needs

    session = load(lifted, kernels="off")
    faults = []
    for referee in (from_model.record, _runtime):
        try:
            golden = referee(original)
        except OnnxpoolError as error:
            faults.append(str(error))
            continue
        differences = list(_differences(session, golden))
        if not differences:
            return f"equal to {golden.source} in {len(golden.cases)} cases, wherever that is finite"
        faults.append(f"{golden.source}: {differences[0]}")
    raise FormError(
        f"the lifted model could not be shown to equal the original, so it is not given: {'; '.join(faults)}"
    )


_ORDINARY = ("ordinary", "image", "constant", "negative", "zeros", "batch", "sizes")
"""Cases in which float32 and float16 neither overflow nor underflow in the original."""


def _runtime(original: ir.Model) -> Golden:
    """The original model's own answers to ordinary inputs, in ONNX Runtime."""
    session = load(original, kernels="off")
    names = [info.name for info in session.outputs]
    dtypes = {info.name: info.dtype for info in session.inputs}

    def answer(feeds: Feeds) -> dict[str, Any]:
        own = {name: array.astype(dtypes[name]) for name, array in feeds.items()}
        return dict(zip(names, attempt(session, own), strict=True))

    golden = from_function.record(answer, original)
    ordinary = tuple(case for case in golden.cases if case.name.startswith(_ORDINARY))
    return replace(golden, source="the original in ONNX Runtime", cases=ordinary)


def _differences(session: Session, golden: Golden) -> Iterator[str]:
    """Where the lifted model is not what ``golden`` says, of the cells that are finite there.

    Inputs with NaN or infinity are left out: runtimes drop these from AveragePool, or clip them, each in its way. So
    are those too small for any window, of which a spelling may make nothing, where a pooling node refuses.
    """
    compared = 0
    for case in golden.cases:
        if not all(np.isfinite(array).all() for array in collect.widen(case.inputs).values()):
            continue
        if not any(answer.size for answer in case.answers.values()):
            continue
        outputs = session.run(case.inputs)
        for name, answer in case.answers.items():
            actual = outputs[name]
            if actual.shape != answer.shape:
                yield f"{name!r} has shape {actual.shape} in place of {answer.shape} in case {case.name!r}"
                continue
            finite = np.isfinite(answer) & np.isfinite(answer.astype(actual.dtype).astype(np.float64))
            bound = bounds.network(answer[finite], actual.dtype, case.yardstick[name], golden.yardstick)
            error = bounds.measure(actual[finite], answer[finite], bound.allowed)
            compared += int(finite.sum())
            if not error.within:
                odd = f", not finite in {error.nan + error.infinite} cells" if error.nan + error.infinite else ""
                yield f"{name!r} is off by {error.max_abs:.3g} of {bound.allowed:.3g}{odd}, in case {case.name!r}"
    if not compared:
        yield "it gives nothing finite to compare with"
