"""What a runtime gave, compared with the answers: a verdict on each output of each case, by the bound that applies."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case, Golden
from onnxpool.graph import shapes
from onnxpool.validation import limits, patterns, spread
from onnxpool.validation.model import HeldModel
from onnxpool.validation.report import Result, Verdict, failed
from onnxpool.window import Window


class Judge:
    """Compares outputs of one model with the answers; knows which bounds apply to it."""

    def __init__(self, golden: Golden, held: HeldModel) -> None:
        self.golden = golden
        self._single = _single(held.bare)
        self._operators = {node.op_type for model in (held.bare, held.original) for node in model.graph.all_nodes()}
        self._unfit = {case.name: _unfit(case, held.original) for case in golden.cases}
        self._held = held
        self._right: dict[str, bool] = {}

    def unfit(self, case: Case) -> str:
        """Why the model cannot take this case, by the inputs and outputs that it declares, or nothing."""
        return self._unfit[case.name]

    def results(
        self,
        case: Case,
        outputs: dict[str, NDArray[Any]],
        *,
        native: bounds.Native,
        loses: Collection[str],
        runtime: str = "",
    ) -> list[Result]:
        """One result per output; ``loses`` are operators in which the runtime may lose NaN, or ``*``."""
        through = sorted(self._operators) if "*" in loses else sorted(self._operators.intersection(loses))
        found = [self._result(case, name, outputs.get(name), native, through) for name in case.answers]
        if any(result.verdict == "mismatch" for result in found):
            limit = limits.known(runtime, self._operators, case, "clips", "vanishes")
            if limit is not None and self._right_in_float64(case):
                return [
                    replace(one, verdict="noted", reason=f"{limit.sentence}; {one.reason}")
                    if one.verdict == "mismatch"
                    else one
                    for one in found
                ]
        return found

    def not_run(self, runtime: str, case: Case, verdict: Verdict, reason: str) -> list[Result]:
        """The results of a case that a runtime refused or died of: noted where it is known to."""
        limit = limits.known(runtime, self._operators, case, "stops", "dies")
        if limit is not None and (verdict == "unloadable" or limit.way == "dies"):
            return failures(case, "noted", limit.sentence)
        return failures(case, verdict, reason)

    def deadly(self, runtime: str, case: Case) -> bool:
        """Whether the runtime is known to end its process with this case."""
        return limits.known(runtime, self._operators, case, "dies") is not None

    def _right_in_float64(self, case: Case) -> bool:
        """Whether the model itself gives the answers of this case."""
        if case.name not in self._right:
            from onnxpool.golden.from_model import exact  # brings onnx's evaluator

            self._right[case.name] = limits.right_in_float64(
                case, lambda: exact(self._held.converted("custom"), case.inputs), self.golden.yardstick
            )
        return self._right[case.name]

    def _result(
        self, case: Case, name: str, actual: NDArray[Any] | None, native: bounds.Native, through: Sequence[str]
    ) -> Result:
        if actual is None:
            return Result(case.name, name, "structure", "the model has no such output")
        answer, dtype = case.answers[name], self.golden.dtypes.get(name, str(actual.dtype))
        if (actual.shape, str(actual.dtype)) != (answer.shape, dtype):
            reason = f"came as {actual.dtype} {actual.shape}, expected {dtype} {answer.shape}"
            reason = "; ".join(filter(None, (reason, patterns.of_shapes(actual.shape, answer.shape))))
            return Result(case.name, name, "structure", reason)
        bound = self.bound(case, name, actual.dtype, native)
        answer = case.nearest(name, actual)
        error = bounds.measure(actual, answer, bound.allowed)
        verdict, reason = _verdict(error, actual, answer, through)
        if through and failed(verdict) and _points_at_nan(case, name, actual, answer):
            verdict, reason = "noted", f"indices of NaN, which may be dropped on the way through {', '.join(through)}"
        if failed(verdict) and (guess := patterns.of_elements(actual, answer, bound.allowed)):
            reason += f"; {guess}"
        return Result(
            case=case.name,
            output=name,
            verdict=verdict,
            reason=reason,
            max_abs=error.max_abs,
            max_rel=error.max_rel,
            max_ulp=error.max_ulp,
            cosine=error.cosine,
            snr_db=error.snr_db,
            nan=error.nan,
            infinite=error.infinite,
            signed_zeros=error.signed_zeros,
            share=error.share,
            allowed=error.allowed,
            origin=bound.origin,
            histogram=spread.histogram(actual, answer),
            heat=spread.heat(actual, answer, bound.allowed),
        )

    def bound(self, case: Case, name: str, dtype: np.dtype[Any], native: bounds.Native) -> bounds.Bound:
        """What an output of this case may err."""
        answer = case.answers[name]
        if self._single:
            source, window = self._single
            x = case.inputs[source].astype(np.float64)
            if window.check(x.shape) == answer.shape:
                return bounds.pooling(window, x, answer, dtype, native=native)
        return bounds.network(answer, dtype, case.yardstick[name], self.golden.yardstick)


def failures(case: Case, verdict: Verdict, reason: str) -> list[Result]:
    """A result for every output of a case that gave none."""
    return [Result(case.name, name, verdict, reason) for name in case.answers]


def _verdict(error: bounds.Error, actual: NDArray[Any], answer: Array, through: Sequence[str]) -> tuple[Verdict, str]:
    if error.within:
        return "passed", ""
    lost_only = not (np.isnan(actual) & ~np.isnan(answer)).any()
    if through and lost_only and error.infinite == 0 and error.share <= 1:
        return "noted", f"{error.nan} NaN were dropped on the way through {', '.join(through)}"
    faults = []
    if error.share > 1:
        faults.append(
            f"error {error.share:.3g} times the {error.allowed:.2g} allowed at {error.element} "
            f"(max {error.max_abs:.3g}, {error.max_ulp:.3g} ULP)"
        )
    if error.nan:
        faults.append(f"NaN in {error.nan} elements where the answer has none, or none where it has")
    if error.infinite:
        faults.append(f"infinity in {error.infinite} elements where the answer has none, or another")
    return "mismatch", "; ".join(faults)


def _points_at_nan(case: Case, name: str, actual: NDArray[Any], answer: Array) -> bool:
    """Whether all indices that differ should point at NaN."""
    pointed = case.pointed.get(name)
    if pointed is None or "nan" not in limits.kinds(case.inputs):
        return False
    wrong = actual.astype(np.float64) != answer
    return bool((pointed.at(answer)[wrong] != pointed.at(answer)[wrong]).all())


# --- what the model declares


def _unfit(case: Case, model: ir.Model) -> str:
    inputs = {str(value.name): value for value in model.graph.inputs}
    if wrong := set(inputs) ^ set(case.inputs):
        return f"the answers are for inputs {sorted(case.inputs)}, this model takes {sorted(inputs)}: {sorted(wrong)}"
    for name, array in case.inputs.items():
        if reason := _differs(f"input {name!r}", array.shape, array.dtype.name, inputs[name]):
            return reason
    sizes = shapes.sizes_of(model.graph.inputs, {name: array.shape for name, array in case.inputs.items()})
    for value in model.graph.outputs:
        what, answer = f"output {value.name!r}", case.answers.get(str(value.name))
        if answer is None:
            continue
        reason = _differs(what, answer.shape, "", value) or shapes.contradiction(what, value, answer.shape, sizes)
        if reason:
            return reason
    return ""


def _differs(what: str, shape: tuple[int, ...], dtype: str, value: ir.Value) -> str:
    """How a tensor that should be there differs from what the model declares; an empty ``dtype`` fits any."""
    if dtype and value.dtype is not None and value.dtype.numpy().name != dtype:
        return f"{what} has dtype {dtype}; this model takes {value.dtype.numpy().name}"
    if value.shape is None or shapes.fits(shape, value.shape):
        return ""
    wanted = ", ".join(str(dim.value if isinstance(dim, ir.SymbolicDim) else dim) for dim in value.shape)
    return f"{what} has shape {shape}; this model has ({wanted})"


def _single(bare: ir.Model) -> tuple[str, Window] | None:
    """The input and window of a model that is one pooling node and nothing else."""
    nodes = [node for node in bare.graph if node.op_type not in ("Identity", "Constant")]
    if len(nodes) != 1 or nodes[0].domain != DOMAIN or nodes[0].inputs[0] not in bare.graph.inputs:
        return None
    try:
        window = Window.from_attributes({name: attribute.value for name, attribute in nodes[0].attributes.items()})
    except ArgumentError:
        return None  # every run will say what is wrong with it
    return str(nodes[0].inputs[0].name), window  # type: ignore[union-attr]
