"""Training in PyTorch, for tools/bench: forward and backward of our kernels, of the same by PyTorch's own operators, of
the naive formula, and of torch.nn's max pooling. Whether gradients are right is for the tests; here none is compared.

By itself, `python tools/bench_torch.py` writes the table of docs/explanation/performance.md: all ways to pool one
tensor take turns, on one thread, by processor time; medians, and quartiles in brackets.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from bench_report import COMPOSITION, MODULE, PYTORCH, TORCH_MAX
from bench_ways import BENCHED, OURS, Case, Way, naive_formula
from numpy.typing import NDArray

from onnxpool.pools import local_importance, soft, stochastic
from onnxpool.pools._composite import differentiable
from onnxpool.window import Window

_METHODS = {"SoftPool": soft, "LocalImportancePool": local_importance, "StochasticPool": stochastic}


def composition(operator: str, window: Window) -> Callable[..., torch.Tensor]:
    """What our modules are where there is no native library."""
    method = _METHODS[operator]
    exact = differentiable(method._forward, method._backward)

    def pool(*tensors: torch.Tensor) -> torch.Tensor:
        y = method._ordinary(window, *tensors)
        return exact(window, *tensors) if y is None else y

    return pool


def trained(operator: str, name: str, function: Callable[..., torch.Tensor], case: Case) -> Way:
    """``function`` and its gradients, for one gradient of its output."""
    leaves = [torch.from_numpy(x).clone().requires_grad_() for x in case.inputs(operator).values()]
    grad = torch.ones(case.output_shape, dtype=leaves[0].dtype)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward(grad)

    return Way(operator, name, run, lambda: _array(leaves[0].grad))


def _array(grad: torch.Tensor | None) -> NDArray[Any]:
    assert grad is not None
    found: NDArray[Any] = grad.numpy()
    return found


def share(_: Way) -> None:
    """There is nothing to compare with."""


def ways(case: Case) -> Iterator[tuple[str, str, Callable[[], Way]]]:
    """As ``bench_ways.ways``."""
    window = case.window
    pool = getattr(torch.nn.functional, f"max_pool{window.rank}d")
    largest = partial(pool, kernel_size=window.kernel, stride=window.stride, padding=window.pad)
    yield "", TORCH_MAX, lambda: trained("", TORCH_MAX, largest, case)
    for operator in BENCHED:
        functions = {
            MODULE: partial(OURS[operator], window),
            COMPOSITION: composition(operator, window),
            PYTORCH: naive_formula(operator, window),
        }
        for name, function in functions.items():
            yield operator, name, partial(trained, operator, name, function, case)


# --- the table

COLUMNS = ("`onnxpool.nn`", "without the library", "naive formula", "`F.max_pool2d`")
WINDOWS = {"3x3 s2 p1": Window.of(2, 3, 2, 1), "2x2 s2": Window.of(2, 2)}
_NAMES = {"SoftPool": "SoftPool", "LocalImportancePool": "local importance", "StochasticPool": "stochastic"}

Call = Callable[[], Any]


def drawn(window: Window, x: torch.Tensor) -> torch.Tensor:
    """Stochastic pooling in training, without the library."""
    return stochastic._drawn(window, x, torch.rand(window.check(x.shape)))


def calls(window: Window, memory_format: torch.memory_format) -> dict[str, list[Callable[..., Any] | None]]:
    """By row, what each column calls; None where there is nothing."""
    largest = partial(
        torch.nn.functional.max_pool2d, kernel_size=window.kernel, stride=window.stride, padding=window.pad
    )
    last = memory_format == torch.channels_last
    rows: dict[str, list[Callable[..., Any] | None]] = {}
    for operator, name in _NAMES.items():
        rows[name] = [partial(OURS[operator], window), composition(operator, window), naive_formula(operator, window)]
        rows[name].append(largest if operator == "SoftPool" else None)
    rows["stochastic, draws"] = [partial(stochastic.draw, window), partial(drawn, window), None, None]
    return {"SoftPool": [*rows["SoftPool"][:1], None, None, largest]} if last else rows


def once(function: Callable[..., Any], tensors: Sequence[torch.Tensor], grad: torch.Tensor | None) -> Any:
    """Forward, and backward where there is a gradient of the output."""
    if grad is None:
        with torch.no_grad():
            return function(*tensors)
    for tensor in tensors:
        tensor.grad = None
    return function(*tensors).backward(grad)


def in_turns(ways: Sequence[Call | None], rounds: int) -> list[str]:
    """Milliseconds of each, as they stand in the table."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):  # the first one warms up
        for way, own in zip(ways, times, strict=True):
            start = time.process_time()
            if way is not None:
                way()
            if turn:
                own.append(1000 * (time.process_time() - start))
    return ["" if way is None else _told(own) for way, own in zip(ways, times, strict=True)]


