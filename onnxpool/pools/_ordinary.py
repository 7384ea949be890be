"""The formula as it stands, by two average pools, for tensors whose values are near 0.

A window's weights need no reference where none can leave the range of their type. Whether that is so, a look at the
values says, which only a plain tensor on the CPU allows without waiting for a device or fixing a traced program.
"""

from typing import TYPE_CHECKING

from onnxpool.pools._torch_ops import torch
from onnxpool.window import Window

if TYPE_CHECKING:
    from torch import Tensor

NEAR = 32
"""Logits within this have weights of 1e-14 to 1e14. A gradient errs by no more than so many roundings of its size."""


def are_near(x: "Tensor", limit: float = NEAR) -> bool:
    """Whether all values of ``x`` lie within ``limit`` of 0; False for NaN, and where there are none."""
    if x.numel() == 0:
        return False
    low, high = torch.aminmax(x)
    return bool((low > -limit) & (high < limit))


def can_average(window: Window) -> bool:
    """Whether PyTorch's average pools know such a window."""
    return set(window.dilation) == {1}


def average(window: Window, x: "Tensor") -> "Tensor":
    """The sum over each window, divided by a number that is the same for every ``x``; differentiable."""
    pool = getattr(torch.nn.functional, f"avg_pool{window.rank}d")
    mean: Tensor = pool(x, window.kernel, window.stride, window.pad, window.ceil)
    return mean
