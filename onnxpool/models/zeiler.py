"""The three-layer network of stochastic pooling, for CIFAR-10.

    three times: conv 5x5 to 64 channels, ReLU, stochastic pooling 3x3 s2, response normalization; then one linear layer

Source: Zeiler, Fergus, "Stochastic pooling for regularization of deep convolutional neural networks", ICLR 2013. The
paper gives no padding and no constants of the normalization, and no code or weights of it are published: here
convolutions keep the size, pools round up (32, 16, 8, 4 cells), and the normalization is over 9 channels with
alpha 0.001 and beta 0.75. In evaluation a pool gives the mean that its training draws from.

>>> sum(parameter.numel() for parameter in zeiler_cifar10().parameters())
220042
"""

from onnxpool.models.layers import Network, classifier
from onnxpool.pools._torch_ops import torch
from onnxpool.pools.stochastic import StochasticPool2d

__all__ = ["zeiler_cifar10"]


def zeiler_cifar10(num_classes: int = 10) -> Network:
    """Three convolutions; ``(N, 3, 32, 32) -> (N, num_classes)``."""
    layers: dict[str, torch.nn.Module] = {}
    for i in (1, 2, 3):
        layers |= {
            f"conv{i}": torch.nn.Conv2d(3 if i == 1 else 64, 64, 5, padding=2),
            f"relu{i}": torch.nn.ReLU(),
            f"pool{i}": StochasticPool2d(3, 2, ceil_mode=True),
            f"norm{i}": torch.nn.LocalResponseNorm(9, alpha=0.001),
        }
    return Network(**layers, flatten=torch.nn.Flatten(), fc=classifier(64 * 4 * 4, num_classes))
