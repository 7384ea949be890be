"""What each pooling does, measured: on scikit-learn's photographs alone, and in one small network for its digits.

    accuracy      of the class on 600 digits that were not trained on, in per cent
    consistency   digits whose class stays when the picture moves by up to two cells each way
    noise         accuracy with normal noise of 0.3 in pictures of 0 to 1
    gap           accuracy on what was trained on less that on the rest
    detail        size of the slopes at the strongest edges of a photograph, after pooling to half the size, in per
                  cent of those of every second pixel
    information   how well a linear map of 3x3 pooled cells gives back the four pixels in their middle, in decibels

Every network has the same convolutions, seeds, batches and steps, and means over all positions at the end; only what
halves the size differs, after each of two convolutions. These pad in a ring, in which pictures move, so that what does
not depend on places gives a consistency of 100. Intervals are of 95 per cent, over seeds, by Student's t; the
last two measures are of pictures and have none. A further method is one line in :data:`POOLINGS`. Prints a Markdown
table; writes it, as JSON with more digits, and a picture of pooled photographs to out/quality/.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split

from onnxpool import nn

OUT = Path("out/quality")
WIDTH = 12  # cells of a picture: a digit of 8 and room to move by 2
REACH = 2
NOISE = 0.3
STRONGEST = 0.05  # of all edges


class Strided(torch.nn.Module):
    """Every second cell: what a convolution with a stride does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C, H / 2, W / 2)``."""
        return x[..., ::2, ::2]


POOLINGS: dict[str, Callable[[int], torch.nn.Module]] = {
    "every second cell": lambda _: Strided(),
    "MaxPool": lambda _: nn.MaxPool2d(2),
    "AvgPool": lambda _: nn.AvgPool2d(2),
    "MixedPool": lambda _: nn.MixedPool2d(2),
    "StochasticPool": lambda _: nn.StochasticPool2d(2),
    "PowerAvgPool (p = 2)": lambda _: nn.PowerAvgPool2d(2, p=2.0, norm="mean"),
    "DetailPreservingPool": nn.DetailPreservingPool2d,
    "LocalImportancePool": lambda channels: nn.LocalImportancePool2d(nn.SimplifiedLogit2d(channels), 2, 2, 0),
    "SoftPool": lambda _: nn.SoftPool2d(2),
    "SoftPool 3x3": lambda _: nn.SoftPool2d(3, 2, 1),
    "MaxPool 3x3": lambda _: nn.MaxPool2d(3, 2, 1),
    "AvgPool 3x3": lambda _: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "BlurPool": lambda _: nn.BlurPool2d(4),
    "MaxBlurPool": lambda _: nn.MaxBlurPool2d(2),
    "AdaptivePolyphasePool": lambda _: nn.AdaptivePolyphasePool2d(),
}
"""What halves the size, for so many channels."""


@dataclass(frozen=True)
class Measured:
    """A mean over seeds, and half the width of its interval; None for what has no seeds."""

    mean: float
    half: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.half is None else f"{self.mean:.1f} ± {self.half:.1f}"


# --- a small network


@dataclass(frozen=True)
class Digits:
    """Pictures ``(N, 1, 12, 12)`` in 0 to 1 and their digits, to train on and to test on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def digits() -> Digits:
    """One split for all networks."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=600, stratify=labels, random_state=0)
    pictures = [torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 for part in parts[:2]]
    x, test_x = (torch.nn.functional.pad(picture, [(WIDTH - 8) // 2] * 4) for picture in pictures)
    return Digits(x, torch.tensor(parts[2]), test_x, torch.tensor(parts[3]))


def trained(pooling: str, data: Digits, seed: int, epochs: int) -> torch.nn.Module:
    """Two convolutions, each halved, a third and a mean; Adam with a step that falls to zero."""
    torch.manual_seed(seed)
    convolutions = [
        torch.nn.Conv2d(*sizes, 3, padding=1, padding_mode="circular") for sizes in ((1, 16), (16, 32), (32, 32))
    ]
    classifier = torch.nn.Linear(32, 10)
    layers: list[torch.nn.Module] = []
    for i, convolution in enumerate(convolutions):
        layers += [convolution, torch.nn.ReLU()]
        layers += [POOLINGS[pooling](convolution.out_channels)] if i < 2 else []
    network = torch.nn.Sequential(*layers, nn.GlobalAvgPool2d(flatten=True), classifier)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters())
    steps = epochs * len(range(0, len(data.images), 64))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.images), generator=order).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def in_the_network(network: torch.nn.Module, data: Digits, seed: int) -> dict[str, float]:
    """Each measure of one trained network, in per cent."""
    draw = torch.Generator().manual_seed(seed)

    def classes(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = network(x).argmax(1)
        return found

    def right(x: torch.Tensor, labels: torch.Tensor) -> float:
        return 100 * (classes(x) == labels).double().mean().item()

    shifts = [(i, j) for i in range(-REACH, REACH + 1) for j in range(-REACH, REACH + 1) if (i, j) != (0, 0)]
    still = classes(data.test_images)
    same = [(classes(data.test_images.roll(shift, (2, 3))) == still).double().mean() for shift in shifts]
    noisy = data.test_images + NOISE * torch.randn(data.test_images.shape, generator=draw)
    accuracy = right(data.test_images, data.test_labels)
    return {
        "accuracy": accuracy,
        "consistency": 100 * torch.stack(same).mean().item(),
        "noise": right(noisy, data.test_labels),
        "gap": right(data.images, data.labels) - accuracy,
    }


# --- pictures alone


def photographs() -> list[torch.Tensor]:
    """Both of scikit-learn's, grey, in 0 to 1: ``(1, 1, H, W)`` of even sizes."""
    grey = [load_sample_image(name).mean(2)[:426, :640] / 255 for name in ("china.jpg", "flower.jpg")]
    return [torch.tensor(picture, dtype=torch.float32)[None, None] for picture in grey]


