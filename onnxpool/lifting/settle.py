"""What was recognised, made certain: its window, and that the operator takes its inputs."""

from dataclasses import replace

import onnx_ir as ir

from onnxpool.lifting.match import Match, Refused, label
from onnxpool.lifting.sums import Mismatch, Unrelated
from onnxpool.lifting.values import attribute, before_rectifying, producer
from onnxpool.lifting.views import view


def settle(model: ir.Model, match: Match) -> Match | Refused | None:
    """With the window, and sure that the operator takes these inputs; None where nobody would take it for a pooling."""
    if match.write is not None:
        return match
    try:
        if match.cells is not None and not match.inputs:
            found = view(model, match.cells)
            inputs = found.inputs
            if match.op_type == "StochasticPool":
                inputs = (before_rectifying(inputs[0]),)  # the operator does that by itself
            if match.op_type == "LocalImportancePool" and len(inputs) == 1 and not found.logits:
                inputs *= 2  # values that are their own logits
            match = replace(match, window=found.window, inputs=inputs, shape=found.shape)
            match = replace(match, logits=found.logits, expand=found.expand, last=found.last)
        return _narrowed(_checked(match))
    except Unrelated:
        return None
    except Mismatch as reason:
        return Refused(label(match.node), match.op_type, str(reason))


def _checked(match: Match) -> Match:
    x, *others = match.inputs
    if len(dtypes := {value.dtype for value in match.inputs}) > 1:
        raise Mismatch(f"values and weights have the element types {', '.join(sorted(map(str, dtypes)))}")
    if match.window is not None and x.shape is not None and len(x.shape) != match.window.rank + 2:
        raise Mismatch(f"{x.name!r} has {len(x.shape)} axes, its window {match.window.rank}")
    for logit in () if match.expand else others:
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
    narrowing = (
        not match.logits
        and len(narrow) == len(casts)
        and len(dtypes) == 1
        and dtypes <= {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    )
    if not narrowing or output.is_graph_output() or {*back} != {int(dtype) for dtype in dtypes if dtype is not None}:
        return match
    return replace(match, inputs=tuple(narrow))
