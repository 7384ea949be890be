"""Random windows of every method, in every runtime that is here, against float64: none may be wrong.

    tools/fuzz_runtimes --count 2000 --seed 0 [--method SoftPool] [--runtime openvino]
    tools/fuzz_runtimes --other FILE PYTHON    a file like those in onnxpool/runtimes, and a Python that has its runtime

Draws kernels, strides, dilations, paddings, ceil_mode, count_include_pad, 1 to 3 axes, sizes and values: NaN,
infinities, huge numbers, ties, stretches far below others. ``--count`` is that of each method. Many poolings go into
one model. What a runtime is known not to do is no fault: see ``wrong``. Ends with how many answers were right, wrong
and not given, and exit status 1 for one of the latter.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN, IR_VERSION
from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.golden import bounds
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS, adaptive_average, adaptive_max, average, generalized_mean, global_average
from onnxpool.pools import log_sum_exp as lse
from onnxpool.pools import max as maximum
from onnxpool.pools import power_average as power
from onnxpool.pools._onnx_ops import Builder
from onnxpool.pools._torch_ops import TRANSLATIONS
from onnxpool.runtimes import RUNTIMES
from onnxpool.runtimes._child import Child, Crashed, Refused, worker
from onnxpool.window import Window

PER_MODEL = 20
RUNTIMES_HERE = ("onnxruntime", "openvino", "reference")
DTYPES = {"float32": 0.75, "float16": 0.25}
LARGEST = {"float32": 3e38, "float16": 6e4}
CODES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}

LOSES_NAN = {
    "onnxruntime": ("MaxPool", "AdaptiveMaxPool"),
    "reference": ("MaxPool", "AdaptiveMaxPool", "AvgPool", "AdaptiveAvgPool"),
}
"""Methods in which a runtime drops NaN; others, as OpenVINO, may in any."""


@dataclass(frozen=True)
class Case:
    """One pooling of one input: ``extra`` is what the method takes beside its window, ``kind`` and ``seed`` draw the
    values, ``fixed`` declares the sizes.
    """

    method: str
    window: Window
    shape: tuple[int, ...]
    extra: tuple[Any, ...]
    kind: str
    seed: int

    def values(self, dtype: str) -> NDArray[Any]:
        """The input, rounded to ``dtype``."""
        rng = np.random.default_rng(self.seed)
        x, chance = rng.standard_normal(self.shape) * 2, rng.random(self.shape)
        large = LARGEST[dtype]
        if self.method in SUMS:
            large = 1e30 if dtype == "float32" else large  # a sum beyond float32 overflows, as their files say
        made = {
            "normal": lambda: x,
            "ties": lambda: np.round(x),
            "negative": lambda: -np.abs(x) - 0.5,
            "levels": lambda: x + rng.choice([0, -3, -50, 40], self.shape),
            "huge": lambda: x / 16 * large,
            "large": lambda: np.where(chance < 0.5, large, -large),
            "nan": lambda: np.where(chance < 0.1, nan, x),
            "inf": lambda: np.where(chance < 0.1, inf, x),
            "-inf": lambda: np.where(chance < 0.1, -inf, x),
        }[self.kind]()
        return made.astype(dtype)


MAXIMA = ("MaxPool", "AdaptiveMaxPool")
SUMS = ("AvgPool", "GlobalAvgPool", "AdaptiveAvgPool")


@dataclass(frozen=True)
class Way:
    """How a method is written and judged: ``write(op, case, x)``, ``answer(case, x)`` and what ``extra`` may be."""

    write: Callable[[Builder, Case, ir.Value], ir.Value]
    answer: Callable[[Case, Array], Array]
    extra: Callable[[np.random.Generator, int], tuple[Any, ...]] = lambda *_: ()


def _standard(name: str, *, windowed: bool = True) -> Callable[[Builder, Case, ir.Value], ir.Value]:
    def write(op: Builder, case: Case, x: ir.Value) -> ir.Value:
        overload = getattr(torch.ops.onnxpool, name).default
        window = case.window
        fields = (window.kernel, window.stride, window.pad, window.dilation, window.ceil) if windowed else ()
        y: ir.Value = TRANSLATIONS[overload](op, *fields, x, *_arguments(case))
        return y

    return write


def _arguments(case: Case) -> tuple[Any, ...]:
    """What follows ``x`` in the operator's schema."""
    if case.method == "PowerAvgPool":
        return None, *case.extra
    if case.method in ("LogSumExpPool", "GeM"):
        return None, *case.extra
    return case.extra


def _operator(op: Builder, case: Case, x: ir.Value) -> ir.Value:
    taken = OPERATORS[case.method].inputs
    return op.write(case.method, [x] * len(taken), case.window.attributes(), domain=DOMAIN)[0]


def _operator_answer(case: Case, x: Array) -> Array:
    node = OPERATORS[case.method]
    return node.reference(case.window, *[x] * len(node.inputs))


def _sizes(rng: np.random.Generator, rank: int) -> tuple[Any, ...]:
    return ([int(size) for size in rng.integers(1, 5, rank)],)


