"""What a reader of a spelling says: that a node is a pooling, of which cells; or why it is none."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from onnxpool.window import Window


@dataclass(frozen=True)
class Cells:
    """Cells of windows that were made by moving values: each ``x`` with its ``logit`` (none: its own weight).

    One value of each, reduced over ``axes``, or one for each cell of the window and no axes.
    """

    x: tuple[ir.Value, ...]
    logit: tuple[ir.Value, ...]
    axes: tuple[int, ...]
    keep: bool


@dataclass(frozen=True)
class Match:
    """A pooling: the output of ``node`` is ``op_type`` of ``inputs`` over ``window``, then reshaped to ``shape``.

    Where the window is not written in the graph, ``cells`` say what it has to be traced from. ``shape`` is in the words
    of ONNX's Reshape. Where ``expand``, one channel of weights is for all. Nodes ``logits`` give the logits, of the one
    input, position by position. ``last`` tells whether channels are the last axis: of the input, of the output before
    it is reshaped. What has no operator may be written by ``write(op, *inputs)``.

    A power mean, which has no operator, has an ``exponent``, is times ``factor``, has ``spatial`` axes
    (all of which it is over if there is no window), and may count padding as zeros (``padded``). A ``name`` is for the
    node that comes; without one it is that of ``node``.
    """

    op_type: str
    spelling: str
    node: ir.Node
    inputs: tuple[ir.Value, ...] = ()
    window: Window | None = None
    cells: Cells | None = None
    shape: tuple[int, ...] | None = None
    exponent: float = 1.0
    factor: float = 1.0
    padded: bool = False
    spatial: tuple[int, ...] = ()
    expand: bool = False
    logits: tuple[ir.Node, ...] = ()
    last: tuple[bool, bool] = (False, False)
    name: str = ""
    write: Callable[..., ir.Value] | None = None


@dataclass(frozen=True)
class Refused:
    """A node that looks like ``likeness``, and the ``reason`` why it is not lifted."""

    node: str
    likeness: str
    reason: str


def label(node: ir.Node) -> str:
    """The name of a node, or of its first output."""
    return node.name or str(node.outputs[0].name)