def _told(times_ms: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(times_ms, n=4) if len(times_ms) > 1 else [times_ms[0]] * 3
    return "{} ({}-{})".format(
        *(f"{time_ms:.0f}" if time_ms >= 100 else f"{time_ms:.3g}" for time_ms in (middle, low, high))
    )


def peak_mib(way: Call, leaves: Sequence[torch.Tensor]) -> str:
    """The most memory that tensors took at a time, beyond these without their gradients."""
    for leaf in leaves:
        leaf.grad = None
    with torch.profiler.profile(profile_memory=True) as profile:
        way()
    recorded: Any = profile.profiler
    events = (event for event in recorded.kineto_results.events() if event.name() == "[memory]")
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return f"{most / 2**20:.0f}"


def table(shape: Sequence[int], rounds: int) -> Iterator[str]:
    """The rows, in Markdown, one after the other."""
    torch.manual_seed(0)
    yield "| | " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * (1 + len(COLUMNS))
    formats = {"": torch.contiguous_format, ", `channels_last`": torch.channels_last}
    for size, window in WINDOWS.items():
        for suffix, memory_format in formats.items():
            if suffix and size != next(iter(WINDOWS)):
                continue
            for name, functions in calls(window, memory_format).items():
                inputs = 2 if name == _NAMES["LocalImportancePool"] else 1
                tensors = [torch.randn(*shape).contiguous(memory_format=memory_format) for _ in range(inputs)]
                leaves = [tensor.clone().requires_grad_() for tensor in tensors]
                grad = torch.ones(window.check(tuple(shape))).contiguous(memory_format=memory_format)
                given = {"forward": (tensors, None), "forward and backward": (leaves, grad)}
                for what, (arguments, slope) in given.items():
                    ways = _bound(functions, arguments, slope)
                    start = f"{name} {size}{suffix}, " if what == "forward" else ""
                    yield f"| {start}{what} | " + " | ".join(in_turns(ways, rounds)) + " |"
                if name == "SoftPool" and size == next(iter(WINDOWS)) and not suffix:
                    cells = ["" if way is None else peak_mib(way, leaves) for way in _bound(functions, leaves, grad)]
                    yield "| memory for both, MiB | " + " | ".join(cells) + " |"


def _bound(
    functions: Sequence[Callable[..., Any] | None], tensors: Sequence[torch.Tensor], grad: torch.Tensor | None
) -> list[Call | None]:
    return [function and partial(once, function, tensors, grad) for function in functions]


def steps(rounds: int) -> str:
    """A row: training steps of transformers' ResNet-18 with SoftPool in its stem, and with max pooling."""
    from demo import SoftPoolResNet18

    images, labels = torch.randn(8, 3, 224, 224), torch.arange(8)

    def step(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    networks = [SoftPoolResNet18(), SoftPoolResNet18()]
    networks[1].network.resnet.embedder.pooler = torch.nn.MaxPool2d(3, stride=2, padding=1)
    ways = [partial(step, each, torch.optim.SGD(each.parameters(), 0.01)) for each in networks]
    ours, largest = in_turns(ways, rounds)
    return f"| a step of ResNet-18, 8x3x224x224 | {ours} |  |  | {largest} |"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", default="8x64x112x112")
    parser.add_argument("--no-network", action="store_true", help="leave ResNet-18 out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for row in table([int(size) for size in chosen.shape.split("x")], chosen.rounds):
        print(row, flush=True)
    if not chosen.no_network:
        print(steps(max(1, chosen.rounds // 2)), flush=True)


if __name__ == "__main__":
    main()
