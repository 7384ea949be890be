"""Random poolings of torch.nn, any argument that PyTorch takes, exported with free axes and run at other sizes.

    tools/fuzz_export --count 2000 --seed 0

Many poolings go into one model. Each answer of ONNX Runtime is compared with PyTorch's in float64, for inputs without
NaN. Ends with how many were right, wrong and refused, refusals by their sentence, and exit status 1 for one wrong.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn

import onnxpool
from onnxpool.errors import ExportError, SessionError

PER_MODEL = 25
TOLERANCE = {"float64": 1e-12, "float32": 5e-6, "float16": 2e-3, "bfloat16": 2e-2}
"""A few roundings, in each type; maxima are exact."""


class Sized(nn.Module):
    """A pooling whose window is a share of its input: ``shares`` per axis."""

    def __init__(self, function: str, shares: Sequence[int], *args: Any, **options: Any) -> None:
        super().__init__()
        self.function, self.shares, self.args, self.options = function, shares, args, options

    def forward(self, x: Tensor) -> Any:
        """Pool ``x``."""
        kernel = [n // share for n, share in zip(x.shape[-len(self.shares) :], self.shares, strict=True)]
        function = getattr(nn.functional, f"{self.function}{len(self.shares)}d")
        return function(x, *self.args, kernel, **self.options)


class Unpooled(nn.Module):
    """Max pooling and its inverse."""

    def __init__(self, rank: int, same: bool, *window: Any) -> None:
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{rank}d")(*window, return_indices=True)
        self.unpool, self.same = getattr(nn, f"MaxUnpool{rank}d")(*window), same

    def forward(self, x: Tensor) -> Any:
        """Pool ``x`` and put the maxima back."""
        y, indices = self.pool(x)
        return self.unpool(y, indices, output_size=x.shape if self.same else None)


@dataclass(frozen=True)
class Case:
    """One pooling, as a program that makes it, for inputs with this number of spatial axes."""

    rank: int
    text: str

    def module(self) -> nn.Module:
        """The pooling itself."""
        module: nn.Module = eval(self.text, {"nn": nn, "Sized": Sized, "Unpooled": Unpooled, "inf": np.inf})
        return module


class Poolings(nn.Module):
    """Many poolings of inputs of each rank, cast to ``dtype``; answers that are no indices are cast back."""

    def __init__(self, cases: Sequence[Case], dtype: torch.dtype) -> None:
        super().__init__()
        self.cases, self.dtype = cases, dtype
        self.pools = nn.ModuleList(case.module() for case in cases)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """The answers of each pooling."""
        xs = [x.to(self.dtype) for x in (x1, x2, x3)]
        ys = [pool(xs[case.rank - 1]) for case, pool in zip(self.cases, self.pools, strict=True)]
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        parts = [y if isinstance(y, tuple) else (y,) for y in ys]
        return tuple(tuple(p.to(wide) if p.is_floating_point() else p for p in part) for part in parts)


def draw(rng: np.random.Generator) -> Case:
    """One pooling."""
    rank = int(rng.integers(1, 4))

    def sizes(low: int, high: int) -> Any:
        numbers = [int(number) for number in rng.integers(low, high + 1, rank)]
        return numbers[0] if rng.random() < 0.4 else tuple(numbers)

    def flag() -> bool:
        return bool(rng.random() < 0.5)

    kernel, stride, ceil = sizes(1, 4), rng.choice([None, 1]) and sizes(1, 4), flag()
    least = kernel if isinstance(kernel, int) else min(kernel)
    pad = int(rng.integers(0, least // 2 + 1))
    norm = rng.choice(
        ["1", "2", "3", "4", "2.5", "0.5", "-1", "inf", "-inf"], p=[0.1, 0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05]
    )
    output = tuple(None if rng.random() < 0.2 else int(size) for size in rng.integers(1, 6, rank))
    shares = [int(share) for share in rng.integers(1, 4, rank)]
    window = f"{kernel}, {stride}, {pad}"
    kinds = {
        "max": f"nn.MaxPool{rank}d({window}, {sizes(1, 3)}, {flag()}, {ceil})",
        "average": f"nn.AvgPool{rank}d({window}, {ceil}, {flag()}{divisor(rng, rank)})",
        "lp": f"nn.LPPool{rank}d({norm}, {kernel}, {stride}, {ceil})",
        "adaptive average": f"nn.AdaptiveAvgPool{rank}d({output if rank > 1 else output[0] or 3})",
        "adaptive max": f"nn.AdaptiveMaxPool{rank}d({output if rank > 1 else output[0] or 3}, {flag()})",
        "unpool": f"Unpooled({rank}, {flag()}, {kernel}, {stride}, {pad})",
        "sized max": f"Sized('max_pool', {shares}, stride={stride}, ceil_mode={ceil}, return_indices={flag()})",
        "sized average": f"Sized('avg_pool', {shares}, stride={stride}, ceil_mode={ceil}, count_include_pad={flag()})",
        "sized lp": f"Sized('lp_pool', {shares}, {norm}, stride={stride}, ceil_mode={ceil})",
        "fractional": f"nn.FractionalMaxPool{max(rank, 2)}d(2, 3)",
    }
    odds = [0.22, 0.2, 0.12, 0.1, 0.1, 0.08, 0.06, 0.06, 0.05, 0.01]
    kind = str(rng.choice(list(kinds), p=odds))
    return Case(max(rank, 2) if kind == "fractional" else rank, kinds[kind])


def divisor(rng: np.random.Generator, rank: int) -> str:
    """A divisor for some average poolings that take one."""
    return f", {int(rng.choice([-3, 1, 2, 7]))}" if rank > 1 and rng.random() < 0.4 else ""


def inputs(rng: np.random.Generator, smallest: int, largest: int, batched: bool) -> list[Tensor]:
    """Tensors of one, two and three spatial axes; whole numbers, for ties, in half of them."""
    n, xs = int(rng.integers(1, 4)), []
    for rank in (1, 2, 3):
        shape = [*([n] if batched else []), 2, *rng.integers(smallest, largest + 1, rank)]
        x = rng.standard_normal(shape) * 2
        xs.append(torch.from_numpy(np.round(x) if rng.random() < 0.5 else x).float())
    return xs


def dynamic(batched: bool) -> tuple[dict[int, str], ...]:
    """Every axis but that of channels."""
    first = {0: "n"} if batched else {}
    return tuple({**first, **{i + 1 + batched: f"d{rank}_{i}" for i in range(rank)}} for rank in (1, 2, 3))


class Tally:
    """What came of it."""

    def __init__(self) -> None:
        self.right, self.wrong = 0, 0
        self.compared = 0
        self.refused: Counter[str] = Counter()
        self.not_in_pytorch = 0

    def __str__(self) -> str:
        lines = [f"{count:6}  refused: {sentence}" for sentence, count in self.refused.most_common()]
        return "\n".join(
            [
                f"{self.right:6}  right, in {self.compared} comparisons",
                f"{self.wrong:6}  wrong",
                f"{self.not_in_pytorch:6}  refused by PyTorch itself",
                *lines,
            ]
        )


def runs(module: nn.Module, x: Tensor) -> Any:
    """PyTorch's answer, or None where it refuses."""
    try:
        with torch.no_grad():
            return module(x)
    except (RuntimeError, ValueError, ZeroDivisionError, TypeError):
        return None


