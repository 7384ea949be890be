"""Draws windows, shapes and hurtful values, and looks for a form of a pooling operator that gives a wrong answer.

Every operator of the domain, natively, in planes and in blocks of channels, as function body and in standard form,
against the float64 reference within onnxpool.golden.bounds: 1 to 3 axes, all element types, strides beyond the
window, dilation, ceil_mode, empty batches; NaN, infinities, denormals, the largest numbers, windows far below their
neighbours. Hypothesis draws, and shrinks what it finds; the smallest case is printed as a program that shows it
again. After a finding the operator is left alone, the others go on; then the exit status is 1. Finding nothing proves
little, but more the longer it ran.

Batches are numbered: a batch draws the same cases every time, so ``--operator NAME --seed N --batches 1`` repeats it.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

import onnxpool
from onnxpool.domain import BLOCKS_DOMAIN, DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.errors import ArgumentError, KernelError
from onnxpool.golden import bounds
from onnxpool.graph.blocks import BLOCK_SIZE
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.run.optimize import block_size
from onnxpool.run.session import Session
from onnxpool.window import Window

CODES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
WAYS = ("native", "blocks", "function", "standard")
KINDS = ("zeros", "ramp", "normal", "levels", "upper")
EXAMPLES = 40
"""Cases of a batch."""

MOST_CELLS = 6000
"""Cells of an input, and so what the plain reference takes a fraction of a second for."""


# --- a case, and whether it holds


@dataclass(frozen=True)
class Values:
    """A tensor's values, as a recipe: a ``kind`` times ``scale``, then ``planted`` numbers at flat positions.

    ``levels`` is normal with whole stretches far above and below the others; of ``upper`` the first cells, a share that
    the seed says, are 10000 times as large.
    """

    kind: str = "zeros"
    scale: float = 1.0
    seed: int = 0
    planted: tuple[tuple[int, float], ...] = ()

    def array(self, shape: Sequence[int], dtype: str) -> NDArray[Any]:
        """The values, rounded to ``dtype``."""
        size, rng = prod(shape), np.random.default_rng(self.seed)
        values = {
            "zeros": lambda: np.zeros(size),
            "ramp": lambda: np.arange(size, dtype=float),
            "normal": lambda: rng.standard_normal(size),
            "levels": lambda: rng.standard_normal(size) + rng.choice([0, -3, -50, 40], size // 8 + 1).repeat(8)[:size],
            "upper": lambda: rng.standard_normal(size) * np.where(np.arange(size) < rng.random() * size, 1e4, 1),
        }[self.kind]()
        with np.errstate(all="ignore"):
            values = values * self.scale
            for position, value in self.planted if size else ():
                values[position % size] = value
            return values.reshape(shape).astype(dtype)


@dataclass(frozen=True)
class Case:
    """One model, and inputs for it: a shape and a recipe for each tensor."""

    operator: str
    window: Window
    dtype: str
    opset: int
    inputs: tuple[tuple[tuple[int, ...], tuple[Values, ...]], ...]

    def __str__(self) -> str:
        """A program that shows it."""
        return f"""\
