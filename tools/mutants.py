"""Mutants of small networks: whether the gate catches every wrong model, and lets every right one pass.

    tools/mutants                     every kind of mutation of every network, and 130 right networks
    tools/mutants --networks lstm,up --kinds "weight x 1.001" --no-right
    tools/mutants --localise          whether per-node and bisect name planted faults: tools/mutants_localise.py

A mutant is a model with one thing changed (tools/mutants_kinds.py). It is observable where what it gives in float64, by
onnx's reference evaluator, is further from the right answers than :data:`OBSERVABLE` times the noise: the errors that
the right model itself has in ONNX Runtime, at answers of about the same size, for several inputs an ULP apart. Those
must be caught by numbers or by structure; no fingerprint is looked at, but for mutants of the interface. A right
network must pass, or be noted. Ends with a count of each, and exit status 1 for a miss or a false alarm.
"""

import argparse
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mutants_kinds as kinds
import mutants_localise
import mutants_networks as networks
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import onnxpool
from onnxpool.golden import bounds, from_model, from_torch
from onnxpool.golden.collect import widen
from onnxpool.golden.file import Case
from onnxpool.golden.perturbed import moved_inputs
from onnxpool.graph.fingerprint import changes
from onnxpool.network.prove import opened
from onnxpool.runtimes import RUNTIMES
from onnxpool.validation.compare import Judge, failures
from onnxpool.validation.model import HeldModel
from onnxpool.validation.report import Verdict, failed, worst

OBSERVABLE = 10.0
"""Times the noise."""

RUNS = 4
"""Of the right model, for its noise."""

LOOKED_AT = ("example", "image", "negative", "huge", "constant")
"""Cases whose float64 values are compared, beside some other sizes."""

Outcome = Literal["caught", "missed", "not observable"]


@dataclass(frozen=True)
class Found:
    """What became of one mutant."""

    network: str
    kind: str
    outcome: Outcome
    effect: float
    why: str


class Subject:
    """A network, its model, its answers and its noise."""

    def __init__(self, network: networks.Network) -> None:
        self.network = network
        self.model = onnxpool.export(
            network.module, network.args, dynamic_shapes=network.dynamic, golden=False, check=False
        )
        self.golden = from_torch.record(network.module, self.model, network.args)
        sizes = [case.name for case in self.golden.cases if case.name.startswith("sizes")][1:3]
        self.cases = [case for case in self.golden.cases if case.name in (*LOOKED_AT, *sizes)]
        self._run = opened(self.model)
        self.noise = {case.name: self._noise(case) for case in self.cases}
        exact = from_model.evaluator(onnxpool.to_form(from_model.in_dtype(self.model, ir.DataType.DOUBLE), "custom"))
        self.right = {case.name: exact(widen(case.inputs)) for case in self.cases}

    def _noise(self, case: Case) -> dict[str, NDArray[Any]]:
        """Of each element of each output, in the cases that are looked at."""
        errors: dict[str, NDArray[Any]] = {name: np.zeros(answer.shape) for name, answer in case.answers.items()}
        for seed in range(RUNS):
            feeds = moved_inputs(case.inputs, np.random.default_rng(seed)) if seed else case.inputs
            for name, array in self._run(feeds).items():
                with np.errstate(invalid="ignore"):
                    off = np.abs(array.astype(np.float64) - case.nearest(name, array))
                errors[name] = np.maximum(errors[name], np.nan_to_num(off, posinf=0))
        return {name: _smooth(case.answers[name], error) for name, error in errors.items()}

    def effect(self, mutant: ir.Model, *, body: bool) -> float:
        """How far the mutant is from the right model in float64, in times of the noise; infinite where it cannot run.

        The evaluator takes our operators for what they are: a changed body is run in ONNX Runtime, in its own type.
        """
        try:
            wide = mutant if body else onnxpool.to_form(from_model.in_dtype(mutant, ir.DataType.DOUBLE), "custom")
            run = opened(wide) if body else from_model.evaluator(wide)
        except Exception:  # whatever is raised for what is no model
            return np.inf
        most = 0.0
        for case in self.cases:
            try:
                found = run(case.inputs if body else widen(case.inputs))
            except Exception:  # such as a shape that does not fit
                return np.inf
            right = self._run(case.inputs) if body else self.right[case.name]
            for name, answer in right.items():
                if name not in found or np.shape(found[name]) != answer.shape:
                    return np.inf
                noise, floating = self.noise[case.name][name], bounds.is_floating(self.golden.dtypes[name])
                apart = _apart(np.asarray(found[name], np.float64), np.asarray(answer, np.float64), noise, floating)
                most = max(most, apart)
        return most

    def judged(self, model: ir.Model) -> tuple[Verdict, str]:
        """What the gate says of a model by its numbers and structure, without fingerprints."""
        try:
            held = HeldModel(model)
            judge = Judge(self.golden, held)
            run = opened(held.runnable)
        except Exception as error:  # whatever ONNX Runtime raises
            return "unloadable", str(error)
        told: list[tuple[Verdict, str]] = []
        for case in self.golden.cases:
            results = judged_case(judge, case, run)
            told += [(one.verdict, f"{case.name}, {one.output}: {one.reason}") for one in results]
        verdict = worst(one for one, _ in told)
        return verdict, next((why for one, why in told if one == verdict), "")


