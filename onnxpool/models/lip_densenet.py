"""LIP-DenseNet: a densely connected network whose every downsampling but the first is a local importance pooling.

    x -> conv 7x7 s2, BN, ReLU, LIP -> denseblock1, transition1 ... denseblock4 -> BN, ReLU -> mean -> classifier
    dense layer  x -> [x, conv 3x3(ReLU(BN(conv 1x1(ReLU(BN(x))))))]: 128 channels inside, 32 more behind
    transition   BN, ReLU, conv 1x1 to half the channels, LIP

Sources: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017; Gao, Wang, Wu,
"LIP: Local importance-based pooling", ICCV 2019. The stem's pool has simplified logits, 3x3, stride 2, padding 1; the
transitions' have bottleneck logits of width 128, 2x2, stride 2. Parameter names are those of the authors' code,
github.com/sebgao/LIP (imagenet/lip_densenet.py), so that their checkpoints load. As there, and unlike in LIP-ResNet,
the logits' last convolutions start like all others.

>>> sum(parameter.numel() for parameter in lip_densenet121().parameters())
8690920
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxpool.models.layers import Chain, classifier, convolution
from onnxpool.pools._torch_ops import Module, torch
from onnxpool.pools.local_importance import BottleneckLogit2d, LocalImportancePool2d, SoftGate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["lip_densenet121"]

_GROWTH = 32
"""Channels that each dense layer adds."""

_INSIDE = 4 * _GROWTH
"""Channels inside a dense layer."""


def lip_densenet121(num_classes: int = 1000) -> "DenseNet":
    """121 layers, not counting the logits'."""
    return DenseNet((6, 12, 24, 16), num_classes)


class DenseNet(Module):
    """``(N, 3, H, W) -> (N, num_classes)``; ``depths`` are the numbers of layers of the dense blocks.

    Convolutions start as He et al. 2015, fan in. Raises :class:`ArgumentError` unless ``num_classes`` is a positive
    integer.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(self, depths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.features: Chain = _stem(64)
        channels = 64
        for i, depth in enumerate(depths):
            if i:
                self.features.add_module(f"transition{i}", _transition(channels))
                channels //= 2
            layers = {f"denselayer{j + 1}": DenseLayer(channels + j * _GROWTH) for j in range(depth)}
            self.features.add_module(f"denseblock{i + 1}", Chain(**layers))
            channels += depth * _GROWTH
        self.features.add_module(f"norm{len(depths) + 1}", torch.nn.BatchNorm2d(channels))
        self.classifier: torch.nn.Linear = classifier(channels, num_classes)
        for part in self.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(part.weight)
        torch.nn.init.zeros_(self.classifier.bias)

    def forward(self, x: "Tensor") -> "Tensor":
        """One score per class."""
        features = torch.relu(self.features(x))
        scores: Tensor = self.classifier(features.mean((2, 3)))
        return scores


class DenseLayer(Chain):
    """``(N, channels, H, W) -> (N, channels + 32, H, W)``: what came, and what it makes of that."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            norm1=torch.nn.BatchNorm2d(channels),
            relu1=torch.nn.ReLU(),
            conv1=convolution(channels, _INSIDE),
            norm2=torch.nn.BatchNorm2d(_INSIDE),
            relu2=torch.nn.ReLU(),
            conv2=convolution(_INSIDE, _GROWTH, 3),
        )

    def forward(self, *given: "Tensor") -> "Tensor":
        """``[x, f(x)]``."""
        return torch.cat([*given, super().forward(*given)], 1)


def _stem(channels: int) -> Chain:
    norm = torch.nn.InstanceNorm2d(channels, affine=True)
    logit = Chain(conv1=convolution(channels, channels, 3), bn1=norm, gate=SoftGate())
    return Chain(
        conv0=convolution(3, channels, 7, stride=2),
        norm0=torch.nn.BatchNorm2d(channels),
        relu0=torch.nn.ReLU(),
        pool0=LocalImportancePool2d(logit),
    )


def _transition(channels: int) -> Chain:
    return Chain(
        norm=torch.nn.BatchNorm2d(channels),
        relu=torch.nn.ReLU(),
        conv=convolution(channels, channels // 2),
        pool=LocalImportancePool2d(BottleneckLogit2d(channels // 2), 2, stride=2, padding=0),
    )