def _counting(rng: np.random.Generator, _: int) -> tuple[Any, ...]:
    return bool(rng.random() < 0.5), int(rng.integers(1, 9)) if rng.random() < 0.2 else None


def _power(rng: np.random.Generator, _: int) -> tuple[Any, ...]:
    return float(rng.choice([1.0, 1.5, 2.0, 3.0, 7.0])), bool(rng.random() < 0.5)


WAYS = {
    **{name: Way(_operator, _operator_answer) for name in OPERATORS},
    "MaxPool": Way(_standard("max_pool"), lambda case, x: maximum.reference(case.window, x)),
    "AvgPool": Way(
        _standard("average_pool"), lambda case, x: average.reference(case.window, x, *case.extra), _counting
    ),
    "PowerAvgPool": Way(
        _standard("power_average_pool"),
        lambda case, x: power.reference(case.window, x, case.extra[0], "mean" if case.extra[1] else "sum"),
        _power,
    ),
    "LogSumExpPool": Way(
        _standard("log_sum_exp_pool"),
        lambda case, x: lse.reference(case.window, x, *case.extra),
        lambda rng, _: (float(rng.choice([1.0, 2.0, 5.0])),),
    ),
    "GeM": Way(
        _standard("generalized_mean_pool", windowed=False),
        lambda case, x: generalized_mean.reference(x, *case.extra),
        lambda rng, _: (float(rng.choice([1.0, 2.5, 3.0])), 1e-3),
    ),
    "GlobalAvgPool": Way(_standard("global_average_pool", windowed=False), lambda _, x: global_average.reference(x)),
    "AdaptiveAvgPool": Way(
        _standard("adaptive_average_pool", windowed=False),
        lambda case, x: adaptive_average.reference(x, *case.extra),
        _sizes,
    ),
    "AdaptiveMaxPool": Way(
        _standard("adaptive_max_pool", windowed=False),
        lambda case, x: adaptive_max.reference(x, *case.extra),
        _sizes,
    ),
}
"""Every method but mixed pooling, which is max or average pooling, and detail-preserving pooling, whose windows are
those of SoftPool without overlap.
"""


