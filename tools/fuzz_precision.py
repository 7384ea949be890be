"""Fuzz of precision advice: whether a node, or a whole mixed model, that is called safe is so on inputs not seen.

    tools/fuzz_precision --networks 500 --seed 0

Each network is a chain of 3 to 9 operators that hurt float16: huge and tiny constants, masks of -1e9, exponentials,
sums and means over large planes, differences that cancel, divisions by next to nothing. Advice is asked for with a few
inputs; then the mixed model, and each safe node alone, run on others drawn alike. Wrong is an error above the budget,
and NaN or infinity where float32 has none. Ends with counts, and exit status 1 for a false "safe".
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxpool.graph import forms, mixed
from onnxpool.quantizing.precision import precision
from onnxpool.quantizing.switched import apart
from onnxpool.run.session import load
from onnxpool.window import Window

CHANNELS = 4


@dataclass
class Chain:
    """A network in the making: ``last`` is the value that comes next, (batch, channels, height, width)."""

    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    last: str = "x"

    def constant(self, array: Any) -> str:
        """The name of a new initializer."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, least: float, most: float) -> str:
        """A power of ten with an exponent in this range, of either sign."""
        size = 10 ** self.rng.uniform(least, most) * self.rng.choice([-1, 1])
        return self.constant(np.float32(size))

    def put(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; returns what it gives."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n{len(self.nodes)}", domain=domain, **attributes))
        return name


def _pool(chain: Chain, op_type: str, *inputs: str) -> str:
    return chain.put(op_type, *inputs, domain="onnxpool", **Window.of(2, 3, 1, 1).attributes())


def _axes(chain: Chain, *axes: int) -> str:
    return chain.constant(np.array(axes, np.int64))


def _conv(chain: Chain) -> str:
    scale = 10 ** chain.rng.uniform(-2, 2)
    weight = (scale * chain.rng.normal(size=(CHANNELS, CHANNELS, 3, 3))).astype(np.float32)
    return chain.put("Conv", chain.last, chain.constant(weight), pads=[1, 1, 1, 1])


def _masked(chain: Chain) -> str:
    mask = chain.put("Greater", chain.last, chain.constant(np.float32(0.5)))
    filled = chain.put("Where", mask, chain.constant(np.float32(-1e9)), chain.last)
    return chain.put("Softmax", filled, axis=1)


def _centred(chain: Chain) -> str:
    mean = chain.put("ReduceMean", chain.last, _axes(chain, 2, 3), keepdims=1)
    return chain.put("Sub", chain.last, mean)


def _standardised(chain: Chain) -> str:
    apart = _centred(chain)
    squares = chain.put("Mul", apart, apart)
    variance = chain.put("ReduceMean", squares, _axes(chain, 2, 3), keepdims=1)
    deviation = chain.put("Sqrt", chain.put("Add", variance, chain.constant(np.float32(1e-5))))
    return chain.put("Div", apart, deviation)


def _normed(chain: Chain) -> str:
    tiny = chain.rng.choice([1.0, 1e-3, 1e-6])
    numbers = [chain.rng.uniform(0.5, 1.5, CHANNELS), chain.rng.normal(size=CHANNELS), chain.rng.normal(size=CHANNELS)]
    names = [chain.constant(array.astype(np.float32)) for array in numbers]
    variance = chain.constant((tiny * chain.rng.uniform(0.5, 1.5, CHANNELS)).astype(np.float32))
    return chain.put("BatchNormalization", chain.last, *names, variance)


def _by(op_type: str, least: float, most: float) -> Callable[[Chain], str]:
    return lambda chain: chain.put(op_type, chain.last, chain.number(least, most))


def _plain(op_type: str, **attributes: Any) -> Callable[[Chain], str]:
    return lambda chain: chain.put(op_type, chain.last, **attributes)


def _reduced(op_type: str) -> Callable[[Chain], str]:
    return lambda chain: chain.put(op_type, chain.last, _axes(chain, 2, 3), keepdims=1)


