"""Which side is wrong where numbers differ: PyTorch, the exported model, or the runtime. Float64 decides.

Three numbers meet in one element of an output: the answer (the network in float64), what the exported model itself
gives in float64 (:func:`onnxpool.golden.from_model.exact`), and what the runtime gave. Where the first two differ, the
model is another function than the network; where they agree, the runtime is off. Where all runtimes agree with the
answer better than PyTorch's own run does, PyTorch is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.errors import OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case, Golden
from onnxpool.golden.from_model import exact
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.runtimes import RUNTIMES
from onnxpool.validation import limits
from onnxpool.validation.model import HeldModel
from onnxpool.validation.report import Run, failed

CLEARLY = 8.0
"""PyTorch's own error is worth a sentence where it is so many times that of the runtime, and of a rounding."""


def sides(
    held: HeldModel, golden: Golden, runs: Sequence[Run], differing: Mapping[tuple[str, str, str], NDArray[Any]]
) -> list[str]:
    """A sentence on each thing that is wrong; ``differing`` holds what came, by run, case and output.

    One case is evaluated in float64, the smallest that differs: that takes seconds for a large network.
    """
    told = [_of_pytorch(run) for run in runs if run.runtime == "pytorch" and run.verdict == "mismatch"]
    mine = {key: value for key, value in differing.items() if not key[0].startswith("pytorch")}
    cases = [case for case in golden.cases if any(key[1] == case.name for key in mine)]
    if cases:
        told += _of_model(held, golden, min(cases, key=_size), mine)
    return [*told, *_lucky(golden, runs)]


def _size(case: Case) -> int:
    return sum(array.size for array in case.inputs.values())


def _of_pytorch(run: Run) -> str:
    result = max((result for result in run.results if result.verdict == "mismatch"), key=lambda result: result.share)
    return f"{run.name}: PyTorch's own result is wrong, in case {result.case!r}: {result.reason}"


def _of_model(
    held: HeldModel, golden: Golden, case: Case, differing: Mapping[tuple[str, str, str], NDArray[Any]]
) -> list[str]:
    if told := _unsure(held, case):
        return [f"which side is wrong in case {case.name!r} stays open: {told}"]
    try:
        own = exact(held.converted("custom"), case.inputs)
    except OnnxpoolError as error:
        return [f"which side is wrong in case {case.name!r} stays open: {error}"]
    told_of: dict[str, list[str]] = {}
    for (run, name, output), actual in differing.items():
        if name == case.name:
            told_of.setdefault(_verdict(golden, case, output, own[output], actual), []).append(run)
    return [
        f"case {case.name!r}, {sentence} ({runs[0]}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''})"
        for sentence, runs in told_of.items()
    ]


def _unsure(held: HeldModel, case: Case) -> str:
    """Why the reference evaluator cannot tell here, or nothing."""
    drops = {node.op_type for node in held.original.graph.all_nodes()} & RUNTIMES["reference"].loses_nan
    if drops and "nan" in limits.kinds(case.inputs):
        return f"onnx's reference evaluator drops NaN in {', '.join(sorted(drops))}"
    return ""


def _verdict(golden: Golden, case: Case, output: str, own: Array, actual: NDArray[Any]) -> str:
    if own.shape != case.answers[output].shape:
        shape = case.answers[output].shape
        return f"output {output!r}: the exported model itself gives {own.shape} in float64, not {shape}"
    answer = case.nearest(output, own)
    bound = bounds.network(answer, golden.dtypes.get(output, "float32"), case.yardstick[output], golden.yardstick)
    error = bounds.measure(np.asarray(own), answer, bound.allowed)
    model, runtime = _off(own, answer), _off(actual, case.nearest(output, actual))
    if not error.within or (math.isfinite(runtime) and model > runtime / 2):
        far = f"by {error.max_abs:.2g}" if math.isfinite(model) else "by NaN or infinity"
        return (
            f"output {output!r}: the exported model itself differs from the reference, in float64, {far}: "
            "it is not the runtime"
        )
    off = f"off by {runtime:.2g}" if math.isfinite(runtime) else "off by NaN or infinity"
    return f"output {output!r}: this runtime is {off}; the exported model itself is right in float64"


def _off(actual: NDArray[Any], answer: Array) -> float:
    """The largest difference; infinite where one side alone is NaN or infinite."""
    error = bounds.measure(np.asarray(actual), answer, 0)
    return math.inf if error.nan or error.infinite else error.max_abs


def _lucky(golden: Golden, runs: Sequence[Run]) -> list[str]:
    """The case in which PyTorch's own error is largest beside that of the runtimes, if it is a large one."""
    if golden.yardstick != "PyTorch's own error":
        return []
    right = [run for run in runs if not failed(run.verdict) and run.runtime != "pytorch"]
    errors: dict[tuple[str, str], float] = {}
    for result in (result for run in right for result in run.results if not math.isnan(result.max_abs)):
        key = result.case, result.output
        errors[key] = max(errors.get(key, 0.0), result.max_abs)
    found = [
        (own / max(errors[case.name, output], floor), case.name, output, own)
        for case in golden.cases
        for output, known in case.yardstick.items()
        for own in [known.largest if isinstance(known, ByMagnitude) else known]
        if (case.name, output) in errors and (floor := _floor(case.answers[output], golden.dtypes.get(output)))
    ]
    ratio, case, output, own = max(found, default=(0.0, "", "", 0.0))
    if ratio <= CLEARLY:
        return []
    return [
        f"case {case!r}, output {output!r}: PyTorch's own result is off by {own:.2g} from float64, the runtimes by at "
        f"most {errors[case, output]:.2g}: where the two differ, PyTorch is wrong"
    ]


def _floor(answer: Array, dtype: str | None) -> float:
    """What any network may err: where numbers are whole, by one."""
    return bounds.floor(answer, dtype) if dtype and bounds.is_floating(dtype) else 1.0
