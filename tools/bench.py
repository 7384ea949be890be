"""Pooling operators side by side: ours in every form, ONNX Runtime's own, PyTorch, and a bare copy: tools/bench --help.

All ways to pool one input take turns, in rounds of random order, so that whatever else the machine does meets all
alike; reported are medians, quartiles and ratios of medians. A call of less than a millisecond is repeated within its
turn, until that has passed. Before that each result is compared with the float64 reference, within the bounds of
onnxpool.golden.bounds: what is outside is marked WRONG and not timed. See bench_ways.py for the ways, and for what is
done so that they do not disturb each other. Then our kernels on data of other kinds, and networks end to end, small
ones beside their twins with MaxPool.
"""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads would go on waiting actively after its turn

import bench_cuda
import bench_torch
import numpy as np
import onnxruntime
import torch
from bench_networks import SMALL
from bench_report import (
    FUNCTION,
    MAX,
    NATIVE,
    OPENVINO,
    OPENVINO_STANDARD,
    OPTIMISED,
    PYTORCH,
    STANDARD,
    Group,
    Result,
    picture,
    summary,
    table,
    to_json,
    write_json,
)
from bench_ways import (
    BENCHED,
    CPU,
    CUDA,
    DATA,
    Absent,
    Case,
    Way,
    bound,
    in_openvino,
    in_pytorch,
    native,
    session,
    share_of_allowed,
    ways,
)
from rich.console import Console

import onnxpool
from onnxpool import models
from onnxpool.errors import KernelError
from onnxpool.golden import bounds
from onnxpool.window import Window

GEOMETRIES = (  # shape, kernel, stride, padding
    ((8, 64, 112, 112), 3, 2, 1),
    ((8, 64, 112, 112), 2, 2, 0),
    ((1, 64, 112, 112), 3, 2, 1),
    ((32, 256, 14, 14), 3, 2, 1),
    ((1, 2048, 7, 7), 7, 1, 0),
    ((16, 128, 4096), 3, 2, 1),
    ((2, 32, 16, 56, 56), 3, 2, 1),
    ((2, 32, 16, 56, 56), 2, 2, 0),
    ((8, 64, 112, 112), 3, 1, 1),
    ((32, 512, 7, 7), 3, 1, 1),
    ((1, 512, 20, 20), 5, 1, 2),  # as in YOLO's SPPF
    ((8, 512, 20, 20), 5, 1, 2),
    ((8, 256, 13, 13), 5, 1, 2),
    ((8, 256, 13, 13), 9, 1, 4),
    ((8, 256, 13, 13), 13, 1, 6),
    ((8, 64, 56, 56), 5, 1, 2),
    ((1, 3, 512, 512), 3, 2, 1),
    ((1, 1, 2048, 2048), 2, 2, 0),
    ((4, 1, 1000000), 4, 4, 0),
)
QUICK = (GEOMETRIES[0], GEOMETRIES[4])
DATA_GEOMETRIES = (GEOMETRIES[0], GEOMETRIES[1], GEOMETRIES[3], GEOMETRIES[4], GEOMETRIES[8], GEOMETRIES[12])
NETWORKS = ("lip_resnet50", "softpool_resnet50")
TURN_S = 1e-3
ROUNDS = (7, 101)

Clock = Callable[[], float]

console = Console(width=None if sys.stdout.isatty() else 180)


# --- measuring


def measure(ways: Sequence[Way], seconds: float, clock: Clock = time.perf_counter) -> list[tuple[float, ...]]:
    """Times of each way, which must have run before: rounds in random order for so many seconds, at least seven."""
    calls, rng = [_calls(way.run, clock) for way in ways], np.random.default_rng(0)
    times_s: list[list[float]] = [[] for _ in ways]
    end, (least, most) = time.perf_counter() + seconds, ROUNDS
    gc.disable()
    for number in range(most):
        if number >= least and time.perf_counter() > end:
            break
        for i in rng.permutation(len(ways)):
            times_s[i].append(_time(ways[i].run, calls[i], clock))
    gc.enable()
    return [tuple(times) for times in times_s]


