"""The range that a bounded standard form is right for, and the cases that go beyond it.

A model that was written by ``to_form(model, "standard", within=R)`` promises nothing where an input of its pooling
nodes has a magnitude above R. What those inputs are, the same model says in function form, which is right everywhere.
"""

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN
from onnxpool.errors import OnnxpoolError
from onnxpool.golden.file import Golden
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run.session import load
from onnxpool.validation.model import HeldModel


def beyond(held: HeldModel, golden: Golden) -> dict[str, str]:
    """Why each case that goes beyond the range of the model does, by its name; none for a model without a range.

    A case that ONNX Runtime cannot run is not among them, nor are pooling nodes inside of If, Loop and functions.
    """
    limit = forms.range_of(held.original)
    if limit is None:
        return {}
    model = held.converted("function").clone()
    pooled = [
        (node.name, value.name, ir.node("Identity", [value]))
        for node in list(model.graph)
        if node.domain == DOMAIN and OPERATORS[node.op_type].bounded
        for value in node.inputs
        if value is not None
    ]
    if not pooled:
        return {}
    for i, (_, _, seen) in enumerate(pooled):
        given, value = seen.inputs[0], seen.outputs[0]
        assert given is not None
        value.name, value.type, value.shape = f"pooled_{i}", given.type, given.shape
        model.graph.append(seen)
    model.graph.outputs[:] = [seen.outputs[0] for _, _, seen in pooled]
    session = load(model, kernels="off", threads=1)
    found = {}
    for case in golden.cases:
        try:
            values = session.run(case.inputs)
        except OnnxpoolError:
            continue
        for (node, name, _), array in zip(pooled, values.values(), strict=True):
            largest = float(np.max(np.nan_to_num(np.abs(array.astype(np.float64)), nan=0, posinf=np.inf), initial=0))
            if largest > limit:
                told = f"{name!r}, which node {node!r} pools, reaches {largest:.3g}"
                found[case.name] = f"beyond the range of this model, {limit:g}: {told}"
                break
    return found
