"""Logits that are computed of moved cells, position by position: the same of the tensor that the cells were moved from.

Enformer's AttentionPool cuts a signal into pairs and takes a 1x1 convolution of these; where the length is odd it pads,
and masks the padding; attention within windows scores cells by a matrix product, channels last. A 1x1 convolution, such
a product, a number and a function of each element do not care where positions stand, so that they are written anew,
ahead of the windows. What else a logit is made by ends the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.lifting.sums import Mismatch
from onnxpool.lifting.values import attribute, constant, made, producer, scalar
from onnxpool.pools._onnx_ops import Builder

_MIXING = ("Conv", "MatMul")
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
    def mixing(self) -> str:
        """The operator that mixes channels: Conv, in axis 1, or MatMul, in the last; empty where none does."""
        return next((node.op_type for node in self.nodes if node.op_type in _MIXING), "")

    def one_for_all(self, channels: int | ir.SymbolicDim | None) -> bool:
        """Whether it gives one channel for all; :class:`Mismatch` where it gives another number than there are."""
        kernels = [_kernel(node) for node in self.nodes if node.op_type in _MIXING]
        if not kernels:
            return False
        first = next(node for node in self.nodes if node.op_type in _MIXING)
        given, taken = kernels[-1].shape[0], kernels[0].shape[1] * attribute(first, "group", 1)
        if given not in (1, taken):
            raise Mismatch(f"{made(self.nodes[-1].outputs[0])} has {given} channels of weights for {taken} channels")
        return bool(given == 1 and channels != 1)


def read(logit: ir.Value) -> Pointwise | None:
    """How this logit is made of cells; None where nothing makes it that is read here."""
    value, mask, fill = logit, None, 0.0
    masked = producer(value, "Where")
    if masked is not None and masked.inputs[2] is not None and (lowest := scalar(masked.inputs[1])) is not None:
        value, mask, fill = masked.inputs[2], masked.inputs[0], lowest
    nodes: list[ir.Node] = []
    while (node := producer(value, *_MIXING, *_UNARY, *_WITH_A_NUMBER)) is not None:
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
    if node.op_type == "MatMul":
        weight = constant(node.inputs[1])
        return node.inputs[0] if weight is not None and len(weight.shape) == 2 else None
    if node.op_type == "Conv":
        weight, bias = constant(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
        plain = weight is not None and set(weight.shape[2:]) == {1} and (bias is None or constant(bias) is not None)
        unmoved = set(attribute(node, "strides", (1,))) == {1} and not any(attribute(node, "pads", ()))
        return node.inputs[0] if plain and unmoved and attribute(node, "auto_pad", "NOTSET") == "NOTSET" else None
    others = [value for value in node.inputs if scalar(value) is None and _bias(node, value) is None]
    return others[0] if len(others) == 1 and len(node.inputs) == 2 else None


def _bias(node: ir.Node, value: ir.Value | None) -> Any:
    """The numbers, one for each channel, that are added to a matrix product; None where this is no such value."""
    numbers = constant(value)
    product = node.op_type == "Add" and any(producer(given, "MatMul") is not None for given in node.inputs)
    return numbers.numpy() if product and numbers is not None and len(numbers.shape) == 1 else None


def _kernel(node: ir.Node) -> Any:
    """The numbers by which channels are mixed: ``(given, taken)``."""
    weight = constant(node.inputs[1]).numpy()
    return weight.T if node.op_type == "MatMul" else weight.reshape(weight.shape[:2])


def write(op: Builder, x: ir.Value, nodes: Sequence[ir.Node], rank: int) -> ir.Value:
    """What the nodes make of ``x``, ``(N, C, *spatial)`` with so many spatial axes."""

    def numbers(array: Any) -> ir.Value:
        constant: ir.Value = op.Constant(value=ir.tensor(np.ascontiguousarray(array)))
        return constant

    for node in nodes:
        if node.op_type in _MIXING:
            kernel = _kernel(node)
            bias = [numbers(constant(value).numpy()) for value in node.inputs[2:] if value is not None]
            kernel = numbers(kernel.reshape(*kernel.shape, *[1] * rank))
            x = op.Conv(x, kernel, *bias, group=attribute(node, "group", 1))
            continue
        given = []
        for value in node.inputs:
            bias_of = _bias(node, value)
            if scalar(value) is not None:
                given.append(numbers(constant(value).numpy().reshape(())))
            else:
                given.append(x if bias_of is None else numbers(bias_of.reshape(-1, *[1] * rank)))
        x = op.write(node.op_type, given, dict(node.attributes))[0]
    return x
