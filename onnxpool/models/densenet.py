"""Densely connected networks: blocks in which each layer sees all layers before it; their pools are values.

    x -> conv 7x7 s2, BN, ReLU, pool -> denseblock1, transition1 ... denseblock4 -> BN, ReLU -> mean -> classifier
    dense layer  x -> [x, conv 3x3(ReLU(BN(conv 1x1(ReLU(BN(x))))))]: four times ``growth`` channels inside
    transition   BN, ReLU, conv 1x1 to half the channels, pool

Source: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017. Parameter names
are the usual ones, such as ``features.denseblock1.denselayer1.conv1.weight``.

>>> network = DenseNet((1, 1), 10, torch.nn.MaxPool2d(3, 2, 1), lambda _: torch.nn.AvgPool2d(2))
>>> network(torch.zeros(2, 3, 64, 64)).shape
torch.Size([2, 10])
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxpool.models.layers import Chain, classifier, convolution
from onnxpool.pools._torch_ops import Module, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DenseLayer", "DenseNet"]


class DenseNet(Module):
    """``(N, 3, H, W) -> (N, num_classes)``; ``depths`` are the numbers of layers of the dense blocks.

    ``stem_pool`` is the stem's, ``transition_pool`` makes that of a transition for so many channels. The stem gives
    ``channels``, each layer adds ``growth``. Convolutions start as He et al. 2015, fan in. Raises
    :class:`ArgumentError` unless ``num_classes`` is a positive integer.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int,
        stem_pool: "torch.nn.Module",
        transition_pool: "Callable[[int], torch.nn.Module]",
        *,
        channels: int = 64,
        growth: int = 32,
    ) -> None:
        super().__init__()
        self.features: Chain = Chain(
            conv0=convolution(3, channels, 7, stride=2),
            norm0=torch.nn.BatchNorm2d(channels),
            relu0=torch.nn.ReLU(),
            pool0=stem_pool,
        )
        for i, depth in enumerate(depths):
            if i:
                transition = Chain(
                    norm=torch.nn.BatchNorm2d(channels),
                    relu=torch.nn.ReLU(),
                    conv=convolution(channels, channels // 2),
                    pool=transition_pool(channels // 2),
                )
                self.features.add_module(f"transition{i}", transition)
                channels //= 2
            layers = {f"denselayer{j + 1}": DenseLayer(channels + j * growth, growth) for j in range(depth)}
            self.features.add_module(f"denseblock{i + 1}", Chain(**layers))
            channels += depth * growth
        self.features.add_module("norm5", torch.nn.BatchNorm2d(channels))
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
    """``(N, channels, H, W) -> (N, channels + growth, H, W)``: what came, and what it makes of that."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            norm1=torch.nn.BatchNorm2d(channels),
            relu1=torch.nn.ReLU(),
            conv1=convolution(channels, 4 * growth),
            norm2=torch.nn.BatchNorm2d(4 * growth),
            relu2=torch.nn.ReLU(),
            conv2=convolution(4 * growth, growth, 3),
        )

    def forward(self, *given: "Tensor") -> "Tensor":
        """``[x, f(x)]``."""
        return torch.cat([*given, super().forward(*given)], 1)