def _time(run: Callable[[], Any], calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def _calls(run: Callable[[], Any], clock: Clock) -> int:
    return max(1, round(TURN_S / _time(run, 3, clock)))


def judged(makers: Any, share: Callable[[Way], float | None]) -> tuple[list[Way], list[Result], list[str]]:
    """The ways that are right; the result of each so far, without times; and why others are absent."""
    right, results, absent = [], [], []
    for operator, name, make in makers:
        try:
            way = make()
            way.run()
            result = Result(operator, name, share(way))
        except Absent as reason:
            absent.append(f"{operator} {name}: {reason}".strip())
            continue
        except Exception as error:
            result = Result(operator, name, None, f"{type(error).__name__}")
            console.print(f"{operator} {name} failed: {error}", style="red", markup=False)
        else:
            if result.share is None or result.share <= 1:
                right.append(way)
        results.append(result)
    return right, results, absent


def timed(
    chosen: argparse.Namespace, name: str, dtype: str, setting: tuple[str, int], makers: Any, share: Any
) -> Group:
    """Judges, measures and shows one group, of the ways that were asked for."""
    provider, threads = setting
    makers = [maker for maker in makers if not chosen.ways or maker[1] in chosen.ways]
    torch.set_num_threads(threads)
    right, results, absent = judged(makers, share)
    clock = time.process_time if chosen.processor_time else time.perf_counter
    times_s = dict(zip([(w.operator, w.name) for w in right], measure(right, chosen.seconds, clock), strict=True))
    results = [Result(r.operator, r.way, r.share, r.fault, times_s.get((r.operator, r.way), ())) for r in results]
    group = Group(name, dtype, threads, provider, tuple(results), tuple(absent))
    if results:
        console.print(table(group))
    for reason in absent:
        console.print(f"left out: {reason}", style="yellow", markup=False)
    return group


# --- what is measured


def poolings(
    chosen: argparse.Namespace, geometries: Sequence[Any], settings: Sequence[tuple[str, int]]
) -> Iterator[Group]:
    """A group for each geometry, type, provider and number of threads."""
    for shape, *arguments in geometries:
        window = Window.of(len(shape) - 2, *arguments)
        name = f"{'x'.join(map(str, shape))} {window}"
        for dtype in chosen.dtypes:
            for provider, threads in settings:
                case = Case(shape, window, dtype, threads, provider, chosen.scale)
                makers = ways(case, chosen.compile)
                share = lambda way, case=case: share_of_allowed(case, way)  # noqa: E731
                yield timed(chosen, name, dtype, (provider, threads), makers, share)


def training(chosen: argparse.Namespace, geometries: Sequence[Any], threads: int) -> Iterator[Group]:
    """A group for each geometry: forward and backward in PyTorch, float32."""
    for shape, *arguments in geometries:
        window = Window.of(len(shape) - 2, *arguments)
        case = Case(shape, window, "float32", threads, CPU, chosen.scale)
        name = f"{'x'.join(map(str, shape))} {window}, forward and backward"
        yield timed(chosen, name, "float32", (CPU, threads), bench_torch.ways(case), bench_torch.share)


def data(chosen: argparse.Namespace, geometries: Sequence[Any], threads: int) -> Iterator[Group]:
    """A group for each geometry and operator: our kernel on the processor, on data of every kind."""
    for shape, *arguments in geometries:
        window = Window.of(len(shape) - 2, *arguments)
        for operator in BENCHED:
            name = f"{operator} {'x'.join(map(str, shape))} {window}, by data"
            cases = {kind: Case(shape, window, "float32", threads, CPU, 1.0, kind) for kind in DATA}
            makers = [(operator, kind, lambda case=case, o=operator: native(case, o)) for kind, case in cases.items()]
            share = lambda way, cases=cases: share_of_allowed(cases[way.name], way)  # noqa: E731
            yield timed(chosen, name, "float32", (CPU, threads), makers, share)


def network(chosen: argparse.Namespace, name: str, settings: Sequence[tuple[str, int]]) -> Iterator[Group]:
    """A whole network on one image, in every form and in PyTorch."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    whole = Network(name, _lively(getattr(models, name)()).eval(), image)
    for provider, threads in settings:
        makers = whole.forms(provider, threads)
        if provider == CPU:
            makers.append((name, PYTORCH, lambda: in_pytorch(name, PYTORCH, whole.module, [image])))
        yield timed(chosen, f"{name} 1x3x224x224", "float32", (provider, threads), makers, whole.share)


def small(chosen: argparse.Namespace, name: str, settings: Sequence[tuple[str, int]]) -> Iterator[Group]:
    """A small network with max pooling beside its twins with each of our native operators, end to end."""
    image = torch.randn(1, 3, 224, 224, generator=torch.manual_seed(0))
    twins = {operator: Network(operator, SMALL[name](operator), image) for operator in BENCHED}
    largest = Network("", SMALL[name](MAX), image)
    for provider, threads in settings:
        makers = [("", MAX, lambda at=(provider, threads): largest.open(MAX, "function", *at, library=False))]
        for twin in twins.values():
            makers += twin.forms(provider, threads)
        share = lambda way: twins.get(way.operator, largest).share(way)  # noqa: E731
        yield timed(chosen, f"{name} 1x3x224x224", "float32", (provider, threads), makers, share)


class Network:
    """A network that was exported, and its answer to one image: PyTorch's in float64."""

    def __init__(self, name: str, module: torch.nn.Module, image: torch.Tensor) -> None:
        self.name, self.module = name, module
        with console.status(f"Exporting {name or 'the network'} ..."), torch.inference_mode():
            self.model = onnxpool.export(module, (image,), golden=False)
            yardstick = module(image).numpy()
            self.answer = module.double()(image.double()).numpy()
            module.float()
        self.feeds = {self.model.graph.inputs[0].name: image.numpy()}
        difference = float(np.abs(yardstick - self.answer).max())
        self.allowed = bounds.network(self.answer, np.float32, difference, PYTORCH).allowed

    def share(self, way: Way) -> float:
        """The largest error over the allowed one."""
        return bounds.measure(way.output(), self.answer, self.allowed).share

    def open(self, way: str, form: Any, provider: str, threads: int, *, library: bool) -> Way:
        """It in ONNX Runtime."""
        opened = session(onnxpool.to_form(self.model, form), threads, provider, library=library)
        return Way(self.name, way, *bound(opened, provider, self.feeds, self.answer.shape))

    def open_optimised(self, threads: int) -> Way:
        """It with poolings in ONNX Runtime's blocks of channels."""
        try:
            made = onnxpool.optimize(self.model)
        except KernelError as error:
            raise Absent(str(error)) from error
        opened = session(made.model, threads, CPU, library=True)
        return Way(self.name, OPTIMISED, *bound(opened, CPU, self.feeds, self.answer.shape))

    def forms(self, provider: str, threads: int) -> list[tuple[str, str, Callable[[], Way]]]:
        """It in every form."""
        given = (self.name, self.model, self.feeds, threads)
        hosts = (
            [
                (self.name, OPTIMISED, lambda: self.open_optimised(threads)),
                (self.name, OPENVINO, lambda: in_openvino(*given)),
                (self.name, OPENVINO_STANDARD, lambda: in_openvino(*given, native=False)),
            ]
            if provider == CPU
            else []
        )
        return [
            (self.name, NATIVE, lambda: self.open(NATIVE, "function", provider, threads, library=True)),
            (self.name, FUNCTION, lambda: self.open(FUNCTION, "function", provider, threads, library=False)),
            (self.name, STANDARD, lambda: self.open(STANDARD, "standard", provider, threads, library=False)),
            *hosts,
        ]


def _lively(module: torch.nn.Module) -> torch.nn.Module:
    """Small random numbers for parameters that start at 0: else whole branches would not count in the comparison."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return module


def _named(geometry: Any) -> str:
    """The input of a geometry and its window, such as ``8x64x112x112 3x3 s2 p1``."""
    shape, *arguments = geometry
    return f"{'x'.join(map(str, shape))} {Window.of(len(shape) - 2, *arguments)}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine(chosen: argparse.Namespace) -> dict[str, Any]:
    """What the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(named, platform.processor()),
        "processors": os.cpu_count(),
        "platform": platform.platform(),
        "onnxpool": onnxpool.__version__,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "openvino": _version("openvino"),
        "scale": chosen.scale,
        "clock": "processor" if chosen.processor_time else "wall",
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


# --- the command


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="two inputs, float32, one thread, no networks: a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a picture (PNG) of the float32 groups to FILE")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler, slow to start")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        help="only inputs and networks with one of these in their name, such as 112x112 or '13x13 5x5'",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        metavar="NAME",
        help=f"only ways of these names, such as {MAX} and {NATIVE}; by default all",
    )
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="numbers of threads; by default 1 and 2")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16"), help="by default both")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each group, if at least seven rounds fit")
    parser.add_argument("--scale", type=float, default=1.0, help="deviation of the values; from 20 on naive ones fail")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count this process's processor time, where other programs keep the processors busy; one thread only",
    )
    chosen = parser.parse_args()
    if chosen.threads is None:
        chosen.threads = [1] if chosen.quick or chosen.processor_time else [1, 2]
    if chosen.dtypes is None:
        chosen.dtypes = ["float32"] if chosen.quick else ["float32", "float16"]
    if chosen.processor_time and chosen.threads != [1]:
        parser.error("--processor-time adds up what all threads use: it goes with --threads 1")
    if min(chosen.threads) < 1:
        parser.error(f"--threads {min(chosen.threads)}: use 1 or more")
    return chosen


