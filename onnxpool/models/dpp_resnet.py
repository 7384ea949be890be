"""DPP-ResNet: residual networks without strides; detail-preserving pooling follows the first block of a layer.

    CIFAR     conv 3x3, BN, ReLU -> layer1 -> layer2, layer3 -> mean -> fc; shortcuts pad channels with zeros
    ImageNet  conv 7x7 s2, BN, ReLU, max pool 3x3 s2 -> layer1 -> layer2, layer3, layer4 -> mean -> fc
    layer2 and later: block 0, DPP 2x2 s2, block 1, block 2 ...

Source: Saeedan, Weber, Goesele, Roth, "Detail-preserving pooling in deep networks", CVPR 2018, with the authors' code,
github.com/visinf/dpp (models/resnetdpp.lua): rewards are relative to their mean over the window, and parameters start
within 1 / sqrt(C) of 0. That code is for Torch 7, whose files have no names of parameters, and no weights of it are
published: names are those of plain residual networks, and ``layer2.pool.a``, ``layer2.pool.l``. Where it asks for
``AverageDownSample`` in bottlenecks, which it does not define, stands the pool of its basic blocks.

>>> sum(parameter.numel() for parameter in dpp_resnet110().parameters())
1728154
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxpool.models.layers import Chain, Network, classifier, convolution
from onnxpool.models.resnet import BasicBlock, bottleneck
from onnxpool.pools._torch_ops import Module, torch
from onnxpool.pools.detail_preserving import DetailPreservingPool2d, Guide, Reward

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["dpp_resnet50", "dpp_resnet101", "dpp_resnet110"]


def dpp_resnet50(num_classes: int = 1000, *, guide: Guide = "lite", reward: Reward = "symmetric") -> Network:
    """50 layers in bottlenecks; ``guide`` and ``reward`` as of :class:`DetailPreservingPool2d`."""
    return _imagenet((3, 4, 6, 3), num_classes, guide, reward)


def dpp_resnet101(num_classes: int = 1000, *, guide: Guide = "lite", reward: Reward = "symmetric") -> Network:
    """101 layers in bottlenecks; ``guide`` and ``reward`` as of :class:`DetailPreservingPool2d`."""
    return _imagenet((3, 4, 23, 3), num_classes, guide, reward)


def dpp_resnet110(num_classes: int = 10, *, guide: Guide = "lite", reward: Reward = "symmetric") -> Network:
    """110 layers in basic blocks, for images of 32x32; arguments as of the others."""
    stem: dict[str, torch.nn.Module] = {
        "conv1": convolution(3, 16, 3),
        "bn1": torch.nn.BatchNorm2d(16),
        "relu": torch.nn.ReLU(),
    }
    return _network(stem, 16, (18, 18, 18), _basic, num_classes, guide, reward)


def _imagenet(depths: Sequence[int], num_classes: int, guide: Guide, reward: Reward) -> Network:
    stem: dict[str, torch.nn.Module] = {
        "conv1": convolution(3, 64, 7, stride=2),
        "bn1": torch.nn.BatchNorm2d(64),
        "relu": torch.nn.ReLU(),
        "maxpool": torch.nn.MaxPool2d(3, 2, 1),
    }
    return _network(
        stem, 64, depths, lambda channels, width: bottleneck(channels, width, 1), num_classes, guide, reward
    )


class _MoreChannels(Module):
    """As many channels as asked for: those that came, and zeros."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more: int = more

    def forward(self, x: "Tensor") -> "Tensor":
        """``(N, C, H, W) -> (N, C + more, H, W)``."""
        return torch.nn.functional.pad(x, (0, 0, 0, 0, 0, self.more))


def _basic(channels: int, width: int) -> BasicBlock:
    shortcut = torch.nn.Identity() if channels == width else _MoreChannels(width - channels)
    return BasicBlock(channels, width, 1, shortcut)


def _network(
    stem: "dict[str, torch.nn.Module]",
    channels: int,
    depths: Sequence[int],
    block: "Callable[[int, int], BasicBlock | torch.nn.Module]",
    num_classes: int,
    guide: Guide,
    reward: Reward,
) -> Network:
    width = channels
    for stage, depth in enumerate(depths):
        blocks: dict[str, torch.nn.Module] = {}
        for place in range(depth):
            made = block(channels, width << stage)
            blocks[str(place)], channels = made, int(made.outputs)  # type: ignore[arg-type]
            if stage and not place:
                pool = DetailPreservingPool2d(channels, 2, guide, reward, normalize="mean", init="uniform")
                blocks["pool"] = pool
        stem[f"layer{stage + 1}"] = Chain(**blocks)
    network = Network(
        **stem,
        avgpool=torch.nn.AdaptiveAvgPool2d(1),
        flatten=torch.nn.Flatten(),
        fc=classifier(channels, num_classes),
    )
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    torch.nn.init.zeros_(network.get_submodule("fc").bias)  # type: ignore[arg-type]
    return network
