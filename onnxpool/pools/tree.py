"""Tree pooling: learned filters at the leaves of a binary tree, of which learned gates make one answer.

    leaf:   f = sum_i v_i x_i
    node:   f = s f_left + (1 - s) f_right,   s = sigmoid(sum_i w_i x_i),   over the in-bounds cells of the window

A tree of L levels has 2^(L - 1) leaves and 2^(L - 1) - 1 gates, all learned, one tree for the layer or one for each
channel. Padding adds nothing to any sum.

Source: Lee, Gallagher, Tu, "Generalizing pooling functions in convolutional neural networks: mixed, gated, and tree",
AISTATS 2016. NaN or an infinity in the window gives NaN, since the gates have no number for it.

>>> import numpy as np
>>> x, weight = np.array([[[[1.0, 3.0], [5.0, 6.0]]]]), np.zeros((1, 3, 2, 2))
>>> weight[0, 1, 0, 0], weight[0, 2, 1, 1] = 1, 1  # an idle gate, and leaves that take one cell each
>>> reference(Window.of(2, 2), x, weight).item()
3.5
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _filtered
from onnxpool.pools._channels import check_channels
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import WindowModule, torch
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TreePool1d", "TreePool2d", "TreePool3d"]

METHOD = Method(
    name="TreePool",
    summary="learned filters of the window, mixed by a tree of learned gates",
    formula="f = s f_left + (1 - s) f_right, s = sigmoid(sum w_i x_i); leaves sum v_i x_i",
    source="Lee et al., AISTATS 2016",
    modules=("TreePool2d(2, ceil_mode=True, levels=3)",),
)


def reference(window: Window, x: Array, weight: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``weight`` of ``(C or 1, gates + leaves, *kernel)``."""
    with np.errstate(all="ignore"):
        sums = list(_filtered.reference(window, x, weight))
        gates = len(sums) // 2
        shares = [_filtered.reference_share(logit) for logit in sums[:gates]]
        y: Array = _climb(shares, sums[gates:])
    return y


def _climb(shares: Sequence[Any], leaves: Sequence[Any]) -> Any:
    """Gates are in the order of levels from the root down, each node's children after one another."""
    values = list(leaves)
    while len(values) > 1:
        gates = shares[len(values) // 2 - 1 : len(values) - 1]
        pairs = zip(gates, values[::2], values[1::2], strict=True)
        values = [share * left + (1 - share) * right for share, left, right in pairs]
    return values[0]


class _TreePool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        levels: int = 2,
        channels: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if type(levels) is not int or not 2 <= levels <= 6:
            raise ArgumentError(f"levels={levels!r} must be an int from 2 to 6")
        check_channels(channels, or_none=True)
        leaves, mean = 2 ** (levels - 1), 1 / math.prod(self.window.kernel)
        weight = torch.empty(channels or 1, 2 * leaves - 1, *self.window.kernel).uniform_(-mean, mean)
        weight[:, leaves - 1 :] += mean
        self.levels: int = levels
        self.weight: torch.nn.Parameter = torch.nn.Parameter(weight)

    def pool(self, x: "Tensor") -> "Tensor":
        logits, leaves, unit = _filtered.filtered(self.window, x, self.weight, self.weight.shape[1] // 2)
        y: Tensor = _climb([logit.sigmoid() for logit in logits], leaves)
        return (y / unit).to(x.dtype)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present weights."""
        return reference(self.window, x, self.weight.detach().double().cpu().numpy())

    def extra_repr(self) -> str:
        return f"{self.window}, levels={self.levels}"


class TreePool1d(_TreePool):
    """Tree pooling over ``(N, C, L)``; arguments and errors as :class:`TreePool2d`."""

    rank = 1


class TreePool2d(_TreePool):
    """Tree pooling over ``(N, C, H, W)``.

    ``levels`` counts leaves too: 2 has one gate and two leaves. ``channels`` learns a tree for each channel, None one
    for all. The parameter ``weight`` is ``(C or 1, gates + leaves, *kernel)``: gates from the root down, then leaves.
    Gates start near 0, leaves near the mean, at random. float16 and bfloat16 are computed in float32. Other arguments
    and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also :class:`ArgumentError` for others, and in
    ``forward`` for another number of channels.

    >>> import torch
    >>> pool = TreePool2d(2)
    >>> _ = torch.nn.init.constant_(pool.weight, 0.25)
    >>> pool(torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]])).item()
    3.75
    """

    rank = 2


class TreePool3d(_TreePool):
    """Tree pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`TreePool2d`."""

    rank = 3
