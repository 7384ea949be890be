"""Logits that are computed of moved cells, position by position: the same of the tensor that the cells were moved from.

Enformer's AttentionPool cuts a signal into pairs and takes a 1x1 convolution of these; where the length is odd it pads,
and masks the padding. A 1x1 convolution, a number and a function of each element do not care where positions stand, so
that they are written anew, ahead of the windows. What else a logit is made by ends the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.values import attribute, constant, producer, scalar
from onnxpool.pools._onnx_ops import Builder

_UNARY = ("Sigmoid", "Tanh", "Relu", "Softplus", "Neg", "Abs", "Exp", "HardSigmoid", "Elu", "LeakyRelu")
_WITH_A_NUMBER = ("Mul", "Add", "Sub", "Div", "Max", "Min")


@dataclass(frozen=True)
class Pointwise:
    """What ``nodes`` make, one after the other, of the cells ``start``: and ``fill`` where ``mask`` is true."""

    start: ir.Value
    nodes: tuple[ir.Node, ...]
    mask: ir.Value | None
    fill: float

    @property
    def convolutions(self) -> list[Any]:
        """The weights of the convolutions among the nodes."""
        return [constant(node.inputs[1]) for node in self.nodes if node.op_type == "Conv"]

    def one_for_all(self, channels: int | ir.SymbolicDim | None) -> bool:
        """Whether it gives one channel for all; :class:`Mismatch` where it gives another number than there are."""
        weights = self.convolutions
        if not weights:
            return False
        given, first = weights[-1].shape[0], self.nodes[0]
        taken = next(w.shape[1] * attribute(n, "group", 1) for w, n in zip(weights, self._convolved(), strict=True))
        if given not in (1, taken):
            raise Mismatch(f"{first.outputs[0].name!r} gives {given} channels of weights for {taken} channels")
        return bool(given == 1 and channels != 1)

    def _convolved(self) -> list[ir.Node]:
        return [node for node in self.nodes if node.op_type == "Conv"]


def read(logit: ir.Value) -> Pointwise | None:
    """How this logit is made of cells; None where nothing makes it that is read here."""
    value, mask, fill = logit, None, 0.0
    masked = producer(value, "Where")
    if masked is not None and masked.inputs[2] is not None and (lowest := scalar(masked.inputs[1])) is not None:
        value, mask, fill = masked.inputs[2], masked.inputs[0], lowest
    nodes: list[ir.Node] = []
    while (node := producer(value, "Conv", *_UNARY, *_WITH_A_NUMBER)) is not None:
        before = _before(node)
        if before is None:
            break
        nodes.append(node)
        value = before
    return Pointwise(value, tuple(reversed(nodes)), mask, fill) if nodes or mask is not None else None


def _before(node: ir.Node) -> ir.Value | None:
    """What the node takes, where it makes each position of that position alone."""
    if node.op_type in _UNARY:
        return node.inputs[0]
    if node.op_type == "Conv":
        weight, bias = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
        plain = weight is not None and set(weight.shape[2:]) == {1} and (bias is None or constant(bias) is not None)
        unmoved = set(attribute(node, "strides", (1,))) == {1} and not any(attribute(node, "pads", ()))
        return node.inputs[0] if plain and unmoved and attribute(node, "auto_pad", "NOTSET") == "NOTSET" else None
    others = [value for value in node.inputs if scalar(value) is None]
    return others[0] if len(others) == 1 and len(node.inputs) == 2 else None


def write(op: Builder, x: ir.Value, nodes: Sequence[ir.Node], rank: int) -> ir.Value:
    """What the nodes make of ``x``, which has so many spatial axes."""
    for node in nodes:
        if node.op_type == "Conv":
            weight, *bias = (constant(value).numpy() for value in node.inputs[1:] if value is not None)
            weight = weight.reshape(*weight.shape[:2], *[1] * rank)
            numbers = [op.Constant(value=ir.tensor(array)) for array in (weight, *bias)]
            x = op.Conv(x, *numbers, group=attribute(node, "group", 1))
        else:
            given = [x if scalar(value) is None else _number(op, value) for value in node.inputs]
            x = op.write(node.op_type, given, dict(node.attributes))[0]
    return x


def _number(op: Builder, value: ir.Value | None) -> ir.Value:
    number: ir.Value = op.Constant(value=ir.tensor(constant(value).numpy().reshape(())))
    return number