def judged_case(judge: Judge, case: Case, run: Any) -> Sequence[Any]:
    """The results of one case in ONNX Runtime, in this process."""
    if reason := judge.unfit(case):
        return failures(case, "structure", reason)
    if judge.deadly("onnxruntime", case):
        return failures(case, "noted", "would end this process")
    try:
        outputs = run(case.inputs)
    except Exception as error:  # whatever ONNX Runtime raises
        return judge.not_run("onnxruntime", case, "unloadable", str(error))
    loses = RUNTIMES["onnxruntime"].loses_nan
    return judge.results(case, outputs, native=False, loses=loses, runtime="onnxruntime")


def _smooth(answer: NDArray[Any], error: NDArray[Any]) -> NDArray[Any]:
    """The largest error of elements whose answers are within a factor of 4, and at least half an ULP."""
    finite = np.isfinite(answer)
    exponent = np.where(finite & (answer != 0), np.frexp(np.where(finite, answer, 1))[1], -999)
    found = np.zeros(answer.shape)
    known = np.unique(exponent)
    for one in known:
        near = np.abs(exponent - one) <= 2
        found[exponent == one] = error[near].max(initial=0)
    if not (answer != 0).any():
        return found + error.max(initial=0)
    lowest = known[known > -999].min(initial=0)
    found[exponent == -999] = np.maximum(found[exponent == -999], found[exponent == lowest].max(initial=0))
    with np.errstate(invalid="ignore"):
        return np.maximum(found, 2.0**-25 * np.abs(np.where(finite, answer, 0)))


def _apart(found: NDArray[Any], answer: NDArray[Any], noise: NDArray[Any], floating: bool) -> float:
    if not floating:  # near ties anything flips one of them
        differing = np.count_nonzero(found != answer)
        return np.inf if differing > max(1, 0.02 * answer.size) else 0.0
    if (np.isnan(found) != np.isnan(answer)).any():
        return np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(found == answer, 0, np.abs(found - answer))
        return float(np.nan_to_num(np.where(off == 0, 0, off / noise), nan=0, posinf=np.inf).max(initial=0))


def mutants(subject: Subject, names: Sequence[str], seed: int = 0) -> Iterator[Found]:
    """One mutant of each kind that the network has a place for."""
    for name in names:
        kind = kinds.KINDS[name]
        mutant = subject.model.clone()
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if not kind.change(mutant, rng):
            continue
        if kind.interface:
            before, after = HeldModel(subject.model).fingerprints(), HeldModel(mutant).fingerprints()
            verdict, why = subject.judged(mutant)
            fault = next((change.text for change in changes(before, after) if change.fault), "")
            caught = failed(verdict) or bool(fault)
            yield Found(subject.network.name, name, "caught" if caught else "missed", np.inf, fault or why)
            continue
        effect = subject.effect(mutant, body=kind.body)
        if not effect > OBSERVABLE:
            yield Found(subject.network.name, name, "not observable", effect, "")
            continue
        verdict, why = subject.judged(mutant)
        yield Found(subject.network.name, name, "caught" if failed(verdict) else "missed", effect, why)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the mutants, judge them, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=[*networks.ZOO])
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=[*kinds.KINDS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-right", action="store_true")
    parser.add_argument("--no-mutants", action="store_true")
    parser.add_argument("--seeds", type=int, default=3, help="of each right network")
    parser.add_argument("--localise", action="store_true")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    if given.localise:
        whole = given.networks == [*networks.ZOO]
        return 0 if mutants_localise.report([*networks.ZOO, *networks.PLANTED] if whole else given.networks) else 1
    missed, alarms, counts = [], [], Counter[str]()
    start = time.monotonic()
    for name in () if given.no_mutants else given.networks:
        for found in mutants(Subject(networks.make(name, given.seed)), given.kinds, given.seed):
            interface = "interface " if kinds.KINDS[found.kind].interface else ""
            counts[interface + found.outcome] += 1
            if found.outcome == "missed":
                missed.append(found)
                print(f"missed: {found.network}, {found.kind}: {found.effect:.3g} times the noise; {found.why}")
        print(f"{name}: {dict(counts)}, {time.monotonic() - start:.0f} s", flush=True)
    right = Counter[str]()
    for network in () if given.no_right else networks.right(given.seeds):
        if network.name not in (*given.networks, *networks.MORE):
            continue
        subject = Subject(network)
        verdict, why = subject.judged(subject.model)
        right[verdict] += 1
        if failed(verdict):
            alarms.append(network.name)
            print(f"false alarm: {network.name}: {verdict}: {why}", flush=True)
    print(f"mutants: {dict(counts)}; right networks: {dict(right)}; {time.monotonic() - start:.0f} s")
    return 1 if missed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
