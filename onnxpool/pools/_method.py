"""What a method file in :mod:`onnxpool.pools` provides, and the ONNX domain that its operator lives in.

A :class:`Method` describes one method. Most methods are standard ONNX operators, or a few of them, and need no more. A
method that would cost several passes over memory that way has its own :class:`Operator`, in the three ways that
everything else works with: as float64 arithmetic that judges, as a function body that any ONNX Runtime can run, and as
a straight line of standard operators. None of this needs PyTorch; modules stand in the same file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.window import Window


@dataclass(frozen=True)
class Calls:
    """What a function must know of the nodes that call it.

    ``opset`` is that of the model, ``wide`` the type to compute in (float or double), ``narrow`` says whether a node
    pools another type than that, so that casts are needed, ``dilated`` whether a node has a dilation.
    """

    opset: int
    wide: ir.DataType
    narrow: bool
    dilated: bool


@dataclass(frozen=True)
class Operator:
    """An operator of the domain.

    ``reference(window, x, ...) -> y`` takes float64 ``(N, C, *spatial)``, once per name in ``inputs``, and is the
    definition of the method.

    ``function(calls)`` is the model-local function, generic in rank and window, and in dtype but for what
    :class:`Calls` says. Every attribute is written on every node.

    ``standard(op, window, dtype, *inputs) -> y`` writes the same for one window, without control flow: ``op`` is a
    :class:`onnxpool.pools._onnx_ops.Builder`, ``dtype`` the type that is pooled; all values are of the type to compute
    it in, :func:`onnxpool.pools._onnx_ops.wide_for`.

    ``bounded``, with the same arguments, writes it for inputs within :func:`onnxpool.pools._bounded.largest_range`, or
    less; None where ``standard`` is as simple.
    """

    op_type: str
    inputs: tuple[str, ...]
    reference: Callable[..., Array]
    function: Callable[[Calls], ir.Function]
    standard: Callable[..., ir.Value]
    bounded: Callable[..., ir.Value] | None = None


@dataclass(frozen=True)
class Method:
    """One pooling method, for people: and its operator, if it has one.

    ``modules`` are spellings of its modules that tests, benchmarks and galleries use, such as ``"SoftPool2d(2)"``; each
    module's ``reference(x)`` is its float64 answer.
    """

    name: str
    summary: str
    formula: str
    source: str
    modules: tuple[str, ...]
    operator: Operator | None = None


def over_windows(formula: Callable[..., Array], window: Window, *inputs: Array) -> Array:
    """Apply ``formula``, ``(N, C, cells) -> (N, C)``, to the in-bounds cells of every window; the plain way."""
    output = np.empty(window.check(inputs[0].shape))
    with np.errstate(all="ignore"):  # NaN and infinity follow the formula and are part of the answer
        for position, inside in window.windows(inputs[0].shape[2:]):
            every = (slice(None), slice(None))
            cells = [x[every + inside] for x in inputs]
            flat = [cell.reshape(*cell.shape[:2], math.prod(cell.shape[2:])) for cell in cells]
            output[every + position] = formula(*flat)
    return output
