"""SoftPool-ResNet: the residual networks of 18 to 152 layers with SoftPool in their stem.

    x -> conv 7x7 s2, BN, ReLU -> SoftPool 2x2 s2 -> layer1 ... layer4 -> mean -> fc

Source: Stergiou, Poppe, Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021, in the version of the
authors' code, github.com/alexandrosstergiou/SoftPool (main/models/resnet.py): there SoftPool replaces the stem's max
pooling of 3x3 alone. A pool has no parameters, so that checkpoints of theirs and of plain residual networks load.

>>> sum(parameter.numel() for parameter in softpool_resnet18().parameters())
11689512
"""

from collections.abc import Sequence

from onnxpool.models.resnet import Block, ResNet, basic_block, bottleneck
from onnxpool.pools.soft import SoftPool2d

__all__ = ["softpool_resnet18", "softpool_resnet34", "softpool_resnet50", "softpool_resnet101", "softpool_resnet152"]


def softpool_resnet18(num_classes: int = 1000) -> ResNet:
    """18 layers in basic blocks."""
    return _network((2, 2, 2, 2), basic_block, num_classes)


def softpool_resnet34(num_classes: int = 1000) -> ResNet:
    """34 layers in basic blocks."""
    return _network((3, 4, 6, 3), basic_block, num_classes)


def softpool_resnet50(num_classes: int = 1000) -> ResNet:
    """50 layers in bottlenecks."""
    return _network((3, 4, 6, 3), bottleneck, num_classes)


def softpool_resnet101(num_classes: int = 1000) -> ResNet:
    """101 layers in bottlenecks."""
    return _network((3, 4, 23, 3), bottleneck, num_classes)


def softpool_resnet152(num_classes: int = 1000) -> ResNet:
    """152 layers in bottlenecks."""
    return _network((3, 8, 36, 3), bottleneck, num_classes)


def _network(depths: Sequence[int], block: Block, num_classes: int) -> ResNet:
    return ResNet(depths, block, ("pool", SoftPool2d(2)), num_classes)
