"""Ready networks built on the pools here, under the parameter names of their authors: checkpoints of theirs load.

    network = onnxpool.models.lip_resnet50()
    onnxpool.models.load_checkpoint(network, "lip_resnet-50.pth")

Every function takes ``num_classes`` and gives an untrained network, ``(N, 3, H, W) -> (N, num_classes)``. They are
made for images of 224x224 that are normalised by ImageNet's mean (0.485, 0.456, 0.406) and standard deviation (0.229,
0.224, 0.225), but Inception for 299x299, ``dpp_resnet110``, ``nin_cifar10`` and ``zeiler_cifar10`` for 32x32, and
R(2+1)D for videos, ``(N, 3, frames, H, W)``. The published weights of SoftPool networks want ``shifted=True``
(:mod:`onnxpool.models.softpool`). LIP networks normalise maps by their own statistics, in evaluation too, and PyTorch
refuses that for a map of one cell: LIP-ResNets need more than 16 rows or columns, LIP-DenseNet 29 of both.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxpool.models.checkpoint import load_checkpoint
from onnxpool.models.dpp_resnet import dpp_resnet50, dpp_resnet101, dpp_resnet110
from onnxpool.models.lip_densenet import lip_densenet121
from onnxpool.models.lip_resnet import lip_resnet18, lip_resnet34, lip_resnet50, lip_resnet101, lip_resnet152
from onnxpool.models.nin import nin_cifar10
from onnxpool.models.softpool_densenet import softpool_densenet121, softpool_densenet161, softpool_densenet169
from onnxpool.models.softpool_inception import softpool_inception_v3
from onnxpool.models.softpool_r2plus1d import (
    softpool_r2plus1d_18,
    softpool_r2plus1d_34,
    softpool_r2plus1d_50,
    softpool_r2plus1d_101,
)
from onnxpool.models.softpool_resnet import (
    softpool_resnet18,
    softpool_resnet34,
    softpool_resnet50,
    softpool_resnet101,
    softpool_resnet152,
    softpool_resnext50_32x4d,
    softpool_resnext101_32x4d,
    softpool_wide_resnet50_2,
)
from onnxpool.models.zeiler import zeiler_cifar10

if TYPE_CHECKING:
    from torch.nn import Module

NETWORKS: "dict[str, Callable[..., Module]]" = {
    make.__name__: make
    for make in (
        dpp_resnet50,
        dpp_resnet101,
        dpp_resnet110,
        lip_resnet18,
        lip_resnet34,
        lip_resnet50,
        lip_resnet101,
        lip_resnet152,
        lip_densenet121,
        nin_cifar10,
        softpool_densenet121,
        softpool_densenet161,
        softpool_densenet169,
        softpool_inception_v3,
        softpool_r2plus1d_18,
        softpool_r2plus1d_34,
        softpool_r2plus1d_50,
        softpool_r2plus1d_101,
        softpool_resnet18,
        softpool_resnet34,
        softpool_resnet50,
        softpool_resnet101,
        softpool_resnet152,
        softpool_resnext50_32x4d,
        softpool_resnext101_32x4d,
        softpool_wide_resnet50_2,
        zeiler_cifar10,
    )
}
"""Every network's function by its name."""

__all__ = [
    "NETWORKS",
    "dpp_resnet50",
    "dpp_resnet101",
    "dpp_resnet110",
    "lip_densenet121",
    "lip_resnet18",
    "lip_resnet34",
    "lip_resnet50",
    "lip_resnet101",
    "lip_resnet152",
    "load_checkpoint",
    "nin_cifar10",
    "softpool_densenet121",
    "softpool_densenet161",
    "softpool_densenet169",
    "softpool_inception_v3",
    "softpool_r2plus1d_18",
    "softpool_r2plus1d_34",
    "softpool_r2plus1d_50",
    "softpool_r2plus1d_101",
    "softpool_resnet18",
    "softpool_resnet34",
    "softpool_resnet50",
    "softpool_resnet101",
    "softpool_resnet152",
    "softpool_resnext50_32x4d",
    "softpool_resnext101_32x4d",
    "softpool_wide_resnet50_2",
    "zeiler_cifar10",
]