STEPS: dict[str, Callable[[Chain], str]] = {
    "convolution": _conv,
    "times": _by("Mul", -5, 5),
    "plus": _by("Add", -4, 6),
    "by": _by("Div", -7, 3),
    "relu": _plain("Relu"),
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "exponential": lambda chain: chain.put(
        "Exp", chain.put("Mul", chain.last, chain.constant(np.float32(chain.rng.uniform(1, 12))))
    ),
    "logarithm": lambda chain: chain.put(
        "Log",
        chain.put("Add", chain.put("Abs", chain.last), chain.constant(np.float32(10 ** chain.rng.uniform(-8, 0)))),
    ),
    "root": lambda chain: chain.put("Sqrt", chain.put("Abs", chain.last)),
    "reciprocal": lambda chain: chain.put(
        "Reciprocal", chain.put("Add", chain.put("Abs", chain.last), chain.number(-7, 0))
    ),
    "square": lambda chain: chain.put("Mul", chain.last, chain.last),
    "cube": lambda chain: chain.put("Pow", chain.last, chain.constant(np.float32(3))),
    "masked softmax": _masked,
    "softmax over space": _plain("Softmax", axis=-1),
    "centred": _centred,
    "standardised": _standardised,
    "batch norm": _normed,
    "instance norm": lambda chain: chain.put(
        "InstanceNormalization",
        chain.last,
        chain.constant(np.ones(CHANNELS, np.float32)),
        chain.constant(np.zeros(CHANNELS, np.float32)),
    ),
    "sum": _reduced("ReduceSum"),
    "mean": _reduced("ReduceMean"),
    "norm": _reduced("ReduceL2"),
    "log of sum": _reduced("ReduceLogSumExp"),
    "global average": _plain("GlobalAveragePool"),
    "average": _plain("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    "most": _plain("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    "soft pool": lambda chain: _pool(chain, "SoftPool", chain.last),
    "local importance": lambda chain: _pool(chain, "LocalImportancePool", chain.last, chain.last),
}


def network(seed: int, most: int = 9) -> onnx.ModelProto:
    """A random network, x -> y."""
    chain = Chain(np.random.default_rng(seed))
    chain.last = _conv(chain) if chain.rng.random() < 0.5 else chain.last
    for name in chain.rng.choice([*STEPS], int(chain.rng.integers(2, most))):
        before = chain.last
        chain.last = STEPS[str(name)](chain)
        if chain.rng.random() < 0.2:
            chain.last = chain.put(str(chain.rng.choice(["Add", "Sub", "Mul"])), chain.last, chain.last)
        elif chain.rng.random() < 0.1 and before != "x":
            chain.last = chain.put("Concat", chain.last, chain.last, axis=2)
    chain.put("Identity", chain.last)
    chain.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        chain.nodes,
        f"fuzz_{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        chain.weights,
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def inputs(rng: np.random.Generator, count: int, size: int, scale: float) -> list[dict[str, NDArray[Any]]]:
    """Inputs of that many runs."""
    return [{"x": (scale * rng.normal(size=(2, CHANNELS, size, size))).astype(np.float32)} for _ in range(count)]


@dataclass(frozen=True)
class Found:
    """What became of one network: its verdicts, and what was called safe and is not."""

    verdicts: Counter[str]
    written: bool
    wrong: tuple[str, ...]
    worst: float


def tried(seed: int, folder: Path, budget: float = 0.01, fresh: int = 6) -> Found:
    """Ask for advice on one network, and see whether it holds; networks that give NaN themselves are left out."""
    rng = np.random.default_rng([seed, 1])
    size, scale = int(rng.choice([4, 9, 24, 64])), float(10 ** rng.uniform(-2, 1.5))
    model = network(seed)
    base = mixed.prepared(model)
    plain = load(forms.to_form(base, "function"), kernels="off")
    seen, other = inputs(rng, 6, size, scale), inputs(rng, fresh, size, scale)
    right = [plain.run(feeds) for feeds in other]
    if not all(np.isfinite(array).all() for answers in right for array in answers.values()):
        return Found(Counter({"not finite in float32": 1}), False, (), 0.0)
    path = folder / f"{seed}.onnx"
    advice = precision(model, None, seen, budget=budget)
    written = bool(advice.safe) and seed % 8 == 0  # each takes some seconds
    wrong, worst = [], 0.0
    chosen = {name: [name] for name in advice.safe} | {"all that is safe": [*advice.safe]}
    runs = {name: forms.to_form(mixed.lowered(base, names), "function") for name, names in chosen.items()}
    if written:
        precision(model, path, seen, budget=budget)
        runs["the mixed model"] = forms.read(path)
    for name, made in runs.items():
        session = load(made, kernels="off")
        off = max(apart(session.run(feeds), answers) for feeds, answers in zip(other, right, strict=True))
        worst = max(worst, off)
        if not off <= budget:
            wrong.append(f"network {seed}: {name} is off by {100 * off:.3g} %")
    return Found(Counter(node.verdict for node in advice.nodes), written, tuple(wrong), worst)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make networks, ask for advice, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    counts, written, wrong, worst, start = Counter[str](), 0, 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        for seed in range(given.seed, given.seed + given.networks):
            found = tried(seed, Path(folder))
            counts += found.verdicts
            written, wrong, worst = written + found.written, wrong + len(found.wrong), max(worst, found.worst)
            for told in found.wrong:
                print(told, flush=True)
    print(f"{given.networks} networks, {written} written; {dict(counts)}; {wrong} false; worst {100 * worst:.3g} %")
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
