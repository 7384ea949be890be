"""Whether answers depend on what they should not: on rows beside them, on threads, on how often a model has run.

    batch     each row of a case alone, and all in reverse order, beside all together
    threads   2, 3 and 8 threads beside one
    runs      the same inputs three times in one session, others in between, and once in another session

in ONNX Runtime, in the form of the file, without and with native kernels. Of each output the report says which:
*bit for bit*; *within rounding*, which is what the output may err, but for runs no more than
:func:`onnxpool.golden.bounds.floor`; or it differs, and the validation fails.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from onnxpool.errors import ArgumentError, OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case
from onnxpool.run.native_library import library_path, why_missing
from onnxpool.runtimes import RUNTIMES
from onnxpool.runtimes._child import Child, Crashed, Refused, Tensors
from onnxpool.validation.compare import Judge
from onnxpool.validation.matrix import Files
from onnxpool.validation.report import Result, Run, worst

Way: TypeAlias = Literal["batch", "threads", "runs"]

THREADS = (2, 3, 8)
"""Beside one thread."""

MOST_ROWS = 8
"""Of one case, that are run alone."""

_USUAL = ("example", "ordinary", "image")
_EXACT, _ROUNDED = "bit for bit", "within rounding"


def checked(ways: Sequence[str]) -> list[Way]:
    """These ways, each once, in order; :class:`ArgumentError` for any other."""
    if not set(ways) <= set(get_args(Way)):
        raise ArgumentError(f"invariant={[*ways]!r} must be some of {', '.join(get_args(Way))}")
    return [way for way in get_args(Way) if way in ways]


def examine(
    files: Files, judge: Judge, ways: Sequence[Way], threads: int | None, timeout_s: float
) -> tuple[list[Run], list[str]]:
    """A run for each way and each kind of kernels, and a sentence on each: which outputs are invariant, and how."""
    runs: list[Run] = []
    if ways:
        with Child(RUNTIMES["onnxruntime"].command(sys.executable), files.folder, timeout_s) as child:
            for kernels in _kernels(files):
                runs += [_Trial(files, judge, child, kernels, threads).run(way) for way in ways]
    return runs, [_told(run) for run in runs]


def _kernels(files: Files) -> list[bool]:
    """Without and with native kernels, as far as the form and this machine go."""
    form, missing = files.held.form, why_missing()
    ways = {"standard": [False], "function": [False, True], "custom": [True]}[form]
    return [kernels for kernels in ways if not (kernels and missing)]


def _told(run: Run) -> str:
    parts = [
        f"{result.output!r} {result.origin if result.verdict == 'passed' else 'differs'}"
        + ("" if result.origin == _EXACT else f" (by up to {result.max_abs:.2g}, in case {result.case!r})")
        for result in run.results
    ]
    return f"{run.name}: {', '.join(parts) or run.reason}"


@dataclass(frozen=True)
class _Pair:
    """What a case gave, and what it gave otherwise; ``rows`` are those of its answers that both are for.

    ``again`` says that the very same was asked twice.
    """

    case: Case
    how: str
    before: Tensors
    after: Tensors
    rows: slice = field(default_factory=lambda: slice(None))
    again: bool = False


@dataclass
class _Trial:
    """One model file in one process."""

    files: Files
    judge: Judge
    child: Child
    kernels: bool
    threads: int | None

    def run(self, way: Way) -> Run:
        """What became of one way."""
        held = self.files.held
        about: dict[str, Any] = {"options": {"invariant": way}, "form": held.form, "kernels": self.kernels}
        cases = _cases(self.judge, rows=2 if way == "batch" else 0)
        if way == "batch" and (reason := _why_no_rows(held.original.graph.inputs, held.original.graph.outputs)):
            return Run("onnxruntime", verdict="skipped", reason=reason, **about)
        if not cases:
            return Run("onnxruntime", verdict="skipped", reason="no case of finite numbers has so many rows", **about)
        try:
            pairs = [*{"batch": self._batch, "threads": self._threads, "runs": self._runs}[way](cases)]
        except Crashed as crash:
            return Run("onnxruntime", verdict="crashed", reason=str(crash), **about)
        except (Refused, OnnxpoolError) as refusal:
            return Run("onnxruntime", verdict="unloadable", reason=str(refusal), **about)
        results = tuple(self._worst(output, pairs) for output in pairs[0].before)
        return Run("onnxruntime", verdict=worst(result.verdict for result in results), results=results, **about)

    def _open(self, **options: Any) -> None:
        path = self.files.path(self.files.held.form, native=self.kernels)
        given: dict[str, Any] = {} if self.threads is None else {"threads": self.threads}
        own = str(library_path()) if self.kernels else None
        self.child.open(path, {**given, **options, "library": own, "libraries": [*self.files.libraries]})

    def _threads(self, cases: Sequence[Case]) -> Iterator[_Pair]:
        self._open(threads=1)
        one = [self.child.run(case.inputs) for case in cases]
        for number in THREADS:
            self._open(threads=number)
            for case, before in zip(cases, one, strict=True):
                yield _Pair(case, f"{number} threads beside 1", before, self.child.run(case.inputs))

    def _runs(self, cases: Sequence[Case]) -> Iterator[_Pair]:
        self._open()
        first = [self.child.run(case.inputs) for case in cases]
        for which in ("the second run", "the third run", "another session"):
            if which == "another session":
                self._open()
            for case, before in reversed([*zip(cases, first, strict=True)]):
                after = self.child.run(case.inputs)
                yield _Pair(case, f"{which} beside the first", before, after, again=True)

    def _batch(self, cases: Sequence[Case]) -> Iterator[_Pair]:
        self._open()
        for case in cases:
            whole = self.child.run(case.inputs)
            rows = len(next(iter(case.inputs.values())))
            parts = [slice(row, row + 1) for row in range(min(rows, MOST_ROWS))]
            for part in parts:
                alone = self.child.run(_part(case.inputs, part))
                yield _Pair(case, f"row {part.start} alone", _part(whole, part), alone, part)
            back = slice(None, None, -1)
            yield _Pair(case, "rows in reverse", _part(whole, back), self.child.run(_part(case.inputs, back)), back)

    def _worst(self, output: str, pairs: Sequence[_Pair]) -> Result:
        """What the largest difference in this output says."""
        results = [self._compared(output, pair) for pair in pairs]
        return max(results, key=lambda one: (one.verdict != "passed", one.origin == _ROUNDED, one.share))

    def _compared(self, output: str, pair: _Pair) -> Result:
        before, after = pair.before[output], pair.after[output]
        case = pair.case
        if (before.shape, before.dtype, before.tobytes()) == (after.shape, after.dtype, after.tobytes()):
            return Result(case.name, output, "passed", max_abs=0.0, share=0.0, origin=_EXACT)
        if before.shape != after.shape:
            reason = f"{pair.how}: shape {after.shape} in place of {before.shape}"
            return Result(case.name, output, "mismatch", reason, max_abs=np.inf, share=np.inf)
        error = bounds.measure(after, before.astype(np.float64), self._allowed(output, pair))
        within = error.share <= 1 and error.nan == error.infinite == 0
        reason = "" if within else f"{pair.how}: {error.share:.3g} times the {error.allowed:.2g} that rounding may do"
        if error.nan or error.infinite:
            reason = f"{pair.how}: NaN or infinity in {error.nan + error.infinite} other elements"
        return Result(
            case.name,
            output,
            "passed" if within else "mismatch",
            reason,
            max_abs=error.max_abs,
            max_ulp=error.max_ulp,
            share=error.share,
            allowed=error.allowed,
            origin=_ROUNDED,
        )

    def _allowed(self, output: str, pair: _Pair) -> Any:
        """How far both may be apart, in each element."""
        answer, dtype = pair.case.answers[output], pair.before[output].dtype
        if pair.again:
            return bounds.floor(answer, dtype) if bounds.is_floating(dtype) else 0.0
        allowed = np.broadcast_to(self.judge.bound(pair.case, output, dtype, self.kernels).allowed, answer.shape)
        return allowed[pair.rows] if allowed.ndim else allowed


def _part(arrays: Mapping[str, NDArray[Any]], rows: slice) -> Tensors:
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def _cases(judge: Judge, rows: int) -> list[Case]:
    """The usual cases, the one of most rows, and the largest, as far as all of their numbers are finite."""
    fit = [
        case
        for case in judge.golden.cases
        if not judge.unfit(case)
        and all(array.size and len(array.shape or (0,)) and _finite(array) for array in case.inputs.values())
        and (not rows or all(array.ndim and array.shape[0] >= rows for array in case.inputs.values()))
    ]
    if not fit:
        return []
    usual = [case for case in fit if case.name in _USUAL]
    most = max(fit, key=lambda case: max(array.shape[:1] for array in case.inputs.values()))
    largest = max(fit, key=lambda case: sum(array.size for array in case.inputs.values()))
    return list({case.name: case for case in (*usual, most, largest)}.values())


def _finite(array: NDArray[Any]) -> bool:
    return not bounds.is_floating(array.dtype) or bool(np.isfinite(array.astype(np.float64)).all())


def _why_no_rows(*values: Any) -> str:
    """Why rows cannot run alone, or nothing."""
    first = {
        value.shape[0] if value.shape else None for group in values for value in group if not value.is_initializer()
    }
    names = {str(axis.value) for axis in first if axis is not None and not isinstance(axis, int) and axis.value}
    if len(first) == len(names) == 1:
        return ""
    return "not every input and output begins with one axis of one name that may change"
