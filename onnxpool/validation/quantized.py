"""A quantised model beside its float original: what of that is judged, and what is reported.

    judged     what runtimes give, against the quantised model itself in float64 (:mod:`onnxpool.golden.from_quantized`)
               what is wrong in the model by itself, and each weight: within half a step of the original's
    reported   how far the outputs are from the original's in float64, in steps; judged where ``max_steps`` says how far

Only cases whose inputs lie within the calibrated range tell anything about that distance: others are cut off.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, FormError, GoldenError
from onnxpool.golden import bounds, collect, from_model, from_quantized
from onnxpool.golden.file import Case, Golden
from onnxpool.graph import quantized
from onnxpool.validation.model import HeldModel

MOST_NAMES = 3
"""So many nodes are named that were not compared."""


@dataclass(frozen=True)
class Distance:
    """How far one output is from the float original: in steps of ``step``, absolutely, and as a ratio, over all cases.

    ``case`` is the one in which that is most.
    """

    output: str
    step: float
    max_steps: float
    max_abs: float
    snr_db: float
    case: str

    def __str__(self) -> str:
        return (
            f"{self.output!r} differs by at most {self.max_steps:.3g} steps of {self.step:.3g} ({self.max_abs:.3g}, "
            f"signal to noise {self.snr_db:.3g} dB), in case {self.case!r}"
        )


def is_model(reference: object) -> bool:
    """Whether a reference is the path of an ONNX file."""
    return isinstance(reference, str | Path) and Path(reference).suffix == ".onnx"


def original_of(held: HeldModel, reference: object) -> HeldModel | None:
    """The ONNX file that a reference names; None for any other reference.

    Raises :class:`ArgumentError` for a file that cannot be read, and for a quantised one beside a quantised model.
    """
    if not is_model(reference):
        return None
    try:
        original = HeldModel(reference)  # type: ignore[arg-type]
    except FormError as error:
        raise ArgumentError(f"reference={str(reference)!r}: {error}") from error
    if quantized.is_quantized(held.original) and quantized.is_quantized(original.original):
        raise ArgumentError(f"reference={str(reference)!r} is quantised, as the model is; name its float original")
    return original


def judge(
    held: HeldModel, golden: Golden, original: HeldModel | None, max_steps: float | None
) -> tuple[list[str], list[str]]:
    """A sentence on each fault, and on everything else that a reader should know; none of a model in float.

    Raises :class:`ArgumentError` where ``max_steps`` cannot be judged.
    """
    model = held.original
    if not quantized.is_quantized(model):
        if max_steps is not None:
            raise ArgumentError(f"max_steps={max_steps!r} is for a quantised model, and {held.name} has no step")
        return [], []
    faults = quantized.faults(model)
    if original is None:
        if max_steps is not None:
            raise ArgumentError(f"max_steps={max_steps!r} needs the float original: give reference='float.onnx'")
        return faults, []
    likeness = quantized.unlike(held.bare, original.bare)
    notes = [
        f"judged: what runs, against this model itself in float64, to {bounds.YARDSTICK_FACTOR:g} x {golden.yardstick}",
        f"judged: {likeness.weights} weights, each within its rounding of that of {original.name}",
        *_not_compared(likeness, original.name),
    ]
    if not golden.fingerprints:
        notes.append("not judged: the steps of activations; only their golden file tells which were calibrated")
    inside = [case for case in golden.cases if _inside(case, quantized.input_ranges(model))]
    far = distances(held.bare, original.bare, inside)
    cases = f"of {len(inside)} cases with inputs in the calibrated range"
    if max_steps is None:
        notes += [f"reported, not judged without max_steps: output {one}, {cases}" for one in far]
    else:
        wrong = [one for one in far if not one.max_steps <= max_steps]
        faults += [f"output {one}, {cases}, more than max_steps={max_steps:g}" for one in wrong]
        notes += [f"judged by max_steps={max_steps:g}: output {one}, {cases}" for one in far if one not in wrong]
    if not far:
        told = "no case has inputs in the calibrated range: nothing tells how far the outputs are from the original's"
        (notes if max_steps is None else faults).append(told)
    return [*faults, *likeness.faults], notes


def distances(model: ir.Model, original: ir.Model, cases: list[Case]) -> list[Distance]:
    """How far each output of ``model`` is from that of ``original`` in float64; both in custom form.

    Raises :class:`GoldenError` where the original takes other inputs or cannot be evaluated.
    """
    evaluated = from_quantized.Evaluated(model)
    exact = from_model.evaluator(from_model.in_dtype(original, ir.DataType.DOUBLE))
    found: dict[str, list[tuple[float, str, float, Array, Array]]] = {}
    for case in cases:
        mine = evaluated.exact(case.inputs)
        steps = evaluated.steps(case.inputs, mine)
        try:
            wanted = exact(collect.widen(case.inputs))
        except Exception as error:  # whatever an operator raises
            raise GoldenError(f"the float original cannot be evaluated on case {case.name!r}: {error}") from error
        if set(wanted) != set(mine):
            raise GoldenError(f"the float original gives {sorted(wanted)}, the quantised model {sorted(mine)}")
        for name, answer in mine.items():
            if answer.shape != wanted[name].shape:
                shapes = f"{wanted[name].shape}, the quantised model {answer.shape}"
                raise GoldenError(f"the float original gives {name!r} of shape {shapes}")
            if answer.size:
                off = float(np.abs(answer - wanted[name]).max())
                found.setdefault(name, []).append((off, case.name, steps[name], answer, np.asarray(wanted[name])))
    return [_distance(name, of) for name, of in found.items()]


def _distance(name: str, of: list[tuple[float, str, float, Array, Array]]) -> Distance:
    most, case, step, *_ = max(of, key=lambda one: one[0])
    mine, wanted = np.concatenate([one[3].ravel() for one in of]), np.concatenate([one[4].ravel() for one in of])
    error = bounds.measure(mine, wanted, 0)
    return Distance(name, step, most / step if step else float(most > 0), most, error.snr_db, case)


def _inside(case: Case, ranges: dict[str, tuple[float, float]]) -> bool:
    for name, (least, largest) in ranges.items():
        array = case.inputs.get(name)
        if array is not None and array.size and not (least <= array.min() and array.max() <= largest):
            return False
    return True


def _not_compared(likeness: quantized.Likeness, name: str) -> Iterator[str]:
    if likeness.unmatched:
        named = ", ".join(likeness.unmatched[:MOST_NAMES])
        more = f" and {len(likeness.unmatched) - MOST_NAMES} more" if len(likeness.unmatched) > MOST_NAMES else ""
        yield f"not compared: nodes of {name} that this model has joined to others: {named}{more}"