def exported(cases: list[Case], dtype: str, xs: list[Tensor], batched: bool, tally: Tally) -> tuple[list[Case], Any]:
    """The cases that export takes, and their model."""
    while cases:
        try:
            module = Poolings(cases, getattr(torch, dtype))
            return cases, onnxpool.export(module, xs, dynamic_shapes=dynamic(batched), golden=False, check=False)
        except ExportError as error:
            place = re.search(r" in layer 'pools\.(\d+)", str(error))
            if place is None:
                raise
            sentence = re.sub(r" in layer .*?: ", ": ", str(error))
            tally.refused[re.sub(r"[\d(),.]+", "#", sentence)[:160]] += 1
            cases = cases[: int(place[1])] + cases[int(place[1]) + 1 :]
    return [], None


def compare(case: Case, got: Sequence[Any], wanted: Sequence[Tensor], dtype: str) -> str:
    """What is wrong with the answers of one case, or nothing."""
    power = re.search(r"(?:LPPool\dd\(|'lp_pool', \[.*?\], )(-?[\d.]+),", case.text)
    exponent = float(power[1]) if power else 1.0
    for result, answer in zip(got, wanted, strict=True):
        if result.shape != tuple(answer.shape):
            return f"has shape {result.shape} in place of {tuple(answer.shape)}"
        if result.dtype == np.int64:
            if not np.array_equal(result, answer.numpy()):
                return "has other indices"
            continue
        with np.errstate(all="ignore"):
            y, truth = result.astype(np.float64), answer.numpy()
            if exponent not in {1.0, 2.0, 4.0}:  # the root of a sum near 0 magnifies its error: compare the sums
                y, truth = (np.abs(values) ** exponent for values in (y, truth))
            if not np.array_equal(np.isfinite(y), np.isfinite(truth)):
                return "is NaN or infinite elsewhere"
            finite = np.isfinite(truth)
            scale = 1 + np.abs(truth[finite]).max(initial=0)
            error = np.abs(y[finite] - truth[finite]).max(initial=0)
        if error > TOLERANCE[dtype] * scale * max(1, abs(exponent)):
            return f"is wrong by {error:.3g} of {scale:.3g}"
    return ""


