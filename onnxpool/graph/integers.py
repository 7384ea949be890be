"""Pooling in whole numbers: what the native library has in place of ``DequantizeLinear -> pooling -> QuantizeLinear``.

A quantised model in function form pools in float, each node between the DQ of what it takes and the Q of what it gives.
The native library has kernels that take and give the stored 8 bits. :func:`folded` puts these in, for one session: they
are never written to a file of a user's, which without the library would not run.

    SoftPool, LocalImportancePool, StochasticPool    QLinearSoftPool, ...: the window, and scales and zero points of
                                                     what they take and give, as attributes; channels last
    all others                                       stay as they are

Channels stand last since ONNX Runtime's own kernels for integers have them there: its transpositions and ours, on
either side of a convolution, cancel each other when it optimises the graph.

What is left as it is, and runs in float as before: steps that are computed as the model runs, or are one for each
channel or block; other stored types than uint8 and int8, or unlike ones; a scale that is not a normal number, or whose
largest number is not one; steps of what goes in that are more than 2^8, or less than 2^-24, of those of what comes out.
So is what float kernels do faster: fewer than 16 channels, and windows of which each number is in more than four, but
for 3x3 cells one apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.graph.quantized import DOMAINS, DQ, Q, Steps, steps
from onnxpool.graph.repair import pool_calls
from onnxpool.window import Window

WHOLE: Mapping[str, str] = {name: f"QLinear{name}" for name in ("SoftPool", "LocalImportancePool", "StochasticPool")}
"""The operators on stored numbers that the library has for operators of ours."""

RATIOS = 2.0**-24, 2.0**8
"""Least, largest ratio of the step of what goes in to that of what comes out, by custom_ops/kernels/quantized.h."""

_LEAST_CHANNELS = 16
"""A lane is a channel there: fewer would leave most of a register empty."""

_MOST_SHARING = 4
"""So many windows may share a number: it is weighed again for each, where float kernels weigh it once."""

_NEAR = 0.5
"""Up to this step of the logits a number has one weight, which windows of 3x3 cells share."""

_NAMES = ("x", "logit")
_TYPES = (np.dtype(np.uint8), np.dtype(np.int8))


@dataclass(frozen=True)
class _Place:
    """A pooling node, what its DQs take, the Q after it, and how each of them counts."""

    node: ir.Node
    stored: tuple[ir.Value, ...]
    taken: tuple[Steps, ...]
    q: ir.Node
    given: Steps


def folded(model: ir.Model) -> ir.Model | None:
    """The model with operators on whole numbers where the library has them; None where there is no place for one.

    The argument is left as it is. Nodes keep their names.
    """
    if not any(_place(node) for node in pool_calls(model)):
        return None
    model = model.clone()
    for node in list(pool_calls(model)):
        place = _place(node)
        if place is not None:
            _fold(place)
    return model


def _place(node: ir.Node) -> _Place | None:
    if node.op_type not in WHOLE or node.domain != DOMAIN or len(node.outputs) != 1:
        return None
    users, before = node.outputs[0].consumers(), [value.producer() if value else None for value in node.inputs]
    dqs = [one for one in before if one is not None and one.op_type == DQ and one.domain in DOMAINS]
    if len(dqs) != len(before) or len(users) != 1 or node.outputs[0].is_graph_output():
        return None
    q = users[0]
    if q.op_type != Q or q.domain not in DOMAINS or q.inputs[0] is not node.outputs[0]:
        return None
    found = [_plain(one) for one in (*dqs, q)]
    taken, given = [one for one in found[:-1] if one is not None], found[-1]
    if given is None or len(taken) != len(dqs) or len({one.dtype for one in (*taken, given)}) != 1:
        return None
    if not RATIOS[0] <= _scale(taken[0]) / _scale(given) <= RATIOS[1] or not _faster(node, taken[-1]):
        return None
    stored = tuple(value for value in (one.inputs[0] for one in dqs) if value is not None)
    return _Place(node, stored, tuple(taken), q, given)


def _faster(node: ir.Node, logits: Steps) -> bool:
    """Whether whole numbers are faster; yes where the number of channels is unknown."""
    window = _window(node)
    sharing = math.prod(k / min(k, s) for k, s in zip(window.kernel, window.stride, strict=True))
    near = node.op_type == "StochasticPool" or _scale(logits) <= _NEAR
    close = window.kernel == (3, 3) and window.stride == (1, 1) and window.dilation == (1, 1) and near
    around = (*node.inputs, *node.outputs, *(value for one in node.outputs[0].consumers() for value in one.outputs))
    shapes = [value.shape for value in around if value is not None and value.shape is not None]
    channels = [shape[1] for shape in shapes if len(shape) == window.rank + 2 and isinstance(shape[1], int)]
    return (close or sharing <= _MOST_SHARING) and all(number >= _LEAST_CHANNELS for number in channels)


def _window(node: ir.Node) -> Window:
    return Window.from_attributes({name: attribute.value for name, attribute in node.attributes.items()})


def _plain(node: ir.Node) -> Steps | None:
    """How it counts, where that is one step for all, in 8 bits and normal numbers of float32."""
    own, scale = steps(node), node.inputs[1]
    typed = len(node.inputs) > 2 and node.inputs[2] is not None
    if node.op_type == DQ:
        typed = typed or (node.inputs[0] is not None and node.inputs[0].dtype is not None)
    else:
        typed = typed or not node.attributes.get_int("output_dtype", 0)
    if own is None or not typed or own.dtype not in _TYPES or own.scale.size != 1 or own.zero_point.size != 1:
        return None
    tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
    limits, step = np.finfo(np.float32), float(own.scale.item())
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or not limits.tiny <= step <= limits.max / 2**8:
        return None
    return own


def _fold(place: _Place) -> None:
    node, q = place.node, place.q
    rank = _window(node).rank
    last, first = [0, *range(2, rank + 2), 1], [0, rank + 1, *range(1, rank + 1)]
    name = node.name or str(node.outputs[0].name)
    made = {
        value: ir.node("Transpose", [value], {"perm": last}, name=f"{name}/{role}")
        for role, value in reversed(list(zip(_NAMES, place.stored, strict=False)))
    }
    counts: dict[str, float | int] = {"y_scale": _scale(place.given), "y_zero_point": _zero(place.given)}
    for role, one in zip(_NAMES, place.taken, strict=False):
        counts[f"{role}_scale"] = _scale(one)
    counts["x_zero_point"] = _zero(place.taken[0])
    pooled = ir.node(
        WHOLE[node.op_type],
        [made[value].outputs[0] for value in place.stored],
        {**{key: attribute.value for key, attribute in node.attributes.items()}, **counts},
        domain=DOMAIN,
        name=node.name,
    )
    back = ir.node("Transpose", [pooled.outputs[0]], {"perm": first}, name=f"{name}/y")
    graph, y = node.graph, q.outputs[0]
    assert graph is not None
    for value in (*(one.outputs[0] for one in made.values()), pooled.outputs[0], back.outputs[0]):
        value.dtype = ir.DataType.INT8 if place.given.dtype == np.int8 else ir.DataType.UINT8
    back.outputs[0].shape = y.shape
    graph.insert_before(q, [*made.values(), pooled, back])
    ir.convenience.replace_all_uses_with(y, back.outputs[0], replace_graph_outputs=True)
    back.outputs[0].name, y.name = y.name, f"{y.name}/float"
    for unused in dict.fromkeys((q, node, *(value.producer() for value in node.inputs if value is not None))):
        if unused is not None and not any(value.uses() or value.is_graph_output() for value in unused.outputs):
            graph.remove(unused, safe=True)


def _scale(counted: Steps) -> float:
    return float(counted.scale.item())


def _zero(counted: Steps) -> int:
    return int(counted.zero_point.item())
