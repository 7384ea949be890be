"""Means of numbers near the largest of their type: the sums that they are made of would exceed it, but they do not.

>>> largest = torch.tensor([3.4e38, 3.4e38])
>>> largest.mean().item(), without_overflow(largest, torch.mean).item() == largest[0].item()
(inf, True)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxpool.pools._torch_ops import torch

if TYPE_CHECKING:
    from torch import Tensor

_LARGE = 1e30
"""Where no magnitude is above it, sums stay in the type."""

LESS = 2.0**-20
"""A unit in which sums of a million of the largest numbers do."""


def unit_for(x: "Tensor") -> "Tensor":
    """What to multiply ``x`` with first: 1, or :data:`LESS` where it holds large numbers."""
    return torch.where((x.detach().abs() > _LARGE).any(), LESS, 1.0).to(x)


def without_overflow(x: "Tensor", mean: "Callable[[Tensor], Tensor]") -> "Tensor":
    """``mean(x)``, for a linear function whose values lie between those of ``x``.

    Halves above a limit are brought back by a few roundings when they are added, so that none exceeds the type.
    """
    unit, limits = unit_for(x), torch.finfo(x.dtype)
    limit = limits.max / 2 * (1 - 4 * limits.eps)
    is_large = unit < 1
    half = mean(x * unit) * torch.where(is_large, 0.5 / LESS, 1.0).to(x)
    return half + torch.where(is_large, half.clamp(-limit, limit), 0)
