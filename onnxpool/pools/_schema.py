"""How a window stands in the arguments of a PyTorch operator: five, after its tensors."""

from collections.abc import Sequence
from typing import Any

from onnxpool.window import Window

FIELDS = "int[] kernel, int[] stride, int[] pad, int[] dilation, bool ceil"
"""The arguments in PyTorch's schema language."""

COUNT = FIELDS.count(",") + 1


def fields(window: Window) -> tuple[Any, ...]:
    """The arguments of a call."""
    return window.kernel, window.stride, window.pad, window.dilation, window.ceil


def window_from(fields: Sequence[Any]) -> Window:
    """The window that a call carries; the inverse of :func:`fields`."""
    kernel, stride, pad, dilation, ceil = fields
    return Window(tuple(kernel), tuple(stride), tuple(pad), tuple(dilation), ceil)
