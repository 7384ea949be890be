"""What a method file in :mod:`onnxpool.pools` provides, and the ONNX domain that its operator lives in.

A :class:`Method` describes one method. Most methods are standard ONNX operators, or a few of them, and need no more. A
method that would cost several passes over memory that way has its own :class:`Operator`, in the three ways that
everything else works with: as float64 arithmetic that judges, as a function body that any ONNX Runtime can run, and as
a straight line of standard operators. None of this needs PyTorch; modules stand in the same file.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
    """Apply ``formula``, ``(windows, C, cells) -> (windows, C)``, to the in-bounds cells of every window, many at once:
    those that have as many cells along each axis.
    """
    output = np.empty(window.check(inputs[0].shape))
    batch, channels, *spatial = inputs[0].shape
    y = output.reshape(batch, channels, math.prod(output.shape[2:]))
    flat = [x.reshape(batch, channels, math.prod(spatial)) for x in inputs]
    with np.errstate(all="ignore"):  # NaN and infinity follow the formula and are part of the answer
        for axes in product(*(_by_count(window.inside(axis, size), size) for axis, size in enumerate(spatial))):
            places = _numbered([positions for positions, _ in axes], output.shape[2:])[:, 0]
            cells = _numbered([cells for _, cells in axes], spatial)
            count = cells.shape[1]
            step = max(1, _MOST_CELLS // max(1, batch * channels * count))
            for begin in range(0, len(places), step):
                some = cells[begin : begin + step]
                rows = (np.moveaxis(x[:, :, some], 2, 0).reshape(len(some) * batch, channels, count) for x in flat)
                answers = formula(*rows).reshape(len(some), batch, channels)
                y[:, :, places[begin : begin + step]] = np.moveaxis(answers, 0, 2)
    return output


_MOST_CELLS = 1 << 20
"""So many cells of windows are held at once."""


def _by_count(inside: list[slice], size: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Positions along an axis, ``(positions, 1)``, and their cells, ``(positions, cells)``: those with as many."""
    found: dict[int, list[tuple[int, range]]] = {}
    for position, cells in enumerate(range(size)[one] for one in inside):
        found.setdefault(len(cells), []).append((position, cells))
    return [
        (np.array([[position] for position, _ in group]), np.array([cells for _, cells in group]))
        for group in found.values()
    ]


def _numbered(axes: Sequence[NDArray[Any]], sizes: Sequence[int]) -> NDArray[Any]:
    """Indices along each axis, ``(positions, cells)`` each, as indices of the flattened axes, in the same way."""
    flat = np.zeros((1, 1), np.int64)
    for axis, size in zip(axes, sizes, strict=True):
        grid = flat[:, None, :, None] * size + axis[None, :, None, :]
        flat = grid.reshape(len(flat) * len(axis), -1)
    return flat
