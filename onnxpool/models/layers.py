"""What the networks here are made of: chains of named layers, convolutions without bias, classifiers.

The names of a chain's layers are those of its parameters, so that checkpoints of the networks' authors fit.

>>> list(Chain(conv=convolution(3, 8), norm=torch.nn.BatchNorm2d(8, affine=False)).state_dict())
['conv.weight', 'norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked']
"""

from typing import TYPE_CHECKING

from onnxpool.errors import ArgumentError
from onnxpool.pools._torch_ops import Module, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Chain", "Network", "classifier", "convolution"]


class Chain(Module):
    """Named layers, one after another; the first one gets all that the chain gets."""

    if TYPE_CHECKING:

        def __call__(self, *given: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(self, **layers: "torch.nn.Module") -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *given: "Tensor") -> "Tensor":
        """``given`` is what the first layer takes."""
        for layer in self.children():
            given = (layer(*given),)
        return given[0]


class Network(Module):
    """Named layers, one after another, each of which takes one tensor: a whole network."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(self, **layers: "torch.nn.Module") -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: "Tensor") -> "Tensor":
        """``x`` is what the first layer takes."""
        for layer in self.children():
            x = layer(x)
        return x


def convolution(channels: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> "torch.nn.Conv2d":
    """``(N, channels, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))`` for an odd ``size``; no bias."""
    return torch.nn.Conv2d(channels, outputs, size, stride, padding=size // 2, groups=groups, bias=False)


def classifier(channels: int, num_classes: int) -> "torch.nn.Linear":
    """The last layer: ``(N, channels) -> (N, num_classes)``.

    Raises :class:`ArgumentError` unless ``num_classes`` is a positive integer.
    """
    check_classes(num_classes)
    return torch.nn.Linear(channels, num_classes)


def check_classes(num_classes: int) -> None:
    """Raise :class:`ArgumentError` unless this is a positive int."""
    if type(num_classes) is not int or num_classes < 1:
        raise ArgumentError(f"num_classes={num_classes!r} must be a positive integer")
