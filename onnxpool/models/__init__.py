"""Ready networks built on the pools here, under the parameter names of their authors: checkpoints of theirs load.

    network = onnxpool.models.lip_resnet50()
    onnxpool.models.load_checkpoint(network, "lip_resnet-50.pth")

Every function takes ``num_classes`` and gives an untrained network, ``(N, 3, H, W) -> (N, num_classes)``. They are
made for images of 224x224 that are normalised by ImageNet's mean (0.485, 0.456, 0.406) and standard deviation (0.229,
0.224, 0.225). LIP networks normalise maps by their own statistics, in evaluation too, and PyTorch refuses that for a
map of one cell: LIP-ResNets need more than 16 rows or columns, LIP-DenseNet 29 of both.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxpool.models.checkpoint import load_checkpoint
from onnxpool.models.lip_densenet import lip_densenet121
from onnxpool.models.lip_resnet import lip_resnet50, lip_resnet101, lip_resnet152
from onnxpool.models.softpool_resnet import (
    softpool_resnet18,
    softpool_resnet34,
    softpool_resnet50,
    softpool_resnet101,
    softpool_resnet152,
)

if TYPE_CHECKING:
    from onnxpool.models.lip_densenet import DenseNet
    from onnxpool.models.resnet import ResNet

NETWORKS: "dict[str, Callable[..., DenseNet | ResNet]]" = {
    make.__name__: make
    for make in (
        lip_resnet50,
        lip_resnet101,
        lip_resnet152,
        lip_densenet121,
        softpool_resnet18,
        softpool_resnet34,
        softpool_resnet50,
        softpool_resnet101,
        softpool_resnet152,
    )
}
"""Every network's function by its name."""

__all__ = [
    "NETWORKS",
    "lip_densenet121",
    "lip_resnet50",
    "lip_resnet101",
    "lip_resnet152",
    "load_checkpoint",
    "softpool_resnet18",
    "softpool_resnet34",
    "softpool_resnet50",
    "softpool_resnet101",
    "softpool_resnet152",
]
