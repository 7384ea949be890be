"""Small networks for tools/mutants: those that mutants are made of, and further ones that are merely right.

Each is a PyTorch module, the arguments that it is exported with, and which of their axes may change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from onnxpool import nn as pools

IMAGE = {0: "batch", 2: "height", 3: "width"}
ROWS = {0: "batch"}


@dataclass(frozen=True)
class Network:
    """One network: ``seed`` draws its weights."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    dynamic: tuple[Any, ...]


class Of(nn.Module):
    """A module of a function, and the layers that it takes after its input."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function

    def forward(self, x: Tensor) -> Any:
        """The function of ``x`` and the layers."""
        return self.function(x, *self.layers)


class Recurrent(nn.Module):
    """LSTM or GRU, and a linear layer."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recurrent, self.last = kind(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 6) -> (N, T, 3)."""
        return self.last(self.recurrent(x)[0])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One head, with a mask of -1e9 and the scores as a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, 6) -> (N, T, 8), (N, T, T)."""
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 8**0.5
        masked = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -1e9)
        return masked.softmax(-1) @ self.v(x), masked


def conv(a: int, b: int, k: int = 3, **told: Any) -> nn.Conv2d:
    """Of the same size."""
    return nn.Conv2d(a, b, k, padding=k // 2, **told)


def detector() -> nn.Sequential:
    """A head whose prior says that nothing is there."""
    head = conv(8, 4)
    nn.init.constant_(head.bias, -4.6)  # type: ignore[arg-type]
    nn.init.normal_(head.weight, std=0.05)
    return nn.Sequential(conv(3, 8), nn.ReLU(), head, nn.Sigmoid())


def trained(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """With statistics, as after training."""
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    return norm


def _standardised(x: Tensor, a: nn.Module) -> Any:
    return a((x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-3))


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 4)),
    "planted constant": lambda: Of(lambda x, a: a(x).masked_fill(x[:, :1] > 1, -1e9), conv(3, 4)),
    "planted lowest": lambda: Of(lambda x, a: a(x).masked_fill(x[:, :1] > 1, torch.finfo(x.dtype).min), conv(3, 4)),
    "batch norm": lambda: nn.Sequential(conv(3, 8), trained(nn.BatchNorm2d(8)), nn.SiLU(), nn.AvgPool2d(2), conv(8, 4)),
    "instance norm": lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8), nn.ReLU(), conv(8, 4)),
    "group norm": lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.GELU(), conv(8, 4)),
    "standardised": lambda: Of(_standardised, conv(3, 4)),
    "standard deviation": lambda: Of(lambda x, a: a(x).std((2, 3)), conv(3, 4)),
    "detector": detector,
    "argmax": lambda: Of(lambda x, a: a(x).argmax(1), conv(3, 8)),
    "best five": lambda: Of(lambda x, a: a(x).flatten(1).topk(5), conv(3, 4)),
    "bytes": lambda: Of(lambda x, a: (a(x).sigmoid() * 255).round().to(torch.uint8), conv(3, 4)),
    "max with indices": lambda: Of(lambda x, a: F.max_pool2d(a(x).relu(), 2, return_indices=True), conv(3, 4)),
    "soft pool": lambda: nn.Sequential(conv(3, 4), pools.SoftPool2d(3, 2, 1), nn.Tanh(), conv(4, 4)),
    "local importance": lambda: nn.Sequential(
        conv(3, 4), nn.ReLU(), pools.LocalImportancePool2d(nn.Conv2d(4, 4, 1)), conv(4, 3)
    ),
    "gem": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), pools.GeM(), nn.Flatten(), nn.Linear(8, 5)),
    "log-sum-exp": lambda: nn.Sequential(conv(3, 4), pools.LogSumExpPool2d(2), conv(4, 4)),
    "mobile": lambda: nn.Sequential(conv(3, 6, groups=3), nn.Hardswish(), nn.Conv2d(6, 4, 1, stride=2), nn.ReLU6()),
    "up": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.LeakyReLU(0.1), conv(4, 2)),
    "classes": lambda: nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.Softmax(1)
    ),
    "two outputs": lambda: Of(lambda x, a, b: (a(x), b(x).mean((2, 3))), conv(3, 4), conv(3, 4)),
    "unlike channels": lambda: Of(lambda x, a: a(x) * torch.tensor([1e-3, 1.0, 1e2, 1e4])[:, None, None], conv(3, 4)),
    "squeezed": lambda: Of(
        lambda x, a, b: (y := a(x)) * b(y.mean((2, 3), keepdim=True)).sigmoid(), conv(3, 4), conv(4, 4, 1)
    ),
    "normalised": lambda: Of(lambda x, a: F.normalize(a(x).mean((2, 3)), dim=1), conv(3, 8)),
}
"""Of images (2, 3, 16, 16), by name."""

TOKENS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "transformer": lambda: nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "einsum": lambda: Of(lambda x, a: torch.einsum("bti,bsi->bts", a(x), x), nn.Linear(6, 6)),
}
"""Of sequences (2, 5, 6), by name."""

ZOO = (*IMAGES, *TOKENS)

MORE: dict[str, Callable[[], nn.Module]] = {
    "softplus": lambda: nn.Sequential(conv(3, 4), nn.Softplus(), conv(4, 2)),
    "elu": lambda: nn.Sequential(conv(3, 4), nn.ELU(), conv(4, 2)),
    "mish": lambda: nn.Sequential(conv(3, 4), nn.Mish(), conv(4, 2)),
    "hard sigmoid": lambda: nn.Sequential(conv(3, 4), nn.Hardsigmoid(), conv(4, 2)),
    "log-softmax": lambda: nn.Sequential(conv(3, 5), nn.LogSoftmax(1)),
    "argmin": lambda: Of(lambda x, a: a(x).flatten(1).argmin(1), conv(3, 4)),
    "sorted": lambda: Of(lambda x, a: a(x).mean(3).sort(-1), conv(3, 4)),
    "floor": lambda: Of(lambda x, a: (a(x) * 8).floor(), conv(3, 4)),
    "mask": lambda: Of(lambda x, a: a(x) > 0.1, conv(3, 4)),
    "variance": lambda: Of(lambda x, a: a(x).var((2, 3)), conv(3, 4)),
    "distances": lambda: Of(lambda x, a: (a(x).square().sum(1) + 1e-6).sqrt(), conv(3, 4)),
    "softmax over space": lambda: Of(lambda x, a: (a(x) * 20).flatten(2).softmax(-1), conv(3, 4)),
    "sine": lambda: Of(lambda x, a: a(x).sin(), conv(3, 4)),
    "logarithm": lambda: Of(lambda x, a: a(x).abs().add(1e-3).log(), conv(3, 4)),
    "reciprocal": lambda: Of(lambda x, a: 1 / (a(x).square() + 0.1), conv(3, 4)),
    "padded": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)),
    "pixel shuffle": lambda: nn.Sequential(conv(3, 8), nn.PixelShuffle(2)),
    "prelu": lambda: nn.Sequential(conv(3, 4), nn.PReLU(4), conv(4, 2)),
    "local response": lambda: nn.Sequential(conv(3, 8), nn.LocalResponseNorm(3), conv(8, 2)),
    "channel shuffle": lambda: nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), conv(8, 2, groups=2)),
}
"""Right networks of which no mutants are made, of images."""


def _image() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (torch.randn(2, 3, 16, 16),), (IMAGE,)


def _half() -> Network:
    module = nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 4), nn.Tanh()).half().eval()
    return Network("half", module, (torch.randn(2, 3, 16, 16).half(),), (IMAGE,))


PLANTED: dict[str, Callable[[], Network]] = {
    "branches": lambda: Network("branches", nn.Sequential(conv(3, 4), nn.Tanh(), conv(4, 4)).eval(), *_image()),
    "loop": lambda: Network("loop", nn.Sequential(conv(3, 4), nn.Tanh(), conv(4, 4)).eval(), *_image()),
    "half": _half,
}
"""For planted faults alone, by name."""


def make(name: str, seed: int = 0, scale: float = 1.0) -> Network:
    """The network of that name; ``scale`` multiplies the example, but for :data:`PLANTED`."""
    torch.manual_seed(seed)
    if name in PLANTED:
        return PLANTED[name]()
    if name in TOKENS:
        return Network(name, TOKENS[name]().eval(), (scale * torch.randn(2, 5, 6),), (ROWS,))
    return Network(name, {**IMAGES, **MORE}[name]().eval(), (scale * torch.randn(2, 3, 16, 16),), (IMAGE,))


def right(seeds: int = 3) -> Iterator[Network]:
    """Every network, those that mutants are made of with several seeds."""
    for name in ZOO:
        yield from (make(name, seed) for seed in range(seeds))
    for name in MORE:
        yield from (make(name, seed) for seed in range(max(1, seeds - 1)))
