"""One small network trained with each pooling method, exported, and held against PyTorch sample by sample.

The data are scikit-learn's handwritten digits, 1797 real images of 8x8. Every network has the same convolutions, seeds,
batches and number of steps; only the pooling differs: windows of 2x2 after the first and the second convolution, or,
for global average pooling, one mean over 8x8 at the end. Each trained network is exported, validated, and run on every
test image in every form: the predicted class must be PyTorch's. Leaves models and golden answers in out/train/, prints
a Markdown table, and exits with status 1 when anything disagrees.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import onnxpool
from onnxpool import nn
from onnxpool.run import native_library
from onnxpool.validation.as_text import sentences

OUT = Path("out/train")
TESTED = 600
BATCH = 64
WIDTHS = (16, 32, 32)

METHODS: dict[str, Callable[[int], torch.nn.Module]] = {
    "MaxPool": lambda _: nn.MaxPool2d(2),
    "AvgPool": lambda _: nn.AvgPool2d(2),
    "GlobalAvgPool": lambda _: torch.nn.Identity(),
    "MixedPool": lambda _: nn.MixedPool2d(2),
    "StochasticPool": lambda _: nn.StochasticPool2d(2),
    "PowerAvgPool": lambda channels: nn.PowerAvgPool2d(
        2, p=2.0, learn_p=True, per_channel=True, channels=channels, norm="mean"
    ),
    "DetailPreservingPool": nn.DetailPreservingPool2d,
    "LocalImportancePool": lambda channels: nn.LocalImportancePool2d(nn.SimplifiedLogit2d(channels), 2, 2, 0),
    "SoftPool": lambda _: nn.SoftPool2d(2),
}
"""The layer of each method that halves the size, for so many channels. (Adaptive pools are means and maxima too.)"""


def make(method: str, seed: int) -> torch.nn.Sequential:
    """The untrained network: images ``(N, 1, 8, 8)`` to scores ``(N, 10)``."""
    torch.manual_seed(seed)  # first the convolutions, so that they are the same for all methods
    taken = (1, *WIDTHS)
    convolutions = [torch.nn.Conv2d(*sizes, 3, padding=1) for sizes in zip(taken, WIDTHS, strict=False)]
    layers: list[torch.nn.Module] = []
    for convolution, down in zip(convolutions, [METHODS[method]] * 2 + [None], strict=True):
        layers += [convolution, torch.nn.ReLU()]
        layers += [down(convolution.out_channels)] if down else []
    whole = method == "GlobalAvgPool"
    layers += [nn.GlobalAvgPool2d(flatten=True) if whole else torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(WIDTHS[-1] * (1 if whole else 4), 10))


def pools(network: torch.nn.Sequential) -> list[torch.nn.Module]:
    """The pooling layers of a network."""
    return [layer for layer in network if type(layer).__name__ in nn.__all__]


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 8, 8)`` in 0 to 1 and their digits, to train on and to test on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def digits() -> Digits:
    """One split for all networks, with equal shares of every digit."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=TESTED, stratify=labels, random_state=0)
    x, test_x = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 for part in parts[:2])
    y, test_y = (torch.tensor(part) for part in parts[2:])
    return Digits(x, y, test_x, test_y)


def train(network: torch.nn.Module, data: Digits, seed: int, epochs: int) -> None:
    """Adam with a step that falls to zero; the seed gives the order of batches, and what stochastic pools draw."""
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    steps = epochs * len(range(0, len(data.images), BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.images), generator=order).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


# --- what came of it


@dataclass(frozen=True)
class Outcome:
    """One trained network.

    ``pytorch`` and ``onnx`` are accuracies, ``agree`` counts test images whose class is PyTorch's in every form,
    ``difference`` is the largest between scores, ``before`` and ``after`` are :func:`learned`, and ``faults`` says
    what is not as it must be.
    """

    pytorch: float
    onnx: float
    agree: int
    difference: float
    parameters: int
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    faults: tuple[str, ...]


def learned(layers: Iterable[torch.nn.Module]) -> dict[str, torch.Tensor]:
    """What these pooling layers learn, or draw, by name: one value per number."""
    values: dict[str, list[torch.Tensor]] = {}
    for layer in layers:
        match type(layer).__name__:
            case "PowerAvgPool2d":
                found = {"p": layer.p}
            case "DetailPreservingPool2d":
                found = {"alpha": layer.alpha, "lambda": layer.lambda_}
            case "LocalImportancePool2d":
                found = {"size of logit weights": layer.logit.conv.weight.abs()}
            case "MixedPool2d":
                found = {"channels": layer.uses_max.float()}
            case _:
                found = {}
        for name, value in found.items():
            values.setdefault(name, []).append(value.detach().flatten())
    return {name: torch.cat(parts) for name, parts in values.items()}


