"""Poolings that a model spells out in standard operators, folded into nodes of our domain: safe, and fast.

``AveragePool(x exp(x)) / AveragePool(exp(x))`` is SoftPool, but overflows above x = 84 in float32 and 9 in float16.
Whoever exported the model, :func:`lift` finds such a graph (:mod:`onnxpool.lifting`), puts one node in its place, and
compares the two models before it returns the new one. Values that anything else needs stay.

>>> lift("network.onnx").folds  # doctest: +SKIP
(Fold(node='/pool/SoftPool', op_type='SoftPool', window='3x3 s2 p1', ...),)
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxpool.domain import OPSETS
from onnxpool.errors import FormError
from onnxpool.graph.forms import Model, read, to_form
from onnxpool.graph.inlined import inlined
from onnxpool.graph.subgraph import bodies, prune
from onnxpool.graph.tags import TAG
from onnxpool.lifting.fold import Fold, fold
from onnxpool.lifting.match import Match, Refused
from onnxpool.lifting.prove import prove
from onnxpool.lifting.recognise import recognise
from onnxpool.lifting.restore import SPELLING, restore, tidy
from onnxpool.lifting.settle import settle


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
            "folds": [asdict(one) for one in self.folds],
            "refused": [asdict(refused) for refused in self.refused],
            "checked": self.checked,
        }


def lift(model: Model) -> Lifted:
    """Fold each pooling that ``model`` spells out in standard operators into one node; the argument is left as it is.

    A power mean, which has no operator of its own, becomes standard operators that cannot overflow, and poolings over
    tokens in float16 or bfloat16 the same formula in float32 (:mod:`onnxpool.lifting.tokens`). Opsets below 18
    become 18. The lifted model is compared with the original wherever that is finite: in float64 where the model is
    small, else in ONNX Runtime.

    Raises :class:`FormError` for what is not a model, where an old opset cannot be converted, and where the lifted
    model disagrees with the original; :class:`MissingExtra` without ONNX Runtime.
    """
    original = read(model)
    bare = _bare(original)
    matches, refused = _search(bare)
    if matches and bare.opset_imports.get("", 0) < OPSETS[0]:
        bare = _newer(bare)
        matches, refused = _search(bare)
    if not matches:
        return Lifted(original, (), tuple(refused), "nothing was lifted")
    folds = fold(matches)
    if any(one.spelling == SPELLING for one in folds):
        tidy(bare)
    prune(bare.graph)
    passes.RemoveUnusedNodesPass()(bare)
    lifted = to_form(bare, "function")
    return Lifted(lifted, folds, tuple(refused), prove(original, lifted))


def spelled_out(model: Model) -> tuple[Match, ...]:
    """The poolings that ``model`` spells out in standard operators; nothing is lifted, and nothing compared.

    Raises :class:`FormError` for what is not a model.
    """
    return tuple(match for _, match in _search(_bare(read(model)))[0])


def _bare(model: ir.Model) -> ir.Model:
    """A copy with bare pooling nodes."""
    try:
        return to_form(model, "custom")
    except FormError:  # its tags no longer hold, where another program has renamed or rewritten what they speak of
        return to_form(_untagged(model), "custom")


def _untagged(model: ir.Model) -> ir.Model:
    model = model.clone()
    for graph in model.graphs():
        for node in graph.all_nodes():
            node.metadata_props.pop(TAG, None)
    return model


def _search(model: ir.Model) -> tuple[list[tuple[ir.Graph, Match]], list[Refused]]:
    """Every pooling, its window known, with the graph that it stands in; and what is none."""
    passes.NameFixPass()(model)
    matches: list[tuple[ir.Graph, Match]] = []
    refused: list[Refused] = []
    with _inferred(model):
        if written_out := inlined(model):
            tidy(model)
        inside = {graph for one in written_out for graph in _graphs(one.node)}
        candidates = [(model.graph, restore(model, one)) for one in written_out]
        candidates += [(graph, found) for graph in model.graphs() if graph not in inside for found in recognise(graph)]
        for graph, found in candidates:
            settled = found if isinstance(found, Refused) else settle(model, found)
            if isinstance(settled, Refused):
                refused.append(settled)
            elif settled is not None:
                matches.append((graph, settled))
    return matches, refused


def _graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of a node, and all within them."""
    for body in bodies(node):
        yield body
        yield from body.subgraphs()


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
