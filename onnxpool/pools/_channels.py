"""The argument ``channels`` of layers that learn something for each channel, and whether an input has so many."""

from typing import TYPE_CHECKING, Any

from onnxpool.errors import ArgumentError
from onnxpool.pools._torch_ops import is_jit_tracing

if TYPE_CHECKING:
    from torch import Tensor


def check_channels(channels: Any, or_none: bool = False) -> None:
    """Refuse, with :class:`ArgumentError`, what is no positive int, and None unless ``or_none``."""
    if (channels is None and or_none) or (type(channels) is int and channels > 0):
        return
    raise ArgumentError(f"channels={channels!r} must be a positive int{', or None' if or_none else ''}")


def check_has_channels(x: "Tensor", channels: int, axis: int = 1) -> None:
    """Refuse, with :class:`ArgumentError`, an ``x`` of other channels than a layer has."""
    if not is_jit_tracing() and x.shape[axis] != channels:
        raise ArgumentError(f"x has {x.shape[axis]} channels, shape {tuple(x.shape)}; this layer has {channels}")
