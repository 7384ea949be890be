"""LIP-ResNet: residual networks whose every downsampling but the first is a local importance pooling (seven pools).

    stem      conv 7x7 s2, BN, ReLU, LIP with simplified logits in place of max pooling
    layer2-4  first block: s = ReLU(IN(conv 3x3(ReLU(IN(conv 1x1(x)))))), 128 channels, and from this two pools' logits
              main      conv 1x1, BN, ReLU, LIP with logits head(s), conv 1x1, BN, ReLU, conv 1x1, BN
              shortcut  LIP with logits head'(s), conv 1x1, BN                           head: conv 1x1, IN, soft gate

LIP-ResNet-18 and 34 are of basic blocks, which the paper does not have and the authors' code leaves out: the first
block of a layer pools where its second convolution begins, and in its shortcut; logits share features as above.

Source: Gao, Wang, Wu, "LIP: Local importance-based pooling", ICCV 2019. Parameter names are those of the authors' code,
github.com/sebgao/LIP (imagenet/lip_resnet.py), so that their checkpoints load. Windows are 3x3, stride 2, padding 1;
each pool starts as average pooling, each residual block as its shortcut.

>>> sum(parameter.numel() for parameter in lip_resnet50().parameters())
23864232
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxpool.models.layers import Chain, convolution
from onnxpool.models.resnet import BasicBlock, Block, Bottleneck, ResNet, basic_block, bottleneck
from onnxpool.pools._torch_ops import Module, torch
from onnxpool.pools.local_importance import LocalImportancePool2d, SimplifiedLogit2d, SoftGate, local_importance_pool
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["lip_resnet18", "lip_resnet34", "lip_resnet50", "lip_resnet101", "lip_resnet152"]

_WINDOW = Window.of(2, 3, stride=2, padding=1)

_SHARED = 128
"""Channels of the features that two pools of a block make their logits of."""

_ZERO = ("maxpool.logit.conv.weight", "postprocessing.conv.weight", "bn3.weight")
"""Parameters that start at 0: the last convolution of all logits, and the scale of all residual branches."""

_ZERO_BASIC = (*_ZERO[:2], "bn2.weight")
"""The same where blocks have two convolutions."""


def lip_resnet18(num_classes: int = 1000) -> ResNet:
    """18 layers in basic blocks, not counting the logits'."""
    return _network((2, 2, 2, 2), num_classes, _basic, _ZERO_BASIC)


def lip_resnet34(num_classes: int = 1000) -> ResNet:
    """34 layers in basic blocks, not counting the logits'."""
    return _network((3, 4, 6, 3), num_classes, _basic, _ZERO_BASIC)


def lip_resnet50(num_classes: int = 1000) -> ResNet:
    """50 layers, not counting the logits'."""
    return _network((3, 4, 6, 3), num_classes, _block, _ZERO)


def lip_resnet101(num_classes: int = 1000) -> ResNet:
    """101 layers, not counting the logits'."""
    return _network((3, 4, 23, 3), num_classes, _block, _ZERO)


def lip_resnet152(num_classes: int = 1000) -> ResNet:
    """152 layers, not counting the logits'."""
    return _network((3, 8, 36, 3), num_classes, _block, _ZERO)


class SharedImportancePool(Module):
    """LIP, 3x3 windows with stride 2, with logits that ``postprocessing`` makes of features that several pools share.

    ``x (N, channels, H, W), shared (N, features, H, W) -> (N, channels, ceil(H / 2), ceil(W / 2))``.
    """

    def __init__(self, postprocessing: Module) -> None:
        super().__init__()
        self.postprocessing: Module = postprocessing
        self.window: Window = _WINDOW

    def forward(self, x: "Tensor", shared: "Tensor") -> "Tensor":
        """``sum x_i exp(l_i) / sum exp(l_i)`` over each window, with ``l`` made of ``shared``."""
        return local_importance_pool(self.window, x, self.postprocessing(shared))

    def forward_with_shared(self, x: "Tensor", shared: "Tensor") -> "Tensor":
        """The same, as the official blocks call it."""
        return self.forward(x, shared)

    def extra_repr(self) -> str:
        """The window."""
        return str(self.window)


def _shared_pool(channels: int) -> SharedImportancePool:
    norm = torch.nn.InstanceNorm2d(channels, affine=True)
    return SharedImportancePool(Chain(conv=convolution(_SHARED, channels), bn=norm, gate=SoftGate()))


def _shared_features(channels: int) -> Chain:
    return Chain(
        logit=Chain(
            conv1=convolution(channels, _SHARED),
            bn1=torch.nn.InstanceNorm2d(_SHARED, affine=True),
            relu1=torch.nn.ReLU(),
            conv2=convolution(_SHARED, _SHARED, 3),
            bn2=torch.nn.InstanceNorm2d(_SHARED, affine=True),
            relu2=torch.nn.ReLU(),
        )
    )


class DownsamplingBottleneck(Bottleneck):
    """A bottleneck with pools for its strides: ``(N, channels, H, W) -> (N, 4 width, ceil(H / 2), ceil(W / 2))``."""

    def __init__(self, channels: int, width: int) -> None:
        norm = torch.nn.BatchNorm2d(4 * width)
        super().__init__(
            channels,
            width,
            conv2=Chain(**{"0": _shared_pool(width), "1": convolution(width, width)}),
            downsample=Chain(lip=_shared_pool(channels), conv=convolution(channels, 4 * width), bn=norm),
        )
        self.bottleneck_shared: Chain = _shared_features(channels)

    def forward(self, x: "Tensor") -> "Tensor":
        """``ReLU(f(x) + downsample(x))``."""
        return self.join(x, self.bottleneck_shared(x))


class DownsamplingBasicBlock(BasicBlock):
    """A basic block with pools for its strides: ``(N, channels, H, W) -> (N, width, ceil(H / 2), ceil(W / 2))``."""

    def __init__(self, channels: int, width: int) -> None:
        norm = torch.nn.BatchNorm2d(width)
        shortcut = Chain(lip=_shared_pool(channels), conv=convolution(channels, width), bn=norm)
        super().__init__(channels, width, 1, shortcut)
        self.conv2 = Chain(**{"0": _shared_pool(width), "1": convolution(width, width, 3)})
        self.bottleneck_shared: Chain = _shared_features(channels)

    def forward(self, x: "Tensor") -> "Tensor":
        """``ReLU(f(x) + downsample(x))``."""
        shared = self.bottleneck_shared(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y, shared))
        return torch.relu(y + self.downsample(x, shared))


def _network(depths: Sequence[int], num_classes: int, block: Block, zero: tuple[str, ...]) -> ResNet:
    network = ResNet(depths, block, ("maxpool", LocalImportancePool2d(SimplifiedLogit2d(64))), num_classes)
    for name, parameter in network.named_parameters():
        if name.endswith(zero):
            torch.nn.init.zeros_(parameter)
    torch.nn.init.normal_(network.fc.weight, std=0.01)
    torch.nn.init.zeros_(network.fc.bias)
    return network


def _block(channels: int, width: int, stride: int) -> Bottleneck:
    return DownsamplingBottleneck(channels, width) if stride == 2 else bottleneck(channels, width, 1, ("conv", "bn"))


def _basic(channels: int, width: int, stride: int) -> BasicBlock:
    return DownsamplingBasicBlock(channels, width) if stride == 2 else basic_block(channels, width, 1)
