"""Small networks for tools/bench, whose poolings take a share of the time that can be seen: each with any pooling."""

from collections.abc import Callable

import torch
from bench_report import MAX
from torch import nn

import onnxpool.nn

_POOLINGS: dict[str, Callable[[int], nn.Module]] = {
    MAX: lambda _: nn.MaxPool2d(3, 2, 1),
    "SoftPool": lambda _: onnxpool.nn.SoftPool2d(3, 2, 1),
    "StochasticPool": lambda _: onnxpool.nn.StochasticPool2d(3, 2, 1),
    "LocalImportancePool": lambda _: onnxpool.nn.LocalImportancePool2d(nn.Identity(), 3, 2, 1),
}
"""3x3 with a stride of 2, for so many channels; the logits of local importance are the values: pooling alone counts."""


def resnet_stem(pooling: str) -> nn.Module:
    """The first layers of a ResNet (He et al., 2015)."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU(), _POOLINGS[pooling](64)).eval()


def mobilenet(pooling: str) -> nn.Module:
    """Depthwise separable convolutions (Howard et al., 2017), with four poolings in place of strides."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for channels in (16, 32, 64, 128):
        layers += [
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            _POOLINGS[pooling](2 * channels),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)).eval()


SMALL: dict[str, Callable[[str], nn.Module]] = {"ResNet stem": resnet_stem, "MobileNet-like": mobilenet}
"""The network of this name with the pooling of that name."""
