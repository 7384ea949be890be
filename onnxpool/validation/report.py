"""What a validation found, as values.

Shown by :mod:`onnxpool.validation.as_text`, :mod:`onnxpool.validation.as_html` and :mod:`onnxpool.validation.as_junit`.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from onnxpool.validation.evidence import Evidence

Verdict: TypeAlias = Literal["skipped", "passed", "noted", "mismatch", "unloadable", "structure", "crashed"]
"""What became of a result, a run or a whole validation.

    skipped      could not be tried here; never counts as passed
    passed       every number is within its bound
    noted        deviates in a way that is known, explained, and not the model's fault
    mismatch     numbers are off
    unloadable   the runtime cannot load or run the model, or an operator or kernel is missing
    structure    a shape, type or name is not what it should be, an axis that may change has become fixed
    crashed      the runtime itself died, or did not answer
"""

EXIT_STATUS: dict[Verdict, int] = {
    "skipped": 3,  # nothing else was there: nothing could be run
    "passed": 0,
    "noted": 0,
    "mismatch": 1,
    "unloadable": 3,
    "structure": 4,
    "crashed": 5,
}
"""Exit status of the command line by verdict, from best to worst; 2 is a usage error."""

SCHEMA = 2
"""Version of what :meth:`Report.to_json` returns."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of these verdicts, in the order of :data:`EXIT_STATUS`; ``skipped`` where there is none.

    >>> worst(["skipped", "passed", "structure", "mismatch"])
    'structure'
    """
    return max(verdicts, key=[*EXIT_STATUS].index, default="skipped")


def failed(verdict: Verdict) -> bool:
    """Whether this verdict says that something is wrong."""
    return verdict not in ("skipped", "passed", "noted")


@dataclass(frozen=True)
class Result:
    """One output of one case in one run.

    ``max_abs``, ``max_rel`` and ``max_ulp`` are the worst errors against float64 over all elements (units as in
    :class:`onnxpool.golden.bounds.Error`), ``share`` is the largest part of its allowed error that an element used,
    ``allowed`` what that element was allowed, ``origin`` where the bound comes from. ``cosine`` and ``snr_db`` compare
    whole tensors; ``nan``, ``infinite`` and ``signed_zeros`` count the elements where these are not as in the answer.
    ``reason`` says why the verdict is not passed; ``histogram`` and ``heat`` how the errors are spread
    (:mod:`onnxpool.validation.spread`).
    """

    case: str
    output: str
    verdict: Verdict
    reason: str = ""
    max_abs: float = math.nan
    max_rel: float = math.nan
    max_ulp: float = math.nan
    cosine: float = math.nan
    snr_db: float = math.nan
    nan: int = 0
    infinite: int = 0
    signed_zeros: int = 0
    share: float = math.nan
    allowed: float = math.nan
    origin: str = ""
    histogram: tuple[int, ...] = ()
    heat: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Run:
    """One form of the model in one runtime, with these options, on every case.

    ``reason`` says why the whole run was skipped or failed, ``version`` which release ran. Where the runtime tells:
    ``providers`` counts the nodes that each was assigned, ``pooling`` says of each pooling node how it ran, and
    ``native`` names those that ran natively. ``left_out`` names the cases that cost too much there.
    """

    runtime: str
    form: str
    kernels: bool
    verdict: Verdict
    reason: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    providers: dict[str, int] = field(default_factory=dict)
    pooling: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()

    @property
    def name(self) -> str:
        """Runtime, form, kernels and options in words."""
        options = [f"{name} {value}" for name, value in self.options.items()]
        return ", ".join([self.runtime, self.form, *(["native kernels"] if self.kernels else []), *options])

    @property
    def worst(self) -> Result | None:
        """The result that used most of its allowed error, if any was measured."""
        measured = [result for result in self.results if not math.isnan(result.share)]
        return max(measured, key=lambda result: result.share, default=None)


@dataclass(frozen=True)
class Report:
    """Whether a model gives the answers that it should.

    ``verdict`` is the worst of the runs, or ``structure`` where the model is another than what was exported.
    ``reference`` says who gave the answers, ``causes`` names what changed in the model since its export, ``notes`` is
    all else that a reader should know, ``environment`` the versions that ran. ``evidence``, which files ran, is what a
    certificate needs; it is not part of what is stored.
    """

    model: str
    verdict: Verdict
    reference: str
    runs: tuple[Run, ...]
    causes: tuple[str, ...]
    notes: tuple[str, ...]
    environment: dict[str, str]
    evidence: "Evidence | None" = field(default=None, repr=False, compare=False)

    @property
    def exit_status(self) -> int:
        """What the command line ends with: see :data:`EXIT_STATUS`."""
        return EXIT_STATUS[self.verdict]

    @property
    def passed(self) -> bool:
        """Whether something was run, and nothing is wrong."""
        return self.exit_status == 0

    @property
    def failing_case(self) -> str | None:
        """The name of the first case that failed in any run."""
        every = (result for run in self.runs for result in run.results)
        return next((result.case for result in every if failed(result.verdict)), None)

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        counts = {verdict: sum(run.verdict == verdict for run in self.runs) for verdict in EXIT_STATUS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        word = "PASSED" if self.passed else f"FAILED ({self.verdict})"
        return f"{word}: {len(self.runs)} runs, {told}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; what is not a finite number is None, or ``"inf"``."""
        values = {
            "schema": SCHEMA,
            "summary": self.summary,
            "passed": self.passed,
            "exit_status": self.exit_status,
            **asdict(replace(self, evidence=None)),
        }
        del values["evidence"]
        values["runs"] = [{"name": run.name, **asdict(run)} for run in self.runs]
        plain: dict[str, Any] = _plain(values)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
