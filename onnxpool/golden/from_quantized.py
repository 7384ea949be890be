"""Answers to a quantised model from the model itself, in float64, and how far runtimes may be from them.

The answers are exact: what the QuantizeLinear and DequantizeLinear of the file say, everything between them in float64.
A runtime computes the same in float32, or joins operators into kernels for integers that multiply by a factor in
float32. So a number close to the middle of two steps may be rounded to the other one, and the next operators pass that
on. Allowed is

    one step of the output, for its own rounding, and
    what changes where every quotient moves by :data:`MOVED` of a step before it is rounded, at random: measured

A step of an output that is computed in float after its last DequantizeLinear is how far it moves when what that gives
moves by one step in every element. This judges how a model is run. Whether it is the right model, only its float
original can tell (:func:`onnxpool.graph.quantized.unlike`).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_max_pool

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.golden import bounds, collect, from_model
from onnxpool.golden.file import Answers, Golden
from onnxpool.golden.inputs import Feeds, inputs_of, modest
from onnxpool.golden.rounding import Rounding
from onnxpool.graph.forms import Model, to_form
from onnxpool.graph.quantized import DQ, output_steps
from onnxpool.pools.max import reference
from onnxpool.window import Window

MOVED = 2.0**-10
"""Of a step: 64 ULP of float32 at 255 steps, what the body of a pooling over 9 cells may err."""

MOST_ELEMENTS = 50_000
"""A model that takes more numbers than this would take minutes."""

DRAWS = 2
"""How many times the roundings are moved, at random; the largest change counts."""


def record(model: Model, example: Feeds | None = None, *, only: str | None = None) -> Golden:
    """The exact answers of a quantised model to every case without NaN and infinity.

    ``example`` is the case of that name; ``only`` as in :func:`onnxpool.golden.collect.collect`. A model with more
    weights than :data:`onnxpool.golden.from_model.MOST_WEIGHTS`, or larger inputs than :data:`MOST_ELEMENTS`, answers
    one case alone, the example or the ordinary one, which a note says.
    Raises :class:`GoldenError` where the reference evaluator cannot run it in float64.
    """
    return record_bare(to_form(model, "custom"), example, only=only)


def record_bare(bare: ir.Model, example: Feeds | None = None, *, only: str | None = None) -> Golden:
    """:func:`record` for a model that is in custom form already."""
    evaluated = Evaluated(bare)
    weights = sum(value.const_value.size for value in bare.graph.initializers.values() if value.const_value)
    taken = sum(math.prod(one.shape) for one in modest(inputs_of(bare)))
    large = (weights > from_model.MOST_WEIGHTS or taken > MOST_ELEMENTS) and only is None
    golden = collect.collect(
        bare,
        evaluated.exact,
        lambda feeds, answers: collect.Measured(evaluated.allowed(feeds, answers)),
        source=f"the quantised model itself in float64, onnx {onnx.__version__}",
        yardstick_source=f"a quarter of (a step, and what {MOVED:.2g} of one in every rounding changes)",
        example=example,
        only=("ordinary" if example is None else "example") if large else only,
    )
    told = f"the model has {weights:,} weights and takes {taken:,} numbers, so that one case alone was asked"
    return replace(golden, notes=(*golden.notes, *([told] if large else [])))


class Evaluated:
    """A quantised model in custom form that is evaluated in float64. Raises :class:`GoldenError` where it cannot be."""

    def __init__(self, bare: ir.Model) -> None:
        self._rounding = Rounding()
        double = from_model.in_dtype(bare, ir.DataType.DOUBLE)
        operators: list[type[OpRun]] = [*self._rounding.operators(), MaxPool]
        self._run: Callable[[Feeds], Feeds] = from_model.evaluator(double, operators)
        self._steps = output_steps(bare)
        self._last = {str(value.name): _last(value) for value in bare.graph.outputs}

    def exact(self, feeds: Feeds) -> Answers:
        """What the file says, for these inputs."""
        return self._answers(feeds, Rounding())

    def allowed(self, feeds: Feeds, answers: Answers) -> dict[str, float]:
        """The yardstick (see :mod:`onnxpool.golden.bounds`) of each output: a quarter of what it may be off."""
        steps = self.steps(feeds, answers)
        moved = dict.fromkeys(answers, 0.0)
        for draw in range(DRAWS):
            other = self._answers(feeds, Rounding(moved=MOVED, draws=np.random.default_rng(draw)))
            moved = {name: max(off, _off(other[name], answers[name])) for name, off in moved.items()}
        return {name: (steps[name] + moved[name]) / bounds.YARDSTICK_FACTOR for name in answers}

    def steps(self, feeds: Feeds, answers: Answers) -> dict[str, float]:
        """The step of each output: of its DequantizeLinear, or measured for these inputs."""
        known = {}
        for name, step in self._steps.items():
            if step is None:
                jolted = self._answers(feeds, Rounding(jolted=self._last[name]))
                step = _off(jolted[name], answers[name])  # noqa: PLW2901
            known[name] = step
        return known

    def _answers(self, feeds: Feeds, rounding: Rounding) -> Answers:
        if any(not np.isfinite(array).all() for array in feeds.values() if bounds.is_floating(array.dtype)):
            raise GoldenError("a quantised tensor holds neither NaN nor infinity")
        self._rounding.moved, self._rounding.jolted = rounding.moved, rounding.jolted
        self._rounding.draws = rounding.draws
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            found = self._run(collect.widen(feeds))
        return {name: np.asarray(array, np.float64) for name, array in found.items()}


class MaxPool(op_max_pool.MaxPool):
    """onnx's own is a loop over every cell; plain windows go by our reference, a hundred times as fast."""

    op_domain = ""

    def _run(self, x: NDArray[Any], **told: Any) -> Any:  # type: ignore[override]
        plain = (
            len(self.onnx_node.output) == 1 and not told.get("ceil_mode") and told.get("auto_pad") in (None, "NOTSET")
        )
        size = len(told["kernel_shape"])
        numbers = {name: told.get(name) or [1] * size for name in ("strides", "dilations")}
        numbers |= {"kernel_shape": told["kernel_shape"], "pads": told.get("pads") or [0] * 2 * size}
        try:
            window = Window.from_attributes({**numbers, "ceil_mode": 0}) if plain else None
        except ArgumentError:
            window = None
        return (reference(window, x),) if window is not None else super()._run(x, **told)  # type: ignore[no-untyped-call]


def _last(output: ir.Value) -> frozenset[str]:
    """The outputs of the last DequantizeLinear of activations on each way to this output."""
    found, seen, waiting = set(), set(), [output]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if node.op_type == DQ:
            if node.inputs[0] is not None and node.inputs[0].producer() is not None:
                found.add(str(value.name))
        else:
            waiting += [one for one in node.inputs if one is not None]
    return frozenset(found)


def _off(other: Array, answer: Array) -> float:
    return bounds.measure(other, answer, 0).max_abs if other.shape == answer.shape else float("inf")