def batch(rng: np.random.Generator, count: int, tally: Tally) -> Iterator[str]:
    """Draw, export and run so many cases; gives what is wrong."""
    dtype = str(rng.choice(list(TOLERANCE), p=[0.15, 0.6, 0.15, 0.1]))
    yield from check(rng, [draw(rng) for _ in range(count)], dtype, bool(rng.random() < 0.8), tally)


def check(rng: np.random.Generator, cases: list[Case], dtype: str, batched: bool, tally: Tally) -> Iterator[str]:
    """Export these cases and run them at other sizes; gives what is wrong."""
    traced = inputs(rng, 9, 12, batched)
    fits = [runs(case.module(), traced[case.rank - 1].to(getattr(torch, dtype))) is not None for case in cases]
    tally.not_in_pytorch += fits.count(False)
    cases, model = exported([case for case, fit in zip(cases, fits, strict=True) if fit], dtype, traced, batched, tally)
    if not cases:
        return
    tests, place = [inputs(rng, 3, 14, batched) for _ in range(3)], 0
    for case in cases:
        pool = case.module()
        size = len(as_tuple(runs(pool, traced[case.rank - 1])))
        mine, place, fault = range(place, place + size), place + size, ""
        alone = None
        for xs in tests:
            x = xs[case.rank - 1].to(getattr(torch, dtype))
            answer = runs(pool, x.double())
            if answer is None or fault:
                continue
            tally.compared += 1
            try:
                alone = alone or part(model, mine)
                got = list(alone.run({f"x{i}": xs[i - 1].numpy() for i in (1, 2, 3)}).values())
                fault = compare(case, got, as_tuple(answer), dtype)
            except SessionError as error:
                fault = f"fails: {error!s:.300}"
            if fault:
                yield f"{case.text} in {dtype} of {tuple(x.shape)}: {fault}"
        tally.wrong += bool(fault)
        tally.right += not fault


def part(model: ir.Model, outputs: range) -> onnxpool.Session:
    """The model with some of its outputs only, loaded."""
    model = model.clone()
    model.graph.outputs[:] = [model.graph.outputs[i] for i in outputs]
    passes.RemoveUnusedNodesPass()(model)
    return onnxpool.load(model, kernels="off", threads=1)


def as_tuple(y: Any) -> tuple[Tensor, ...]:
    """One answer or several."""
    return y if isinstance(y, tuple) else (y,)


def fuzz(count: int, seed: int) -> Tally:
    """Draw ``count`` poolings; prints what is wrong."""
    rng, tally = np.random.default_rng(seed), Tally()
    for start in range(0, count, PER_MODEL):
        for fault in batch(rng, min(PER_MODEL, count - start), tally):
            print(fault, flush=True)
    return tally


def main() -> int:
    """Exit status 1 if a pooling was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    tally = fuzz(**vars(parser.parse_args()))
    print(tally)
    return int(tally.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