def slopes(x: torch.Tensor) -> torch.Tensor:
    """How much neighbours differ, ``(1, 1, H - 1, W - 1)``."""
    return torch.hypot(x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1])


def detail(pool: torch.nn.Module) -> float:
    """The sizes of slopes where those of every second pixel are largest, in per cent of them."""
    shares = []
    for picture in photographs():
        before, after = slopes(Strided()(picture)), slopes(pooled(pool, picture))
        places = before >= before.flatten().quantile(1 - STRONGEST)
        shares.append((after[places].mean() / before[places].mean()).item())
    return 100 * float(np.mean(shares))


def information(pool: torch.nn.Module) -> float:
    """The ratio of peak to error of pixels that a linear map gives back, fitted to one photograph, of the other."""
    ratios = []
    (first, second), blocks = photographs(), torch.nn.Unfold(2, stride=2)
    for fitted, other in ((first, second), (second, first)):
        around = [torch.nn.Unfold(3, padding=1)(pooled(pool, picture))[0].T for picture in (fitted, other)]
        cells = [torch.cat([part, torch.ones(len(part), 1)], 1).double() for part in around]
        solution = torch.linalg.lstsq(cells[0], blocks(fitted)[0].T.double()).solution
        error = (cells[1] @ solution - blocks(other)[0].T).square().mean()
        ratios.append(-10 * torch.log10(error).item())
    return float(np.mean(ratios))


def pooled(pool: torch.nn.Module, picture: torch.Tensor) -> torch.Tensor:
    """The picture in half the size."""
    with torch.no_grad():
        half: torch.Tensor = pool(picture)
    return half


# --- all of it


def interval(values: list[float]) -> Measured:
    """Mean and half the interval of 95 per cent."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
    return Measured(float(np.mean(values)), float(half))


def measured(pooling: str, data: Digits, seeds: int, epochs: int) -> dict[str, Measured]:
    """Every measure of one pooling."""
    runs = [in_the_network(trained(pooling, data, seed, epochs), data, seed) for seed in range(seeds)]
    network = {name: interval([run[name] for run in runs]) for name in runs[0]}
    torch.manual_seed(0)
    pool = POOLINGS[pooling](1).eval()
    return network | {"detail": Measured(detail(pool)), "information": Measured(information(pool))}


def table(rows: dict[str, dict[str, Measured]]) -> str:
    """The rows in Markdown."""
    names = list(next(iter(rows.values())))
    lines = [f"| pooling | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {pooling} | {' | '.join(str(row[name]) for name in names)} |" for pooling, row in rows.items()]
    return "\n".join(lines)


def picture(chosen: list[str]) -> Image.Image:
    """A part of a photograph, pooled twice by each, enlarged, side by side."""
    part = photographs()[0][..., 100:228, 250:378]
    tiles: list[NDArray[np.uint8]] = []
    for pooling in chosen:
        torch.manual_seed(0)
        pool = POOLINGS[pooling](1).eval()
        small = pooled(pool, pooled(pool, part))[0, 0].clamp(0, 1).numpy()
        tiles.append(np.kron((255 * small).astype(np.uint8), np.ones((5, 5), np.uint8)))
    return Image.fromarray(np.concatenate([np.pad(tile, 2, constant_values=255) for tile in tiles], 1))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=OUT)
    parser.add_argument("--only", nargs="*", default=list(POOLINGS), choices=list(POOLINGS), metavar="POOLING")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, data, rows = time.perf_counter(), digits(), {}
    for pooling in arguments.only:
        rows[pooling] = measured(pooling, data, arguments.seeds, arguments.epochs)
        print(f"{pooling}: {', '.join(f'{name} {value}' for name, value in rows[pooling].items())}", flush=True)
    seconds = time.perf_counter() - began
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    (out / "quality.md").write_text(text + "\n", encoding="utf-8")
    found = {pooling: {name: asdict(value) for name, value in row.items()} for pooling, row in rows.items()}
    facts = {"seeds": arguments.seeds, "epochs": arguments.epochs, "seconds": round(seconds), "measured": found}
    (out / "quality.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    picture(arguments.only).save(out / "pooled.png")
    print(f"\n{text}\n\n{arguments.seeds} seeds, {arguments.epochs} epochs, {seconds:.0f} s; written to {out}/")


if __name__ == "__main__":
    main()