def measured(chosen: argparse.Namespace) -> Iterator[Group]:
    """Everything that was asked for, one group after the other."""
    settings = [(CPU, threads) for threads in chosen.threads]
    if CUDA in onnxruntime.get_available_providers():
        settings.append((CUDA, 1))
    else:
        console.print("This onnxruntime has no CUDA provider: CPU only.")

    def named(name: str) -> bool:
        return not chosen.only or any(text in name for text in chosen.only)

    def wanted(geometry: Any) -> bool:
        return named(_named(geometry))

    yield from poolings(chosen, list(filter(wanted, QUICK if chosen.quick else GEOMETRIES)), settings)
    for name in () if chosen.quick else SMALL:
        if named(name):
            yield from small(chosen, name, settings)
    for name in () if chosen.quick else NETWORKS:
        if named(name):
            yield from network(chosen, name, settings)
    for threads in chosen.threads:
        yield from training(chosen, list(filter(wanted, QUICK[:1] if chosen.quick else GEOMETRIES)), threads)
    for threads in () if chosen.quick else chosen.threads[:1]:
        yield from data(chosen, list(filter(wanted, DATA_GEOMETRIES)), threads)


def main() -> None:
    """Measure, show, write."""
    chosen = arguments()
    about = machine(chosen)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), style="dim")
    start = time.monotonic()
    groups: list[Group] = []
    for group in measured(chosen):
        groups += [group] if group.results else []
        if chosen.json:  # after each, so that a run that is ended leaves what it measured
            write_json(to_json(groups, about), chosen.json)
    console.print(summary(groups))
    console.print(f"{len(groups)} groups in {time.monotonic() - start:.0f} s. Ratios below 1: faster than that.")
    bench_cuda.show(console)
    if chosen.plot:
        shown = [g for g in groups if g.dtype == "float32" and g.threads == min(chosen.threads)]
        picture(shown).save(chosen.plot)


if __name__ == "__main__":
    main()
