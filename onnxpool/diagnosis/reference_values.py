"""What every value of a model should be: its nodes one after the other in float64, put right where more is known.

`Known.reference` of a value is its anchor, where there is one (what PyTorch computes there, or a golden answer), and
else what its node makes, in float64, of the references of its inputs. A node whose own result is far from its anchor
does not do what the network does; what comes after it starts from the anchor again.

Of some values only a few cells are known (:mod:`onnxpool.golden.trace`). Where those are what the node makes, so is the
rest; where they are not, what the value and all that is made of it should be is not known from there on: it is not
`sound`, until there is an anchor, or cells that agree.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from onnxpool.errors import GoldenError
from onnxpool.golden import bounds, from_model
from onnxpool.golden.collect import is_double, widen
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.trace import Cells
from onnxpool.graph import subgraph


@dataclass(frozen=True)
class Known:
    """What is known of one value.

    ``reference``: what it should be; ``anchored``: whether that came from outside. ``exact``: what its node makes of
    reference inputs in float64. ``given``: ``reference`` in the value's own type, for nodes that take it. ``meant``:
    what its node makes, in float64, of inputs given so. ``own_error``, ``total_error``: the error that the reference
    evaluator makes in that type, from such inputs and from the inputs as they come. ``cells`` are what is known of a
    value that is not anchored whole; ``sound``: whether ``reference`` is right as far as is known.
    """

    reference: NDArray[Any]
    anchored: bool
    exact: NDArray[Any] | None
    given: NDArray[Any]
    meant: NDArray[Any] | None
    own_error: float
    total_error: float
    cells: Cells | None = None
    sound: bool = True


def walk(
    graph: ir.Model,
    feeds: Feeds,
    anchors: Mapping[str, NDArray[Any]],
    casts: Collection[str] = (),
    cells: Mapping[str, Cells] | None = None,
) -> dict[str, Known]:
    """What is known of each value that nodes of ``graph`` make, in the order of execution.

    What nodes called as in ``casts`` round away is no error that the evaluator makes: they pass on what they take.
    Values that the reference evaluator cannot compute, and that have no anchor, are left out.
    """
    bare = subgraph.bare(graph)
    double_model = is_double(bare)  # which would have no error against itself
    narrow = from_model.in_dtype(bare, ir.DataType.FLOAT) if double_model else bare
    wide = from_model.in_dtype(bare, ir.DataType.DOUBLE)
    scale = bounds.FLOAT32_IN_FLOAT64 if double_model else 1.0
    own = _constants(narrow) | (widen(feeds, np.float32) if double_model else feeds)
    double = _constants(wide) | widen(feeds)
    reference, given = dict(double), dict(own)
    known: dict[str, Known] = {}
    for node, node_wide in zip(narrow.graph, wide.graph, strict=True):
        run, run_wide = (_runner(one, bare.opset_imports) for one in (node, node_wide))
        own |= _passed(node, own) if node.name in casts else _ran(run, node, own)
        double |= _ran(run_wide, node, double)
        exact = _ran(run_wide, node, reference)
        rounded, meant = _ran(run, node, given), _ran(run_wide, node, widen(given))
        sound = all(known[str(one.name)].sound for one in subgraph.taken(node) if one.name in known)
        for value in node.outputs:
            name = str(value.name)
            best = anchors.get(name, exact.get(name))
            if not isinstance(best, np.ndarray) or best.dtype.kind not in "fiub":
                continue  # neither known nor a tensor
            dtype = value.dtype.numpy() if value.dtype else rounded[name].dtype if name in rounded else np.float32
            reference[name], given[name] = best, _narrowed(best, dtype)
            if node.op_type == "Constant":
                continue
            own_error = scale * _error(rounded.get(name), meant.get(name))
            part = None if name in anchors else (cells or {}).get(name)
            known[name] = Known(
                reference=best,
                anchored=name in anchors or part is not None,
                exact=exact.get(name),
                given=best if double_model else given[name],
                meant=(exact if double_model else meant).get(name),
                own_error=own_error,
                total_error=scale * _error(own.get(name), double.get(name)),
                cells=part,
                sound=name in anchors or (sound if part is None else _agree(part, best, dtype, own_error)),
            )
    return known


def _agree(cells: Cells, array: NDArray[Any], dtype: DTypeLike, own_error: float) -> bool:
    """Whether a value is what is known of it."""
    if array.shape != cells.shape:
        return False
    bound = bounds.network(cells.values, dtype, own_error, "")
    return bounds.measure(cells.of(array), cells.values, bound.allowed).within


def _passed(node: ir.Node, known: Mapping[str, Any]) -> Feeds:
    """What a Cast would give if it rounded nothing."""
    given = known.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    return {} if given is None else {str(node.outputs[0].name): given}


def _runner(node: ir.Node, opsets: Mapping[str, int]) -> Callable[[Feeds], Feeds]:
    try:
        return from_model.one_node(node, opsets)
    except GoldenError:  # an operator that the evaluator does not know
        return lambda _: {}


def _constants(model: ir.Model) -> dict[str, Any]:
    """Initializers by name; Constant nodes come with the others."""
    values = model.graph.initializers.items()
    return {str(name): value.const_value.numpy() for name, value in values if value.const_value is not None}


def _ran(run: Callable[[Feeds], Feeds], node: ir.Node, known: Mapping[str, Any]) -> Feeds:
    """What a node gives; nothing where it cannot run, or where something that it takes is not known."""
    names = {str(value.name) for value in subgraph.taken(node)}
    if not names <= set(known):
        return {}
    try:
        return run({name: known[name] for name in names})
    except Exception:  # the evaluator raises whatever NumPy does
        return {}


def _narrowed(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return array.astype(dtype) if bounds.is_floating(array.dtype) else array


def _error(result: NDArray[Any] | None, answer: NDArray[Any] | None) -> float:
    if result is None or answer is None or result.shape != answer.shape:
        return 0.0
    return bounds.measure(np.asarray(result), np.asarray(answer, np.float64), 0).max_abs
