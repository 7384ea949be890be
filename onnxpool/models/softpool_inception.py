"""SoftPool-InceptionV3: Inception with SoftPool in place of every maximum and mean that it pools but the last.

    x -> three convs, SoftPool 3x3 s2, two convs, SoftPool 3x3 s2 -> Mixed_5b ... Mixed_7c -> mean -> fc

Sources: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016; Stergiou, Poppe,
Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021, in the version of the authors' code,
github.com/alexandrosstergiou/SoftPool (main/models/inception.py), without its auxiliary classifier, which is left out
there too unless asked for. Parameter names are theirs, and those of plain InceptionV3. Pools of stride 1 have windows
around each cell, as the authors' kernels had them until April 2022; newer ones leave the last two rows and columns out.
``shifted`` is for the pools of stride 2 (:mod:`onnxpool.models.softpool`). Images are of 299x299, and 75x75 at least;
with shifted windows 75 and steps of 32 more, since elsewhere those pools give a cell more than the convolutions do.

>>> sum(parameter.numel() for parameter in softpool_inception_v3().parameters())
23834568
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from onnxpool.models.layers import Chain, Network, classifier
from onnxpool.models.softpool import soft_pool2d
from onnxpool.pools._torch_ops import Module, torch
from onnxpool.pools.soft import SoftPool2d

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["softpool_inception_v3"]

_Size: TypeAlias = int | tuple[int, int]
_Step: TypeAlias = str | tuple[str, ...]
"""A layer by its name, or layers that take the same and whose outputs are joined."""


def softpool_inception_v3(num_classes: int = 1000, *, shifted: bool = False) -> Network:
    """48 layers; ``(N, 3, H, W) -> (N, num_classes)``."""
    mixed: dict[str, torch.nn.Module] = {
        "Mixed_5b": _mixed_a(192, 32),
        "Mixed_5c": _mixed_a(256, 64),
        "Mixed_5d": _mixed_a(288, 64),
        "Mixed_6a": _mixed_b(288, shifted),
        "Mixed_6b": _mixed_c(128),
        "Mixed_6c": _mixed_c(160),
        "Mixed_6d": _mixed_c(160),
        "Mixed_6e": _mixed_c(192),
        "Mixed_7a": _mixed_d(shifted),
        "Mixed_7b": _mixed_e(1280),
        "Mixed_7c": _mixed_e(2048),
    }
    network = Network(
        Conv2d_1a_3x3=_conv(3, 32, 3, stride=2),
        Conv2d_2a_3x3=_conv(32, 32, 3),
        Conv2d_2b_3x3=_conv(32, 64, 3, padding=1),
        pool1=soft_pool2d(3, 2, shifted=shifted),
        Conv2d_3b_1x1=_conv(64, 80),
        Conv2d_4a_3x3=_conv(80, 192, 3),
        pool2=soft_pool2d(3, 2, shifted=shifted),
        **mixed,
        avgpool=torch.nn.AdaptiveAvgPool2d(1),
        dropout=torch.nn.Dropout(),
        flatten=torch.nn.Flatten(),
        fc=classifier(2048, num_classes),
    )
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.trunc_normal_(part.weight, std=0.1, a=-0.2, b=0.2)
    return network


def _conv(channels: int, outputs: int, size: _Size = 1, *, stride: int = 1, padding: _Size = 0) -> Chain:
    """Convolution, batch norm, ReLU."""
    return Chain(
        conv=torch.nn.Conv2d(channels, outputs, size, stride, padding, bias=False),
        bn=torch.nn.BatchNorm2d(outputs, eps=0.001),
        relu=torch.nn.ReLU(),
    )


class Mixed(Module):
    """Paths beside each other, their outputs joined: each a sequence of layers by their names."""

    def __init__(self, paths: Sequence[Sequence[_Step]], **layers: "torch.nn.Module") -> None:
        super().__init__()
        self.paths: tuple[tuple[_Step, ...], ...] = tuple(map(tuple, paths))
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: "Tensor") -> "Tensor":
        """The channels of all paths."""
        ends = []
        for path in self.paths:
            y = x
            for step in path:
                y = self._taken(step, y)
            ends.append(y)
        return torch.cat(ends, 1)

    def _taken(self, step: _Step, x: "Tensor") -> "Tensor":
        if isinstance(step, tuple):
            return torch.cat([self._taken(name, x) for name in step], 1)
        y: Tensor = getattr(self, step)(x)
        return y


def _names(stem: str, count: int, first: int = 1) -> list[str]:
    return [f"{stem}_{i}" for i in range(first, first + count)]


def _mixed_a(channels: int, pooled: int) -> Mixed:
    return Mixed(
        (["branch1x1"], _names("branch5x5", 2), _names("branch3x3dbl", 3), ["pool", "branch_pool"]),
        branch1x1=_conv(channels, 64),
        branch5x5_1=_conv(channels, 48),
        branch5x5_2=_conv(48, 64, 5, padding=2),
        branch3x3dbl_1=_conv(channels, 64),
        branch3x3dbl_2=_conv(64, 96, 3, padding=1),
        branch3x3dbl_3=_conv(96, 96, 3, padding=1),
        branch_pool=_conv(channels, pooled),
        pool=SoftPool2d(3, 1, 1),
    )


def _mixed_b(channels: int, shifted: bool) -> Mixed:
    return Mixed(
        (["branch3x3"], _names("branch3x3dbl", 3), ["pool"]),
        branch3x3=_conv(channels, 384, 3, stride=2),
        branch3x3dbl_1=_conv(channels, 64),
        branch3x3dbl_2=_conv(64, 96, 3, padding=1),
        branch3x3dbl_3=_conv(96, 96, 3, stride=2),
        pool=soft_pool2d(3, 2, shifted=shifted),
    )


def _mixed_c(inside: int) -> Mixed:
    row: tuple[tuple[int, int], tuple[int, int]] = ((1, 7), (0, 3))
    column: tuple[tuple[int, int], tuple[int, int]] = ((7, 1), (3, 0))
    return Mixed(
        (["branch1x1"], _names("branch7x7", 3), _names("branch7x7dbl", 5), ["pool", "branch_pool"]),
        branch1x1=_conv(768, 192),
        branch7x7_1=_conv(768, inside),
        branch7x7_2=_conv(inside, inside, row[0], padding=row[1]),
        branch7x7_3=_conv(inside, 192, column[0], padding=column[1]),
        branch7x7dbl_1=_conv(768, inside),
        branch7x7dbl_2=_conv(inside, inside, column[0], padding=column[1]),
        branch7x7dbl_3=_conv(inside, inside, row[0], padding=row[1]),
        branch7x7dbl_4=_conv(inside, inside, column[0], padding=column[1]),
        branch7x7dbl_5=_conv(inside, 192, row[0], padding=row[1]),
        branch_pool=_conv(768, 192),
        pool=SoftPool2d(3, 1, 1),
    )


def _mixed_d(shifted: bool) -> Mixed:
    return Mixed(
        (_names("branch3x3", 2), _names("branch7x7x3", 4), ["pool"]),
        branch3x3_1=_conv(768, 192),
        branch3x3_2=_conv(192, 320, 3, stride=2),
        branch7x7x3_1=_conv(768, 192),
        branch7x7x3_2=_conv(192, 192, (1, 7), padding=(0, 3)),
        branch7x7x3_3=_conv(192, 192, (7, 1), padding=(3, 0)),
        branch7x7x3_4=_conv(192, 192, 3, stride=2),
        pool=soft_pool2d(3, 2, shifted=shifted),
    )


def _mixed_e(channels: int) -> Mixed:
    fork, double = ("branch3x3_2a", "branch3x3_2b"), ("branch3x3dbl_3a", "branch3x3dbl_3b")
    return Mixed(
        (["branch1x1"], ["branch3x3_1", fork], [*_names("branch3x3dbl", 2), double], ["pool", "branch_pool"]),
        branch1x1=_conv(channels, 320),
        branch3x3_1=_conv(channels, 384),
        branch3x3_2a=_conv(384, 384, (1, 3), padding=(0, 1)),
        branch3x3_2b=_conv(384, 384, (3, 1), padding=(1, 0)),
        branch3x3dbl_1=_conv(channels, 448),
        branch3x3dbl_2=_conv(448, 384, 3, padding=1),
        branch3x3dbl_3a=_conv(384, 384, (1, 3), padding=(0, 1)),
        branch3x3dbl_3b=_conv(384, 384, (3, 1), padding=(1, 0)),
        branch_pool=_conv(channels, 192),
        pool=SoftPool2d(3, 1, 1),
    )
