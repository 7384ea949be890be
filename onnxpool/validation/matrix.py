"""Runs the configurations of a validation (:mod:`onnxpool.validation.plan`), each in a process that may die.

A configuration opens the model once and runs every case that it can take. Where the runtime dies, the case that it
died of has crashed, and the next one is tried in a fresh process.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxpool.domain import OURS, Form
from onnxpool.errors import OnnxpoolError
from onnxpool.golden import bounds, from_torch
from onnxpool.golden.file import Case
from onnxpool.graph import forms
from onnxpool.graph.forms import PoolNode
from onnxpool.graph.integers import folded
from onnxpool.graph.repair import RENAMED
from onnxpool.run.native_library import CPU, CUDA
from onnxpool.runtimes import Options
from onnxpool.runtimes._child import Child, Crashed, Refused, Tensors
from onnxpool.validation.compare import Judge, failures
from onnxpool.validation.model import HeldModel
from onnxpool.validation.plan import Configuration
from onnxpool.validation.report import Result, Run, worst

if TYPE_CHECKING:
    import torch

    from onnxpool.golden.arrangement import Arrangement

MOST_CRASHES = 3
"""After so many, the remaining cases of a configuration are not tried."""


@dataclass
class Files:
    """The files that children open, each written when first needed: the model in each form, and the module.

    ``libraries`` of other custom operators are there already.
    """

    held: HeldModel
    module: "torch.nn.Module | None"
    folder: Path
    libraries: Sequence[str] = ()
    _written: dict[str, Path] = field(default_factory=dict)

    def path(self, form: str, *, native: bool = False) -> Path:
        """The file of this form. The model's own form is run as it is, with the function bodies that it carries.

        ``native``: for the library's kernels on the CPU, some of which pool whole numbers.
        """
        if form not in self._written:
            self._written[form] = self._write(form)
        if not native:
            return self._written[form]
        if f"{form}, native" not in self._written:
            own: Form = form  # type: ignore[assignment]
            whole = folded(self.held.original if form == self.held.form else self.held.converted(own))
            path = self.folder / f"{form}-native.onnx"
            if whole is not None:
                forms.write(whole, path)
            self._written[f"{form}, native"] = self._written[form] if whole is None else path
        return self._written[f"{form}, native"]

    def nodes(self, form: str) -> list[PoolNode]:
        """The pooling nodes of the model in this form."""
        return [] if form == "module" else self.held.nodes(form)  # type: ignore[arg-type]

    @cached_property
    def arrangement(self) -> "Arrangement | None":
        """How the module takes the model's inputs; None without a module."""
        return None if self.module is None else from_torch.arrangement(self.module, self.held.original)

    def _write(self, form: str) -> Path:
        path = self.folder / ("module.pt" if form == "module" else f"{form}.onnx")
        if form == "module":
            import torch

            torch.save(self.module, path)
        elif self.held.form != form:
            forms.write(self.held.converted(form).clone(), path)  # type: ignore[arg-type] # writing loads weights
        elif isinstance(self.held.source, str | os.PathLike) and RENAMED not in self.held.original.meta:
            return Path(self.held.source).resolve()
        else:
            forms.write(self.held.original.clone(), path)
        return path


