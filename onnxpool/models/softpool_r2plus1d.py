"""SoftPool-R(2+1)D: video networks whose 3x3x3 convolutions are 1x3x3 and 3x1x1, with SoftPool3d in the stem.

    x -> conv 1x7x7 s2, BN, ReLU, conv 3x1x1, BN, ReLU -> SoftPool 2x2x2 s2 -> layer1 ... layer4 -> mean -> fc

Sources: Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018; Stergiou, Poppe,
Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021; the networks are those of its first author's
video code, github.com/alexandrosstergiou/Squeeze-and-Recursion-Temporal-Gates (network/srtg_resnet.py), by whose names
its checkpoints without gates load. Bottlenecks do not widen there. ``x`` is ``(N, 3, frames, H, W)``.

>>> sum(parameter.numel() for parameter in softpool_r2plus1d_18().parameters())
31505325
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from onnxpool.models.layers import Network, classifier
from onnxpool.models.softpool import soft_pool3d
from onnxpool.pools._torch_ops import Module, Sequential, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["softpool_r2plus1d_18", "softpool_r2plus1d_34", "softpool_r2plus1d_50", "softpool_r2plus1d_101"]


def softpool_r2plus1d_18(num_classes: int = 400, *, shifted: bool = False) -> Network:
    """18 layers in basic blocks."""
    return _network((2, 2, 2, 2), _basic, num_classes, shifted)


def softpool_r2plus1d_34(num_classes: int = 400, *, shifted: bool = False) -> Network:
    """34 layers in basic blocks."""
    return _network((3, 4, 6, 3), _basic, num_classes, shifted)


def softpool_r2plus1d_50(num_classes: int = 400, *, shifted: bool = False) -> Network:
    """50 layers in bottlenecks."""
    return _network((3, 4, 6, 3), _bottleneck, num_classes, shifted)


def softpool_r2plus1d_101(num_classes: int = 400, *, shifted: bool = False) -> Network:
    """101 layers in bottlenecks."""
    return _network((3, 4, 23, 3), _bottleneck, num_classes, shifted)


class Residual(Module):
    """``ReLU(f(x) + downsample(x))``: ``convs`` are the layers of f, named conv1, conv2 ..."""

    def __init__(self, convs: "Sequence[torch.nn.Module]", downsample: "torch.nn.Module") -> None:
        super().__init__()
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"conv{i}", conv)
        self.count: int = len(convs)
        self.downsample: torch.nn.Module = downsample

    def forward(self, x: "Tensor") -> "Tensor":
        """``(N, channels, D, H, W) -> (N, width, ...)``."""
        y = x
        for i in range(self.count):
            y = getattr(self, f"conv{i + 1}")(y)
        return torch.relu(y + self.downsample(x))


_Block: TypeAlias = Callable[[int, int, int], Residual]


def _conv(channels: int, outputs: int, size: tuple[int, int, int], stride: tuple[int, int, int]) -> "torch.nn.Conv3d":
    padding = [n // 2 for n in size]
    return torch.nn.Conv3d(channels, outputs, size, stride, (padding[0], padding[1], padding[2]), bias=False)


def _factored(channels: int, inside: int, outputs: int, stride: int) -> Sequential:
    """A convolution in space, then one in time."""
    return Sequential(
        _conv(channels, inside, (1, 3, 3), (1, stride, stride)),
        torch.nn.BatchNorm3d(inside),
        torch.nn.ReLU(),
        _conv(inside, outputs, (3, 1, 1), (stride, 1, 1)),
    )


def _inside(channels: int, width: int) -> int:
    """So many channels between the two that they have the parameters of a 3x3x3 convolution."""
    return channels * width * 27 // (channels * 9 + 3 * width)


def _normed(conv: "torch.nn.Module", width: int, *, relu: bool = True) -> Sequential:
    return Sequential(conv, torch.nn.BatchNorm3d(width), *([torch.nn.ReLU()] if relu else []))


def _shortcut(channels: int, width: int, stride: int) -> "torch.nn.Module":
    if stride == 1 and channels == width:
        return torch.nn.Identity()
    return _normed(_conv(channels, width, (1, 1, 1), (stride, stride, stride)), width, relu=False)


def _basic(channels: int, width: int, stride: int) -> Residual:
    inside = _inside(channels, width)
    convs = (
        _normed(_factored(channels, inside, width, stride), width),
        _normed(_factored(width, inside, width, 1), width, relu=False),
    )
    return Residual(convs, _shortcut(channels, width, stride))


def _bottleneck(channels: int, width: int, stride: int) -> Residual:
    one = (1, 1, 1)
    convs = (
        _normed(_conv(channels, width, one, one), width),
        _normed(_factored(width, _inside(channels, width), width, stride), width),
        _normed(_conv(width, width, one, one), width, relu=False),
    )
    return Residual(convs, _shortcut(channels, width, stride))


def _network(depths: Sequence[int], block: _Block, num_classes: int, shifted: bool) -> Network:
    stem = Sequential(
        _conv(3, 45, (1, 7, 7), (1, 2, 2)),
        torch.nn.BatchNorm3d(45),
        torch.nn.ReLU(),
        _conv(45, 64, (3, 1, 1), (1, 1, 1)),
        torch.nn.BatchNorm3d(64),
        torch.nn.ReLU(),
    )
    layers: dict[str, torch.nn.Module] = {}
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        blocks = [block(width if place else channels, width, 1 if place or not stage else 2) for place in range(depth)]
        layers[f"layer{stage + 1}"] = Sequential(*blocks)
        channels = width
    network = Network(
        stem=stem,
        pool=soft_pool3d(2, 2, shifted=shifted),
        **layers,
        avgpool=torch.nn.AdaptiveAvgPool3d(1),
        flatten=torch.nn.Flatten(),
        fc=classifier(channels, num_classes),
    )
    for part in network.modules():
        if isinstance(part, torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight, std=0.01)
            torch.nn.init.zeros_(part.bias)
    return network
