"""The worst windows that can be found: how much of its bound each operator, form and type uses up.

    tools/bounds_search --windows 1e7

One third of the windows is drawn: normal ones and even ones of many sizes, windows of two values, of one large value
beside many that rounding loses, of values that are nearly equal. The rest is sought: the worst ones so far are changed
a little (a cell by some ULP, some cells set alike, all moved or scaled, two windows crossed) and what is worse stays.

A share is an error over what :func:`onnxpool.golden.bounds.pooling` allows; above 1 the bound is wrong, and the exit
status 1. Beside it stands the error of the normal and even windows over what is likely (:func:`bounds.likely_ulps`).
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.dtypes import BY_NAME
from onnxpool.golden import bounds
from onnxpool.graph import forms
from onnxpool.run.session import Session, load
from onnxpool.window import Window

Numbers = NDArray[Any]
Rng = np.random.Generator

OPERATORS = {"SoftPool": 1, "LocalImportancePool": 2, "StochasticPool": 1}
"""How many inputs each takes."""

WAYS = ("native", "function", "standard")

WINDOWS = {
    "2x2": Window.of(2, 2),
    "3x3": Window.of(2, 3, 2),
    "5x5": Window.of(2, 5, 1),
    "7x7": Window.of(2, 7),
    "32x32": Window.of(2, 32),
}
"""Of 7x7 and 32x32 each plane is one window."""

DTYPES = ("float32", "float64", "float16", "bfloat16")

KEPT = 256
"""Windows that are changed further, of each kind."""

PLAIN = 0.4
"""The share of drawn windows that nobody made to be bad."""

LARGEST = 1e4
"""No cell is larger, so that float16 has it."""


# --- windows, (n, inputs, cells), rounded to the type later


def drawn(rng: Rng, count: int, inputs: int, cells: int) -> Numbers:
    """Windows of every kind, as many of each; normal and even ones come first, :data:`PLAIN` of all."""
    kinds: list[Callable[[Rng, tuple[int, int, int]], Numbers]] = [_normal, _even, _two_values, _lost, _near]
    shape = (-(-count // len(kinds)), inputs, cells)
    return np.concatenate([kind(rng, shape) for kind in kinds])[:count]


def _bell(rng: Rng, shape: tuple[int, ...]) -> Numbers:
    return rng.standard_normal(shape, np.float32)


def _sizes(rng: Rng, shape: tuple[int, int, int], least: float, most: float) -> Numbers:
    """A number for each window and input, between these powers of ten."""
    return 10 ** rng.uniform(least, most, (*shape[:2], 1))


def _normal(rng: Rng, shape: tuple[int, int, int]) -> Numbers:
    return _bell(rng, shape) * _sizes(rng, shape, -2, 1.3)


def _even(rng: Rng, shape: tuple[int, int, int]) -> Numbers:
    low, high = rng.uniform(-10, 10, (2, *shape[:2], 1))
    return low + (high - low) * rng.random(shape, np.float32)


def _two_values(rng: Rng, shape: tuple[int, int, int]) -> Numbers:
    """One value in some cells, another one in the rest; half of the time in one cell alone."""
    one, other = rng.standard_normal((2, *shape[:2], 1)) * _sizes(rng, shape, -1.5, 1)
    part = rng.random((shape[0], 1, 1)) < 0.5
    few = np.arange(shape[2]) == rng.integers(0, shape[2], (shape[0], 1, 1))
    some = rng.random((shape[0], 1, shape[2])) < rng.random((shape[0], 1, 1))
    return np.where(np.where(part, few, some), one, other)


def _lost(rng: Rng, shape: tuple[int, int, int]) -> Numbers:
    """One cell far above the others, whose weights are about half an ULP of its own; of squares as well."""
    top = rng.uniform(0.5, 16, (*shape[:2], 1))
    depth = np.where(rng.random((shape[0], 1, 1)) < 0.5, rng.uniform(14, 19, (shape[0], 1, 1)), 0)
    below = np.where(depth > 0, top - depth, top * 2.0 ** rng.uniform(-26, -10, (shape[0], 1, 1)))
    first = np.where(rng.random((shape[0], 1, 1)) < 0.7, 0, rng.integers(0, shape[2], (shape[0], 1, 1)))
    jitter = 1 + _bell(rng, shape) * _sizes(rng, shape, -7, -2)
    return np.where(np.arange(shape[2]) == first, top, below * jitter)


def _near(rng: Rng, shape: tuple[int, int, int]) -> Numbers:
    value = rng.standard_normal((*shape[:2], 1)) * _sizes(rng, shape, -2, 1)
    return value * (1 + _bell(rng, shape) * _sizes(rng, shape, -7.5, -1))


def changed(rng: Rng, kept: Numbers, count: int) -> Numbers:
    """So many windows, each one of ``kept`` with a change, an eighth of them with each kind of change."""
    each = -(-count // 8)
    made = []
    for kind in range(8):
        old = kept[rng.integers(0, len(kept), each)]
        n, inputs, cells = old.shape
        few = rng.random((n, 1, cells), np.float32) < 2 ** rng.uniform(-math.log2(cells) - 1, 0, (n, 1, 1))
        tiny = (2.0 ** rng.uniform(-24, -2, (n, inputs, 1)) * rng.choice([-1, 1], (n, inputs, 1))).astype(kept.dtype)
        if kind == 0:
            new = np.where(few, old * (1 + tiny), old)
        elif kind == 1:
            new = np.where(few, old * (1 + tiny * rng.standard_normal(old.shape, np.float32)), old)
        elif kind == 2:
            new = np.where(few, np.take_along_axis(old, rng.integers(0, cells, (n, inputs, 1)), 2), old)
        elif kind == 3:
            new = np.where(few, kept[rng.integers(0, len(kept), n)], old)
        elif kind == 4:
            new = old + tiny * np.abs(old).max(2, keepdims=True)
        elif kind == 5:
            new = old * (1 + tiny)
        elif kind == 6:
            new = np.where(few, old + tiny, old)
        else:
            new = np.where(few, np.roll(old, int(rng.integers(0, cells)), 2), old)
        made.append(np.where(rng.random((n, inputs, 1)) < 0.8, new, old))
    return np.concatenate(made)[:count]


# --- what an operator makes of them


def opened(operator: str, window: Window, dtype: str, way: str) -> Session:
    """A session of one node, on one thread."""
    names = ("x", "logit")[: OPERATORS[operator]]
    code = BY_NAME[dtype].code
    shape = ["N", "C", "H", "W"]
    node = helper.make_node(operator, names, ["y"], "pool", domain=DOMAIN, **window.attributes())
    graph = helper.make_graph(
        [node],
        "bounds",
        [helper.make_tensor_value_info(name, code, shape) for name in names],
        [helper.make_tensor_value_info("y", code, None)],
    )
    opsets = [helper.make_opsetid("", OPSETS[0]), helper.make_opsetid(DOMAIN, VERSION)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    form = forms.to_form(model, "standard" if way == "standard" else "function")
    return load(form, kernels="require" if way == "native" else "off", threads=1)


def pooled(session: Session, window: Window, cells: Numbers) -> Numbers:
    """``(n, inputs, cells) -> (n,)``: 8 windows stand side by side in a plane, apart, or one is a plane."""
    (high, wide), stride = window.kernel, window.stride[1]
    side = 1 if window.stride == window.kernel and high > 3 else 8
    pitch = -(-wide // stride) * stride
    planes = -(-len(cells) // side)
    feeds = {}
    for i, info in enumerate(session.inputs):
        apart: Numbers = np.zeros((planes * side, high, pitch), cells.dtype)
        apart[: len(cells), :, :wide] = cells[:, i].reshape(-1, high, wide)
        x = apart.reshape(planes, side, high, pitch).transpose(0, 2, 1, 3)
        feeds[info.name] = np.ascontiguousarray(x.reshape(1, planes, high, side * pitch))
    (y,) = session.run(feeds).values()
    step = pitch // stride
    return y.reshape(planes, -1)[:, : (side - 1) * step + 1 : step].reshape(-1)[: len(cells)]


def answers(operator: str, cells: Numbers) -> Numbers:
    """The formula, in the type of ``cells``: ``(n, inputs, cells) -> (n,)``."""
    x = cells[:, 0]
    if operator == "StochasticPool":
        x = np.maximum(x, 0)
        total = x.sum(1)
        return np.asarray((x * x).sum(1) / np.where(total == 0, 1, total))
    logit = cells[:, -1]
    weights = np.exp(logit - logit.max(1, keepdims=True))
    return np.asarray((weights * x).sum(1) / weights.sum(1))


# --- the search


@dataclass
class Search:
    """For one operator, window, type and way: the worst windows so far; shares of what is allowed."""

    operator: str
    window: Window
    dtype: str
    way: str
    drawn: float = 0.0
    sought: float = 0.0
    likely: float = 0.0
    kept: Numbers = field(default_factory=lambda: np.zeros((0, 1, 1)))
    shares: Numbers = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self._session = opened(self.operator, self.window, self.dtype, self.way)
        self._inner = BY_NAME[self.dtype].dtype
        self._judge = np.longdouble if self.dtype == "float64" else np.float64
        cells = math.prod(self.window.kernel)
        native = self.way == "native"
        self._ulps = bounds.native_ulps(self.window.kernel) if native else bounds.body_ulps(cells)
        self._likely = bounds.likely_ulps(cells)
        self.kept = np.zeros((0, OPERATORS[self.operator], cells))

    def look(self, windows: Numbers, *, sought: bool) -> None:
        """Pool these windows, and keep those that err most."""
        cells = np.clip(windows, -LARGEST, LARGEST).astype(self._inner)
        y = pooled(self._session, self.window, cells)
        right = answers(self.operator, cells.astype(self._judge))
        top = np.abs(cells[:, 0].astype(np.float64)).max(1)
        if self.operator == "StochasticPool":
            top = np.maximum(cells[:, 0].astype(np.float64), 0).max(1)
        error = np.abs(y.astype(self._judge) - right).astype(np.float64)
        unit = bounds.ulp(top, bounds.wide(self.dtype))
        own = 0.0 if self._inner == bounds.wide(self.dtype) else bounds.ulp(right.astype(np.float64), self.dtype)
        shares = error / (self._ulps * unit + own)
        worst = float(shares.max(initial=0))
        if sought:
            self.sought = max(self.sought, worst)
        else:
            self.drawn = max(self.drawn, worst)
            plain = (error / (self._likely * unit + own))[: int(PLAIN * len(error))]
            self.likely = max(self.likely, float(plain.max(initial=0)))
        best = np.argsort(-shares)[:KEPT]
        every, values = np.concatenate([self.kept, windows[best]]), np.concatenate([self.shares, shares[best]])
        order = np.argsort(-values)[:KEPT]
        self.kept, self.shares = every[order], values[order]


def searched(
    operator: str, name: str, dtype: str, way: str, count: int, seed: int = 0, told: Callable[[int], None] | None = None
) -> Search:
    """Search ``count`` windows; ``told`` hears how many are done."""
    search = Search(operator, WINDOWS[name], dtype, way)
    rng = np.random.default_rng(seed)
    cells = math.prod(search.window.kernel)
    batch = max(1, min(count // 24 or 1, 2**20 // cells))
    done = 0
    while done < count:
        n = min(batch, count - done)
        sought = 3 * done >= count
        made = changed(rng, search.kept, n) if sought else drawn(rng, n, OPERATORS[operator], cells)
        search.look(made, sought=sought)
        done += n
        if told:
            told(done)
    return search


def rows(windows: Sequence[str], dtypes: Sequence[str], ways: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Lines of a Markdown table, each as soon as it is known; progress goes to the terminal."""
    yield "| window | type | by | " + " | ".join(OPERATORS) + " | likely |"
    yield "|---|---|---|" + "---|" * (len(OPERATORS) + 1)
    for name, dtype, way in product(windows, dtypes, ways):
        found = []
        for operator in OPERATORS:
            told = partial(_show, f"{name} {dtype} {way} {operator}", count) if sys.stderr.isatty() else None
            found.append(searched(operator, name, dtype, way, count, seed, told))
        cells = [f"{search.drawn:.2f}, {max(search.drawn, search.sought):.2f}" for search in found]
        likely = max(search.likely for search in found)
        yield f"| {name} | {dtype} | {way} | {' | '.join(cells)} | {likely:.2f} |"


def _show(what: str, count: int, done: int) -> None:
    print(f"\r{what} {done / count:4.0%}".ljust(60), end="\r", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, and print a table: drawn windows, all windows, and drawn ones over what is likely."""
    parser = argparse.ArgumentParser(prog="tools/bounds_search", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--windows", type=float, default=1e7, help="so many for each number; by default 10 million")
    parser.add_argument("--only", nargs="+", choices=WINDOWS, default=tuple(WINDOWS), help="windows; by default all")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="by default all")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    wrong = False
    for row in rows(given.only, given.dtypes, given.ways, math.ceil(given.windows), given.seed):
        print(row, flush=True)
        shares = [float(share) for cell in row.split("|")[4:7] for share in cell.split(",") if "." in share]
        wrong = wrong or any(share > 1 for share in shares)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
