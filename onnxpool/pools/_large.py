"""Means of numbers near the largest of their type: the sums that they are made of would exceed it, but they do not.

>>> largest = torch.tensor([3.4e38, 3.4e38])
>>> largest.mean().item(), without_overflow(largest, torch.mean).item() == largest[0].item()
(inf, True)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.pools._torch_ops import torch

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 1e30
"""Where no magnitude is above it, sums stay in the type."""

LESS = 2.0**-20
"""A unit in which sums of a million of the largest numbers do."""


def unit_for(x: "Tensor") -> "Tensor":
    """What to multiply ``x`` with first: 1, or :data:`LESS` where it holds large numbers."""
    return torch.where((x.detach().abs() > LARGE).any(), LESS, 1.0).to(x)


def limit_of(dtype: Any) -> float:
    """Of halves: those above it are brought back by a few roundings when they are doubled."""
    limits = np.finfo(dtype)
    return float(limits.max) / 2 * (1 - 4 * float(limits.eps))


def without_overflow(x: "Tensor", mean: "Callable[[Tensor], Tensor]") -> "Tensor":
    """``mean(x)``, for a linear function whose values lie between those of ``x``."""
    unit, limit = unit_for(x), limit_of("float64" if x.dtype == torch.float64 else "float32")
    is_large = unit < 1
    half = mean(x * unit) * torch.where(is_large, 0.5 / LESS, 1.0).to(x)
    return half + torch.where(is_large, half.clamp(-limit, limit), 0)
