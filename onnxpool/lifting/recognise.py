"""Poolings spelled out in standard operators: which node of a graph is one, over which window, and why others are not.

Each row of :data:`SPELLINGS` reads one spelling, from its last node backwards:

    quotient   sum(x w) / sum(w)      AveragePool, ReduceSum or ReduceMean above and below, or sums of slices
    attention  sum(x softmax(l))      ReduceSum over an unfolded, sliced or reshaped input, or over all of it
    power      mean(x^p)^(1/p)        AveragePool, GlobalAveragePool or ReduceMean between two Pow

Poolings over tokens, in float16, are read by :mod:`onnxpool.lifting.tokens`. Our own standard form, whose formulas are
kept safe by more nodes, is read by :mod:`onnxpool.lifting.own_forms`. An AveragePool may be written as a convolution of
each channel with ones. Log-sum-exp, ``log(mean(exp(x)))``, is told apart and left: it has no operator.

A weight ``w = exp(l - c)``, with ``c`` any value that is constant over a window, makes SoftPool where ``l`` is ``x``,
and LocalImportancePool elsewhere; a weight that is ``x`` itself and cannot be negative makes StochasticPool. What looks
like a pooling and is another function raises :class:`Mismatch` with the reason.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxpool.lifting import own_forms, tokens
from onnxpool.lifting.match import Cells, Match, Refused, label
from onnxpool.lifting.sums import Mismatch, Total, difference, over_cells, total, window_of
from onnxpool.lifting.values import (
    attribute,
    before_rectifying,
    constant_over,
    made,
    nonnegative,
    present,
    producer,
    rank_of,
    same,
    scalar,
    sizes_of,
)

NOWHERE = -80.0
"""A floor of distances below a maximum changes nothing at or below this: exp(-80) 80 is far below an ULP of 1."""


def recognise(graph: ir.Graph) -> Iterator[Match | Refused]:
    """Every pooling spelled out in this graph, and every candidate that is none, in the order of execution."""
    for node in graph:
        likeness, read = SPELLINGS.get(node.op_type, ("", None)) if not node.domain else ("", None)
        if read is None:
            continue
        try:
            match = read(node)
        except Mismatch as reason:
            yield Refused(label(node), likeness, str(reason))
        else:
            if match is not None:
                yield match


# --- quotient


def quotient(node: ir.Node) -> Match | None:
    """``sum(x w) / sum(w)``."""
    if (found := own_forms.read(node) or tokens.quotient(node)) is not None:
        return found
    sums = _sums(node)
    if sums is None:
        return None
    above, below = sums
    if (rectified := _squared(above.terms, below.terms)) is not None:
        return _stochastic(node, rectified, above)
    x = [_other_factor(product, weight) for product, weight in zip(above.terms, below.terms, strict=True)]
    exponents = [_exponent(weight) for weight in below.terms]
    if any(value is None for value in x):
        reason = f"the numerator pools {made(above.terms[0])}, which is not a product with {made(below.terms[0])} below"
        return _refuse(above, reason)
    if any(value is None for value in exponents):
        return _refuse(above, f"the weights are {made(below.terms[0])}, not the exponential of anything")
    return _mean(node, present(x), present(exponents), above)


def _sums(node: ir.Node) -> tuple[Total, Total] | None:
    """What is summed above and below, over equal windows."""
    above, below = total(node.inputs[0]), total(node.inputs[1])
    if above is None or not over_cells(above):
        return None
    if below is None:
        _refuse_epsilon(node.inputs[1])
        return None
    if "taps" in (above.kind, below.kind) and (above.kind, len(above.terms)) != (below.kind, len(below.terms)):
        return None
    if (above.kind, above.how) != (below.kind, below.how):
        raise Mismatch(f"numerator and denominator are summed differently: {difference(above, below)}")
    if not math.isclose(above.factor, below.factor, rel_tol=1e-6):
        raise Mismatch(f"the numerator is multiplied by {above.factor:g}, the denominator by {below.factor:g}")
    return above, below


def _refuse(how: Total, reason: str) -> Match | None:
    """A candidate is refused with the reason; other quotients of plain sums are common and no candidates."""
    if how.kind != "taps":
        raise Mismatch(reason)
    return None


def _mean(node: ir.Node, x: Sequence[ir.Value], exponents: Sequence[ir.Value], how: Total) -> Match | None:
    shift, x = _unshifted(x)
    if shift is not None:  # the mean of x - c: the pooling is what c is added to again
        added = [user for user in node.outputs[0].consumers() if user.op_type == "Add" and not user.domain]
        whole = [user for user in added if any(same(value, shift) for value in user.inputs)]
        if not whole:
            return None
        node = whole[0]
    logits = _logits(exponents, how)
    soft = all(same(cell, logit) for cell, logit in zip(x, logits, strict=True))
    op_type = "SoftPool" if soft else "LocalImportancePool"
    match = Match(op_type, f"quotient of {'sums of slices' if how.kind == 'taps' else how.kind}", node)
    if how.kind == "AveragePool":
        return replace(match, inputs=tuple(x) if soft else (*x, *logits), window=window_of(how))
    return replace(match, cells=Cells(tuple(x), tuple(logits), how.axes, how.keep))


def _unshifted(values: Sequence[ir.Value]) -> tuple[ir.Value | None, Sequence[ir.Value]]:
    """``c`` and ``v_i`` where each of several values is ``max(v_i - c, floor)``; else None and the values."""
    differences = [producer(_floored(value), "Sub") for value in values]
    pairs = [tuple(node.inputs) for node in differences if node is not None]
    if len(values) < 2 or len(pairs) < len(values) or not all(same(shift, pairs[0][1]) for _, shift in pairs):
        return None, values
    floors = any(_floored(value) is not value for value in values)
    if floors and producer(pairs[0][1], "Max", "MaxPool", "ReduceMax") is None:
        return None, values
    return pairs[0][1], present([value for value, _ in pairs])


def _logits(exponents: Sequence[ir.Value], how: Total) -> Sequence[ir.Value]:
    """Without what is subtracted from each and constant over a window: it divides out."""
    shift, values = _unshifted(exponents)
    if shift is not None or len(exponents) > 1:
        return values
    node = producer(exponents[0], "Sub")
    if node is not None and node.inputs[0] is not None:
        rank = rank_of(node.inputs[0])
        if rank and constant_over(node.inputs[1], how.axes or range(2, rank), rank):
            return [node.inputs[0]]
    return exponents


def _exponent(weight: ir.Value | None) -> ir.Value | None:
    """``z`` where this is ``exp(z)``."""
    node = producer(weight, "Exp")
    return None if node is None else node.inputs[0]


def _floored(value: ir.Value | None) -> ir.Value | None:
    """``v`` where this is ``max(v, floor)`` with a floor so low that it changes nothing; else the value."""
    node = producer(value, "Max", "Clip")
    if node is not None and len(node.inputs) == 2:
        for given, limit in (node.inputs, node.inputs[::-1]):
            floor = scalar(limit)
            if floor is not None and floor <= NOWHERE:
                return given
    return value


def _other_factor(product: ir.Value, weight: ir.Value) -> ir.Value | None:
    """``x`` where the product is ``x`` times the weight."""
    node = producer(product, "Mul")
    if node is None:
        return None
    first, second = node.inputs
    return first if same(second, weight) else second if same(first, weight) else None


def _refuse_epsilon(value: ir.Value | None) -> None:
    """A sum to which a number is added is a candidate, and another function."""
    node = producer(value, "Add")
    for summed, added in (node.inputs, node.inputs[::-1]) if node is not None else ():
        sums = total(summed) if scalar(added) else None
        if sums is not None and sums.kind != "taps" and over_cells(sums):
            raise Mismatch(
                f"{scalar(added):.3g} is added to the denominator, which makes another function where weights are "
                "small; leave it out where the model is made: the pooling needs no such guard"
            )


# --- stochastic


def _squared(products: Sequence[ir.Value], weights: Sequence[ir.Value]) -> ir.Value | None:
    """``a`` where the numerator sums ``a^2`` and the denominator ``a``."""
    if len(products) != 1:
        return None
    node = producer(products[0], "Mul", "Pow")
    if node is None or not same(node.inputs[0], weights[0]):
        return None
    squared = same(node.inputs[0], node.inputs[1]) if node.op_type == "Mul" else scalar(node.inputs[1]) == 2
    return weights[0] if squared else None


def _stochastic(node: ir.Node, rectified: ir.Value, how: Total) -> Match:
    if not nonnegative(rectified):
        raise Mismatch(f"{made(rectified)} may be negative: weighted with its own values, it is another function then")
    x = before_rectifying(rectified)
    match = Match("StochasticPool", f"quotient of {how.kind}", node)
    if how.kind == "AveragePool":
        return replace(match, inputs=(x,), window=window_of(how))
    return replace(match, cells=Cells((x,), (), how.axes, how.keep))


# --- attention


def attention(node: ir.Node) -> Match | None:
    """``sum(x softmax(l))`` over all of the input, or over axes that an unfolding made."""
    how = total(node.outputs[0])
    product = producer(node.inputs[0], "Mul")
    if how is None or product is None or not over_cells(how):
        return None
    for x, weight in (product.inputs, product.inputs[::-1]):
        logit = _softmax_of(weight, how)
        if x is not None and logit is not None:
            op_type = "SoftPool" if same(x, logit) else "LocalImportancePool"
            return Match(op_type, "sum weighted with softmax", node, cells=Cells((x,), (logit,), how.axes, how.keep))
    return None


def _softmax_of(weight: ir.Value | None, how: Total) -> ir.Value | None:
    """``l`` where this is the softmax of ``l`` over the axes summed, as Softmax or as exp(l) / sum(exp(l))."""
    softmax, division = producer(weight, "Softmax"), producer(weight, "Div")
    if softmax is not None and softmax.inputs[0] is not None:
        rank = rank_of(softmax.inputs[0])
        return softmax.inputs[0] if rank and how.axes == (attribute(softmax, "axis", -1) % rank,) else None
    below = total(division.inputs[1]) if division is not None else None
    if (
        division is None
        or below is None
        or replace(below, terms=()) != replace(how, terms=(), how=below.how, keep=True)
    ):
        return None
    inside = _exponent(division.inputs[0])
    return _logits([inside], how)[0] if inside is not None and same(below.terms[0], division.inputs[0]) else None


# --- power


def power(node: ir.Node) -> Match | None:
    """``mean(x^p)^(1/p)`` of values that cannot be negative."""
    mean = total(node.inputs[0])
    inner = producer(mean.terms[0], "Pow") if mean is not None else None
    if mean is None or inner is None or mean.kind not in ("AveragePool", "ReduceMean") or not over_cells(mean):
        return None
    if producer(inner.inputs[0], "Div") is not None:  # by the largest, as our GeM: it cannot overflow
        return None
    p, root = _number(inner.inputs[1]), _number(node.inputs[1])
    if p is None or root is None:
        raise Mismatch("its exponents are not one number each in the model")
    if p <= 0 or not math.isclose(p * root, 1, rel_tol=_precision(node.inputs[1])):
        raise Mismatch(f"the exponents {p:g} and {root:g} are not each other's inverse, or not positive")
    x = inner.inputs[0]
    if x is None or not (p % 2 == 0 or nonnegative(x)):
        raise Mismatch(f"{made(x)} may be negative, where its power {p:g} is negative or not defined")
    if mean.factor <= 0:
        raise Mismatch(f"the mean is multiplied by {mean.factor:g}")
    spatial = tuple(range(2, rank_of(x)))
    match = Match("PowerAverage", f"power of {mean.kind}", node, (x,), exponent=p, spatial=spatial)
    match = replace(match, factor=mean.factor ** (1 / p))
    if mean.kind == "AveragePool":
        window = window_of(mean)
        if window.kernel == window.extent == sizes_of(x) and not any(window.pad):
            return match  # all of the input
        return replace(match, window=window, padded=bool(dict(mean.how)["count_include_pad"]))
    if mean.axes != spatial:
        raise Mismatch(f"it reduces the axes {mean.axes}, which are not those of one image")
    return match if mean.keep else replace(match, shape=(0, 0))


# --- log-sum-exp


def log_sum_exp(node: ir.Node) -> None:
    """``log(sum(exp(x)))`` over windows."""
    how = total(node.inputs[0])
    if how is not None and how.kind != "taps" and _exponent(how.terms[0]) is not None and over_cells(how):
        raise Mismatch(
            "log-sum-exp pooling is standard operators in every form, and no node; it overflows as it is written here: "
            "use onnxpool.nn.LogSumExpPool where the model is made"
        )


def _number(value: ir.Value | None, depth: int = 4) -> float | None:
    """A constant, or what a few operators make of constants: ``1 / p`` of a learned ``p``."""
    number = scalar(value)
    node = producer(value, "Reciprocal", "Div", "Mul")
    if number is not None or node is None or not depth:
        return number
    given = [_number(one, depth - 1) for one in node.inputs]
    known = [one for one in given if one is not None]
    if len(known) < len(given) or (node.op_type in ("Reciprocal", "Div") and known[-1] == 0):
        return None
    if node.op_type == "Reciprocal":
        return 1 / known[0]
    return known[0] / known[1] if node.op_type == "Div" else known[0] * known[1]


def _precision(value: ir.Value | None) -> float:
    """How closely a number of this type can be meant."""
    narrow = value is not None and value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return 4e-3 if narrow else 1e-6


SPELLINGS: dict[str, tuple[str, Callable[[ir.Node], Match | None]]] = {
    "Div": ("weighted mean", quotient),
    "ReduceMax": ("maximum of tokens", tokens.largest),
    "ReduceSum": ("weighted mean", attention),
    "Pow": ("power mean", power),
    "Log": ("log-sum-exp", log_sum_exp),
}
"""By the operator that ends the spelling: what it looks like, and who reads it."""
