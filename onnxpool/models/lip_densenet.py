"""LIP-DenseNet: a densely connected network whose every downsampling but the first is a local importance pooling.

    x -> conv 7x7 s2, BN, ReLU, LIP -> denseblock1, transition1 ... denseblock4 -> BN, ReLU -> mean -> classifier
    transition   BN, ReLU, conv 1x1 to half the channels, LIP

Sources: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017; Gao, Wang, Wu,
"LIP: Local importance-based pooling", ICCV 2019. The stem's pool has simplified logits, 3x3, stride 2, padding 1; the
transitions' have bottleneck logits of width 128, 2x2, stride 2. Parameter names are those of the authors' code,
github.com/sebgao/LIP (imagenet/lip_densenet.py), so that their checkpoints load. As there, and unlike in LIP-ResNet,
the logits' last convolutions start like all others.

>>> sum(parameter.numel() for parameter in lip_densenet121().parameters())
8690920
"""

from onnxpool.models.densenet import DenseNet
from onnxpool.models.layers import Chain, convolution
from onnxpool.pools._torch_ops import torch
from onnxpool.pools.local_importance import BottleneckLogit2d, LocalImportancePool2d, SoftGate

__all__ = ["lip_densenet121"]


def lip_densenet121(num_classes: int = 1000) -> DenseNet:
    """121 layers, not counting the logits'."""
    return DenseNet((6, 12, 24, 16), num_classes, _stem_pool(64), _transition_pool)


def _stem_pool(channels: int) -> LocalImportancePool2d:
    norm = torch.nn.InstanceNorm2d(channels, affine=True)
    return LocalImportancePool2d(Chain(conv1=convolution(channels, channels, 3), bn1=norm, gate=SoftGate()))


def _transition_pool(channels: int) -> LocalImportancePool2d:
    return LocalImportancePool2d(BottleneckLogit2d(channels), 2, stride=2, padding=0)
