"""Residual networks: a stem with a pool, four stages of blocks, a classifier; the pool and the blocks are values.

    x -> conv 7x7 s2, BN, ReLU -> pool -> layer1 ... layer4 -> mean -> fc       block: y = ReLU(f(x) + shortcut(x))

Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016; a bottleneck strides in its 3x3
convolution, as in most code since. Parameter names are the usual ones, such as ``layer1.0.conv1.weight``.

>>> network = ResNet((1, 1, 1, 1), basic_block, ("maxpool", torch.nn.MaxPool2d(3, 2, 1)), num_classes=10)
>>> network(torch.zeros(2, 3, 64, 64)).shape
torch.Size([2, 10])
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxpool.models.layers import Chain, classifier, convolution
from onnxpool.pools._torch_ops import Module, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BasicBlock", "Block", "Bottleneck", "ResNet", "basic_block", "bottleneck", "shortcut_of"]


class ResNet(Module):
    """``(N, 3, H, W) -> (N, num_classes)``.

    ``block`` makes the blocks, as many as ``depths`` says for each stage; ``pool`` is the stem's, with its name.
    Convolutions start as He et al. 2015, fan out. Raises :class:`ArgumentError` unless ``num_classes`` is a positive
    integer.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(
        self, depths: Sequence[int], block: "Block", pool: "tuple[str, torch.nn.Module]", num_classes: int
    ) -> None:
        super().__init__()
        self.conv1: torch.nn.Conv2d = convolution(3, 64, 7, stride=2)
        self.bn1: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(64)
        self.relu: torch.nn.ReLU = torch.nn.ReLU()
        self.add_module(*pool)
        channels = 64
        for stage, depth in enumerate(depths):
            blocks: dict[str, torch.nn.Module] = {}
            for place in range(depth):
                made = block(channels, 64 << stage, 2 if stage and not place else 1)
                blocks[str(place)], channels = made, made.outputs
            self.add_module(f"layer{stage + 1}", Chain(**blocks))
        self.avgpool: torch.nn.AdaptiveAvgPool2d = torch.nn.AdaptiveAvgPool2d(1)
        self.flatten: torch.nn.Flatten = torch.nn.Flatten()
        self.fc: torch.nn.Linear = classifier(channels, num_classes)
        for part in self.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: "Tensor") -> "Tensor":
        """One score per class."""
        for layer in self.children():
            x = layer(x)
        return x


class BasicBlock(Module):
    """Two 3x3 convolutions: ``(N, channels, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))``."""

    def __init__(self, channels: int, width: int, stride: int, downsample: "torch.nn.Module") -> None:
        super().__init__()
        self.outputs: int = width
        self.conv1: torch.nn.Conv2d = convolution(channels, width, 3, stride)
        self.bn1: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(width)
        self.conv2: torch.nn.Module = convolution(width, width, 3)
        self.bn2: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(width)
        self.downsample: torch.nn.Module = downsample

    def forward(self, x: "Tensor") -> "Tensor":
        """``ReLU(f(x) + downsample(x))``."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.downsample(x))


class Bottleneck(Module):
    """A 1x1 convolution to ``inside`` channels, ``conv2``, a 1x1 convolution to four times ``width``.

    ``inside`` is ``width`` unless given.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        conv2: "torch.nn.Module",
        downsample: "torch.nn.Module",
        inside: int | None = None,
    ) -> None:
        super().__init__()
        inside = inside or width
        self.outputs: int = 4 * width
        self.conv1: torch.nn.Conv2d = convolution(channels, inside)
        self.bn1: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(inside)
        self.conv2: torch.nn.Module = conv2
        self.bn2: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(inside)
        self.conv3: torch.nn.Conv2d = convolution(inside, self.outputs)
        self.bn3: torch.nn.BatchNorm2d = torch.nn.BatchNorm2d(self.outputs)
        self.downsample: torch.nn.Module = downsample

    def forward(self, x: "Tensor") -> "Tensor":
        """``ReLU(f(x) + downsample(x))``."""
        return self.join(x)

    def join(self, x: "Tensor", *shared: "Tensor") -> "Tensor":
        """The same, where ``conv2`` and ``downsample`` take ``shared`` tensors besides."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y, *shared)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.downsample(x, *shared))


Block: TypeAlias = Callable[[int, int, int], Any]
"""``block(channels, width, stride)``: ``outputs`` are the channels that it gives."""


def basic_block(channels: int, width: int, stride: int) -> BasicBlock:
    """``(N, channels, H, W) -> (N, width, ceil(H / stride), ceil(W / stride))``."""
    return BasicBlock(channels, width, stride, shortcut_of(channels, width, stride, ("0", "1")))


def bottleneck(
    channels: int, width: int, stride: int, names: tuple[str, str] = ("0", "1"), groups: int = 1, group_width: int = 64
) -> Bottleneck:
    """``(N, channels, H, W) -> (N, 4 width, ceil(H / stride), ceil(W / stride))``.

    ``names`` are those of the convolution and the batch norm of its shortcut. Inside are ``groups`` of convolutions,
    each ``group_width`` channels wide where ``width`` is 64, and more in proportion.
    """
    shortcut = shortcut_of(channels, 4 * width, stride, names)
    inside = width * group_width // 64 * groups
    return Bottleneck(channels, width, convolution(inside, inside, 3, stride, groups), shortcut, inside)


def shortcut_of(channels: int, outputs: int, stride: int, names: tuple[str, str]) -> "torch.nn.Module":
    """The identity where it fits, else a strided 1x1 convolution with a batch norm, of these ``names``."""
    if stride == 1 and channels == outputs:
        return torch.nn.Identity()
    conv, norm = names
    return Chain(**{conv: convolution(channels, outputs, 1, stride), norm: torch.nn.BatchNorm2d(outputs)})
