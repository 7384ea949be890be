"""The range that a bounded standard form is right for: how it is measured, and the cases that go beyond it.

A model that was written by ``to_form(model, "standard", within=R)`` promises nothing where an input of its pooling
nodes has a magnitude above R. What those inputs are, the same model says in function form, which is right everywhere.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden.file import Case, Golden
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run.session import load
from onnxpool.validation.model import HeldModel

MARGIN = 2.0
"""How much farther a range reaches than what was seen."""

_OUT_OF_RANGE = ("huge", "inf", "-inf")
"""Cases whose inputs are no example of what a network will see."""


def range_from(model: forms.Model, golden: Golden) -> float:
    """A range for ``to_form(model, "standard", within=...)``: twice the largest magnitude that a node pools in a case.

    The cases of huge numbers and infinities do not count. Raises :class:`ArgumentError` where no node has a bounded
    form, or no case runs.
    """
    cases = [case for case in golden.cases if case.name not in _OUT_OF_RANGE]
    seen = [largest for _, _, _, largest in _pooled(forms.to_form(model, "function"), cases) if largest]
    if not seen:
        raise ArgumentError("no range can be measured: no pooling node has a bounded form, or no golden case runs")
    return MARGIN * max(seen)


def beyond(held: HeldModel, golden: Golden) -> dict[str, str]:
    """Why each case that goes beyond the range of the model does, by its name; none for a model without a range.

    A case that ONNX Runtime cannot run is not among them, nor are pooling nodes inside of If, Loop and functions.
    """
    limit = forms.range_of(held.original)
    if limit is None:
        return {}
    found: dict[str, str] = {}
    for case, node, name, largest in _pooled(held.converted("function").clone(), golden.cases):
        if largest > limit and case not in found:
            told = f"{name!r}, which node {node!r} pools, reaches {largest:.3g}"
            found[case] = f"beyond the range of this model, {limit:g}: {told}"
    return found


def _pooled(model: ir.Model, cases: Iterable[Case]) -> Iterator[tuple[str, str, str, float]]:
    """The case, the node, its input and the largest magnitude there, of each node that has a bounded form; changes
    ``model``.
    """
    pooled = [
        (node.name or "", value.name or "", ir.node("Identity", [value]))
        for node in list(model.graph)
        if node.domain == DOMAIN and OPERATORS[node.op_type].bounded
        for value in node.inputs
        if value is not None
    ]
    if not pooled:
        return
    for i, (_, _, seen) in enumerate(pooled):
        given, value = seen.inputs[0], seen.outputs[0]
        assert given is not None
        value.name, value.type, value.shape = f"pooled_{i}", given.type, given.shape
        model.graph.append(seen)
    model.graph.outputs[:] = [seen.outputs[0] for _, _, seen in pooled]
    session = load(model, kernels="off", threads=1)
    for case in cases:
        try:
            values = session.run(case.inputs)
        except OnnxpoolError:
            continue
        for (node, name, _), array in zip(pooled, values.values(), strict=True):
            largest = float(np.max(np.nan_to_num(np.abs(array.astype(np.float64)), nan=0, posinf=np.inf), initial=0))
            yield case.name, node, name, largest
