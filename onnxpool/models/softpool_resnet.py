"""SoftPool-ResNet: residual networks of 18 to 152 layers, ResNeXt and Wide-ResNet too, with SoftPool in their stem.

    x -> conv 7x7 s2, BN, ReLU -> SoftPool 2x2 s2 -> layer1 ... layer4 -> mean -> fc

Sources: Stergiou, Poppe, Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021, in the version of
the authors' code, github.com/alexandrosstergiou/SoftPool (main/models/resnet.py): there SoftPool replaces the stem's
max pooling of 3x3 alone; Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017;
Zagoruyko, Komodakis, "Wide residual networks", BMVC 2016. A pool has no parameters, so that checkpoints of theirs and
of plain residual networks load. Their published weights want ``shifted=True`` (:mod:`onnxpool.models.softpool`).

>>> sum(parameter.numel() for parameter in softpool_resnet18().parameters())
11689512
"""

from collections.abc import Sequence
from functools import partial

from onnxpool.models.resnet import Block, ResNet, basic_block, bottleneck
from onnxpool.models.softpool import soft_pool2d

__all__ = [
    "softpool_resnet18",
    "softpool_resnet34",
    "softpool_resnet50",
    "softpool_resnet101",
    "softpool_resnet152",
    "softpool_resnext50_32x4d",
    "softpool_resnext101_32x4d",
    "softpool_wide_resnet50_2",
]

_RESNEXT = partial(bottleneck, groups=32, group_width=4)
_WIDE = partial(bottleneck, group_width=128)


def softpool_resnet18(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """18 layers in basic blocks."""
    return _network((2, 2, 2, 2), basic_block, num_classes, shifted)


def softpool_resnet34(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """34 layers in basic blocks."""
    return _network((3, 4, 6, 3), basic_block, num_classes, shifted)


def softpool_resnet50(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """50 layers in bottlenecks."""
    return _network((3, 4, 6, 3), bottleneck, num_classes, shifted)


def softpool_resnet101(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """101 layers in bottlenecks."""
    return _network((3, 4, 23, 3), bottleneck, num_classes, shifted)


def softpool_resnet152(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """152 layers in bottlenecks."""
    return _network((3, 8, 36, 3), bottleneck, num_classes, shifted)


def softpool_resnext50_32x4d(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """50 layers in bottlenecks with 32 groups."""
    return _network((3, 4, 6, 3), _RESNEXT, num_classes, shifted)


def softpool_resnext101_32x4d(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """101 layers in bottlenecks with 32 groups."""
    return _network((3, 4, 23, 3), _RESNEXT, num_classes, shifted)


def softpool_wide_resnet50_2(num_classes: int = 1000, *, shifted: bool = False) -> ResNet:
    """50 layers in bottlenecks that are twice as wide inside."""
    return _network((3, 4, 6, 3), _WIDE, num_classes, shifted)


def _network(depths: Sequence[int], block: Block, num_classes: int, shifted: bool) -> ResNet:
    return ResNet(depths, block, ("pool", soft_pool2d(2, 2, shifted=shifted)), num_classes)