import sys; sys.path.insert(0, "tools")
from math import inf, nan
from fuzz import Case, Values, check
from onnxpool.window import Window
check({self!r})"""


class Finding(AssertionError):  # noqa: N818 - what is looked for
    """A case that does not hold."""

    def __init__(self, case: Case, what: str) -> None:
        super().__init__(what)
        self.case = case


def check(case: Case) -> None:
    """Run the case in every way; raises :class:`Finding` with the first that is wrong."""
    for shape, recipes in case.inputs:
        node = OPERATORS[case.operator]
        feeds = {name: recipe.array(shape, case.dtype) for name, recipe in zip(node.inputs, recipes, strict=True)}
        wide = [array.astype(np.float64) for array in feeds.values()]
        answer = node.reference(case.window, *wide)
        for way in WAYS:
            if opened := _session(case.operator, case.window, case.dtype, case.opset, way):
                _judge(case, way, opened, feeds, wide[0], answer)


def _judge(
    case: Case,
    way: str,
    opened: "Session | InBlocks",
    feeds: dict[str, NDArray[Any]],
    x: NDArray[Any],
    answer: NDArray[Any],
) -> None:
    try:
        y = opened.run(feeds)["y"]
    except Exception as error:
        raise Finding(case, f"{way} on shape {x.shape} fails: {error}") from error
    if y.shape != answer.shape or y.dtype != np.dtype(case.dtype):
        raise Finding(case, f"{way} on shape {x.shape} gives {y.dtype} {y.shape}, not {case.dtype} {answer.shape}")
    bound = bounds.pooling(case.window, x, answer, case.dtype, native=way in ("native", "blocks"))
    error = bounds.measure(y, answer, bound.allowed)
    if error.within:
        return
    at = _worst(y, answer, bound.allowed)
    raise Finding(
        case,
        f"{way} on shape {x.shape}: at {at} it gives {y[at]}, the answer is {answer[at]!r}; error over allowed "
        f"{error.share:.3g}, NaN misplaced in {error.nan} elements, infinities in {error.infinite} ({bound.origin})",
    )


def _worst(y: NDArray[Any], answer: NDArray[Any], allowed: NDArray[Any]) -> tuple[int, ...]:
    with np.errstate(all="ignore"):
        given, right = y.astype(np.float64), answer.astype(y.dtype).astype(np.float64)
        far = np.where(given == right, 0, np.abs(given - answer) / allowed)
    far = np.where(np.isnan(given) != np.isnan(right), np.inf, np.nan_to_num(far, nan=0, posinf=np.inf))
    return tuple(int(i) for i in np.unravel_index(far.argmax(), far.shape))


class InBlocks:
    """A session on blocks of channels: those that there are fill up the last block, too."""

    def __init__(self, model: onnx.ModelProto, size: int) -> None:
        self._session, self._size = onnxpool.load(model, kernels="require", threads=2), size

    def run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """As of tensors in planes."""
        channels = next(iter(feeds.values())).shape[1]
        whole = np.arange(-(-channels // self._size) * self._size) % channels
        (y,) = self._session.run({name: self._moved(x[:, whole], 2, 4) for name, x in feeds.items()}).values()
        return {"y": self._moved(y, 4, 2)[:, :channels]}

    def _moved(self, x: NDArray[Any], block: int, to: int) -> NDArray[Any]:
        """With the channels of a block on another axis of the memory, beside each other or one plane after another."""
        n, c, *sizes = x.shape
        apart = [n, c // self._size, *sizes]
        apart.insert(block, self._size)
        return np.ascontiguousarray(np.moveaxis(x.reshape(apart), block, to)).reshape(x.shape)


@lru_cache(maxsize=512)
def _session(operator: str, window: Window, dtype: str, opset: int, way: str) -> Session | InBlocks | None:
    """None where there is no native kernel."""
    if way in ("native", "blocks") and why_not_native(operator):
        return None
    if way == "native":
        return onnxpool.load(_model(operator, window, dtype, opset), kernels="require", threads=2)
    if way == "blocks":
        size = block_size()
        if size is None or window.rank != 2 or dtype != "float32":
            return None
        model = _model(operator, window, dtype, opset)
        (node,) = model.graph.node
        node.domain = BLOCKS_DOMAIN
        node.attribute.append(helper.make_attribute(BLOCK_SIZE, size))
        model.opset_import.append(helper.make_opsetid(BLOCKS_DOMAIN, VERSION))
        return InBlocks(model, size)
    form = onnxpool.to_form(_model(operator, window, dtype, opset), "function" if way == "function" else "standard")
    return onnxpool.load(form, kernels="off", threads=1)


def _model(operator: str, window: Window, dtype: str, opset: int) -> onnx.ModelProto:
    names, axes = OPERATORS[operator].inputs, ["N", "C", *(f"in_{axis}" for axis in range(window.rank))]
    node = helper.make_node(operator, names, ["y"], "pool", domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(*pair) for pair in window.attributes().items())
    graph = helper.make_graph(
        [node],
        "fuzz",
        [helper.make_tensor_value_info(name, CODES[dtype], axes) for name in names],
        [helper.make_tensor_value_info("y", CODES[dtype], [None] * len(axes))],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@cache
def why_not_native(operator: str) -> str:
    """Why this operator has no kernel here; empty where it has."""
    if reason := native_library.why_missing():
        return reason
    try:
        onnxpool.load(_model(operator, Window.of(1, 1), "float32", OPSETS[0]), kernels="require")
    except (KernelError, onnxpool.errors.SessionError):
        return f"{native_library.library_path()} has no such kernel"
    return ""


# --- what is drawn


@st.composite
def windows(draw: Any) -> Window:
    """Mostly small windows, a third as in networks; now and then a long one, and strides that leave cells out."""
    rank = draw(st.integers(1, 3))
    if draw(st.sampled_from([False, False, True])):
        side = draw(st.integers(2, 3))
        return Window.of(rank, side, draw(st.integers(1, 2)), draw(st.integers(0, side // 2)), 1, draw(st.booleans()))
    longest = draw(st.sampled_from([3, 3, 5, {1: 40, 2: 12, 3: 5}[rank]]))

    def per_axis(numbers: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(numbers) for _ in range(rank))

    kernel, stride = per_axis(st.integers(1, longest)), per_axis(st.integers(1, longest + 1))
    dilation = per_axis(st.integers(1, 4)) if draw(st.booleans()) else (1,) * rank
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    pad = tuple(draw(st.integers(0, extent // 2)) for extent in extents)
    return Window(kernel, stride, pad, dilation, draw(st.booleans()))


@st.composite
def shapes(draw: Any, window: Window) -> tuple[int, ...]:
    """From the smallest that the window fits to some with several tiles and bands; also of an empty batch.

    (Without channels ONNX Runtime's own poolings, and so function bodies and standard forms, refuse to run.)
    """
    batch, channels = draw(st.sampled_from([(1, 1), (1, 1), (2, 3), (1, 5), (3, 1), (0, 2)]))
    spread = draw(st.sampled_from([2, 9, 9, 30, {1: 6000, 2: 400, 3: 60}[window.rank]]))
    axes = zip(window.extent, window.pad, window.tail, strict=True)
    least = [max(1, extent - pad - tail) for extent, pad, tail in axes]
    shape = (batch, channels, *(draw(st.integers(n, n + spread)) for n in least))
    hypothesis.assume(prod(shape[2:]) * max(1, batch * channels) <= MOST_CELLS)
    try:
        window.check(shape)
    except ArgumentError:
        hypothesis.reject()
    return shape


@st.composite
def recipes(draw: Any, dtype: str) -> Values:
    """Whole tensors of one kind, with a few numbers that hurt in them."""
    info: Any = ml_dtypes.finfo(dtype)
    largest, normal, denormal = (float(n) for n in (info.max, info.smallest_normal, info.smallest_subnormal))
    hurtful = [0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, -0.0, largest, -largest, normal, denormal, -denormal]
    numbers = st.one_of(
        st.sampled_from(hurtful),
        st.sampled_from([11.0, 16.0, 60.0, 88.0, 89.0, -87.0, -104.0, 710.0, -746.0, 1e4, -1e4]),
        st.floats(-largest, largest, width=64),
        st.floats(-100, 100, width=32),
    )
    scales = [1.0, 20.0, 60.0, 400.0, 1e4, 1e-3, 1e-6, 1e-20]
    scales += [normal, 8 * denormal, largest / 1e4, largest / 64, largest / 2]
    planted = draw(st.lists(st.tuples(st.integers(0, 4000), numbers), max_size=10))
    kind, scale = draw(st.sampled_from(KINDS)), draw(st.sampled_from(scales))
    seed = draw(st.integers(0, 1000)) if kind not in ("zeros", "ramp") else 0
    return Values(kind, scale, seed, tuple(planted))


@st.composite
def cases(draw: Any, operator: str) -> Case:
    """A window with one to four inputs."""
    window, dtype = draw(windows()), draw(st.sampled_from(list(CODES)))
    opset = draw(st.sampled_from([OPSETS[0], OPSETS[-1]]))
    count = len(OPERATORS[operator].inputs)
    inputs = st.tuples(shapes(window), st.tuples(*[recipes(dtype)] * count))
    return Case(operator, window, dtype, opset, tuple(draw(st.lists(inputs, min_size=1, max_size=4))))


# --- the search


def search(operator: str, seed: int, examples: int = EXAMPLES) -> Finding | None:
    """One batch; a finding comes with the smallest case that shows it."""

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(operator))
    def holds(case: Case) -> None:
        check(case)

    try:
        holds()
    except Finding as finding:
        return finding
    return None


def batches(operators: Sequence[str], seed: int, seconds: float, most: int | None) -> Iterator[tuple[str, int]]:
    """Operator and seed in turn until the time is up or there were enough; each operator has at least one."""
    end, number = time.monotonic() + seconds, 0
    while most is None or number < most * len(operators):
        if most is None and number >= len(operators) and time.monotonic() > end:
            return
        yield operators[number % len(operators)], seed + number // len(operators)
        number += 1


def fuzz(operators: Sequence[str], seed: int, seconds: float, most: int | None) -> int:
    """Search in all operators; returns how many findings there were."""
    findings: dict[str, Finding] = {}
    done: dict[str, int] = dict.fromkeys(operators, 0)
    for operator, own in batches(operators, seed, seconds, most):
        if operator in findings:
            if len(findings) == len(operators):
                break
            continue
        if sys.stdout.isatty():
            print(f"\r{operator}, seed {own} ", end="", flush=True)
        if finding := search(operator, own):
            findings[operator] = finding
            print(f"\n{operator}, seed {own}: {finding}\n\n{finding.case}\n", flush=True)
        done[operator] += 1
    for operator, count in done.items():
        verdict = "FAIL" if operator in findings else "pass"
        print(f"{operator:<20} {verdict}  {count} batches of {EXAMPLES} cases, from seed {seed}")
    return len(findings)


# --- with sanitizers


def under_sanitizer(arguments: Sequence[str]) -> None:
    """Start again, with the library that tools/sanitize builds; see there for why so."""
    build = Path("build/sanitize")
    options = [
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DONNXPOOL_SANITIZE=address,undefined",
        "-DONNXPOOL_WERROR=ON",
        "-DONNXPOOL_CUDA=OFF",
    ]
    for command in (["-S", "custom_ops", "-B", build, *options], ["--build", build, "--parallel", "2"]):
        subprocess.run(["cmake", *command], check=True, stdout=subprocess.DEVNULL)
    compiler = os.environ.get("CXX", "g++")
    before = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    settings = {
        "LD_PRELOAD": " ".join(before),
        native_library.OVERRIDE: str((build / native_library.FILE_NAME).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    os.execve(sys.executable, [sys.executable, __file__, *arguments], {**os.environ, **settings})


def under_thread_sanitizer(seconds: float, seed: int) -> int:
    """The kernels on plain threads, without ONNX Runtime, whose thread pool the sanitizer does not understand."""
    build = Path("build/fuzz-threads")
    build.mkdir(parents=True, exist_ok=True)
    sources = ["tools/fuzz_threads.cc", *sorted(map(str, Path("custom_ops/kernels").glob("*.cc")))]
    flags = ["-std=c++17", "-O2", "-g", "-fsanitize=thread", "-pthread", "-Icustom_ops/kernels"]
    program = build / "fuzz_threads"
    subprocess.run([os.environ.get("CXX", "g++"), *flags, *sources, "-o", program], check=True)
    settings = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 exitcode=1"}
    return subprocess.run([program, str(seed), f"{seconds:g}"], check=False, env=settings).returncode


# --- the command


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; shrinking a finding comes on top")
    parser.add_argument("--seed", type=int, help="number of the first batch; by default drawn, and printed")
    parser.add_argument("--batches", type=int, metavar="N", help="so many batches for each operator, whatever the time")
    parser.add_argument("--operator", choices=list(OPERATORS), help="this one alone")
    parser.add_argument(
        "--sanitize",
        choices=("address,undefined", "thread"),
        help="with gcc's sanitizers; thread runs the kernels on plain threads, without ONNX Runtime",
    )
    chosen = parser.parse_args()
    if chosen.seconds <= 0 or (chosen.batches is not None and chosen.batches < 1):
        parser.error("--seconds and --batches must be above 0")
    if chosen.sanitize == "thread" and (chosen.operator or chosen.batches):
        parser.error("--sanitize thread runs all kernels for --seconds: leave out --operator and --batches")
    if chosen.sanitize and not shutil.which("cmake"):
        parser.error("--sanitize needs cmake: install it, for example with pip install cmake")
    return chosen


def main() -> int:
    """Fuzz; 0 for nothing found, 1 for a finding."""
    chosen = arguments()
    seed = random.randrange(1_000_000) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    if chosen.sanitize == "thread":
        return under_thread_sanitizer(chosen.seconds, seed)
    if chosen.sanitize:
        rest = [f"--seconds={chosen.seconds}", f"--seed={seed}"]
        rest += [f"--operator={chosen.operator}"] * bool(chosen.operator)
        rest += [f"--batches={chosen.batches}"] * bool(chosen.batches)
        under_sanitizer(rest)
    operators = [chosen.operator] if chosen.operator else list(OPERATORS)
    for operator in operators:
        if reason := why_not_native(operator):
            print(f"{operator}: not natively, {reason}")
    return min(1, fuzz(operators, seed, chosen.seconds, chosen.batches))


if __name__ == "__main__":
    sys.exit(main())