def draw(rng: np.random.Generator, method: str) -> Case:
    """One pooling that the window takes."""
    while True:
        rank = int(rng.choice([1, 2, 2, 2, 3]))

        def sizes(high: int, rank: int = rank) -> tuple[int, ...]:
            return tuple(map(int, rng.integers(1, high + 1, rank)))

        kernel, dilation = sizes(4), sizes(3) if rng.random() < 0.3 else (1,) * rank
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        pad = tuple(int(rng.integers(0, e // 2 + 1)) for e in extent) if rng.random() < 0.6 else (0,) * rank
        stride = kernel if rng.random() < 0.3 else sizes(4)
        window = Window(kernel, stride, pad, dilation, bool(rng.random() < 0.5))
        shape = (int(rng.integers(1, 3)), int(rng.integers(1, 4)), *map(int, rng.integers(1, 12, rank)))
        try:
            window.check(shape)
        except ArgumentError:
            continue
        kinds = ["normal", "ties", "negative", "levels", "huge", "large", "nan", "inf", "-inf"]
        kind = str(rng.choice(kinds, p=[0.3, 0.15, 0.1, 0.1, 0.1, 0.05, 0.08, 0.06, 0.06]))
        return Case(method, window, shape, WAYS[method].extra(rng, rank), kind, int(rng.integers(2**31)))


def model_of(cases: Sequence[Case], dtype: str, fixed: bool) -> ir.Model:
    """One model of all cases in standard form, with an input and an output for each; sizes ``fixed``, or free."""
    op, inputs, outputs = Builder("pool/"), [], []
    for i, case in enumerate(cases):
        shape = case.shape if fixed else [f"n{i}_{axis}" for axis in range(len(case.shape))]
        x = ir.Value(name=f"x{i}", type=ir.TensorType(CODES[dtype]), shape=ir.Shape(shape))
        y = op.Identity(WAYS[case.method].write(op, case, x))
        y.name, y.type, y.shape = f"y{i}", x.type, ir.Shape([f"m{i}_{axis}" for axis in range(len(case.shape))])
        inputs.append(x)
        outputs.append(y)
    opsets = {"": 18, DOMAIN: 1}
    graph = ir.Graph(inputs, outputs, nodes=op.nodes, opset_imports=opsets, name="poolings")
    return forms.to_form(ir.Model(graph, ir_version=IR_VERSION), "standard")


def loses_nan(runtime: str, method: str) -> bool:
    """Whether the runtime may give a number for NaN: any that is not known to keep it."""
    return runtime not in LOSES_NAN or method in LOSES_NAN[runtime]


def wrong(runtime: str, case: Case, dtype: str, y: NDArray[Any]) -> str:
    """What is wrong with an answer, or nothing; what the runtime is known not to do is no fault.

    NaN may be lost where :data:`LOSES_NAN` says so, and a maximum of -inf may be the lowest finite number.
    """
    x = case.values(dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        answer = WAYS[case.method].answer(case, x)
    if y.shape != answer.shape:
        return f"shape {y.shape} in place of {answer.shape}"
    lost = np.isnan(answer) if loses_nan(runtime, case.method) else np.zeros(answer.shape, bool)
    lost |= np.isneginf(answer) & (case.method in MAXIMA)
    y = np.where(lost, answer.astype(y.dtype), y)
    finite = np.where(np.isfinite(x), np.abs(x), 0)
    cells = prod(case.window.kernel) if case.method not in WHOLE else prod(case.shape[2:])
    with np.errstate(all="ignore"):
        scale = bounds.magnitude(case.window, x) if case.method not in WHOLE else finite.max(initial=0)
        allowed = 8 * bounds.body_ulps(cells) * bounds.ulp(scale, "float32")
        if case.method == "PowerAvgPool":
            allowed = allowed * cells
        allowed = allowed + np.nan_to_num(bounds.ulp(answer, dtype)) + float(ml_dtypes.finfo(dtype).smallest_normal)
        error = bounds.measure(y, answer, allowed)
    return (
        "" if error.within else f"error {error.max_abs:.3g} at {error.element}, NaN {error.nan}, inf {error.infinite}"
    )


WHOLE = ("GeM", "GlobalAvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool")


class Fuzz:
    """Runs models in the runtimes, and counts."""

    def __init__(self, commands: Mapping[str, Sequence[str]], folder: Path) -> None:
        self.folder = folder
        self.children = {name: Child(command, folder, timeout_s=600) for name, command in commands.items()}
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def batch(self, cases: Sequence[Case], dtype: str, fixed: bool) -> Iterator[str]:
        """What is wrong with these cases."""
        path = self.folder / "model.onnx"
        forms.write(model_of(cases, dtype, fixed), path)
        options = {"outputs": [f"y{i}" for i in range(len(cases))], "dtypes": [dtype]}
        for name, child in self.children.items():
            try:
                child.open(path, options)
                answers = child.run({f"x{i}": case.values(dtype) for i, case in enumerate(cases)})
            except (Refused, Crashed) as error:
                if len(cases) > 1:
                    for case in cases:  # which of them it is
                        yield from self.one(name, case, dtype, fixed)
                elif not (cases[0].kind == "nan" and loses_nan(name, cases[0].method)):  # one of NaN alone
                    self.counts[name, cases[0].method, "failed"] += 1
                    yield f"{name}: {cases[0]} in {dtype}: {error!s:.200}"
                continue
            for i, case in enumerate(cases):
                fault = wrong(name, case, dtype, answers[f"y{i}"])
                self.counts[name, case.method, "wrong" if fault else "right"] += 1
                if fault:
                    yield f"{name}: {case} in {dtype}{' fixed' * fixed}: {fault}"

    def one(self, name: str, case: Case, dtype: str, fixed: bool) -> Iterator[str]:
        """One case in one runtime."""
        alone = Fuzz({}, self.folder)
        alone.children, alone.counts = {name: self.children[name]}, self.counts
        yield from alone.batch([case], dtype, fixed)

    def close(self) -> None:
        """End the runtimes."""
        for child in self.children.values():
            child.close()


def fuzz(
    count: int, seed: int, methods: Sequence[str], commands: Mapping[str, Sequence[str]], fixed: bool = False
) -> Counter[tuple[str, str, str]]:
    """Draw ``count`` cases of each method; prints what is wrong; how many were right, wrong and failed."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        runs = Fuzz(commands, Path(folder))
        for start in range(0, count, PER_MODEL):
            for method in methods:
                cases = [draw(rng, method) for _ in range(min(PER_MODEL, count - start))]
                dtype = str(rng.choice(list(DTYPES), p=list(DTYPES.values())))
                for fault in runs.batch(cases, dtype, bool(rng.random() < 0.5) or fixed):
                    print(fault, flush=True)
        runs.close()
    return runs.counts


def main() -> int:
    """Exit status 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", action="append", choices=list(WAYS), help="only this one; may be repeated")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="this one; may be repeated")
    parser.add_argument(
        "--other", nargs=2, action="append", metavar=("FILE", "PYTHON"), help="this one; may be repeated"
    )
    parser.add_argument("--fixed", action="store_true", help="declare all sizes: some runtimes take no free ones")
    given = parser.parse_args()
    names = given.runtime or ([] if given.other else RUNTIMES_HERE)
    commands = {name: RUNTIMES[name].command(sys.executable) for name in names}
    commands |= {Path(file).stem: worker(file, python) for file, python in given.other or ()}
    counts = fuzz(given.count, given.seed, given.method or list(WAYS), commands, given.fixed)
    for (runtime, method, what), number in sorted(counts.items()):
        print(f"{runtime:12} {method:20} {what:9} {number:6}")
    return int(any(what in ("wrong", "failed") for _, _, what in counts))


if __name__ == "__main__":
    sys.exit(main())
