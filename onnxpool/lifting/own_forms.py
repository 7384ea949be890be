"""Our own standard form, read where its tags are gone: local importance and stochastic pooling as we spell them out.

The cells of a window are slices there, and what keeps the formula safe stands between its parts
(:func:`onnxpool.pools.local_importance.standard`, :func:`onnxpool.pools.stochastic.standard`):

    local importance   mean = sum((x / spread) max(w, least)) / sum(w),  w = exp(l - top),  0 where l is -inf;
                       y = clipped(mean) spread + 0 / sum(w)
    stochastic         y = above sum(s^2) / max(sum(s), least),  s = a / above,  above = max(top, smallest)

SoftPool's form is an ordinary spelling (:mod:`onnxpool.lifting.recognise`). Other methods are standard operators in
every form, and no nodes.
"""

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxpool.lifting.match import Cells, Match
from onnxpool.lifting.sums import total
from onnxpool.lifting.values import base, before_rectifying, nonnegative, present, producer, same, scalar

_LEAST = 1e-20
"""No weight below this changes a mean: beside the largest, 1, it is below the last place even in float64."""

_LEAST_FLOAT, _LEAST_FLOAT16 = 2.0**-149, 2.0**-24
"""The smallest positive numbers of float32, and of float16."""


def read(quotient: ir.Node) -> Match | None:
    """The pooling that this quotient stands in, spelled as we do; None for any other."""
    above = total(quotient.inputs[0])
    if above is None or above.kind != "taps":
        return None
    return _local_importance(quotient, above.terms) or _stochastic(quotient, above.terms)


# --- local importance


def _local_importance(mean: ir.Node, shares: Sequence[ir.Value]) -> Match | None:
    below = total(mean.inputs[1])
    if below is None or below.kind != "taps" or len(below.terms) != len(shares):
        return None
    cells = [_share(share, weight) for share, weight in zip(shares, below.terms, strict=True)]
    found = [cell for cell in cells if cell is not None]
    if len(found) < len(cells):
        return None
    x, logits, tops, spreads = zip(*found, strict=True)
    maximum = producer(tops[0], "Max")
    if maximum is None or any(not same(top, tops[0]) for top in tops) or not _each(maximum.inputs, logits):
        return None
    last = _after(mean, spreads[0], below.terms)
    if last is None or any(not same(spread, spreads[0]) for spread in spreads):
        return None
    cells_of = Cells(tuple(x), tuple(logits), (), keep=False)
    return Match("LocalImportancePool", "our own standard form", last, cells=cells_of)


def _share(share: ir.Value, weight: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value] | None:
    """``x``, ``logit``, ``top`` and ``spread`` of one cell."""
    masked, exponential = producer(share, "Where"), producer(weight, "Exp")
    difference = producer(exponential.inputs[0], "Sub") if exponential is not None else None
    if masked is None or difference is None or scalar(masked.inputs[1]) != 0:
        return None
    logit, top = difference.inputs
    less, product = producer(masked.inputs[0], "Less"), producer(masked.inputs[2], "Mul")
    if less is None or product is None or not same(less.inputs[0], logit):
        return None
    lowest = scalar(less.inputs[1])
    divided, floored = producer(product.inputs[0], "Div"), producer(product.inputs[1], "Max")
    if divided is None or floored is None or lowest is None or lowest > -1e38:
        return None
    least = scalar(floored.inputs[1])
    if not same(floored.inputs[0], weight) or least is None or least > _LEAST:
        return None
    found = present((divided.inputs[0], logit, top, divided.inputs[1]))
    return (found[0], found[1], found[2], found[3]) if len(found) == 4 else None


def _after(mean: ir.Node, spread: ir.Value, weights: Sequence[ir.Value]) -> ir.Node | None:
    """The last node: what is clipped is times ``spread``, and 0 over the sum of the weights is added."""
    for clipped in _users(mean, "Where"):
        limits = producer(clipped.inputs[1], "Min")
        inner = producer(limits.inputs[0], "Max") if limits is not None else None
        if inner is None or not same(inner.inputs[0], mean.outputs[0]) or clipped.inputs[2] is not mean.outputs[0]:
            continue
        for product in _users(clipped, "Mul"):
            if not any(same(value, spread) for value in product.inputs):
                continue
            for added in _users(product, "Add"):
                nothing = next((producer(value, "Div") for value in added.inputs if producer(value, "Div")), None)
                sums = total(nothing.inputs[1]) if nothing is not None and scalar(nothing.inputs[0]) == 0 else None
                if sums is not None and _each(sums.terms, weights):
                    return added
    return None


def _users(node: ir.Node, op_type: str) -> Iterator[ir.Node]:
    return (user for user in node.outputs[0].consumers() if user.op_type == op_type and not user.domain)


def _each(values: Sequence[ir.Value | None], others: Sequence[ir.Value]) -> bool:
    """Whether these are the same values, in order."""
    return len(values) == len(others) and all(same(a, b) for a, b in zip(values, others, strict=True))


# --- stochastic


def _stochastic(quotient: ir.Node, squares: Sequence[ir.Value]) -> Match | None:
    floored = producer(quotient.inputs[1], "Max")
    below = total(floored.inputs[0]) if floored is not None else None
    if floored is None or below is None or below.kind != "taps" or len(below.terms) != len(squares):
        return None
    products = [producer(square, "Mul") for square in squares]
    shares = [producer(share, "Div") for share in below.terms]
    squared = all(
        product is not None and all(same(value, share) for value in product.inputs)
        for product, share in zip(products, below.terms, strict=True)
    )
    parts = [share.inputs for share in shares if share is not None]
    if not squared or len(parts) < len(shares) or any(not same(above, parts[0][1]) for _, above in parts):
        return None
    cells, above = present([cell for cell, _ in parts]), parts[0][1]
    last = next((user for user in _users(quotient, "Mul") if any(same(value, above) for value in user.inputs)), None)
    if last is None or not _largest(above, cells, scalar(floored.inputs[1])) or not all(map(nonnegative, cells)):
        return None
    return Match("StochasticPool", "our own standard form", last, cells=Cells(cells, (), (), keep=False))


def _largest(above: ir.Value | None, cells: Sequence[ir.Value], least: float | None) -> bool:
    """Whether this is the largest of the cells, floored so low that with ``least`` nothing but 0 is cut off."""
    floored = producer(above, "Max")
    largest = producer(floored.inputs[0], "Max") if floored is not None else None
    smallest = scalar(floored.inputs[1]) if floored is not None else None
    if largest is None or smallest is None or least is None or not _each(largest.inputs, cells):
        return False
    cast = producer(before_rectifying(base(cells[0])), "Cast")
    narrow = cast is not None and cast.inputs[0] is not None and cast.inputs[0].dtype == ir.DataType.FLOAT16
    return min(smallest, least) > 0 and smallest * least <= (_LEAST_FLOAT16 if narrow else _LEAST_FLOAT)
