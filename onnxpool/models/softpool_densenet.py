"""SoftPool-DenseNet: densely connected networks with SoftPool in the stem; their transitions pool the mean.

    x -> conv 7x7 s2, BN, ReLU -> SoftPool 2x2 s2 -> denseblock1, transition1 ... denseblock4 -> BN, ReLU -> mean -> fc

Source: Stergiou, Poppe, Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021, in the version of the
authors' code, github.com/alexandrosstergiou/SoftPool (main/models/densent.py). Checkpoints of theirs and of plain
DenseNets load. Their published weights want ``shifted=True`` (:mod:`onnxpool.models.softpool`).

>>> sum(parameter.numel() for parameter in softpool_densenet121().parameters())
7978856
"""

from collections.abc import Sequence

from onnxpool.models.densenet import DenseNet
from onnxpool.models.softpool import soft_pool2d
from onnxpool.pools._torch_ops import torch

__all__ = ["softpool_densenet121", "softpool_densenet161", "softpool_densenet169"]


def softpool_densenet121(num_classes: int = 1000, *, shifted: bool = False) -> DenseNet:
    """121 layers."""
    return _network((6, 12, 24, 16), num_classes, shifted)


def softpool_densenet161(num_classes: int = 1000, *, shifted: bool = False) -> DenseNet:
    """161 layers, which add 48 channels each."""
    return _network((6, 12, 36, 24), num_classes, shifted, channels=96, growth=48)


def softpool_densenet169(num_classes: int = 1000, *, shifted: bool = False) -> DenseNet:
    """169 layers."""
    return _network((6, 12, 32, 32), num_classes, shifted)


def _network(
    depths: Sequence[int], num_classes: int, shifted: bool, *, channels: int = 64, growth: int = 32
) -> DenseNet:
    stem_pool = soft_pool2d(2, 2, shifted=shifted)
    return DenseNet(depths, num_classes, stem_pool, lambda _: torch.nn.AvgPool2d(2), channels=channels, growth=growth)