@dataclass
class Matrix:
    """Runs configurations, one after the other; one child serves neighbours that need the same program.

    ``beyond`` says why cases go beyond the range of a model in standard form: they are not tried in that form.
    ``differing`` keeps what came where numbers were off, by run, case and output, for the float64 reference.
    """

    files: Files
    judge: Judge
    timeout_s: float
    beyond: Mapping[str, str] = field(default_factory=dict)
    differing: dict[tuple[str, str, str], NDArray[Any]] = field(default_factory=dict)

    def run(self, configurations: Sequence[Configuration], progress: Callable[[int, int, str], None]) -> list[Run]:
        """A run for each configuration; ``progress`` is told how many are done, of how many, and which is next."""
        runs = []
        with ExitStack() as stack:
            child = None
            for i, configuration in enumerate(configurations):
                progress(i, len(configurations), configuration.name)
                command = configuration.runtime.command(configuration.python)
                if child is None or child.command != command:
                    stack.close()
                    child = stack.enter_context(Child(command, self.files.folder, self.timeout_s))
                runs.append(self._run(configuration, child))
        progress(len(configurations), len(configurations), "")
        return runs

    def _run(self, configuration: Configuration, child: Child) -> Run:
        options = self._options(configuration)
        if reason := configuration.why_not(options):
            return configuration.reported("skipped", reason)
        try:
            path, nodes = self._path(configuration), self.files.nodes(configuration.form)
        except OnnxpoolError as error:
            return configuration.reported("unloadable", str(error))
        except Exception as error:  # whatever a stranger's class does when it is pickled
            return configuration.reported("skipped", f"the module cannot be sent to another process: {error}")
        try:
            facts = child.open(path, options)
        except Crashed as crash:
            return configuration.reported("crashed", str(crash))
        except Refused as refusal:
            return configuration.reported("unloadable", str(refusal))
        return self._opened(configuration, child, options, _Opened(facts, nodes))

    def _opened(self, configuration: Configuration, child: Child, options: Options, opened: "_Opened") -> Run:
        if configuration.kernels and (bodies := opened.bodies(configuration.provider)):
            reason = f"no native kernel of {configuration.provider} ran for {', '.join(map(repr, bodies))}"
            return configuration.reported("unloadable", reason, **opened.told())
        cases, left_out = _affordable(self.judge.golden.cases, one_size=configuration.runtime.one_size(options))
        results = _fixed_sizes(self._results(configuration, child, options, cases), cases)
        verdict = worst(result.verdict for result in results)
        return configuration.reported(verdict, left_out=left_out, results=_mapped(results), **opened.told())

    def _results(
        self, configuration: Configuration, child: Child, options: Options, cases: Sequence[Case]
    ) -> list[Result]:
        results: list[Result] = []
        crashes = 0
        for case in cases:
            if reason := self.judge.unfit(case):
                results += failures(case, "structure", reason)
            elif configuration.form == self.files.held.form and (reason := self.beyond.get(case.name, "")):
                results += failures(case, "skipped", reason)
            elif crashes == MOST_CRASHES:
                results += failures(case, "crashed", f"not tried, after {crashes} crashes")
            else:
                try:
                    if not child.alive:
                        child.open(self._path(configuration), options)
                    outputs = child.run(case.inputs)
                except Crashed as crash:
                    found = self.judge.not_run(configuration.runtime.name, case, "crashed", str(crash))
                    crashes += any(result.verdict == "crashed" for result in found)
                    results += found
                except Refused as refusal:
                    known = [told for part, told in configuration.runtime.limits.items() if part in str(refusal)]
                    if known:
                        results += failures(case, "skipped", known[0])
                    else:
                        results += self.judge.not_run(configuration.runtime.name, case, "unloadable", str(refusal))
                else:
                    results += self._compared(configuration, case, outputs)
        return results

    def _compared(self, configuration: Configuration, case: Case, outputs: Tensors) -> list[Result]:
        on_cuda = configuration.kernels and configuration.provider == CUDA
        native: bounds.Native = "cuda" if on_cuda else configuration.kernels
        runtime = configuration.runtime
        results = self.judge.results(case, outputs, native=native, loses=runtime.loses_nan, runtime=runtime.name)
        for result in results:
            if result.verdict == "mismatch":
                self.differing[configuration.name, case.name, result.output] = outputs[result.output]
        return results

    def _path(self, configuration: Configuration) -> Path:
        native = configuration.kernels and configuration.provider == CPU
        return self.files.path(configuration.form, native=native)

    def _options(self, configuration: Configuration) -> Options:
        graph = self.files.held.original.graph
        native = configuration.kernels and not configuration.no_kernels
        known = [value.dtype for value in (*graph.inputs, *graph.outputs) if value.dtype is not None]
        return {
            **configuration.options,
            "dtypes": [dtype.numpy().name for dtype in known],
            "outputs": [value.name for value in graph.outputs],
            "weights": sum(value.const_value.size for value in graph.initializers.values() if value.const_value),
            "arrangement": self.files.arrangement,
            "path": sys.path,
            "library": configuration.library if native else None,
            "libraries": [*self.files.libraries],
        }


@dataclass(frozen=True)
class _Opened:
    """What a runtime told when it had opened a model with these pooling nodes."""

    facts: Mapping[str, Any]
    nodes: Sequence[PoolNode]

    @property
    def placed(self) -> dict[str, str | None] | None:
        """The provider of each pooling node, None for a function body; None where the runtime keeps no record."""
        if self.facts.get("nodes") is None:
            return None
        ran = {name: provider for name, domain, _, provider in self.facts["nodes"] if domain in OURS}
        return {node.name: ran.get(node.name) for node in self.nodes}

    def bodies(self, provider: str) -> list[str]:
        """The pooling nodes that certainly did not run natively on ``provider``."""
        return [name for name, ran in (self.placed or {}).items() if ran != provider]

    def told(self) -> dict[str, Any]:
        """What a run reports of it."""
        placed, nodes = self.placed or {}, self.facts.get("nodes") or ()
        return {
            "version": self.facts["version"],
            "providers": dict(Counter(provider for *_, provider in nodes)),
            "pooling": tuple(
                f"{node.name} ({node.op_type}): {placed[node.name] or 'standard operators'}"
                for node in self.nodes
                if node.name in placed
            ),
            "native": tuple(name for name, provider in placed.items() if provider),
        }


def _affordable(cases: Sequence[Case], *, one_size: bool) -> tuple[Sequence[Case], tuple[str, ...]]:
    """The cases to run, and the names of the others: of one size only, the commonest, where they cost much."""
    if not one_size or not cases:
        return cases, ()
    (size, _), *_ = Counter(map(_sizes, cases)).most_common(1)
    return [case for case in cases if _sizes(case) == size], tuple(case.name for case in cases if _sizes(case) != size)


def _mapped(results: Sequence[Result]) -> tuple[Result, ...]:
    """With a map of the errors of the worst result only: all would be too much for one report."""
    worst_one = max(results, key=lambda result: -1 if math.isnan(result.share) else result.share, default=None)
    return tuple(result if result is worst_one else replace(result, heat=()) for result in results)


def _sizes(case: Case) -> str:
    return ", ".join("x".join(map(str, array.shape)) for array in case.inputs.values())


def _fixed_sizes(results: Sequence[Result], cases: Sequence[Case]) -> list[Result]:
    """A runtime that fails at some sizes alone has met a size that is fixed within the model."""
    sizes = {case.name: _sizes(case) for case in cases}
    ran = [sizes[result.case] for result in results if not math.isnan(result.share)]
    return [
        replace(result, verdict="structure", reason=f"runs at {ran[0]}, not at {sizes[result.case]}: {result.reason}")
        if result.verdict == "unloadable" and ran and sizes[result.case] not in ran
        else result
        for result in results
    ]
