"""Sizes that are tried beside those of golden answers: such as many windows divide, which other sizes are not.

A network that cuts its input into windows of 2 or 4 takes no odd size, and a pooling of it would be traced, and proven,
at one size alone.
"""

from collections.abc import Iterator

import onnx_ir as ir

_DIVISIBLE = ((2, 12, 24, 12, 24), (3, 24, 36, 24, 12))
"""Sizes of axes that may change: of the first, which is taken for the batch, and of others, one after the other."""


def resized(model: ir.Model) -> Iterator[ir.Model]:
    """The model with every axis fixed, at each of these sizes; none where no axis but the batch may change."""
    for sizes in _DIVISIBLE:
        fixed = model.clone()
        changed = False
        for value in fixed.graph.inputs:
            axes: list[int | ir.SymbolicDim] = list(value.shape or ())
            given = iter(sizes[1:] * 2)
            for i, axis in enumerate(axes):
                if not isinstance(axis, int):
                    axes[i] = next(given) if i else sizes[0]
                    changed |= i > 0
            if value.shape is not None:
                value.shape = ir.Shape(axes)
        if changed:
            yield fixed


def may_change(model: ir.Model) -> bool:
    """Whether an axis of an input may change."""
    return any(not isinstance(axis, int) for value in model.graph.inputs for axis in value.shape or ())
