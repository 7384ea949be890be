"""Gated max-average pooling: each window says how much of its maximum it gives, the rest of its mean.

    y = s max_i x_i + (1 - s) mean_i x_i,   s = sigmoid(sum_i w_i x_i),   over the in-bounds cells of the window

The gate ``w``, one number for each cell of the window, is learned: one for the layer, or one for each channel. Padding
adds nothing to its sum. ``mean <= y <= max``.

Source: Lee, Gallagher, Tu, "Generalizing pooling functions in convolutional neural networks: mixed, gated, and tree",
AISTATS 2016. NaN or an infinity in the window gives NaN, since the gate has no number for it.

>>> import numpy as np
>>> x, gate = np.array([[[[1.0, 3.0], [5.0, 6.0]]]]), np.array([[[[0.5, 0.0], [0.2, -0.25]]]])
>>> round(reference(Window.of(2, 2), x, gate).item(), 10)  # half of both
4.875
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.pools import _filtered, average
from onnxpool.pools import max as maximum
from onnxpool.pools._channels import check_channels
from onnxpool.pools._method import Method
from onnxpool.pools._shares import mean_of, mixed
from onnxpool.pools._torch_ops import WindowModule, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GatedPool1d", "GatedPool2d", "GatedPool3d"]

METHOD = Method(
    name="GatedPool",
    summary="a mix of the maximum and the mean that each window's cells decide",
    formula="y = s max x_i + (1 - s) mean x_i, s = sigmoid(sum w_i x_i)",
    source="Lee et al., AISTATS 2016",
    modules=("GatedPool2d(3, 2, 1)",),
)


def reference(window: Window, x: Array, gate: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``gate`` of ``(C or 1, 1, *kernel)``: the definition."""
    with np.errstate(all="ignore"):
        (logit,) = _filtered.reference(window, x, gate)
        share = _filtered.reference_share(logit)
        most, mean = maximum.reference(window, x), average.reference(window, x, count_include_pad=False)
        return np.asarray(share * most + (1 - share) * mean)


class _GatedPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        channels: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        check_channels(channels, or_none=True)
        reach = 1 / math.prod(self.window.kernel)
        gate = torch.empty(channels or 1, 1, *self.window.kernel).uniform_(-reach, reach)
        self.gate: torch.nn.Parameter = torch.nn.Parameter(gate)

    def pool(self, x: "Tensor") -> "Tensor":
        wide = widen(x)
        (logit,), _, _ = _filtered.filtered(self.window, x, self.gate, 1)
        most, mean = maximum.max_pool(self.window, wide), mean_of(self.window, wide)
        return mixed(logit.sigmoid(), most, mean).to(x.dtype)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present gate."""
        return reference(self.window, x, self.gate.detach().double().cpu().numpy())


class GatedPool1d(_GatedPool):
    """Gated max-average pooling over ``(N, C, L)``; arguments and errors as :class:`GatedPool2d`."""

    rank = 1


class GatedPool2d(_GatedPool):
    """Gated max-average pooling over ``(N, C, H, W)``.

    ``channels`` learns a gate for each channel, None one for all; it is the parameter ``gate`` of ``(C or 1, 1,
    *kernel)``, and starts at random, with a logit near 0. float16 and bfloat16 are computed in float32. Other arguments
    and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also :class:`ArgumentError` for others, and in
    ``forward`` for another number of channels.

    >>> import torch
    >>> pool = GatedPool2d(2)
    >>> _ = torch.nn.init.zeros_(pool.gate)
    >>> pool(torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]])).item()
    4.875
    """

    rank = 2


class GatedPool3d(_GatedPool):
    """Gated max-average pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`GatedPool2d`."""

    rank = 3
