"""The configurations of a validation: one runtime, form and set of options each."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxpool import openvino
from onnxpool.errors import ArgumentError
from onnxpool.run.native_library import CPU, library_path, why_none_for
from onnxpool.runtimes import RUNTIMES, Options, Runtime
from onnxpool.runtimes._child import without_secrets
from onnxpool.validation.report import Run, Verdict

OLDEST = (1, 24)
"""The first release of ONNX Runtime that the native library works with."""

_WITHOUT_KERNELS = "TensorrtExecutionProvider"

_ONNXRUNTIME, _OPENVINO = "onnxruntime", "openvino"
_PROVIDERS = {_OPENVINO: "CPU"}
"""Where a runtime has our kernels, if it is not ONNX Runtime's CPU provider."""


@dataclass(frozen=True)
class Configuration:
    """One way to run the model. ``python`` is of the environment to run in, ``release`` names it if it is another."""

    runtime: Runtime
    form: str
    kernels: bool
    options: Mapping[str, Any]
    python: str = sys.executable
    release: str = ""

    @property
    def provider(self) -> str:
        """Where native kernels are to run, as the runtime calls it."""
        return str(self.options.get("provider", _PROVIDERS.get(self.runtime.name, CPU)))

    @property
    def no_kernels(self) -> str | None:
        """Why there are no native kernels for it, or None where there are."""
        return openvino.why_missing() if self.runtime.name == _OPENVINO else why_none_for(self.provider)

    @property
    def library(self) -> str:
        """What has the native kernels for it. Raises :class:`onnxpool.errors.KernelError` where there is nothing."""
        return str(openvino.extension_path() if self.runtime.name == _OPENVINO else library_path())

    @property
    def name(self) -> str:
        """As the run of it is called."""
        return self.reported("skipped").name

    def why_not(self, options: Options) -> str:
        """Why it cannot be tried here, or nothing."""
        if self.form not in (self.runtime.kernels if self.kernels else self.runtime.forms):
            return f"{self.runtime.name} takes {' and '.join(self.runtime.forms)} form"
        if options.get("libraries") and self.form != "module" and self.runtime.name != "onnxruntime":
            return f"{self.runtime.name} cannot load libraries of ONNX Runtime"
        if self.kernels and (reason := self.no_kernels):
            return reason
        if self.kernels and self.release and tuple(map(int, self.release.split(".")[:2])) < OLDEST:
            return f"the native library needs ONNX Runtime {'.'.join(map(str, OLDEST))} or newer"
        return "" if self.release else self.runtime.why_not(options)

    def reported(self, verdict: Verdict, reason: str = "", **found: Any) -> Run:
        """What is reported of it."""
        runtime = f"{self.runtime.name} {self.release}".strip()
        return Run(runtime, self.form, self.kernels, verdict, reason, options=dict(self.options), **found)


def plan(
    on: Sequence[str] | None, wanted: Sequence[str], pythons: Sequence[str], threads: int | None, *, pools: bool
) -> list[Configuration]:
    """The configurations to run: of these runtimes every variant, or by default what ONNX Runtime does ordinarily.

    ``wanted`` are forms of the model; one without ``pools`` is in standard form alone. ``pythons`` are programs of
    other environments that have an ONNX Runtime. ``threads`` is for all configurations of ONNX Runtime.
    """
    configurations = []
    fixed: Options = {} if threads is None else {"threads": threads}
    for runtime in (RUNTIMES[name] for name in on or ["onnxruntime"]):
        variants = runtime.variants if on else runtime.ordinary()
        if runtime.name == _ONNXRUNTIME:
            variants = tuple({**options, **fixed} for options in variants)
        for form, kernels in _ways(runtime, wanted, pools):
            able = [options for options in variants if not kernels or options.get("provider") != _WITHOUT_KERNELS]
            configurations += [Configuration(runtime, form, kernels, options) for options in able]
    for python in pythons:
        release, runtime = _release(python), RUNTIMES["onnxruntime"]
        for form, kernels in _ways(runtime, wanted, pools):
            configurations.append(Configuration(runtime, form, kernels, fixed, python, release))
    return list({one.name: one for one in configurations}.values())


def _ways(runtime: Runtime, wanted: Sequence[str], pools: bool) -> Iterator[tuple[str, bool]]:
    """Forms that the runtime takes, without and with native kernels; one that it refuses where it takes none."""
    if not pools:
        wanted = ["standard"]
    ways = []
    for form in wanted:
        if form in runtime.forms and form != "custom":
            ways.append((form, False))
        if form in runtime.kernels:
            ways.append((form, True))
    yield from ways or [("module" if "module" in runtime.forms else wanted[0], False)]


def _release(python: str) -> str:
    """The release of ONNX Runtime in another environment."""
    program = [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"]
    try:
        return subprocess.run(
            program, capture_output=True, text=True, check=True, timeout=60, env=without_secrets()
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        raise ArgumentError(
            f"python={python!r} is not a Python with onnxruntime and numpy: {told.strip().splitlines()[-1]}"
        ) from error