def outcome(method: str, seed: int, data: Digits, epochs: int) -> Outcome:
    """Train, export, validate, compare."""
    network = make(method, seed)
    before = learned(copy.deepcopy(pools(network)))
    train(network, data, seed, epochs)
    path = OUT / f"{method}-{seed}.onnx"
    onnxpool.export(network, (data.images[:2],), path, dynamic_shapes=({0: "batch"},))
    report = onnxpool.validate(path, threads=1)
    with torch.inference_mode():
        right = network(data.test_images).numpy()
    scores = answers(path, data.test_images.numpy())
    same = {way: given.argmax(1) == right.argmax(1) for way, given in scores.items()}
    faults = [
        f"{way}: {(~equal).sum()} test images get another class" for way, equal in same.items() if not equal.all()
    ]
    labels = data.test_labels.numpy()
    return Outcome(
        pytorch=float((right.argmax(1) == labels).mean()),
        onnx=float((scores["default"].argmax(1) == labels).mean()),
        agree=int(np.logical_and.reduce([*same.values()]).sum()),
        difference=max(float(np.abs(given - right).max()) for given in scores.values()),
        parameters=sum(parameter.numel() for layer in pools(network) for parameter in layer.parameters()),
        before=before,
        after=learned(pools(network)),
        faults=(*faults, *([] if report.passed else sentences(report))),
    )


def answers(path: Path, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Scores of ONNX Runtime for the file as it loads by default, and in each form, with native kernels and without."""
    sessions = {
        "default": onnxpool.load(path, threads=1),
        "function form": onnxpool.load(path, kernels="off", threads=1),
        "standard form": onnxpool.load(onnxpool.to_form(path, "standard"), kernels="off", threads=1),
    }
    if onnxpool.pool_nodes(path) and native_library.why_missing() is None:
        sessions["native"] = onnxpool.load(path, kernels="require", threads=1)
    return {way: next(iter(s.run({s.inputs[0].name: images}).values())) for way, s in sessions.items()}


# --- the table


def spread(values: Iterable[float]) -> str:
    """Mean, and from least to largest, in percent."""
    percent = [100 * value for value in values]
    return f"{np.mean(percent):.1f}" + f" ({min(percent):.1f} to {max(percent):.1f})" * (len(percent) > 1)


def moved(outcomes: list[Outcome]) -> str:
    """From where to where the numbers of the pooling went: their mean, and from least to largest."""
    texts = []
    for name in outcomes[0].after:
        before, after = (torch.cat([getattr(o, side)[name] for o in outcomes]) for side in ("before", "after"))
        if name == "channels":
            texts.append(f"nothing learned; {int(after.sum())} of {len(after)} channels settled on the maximum")
            continue
        texts.append(f"{name} {before.mean():.3g} → {after.mean():.3g} ({after.min():.3g} to {after.max():.3g})")
    return ", ".join(texts)


def table(found: dict[str, list[Outcome]]) -> str:
    """The Markdown table, one row for each method."""
    head = ["method", "PyTorch, %", "ONNX Runtime, %", "same class", "largest difference of scores"]
    rows = [[*head, "parameters of the pooling", "what became of them"], ["---"] * 7]
    for method, outcomes in found.items():
        accuracies = [spread(o.pytorch for o in outcomes), spread(o.onnx for o in outcomes)]
        same = f"{sum(o.agree for o in outcomes)}/{TESTED * len(outcomes)}"
        difference = f"{max(o.difference for o in outcomes):.1e}"
        rows.append([method, *accuracies, same, difference, str(outcomes[0].parameters), moved(outcomes)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def told() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD", help="not all")
    parser.add_argument("--seeds", type=int, default=3, help="networks per method (3)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (20)")
    given = parser.parse_args()
    if min(given.seeds, given.epochs) < 1:
        parser.error("--seeds and --epochs must be 1 or more")
    return given


def main() -> None:
    """Train and tell."""
    given = told()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    data = digits()
    found: dict[str, list[Outcome]] = {method: [] for method in given.only}
    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), console=err) as bar:
        task = bar.add_task("", total=len(found) * given.seeds)
        for method, outcomes in found.items():
            for seed in range(given.seeds):
                bar.update(task, description=f"{method}, seed {seed}")
                outcomes.append(outcome(method, seed, data, given.epochs))
                bar.advance(task)
        bar.update(task, description="Trained")

    print(table(found))
    print(
        f"\n{len(data.images)} images to train on, {TESTED} to test, {given.epochs} epochs, {given.seeds} seeds. "
        f"Accuracy: mean (least to largest) over the seeds; one image is {100 / TESTED:.2f} points. "
        "Same class: test images to which every form gives the class that PyTorch gives."
    )
    faults = [f"{method}: {fault}" for method, outcomes in found.items() for o in outcomes for fault in o.faults]
    for fault in faults:
        err.print(fault, style="red", markup=False)
    sys.exit(1 if faults else 0)


err = Console(stderr=True)

if __name__ == "__main__":
    main()
