"""Mixed max-average pooling with a learned share: how much of the maximum, the rest of the mean.

    y = a max_i x_i + (1 - a) mean_i x_i,   0 <= a <= 1 learned,   over the in-bounds cells of the window

``a`` is one number for the layer, one for each channel, one for each region of an output of known size, or one for each
region of each channel. What is learned is its logit, so that it stays between 0 and 1.

Source: Lee, Gallagher, Tu, "Generalizing pooling functions in convolutional neural networks: mixed, gated, and tree",
AISTATS 2016. :class:`MixedPool2d` is another method, which draws one of both at random. NaN in the window gives NaN,
and an infinity follows the formula.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 3.0], [5.0, 6.0]]]]), 0.25).item()
4.3125
"""

from typing import TYPE_CHECKING

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.pools import average
from onnxpool.pools import max as maximum
from onnxpool.pools._method import Method
from onnxpool.pools._shares import Share, mean_of, mixed
from onnxpool.pools._torch_ops import WindowModule, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LearnedMixedPool1d", "LearnedMixedPool2d", "LearnedMixedPool3d"]

METHOD = Method(
    name="LearnedMixedPool",
    summary="a learned mix of the maximum and the mean",
    formula="y = a max x_i + (1 - a) mean x_i",
    source="Lee et al., AISTATS 2016",
    modules=("LearnedMixedPool2d(3, 2, 1, channels=3)",),
)


def reference(window: Window, x: Array, share: float | Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``share`` of a shape that fits the output: the definition."""
    most, mean = maximum.reference(window, x), average.reference(window, x, count_include_pad=False)
    with np.errstate(all="ignore"):
        return np.asarray(share * most + (1 - np.asarray(share)) * mean)


class _LearnedMixedPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        share: float = 0.5,
        channels: int | None = None,
        regions: Size | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.share: Share = Share("share", self.rank, share, True, channels, regions)

    def pool(self, x: "Tensor") -> "Tensor":
        wide = widen(x)
        mean = mean_of(self.window, wide)
        return mixed(self.share.of(self.window, wide), maximum.max_pool(self.window, wide), mean).to(x.dtype)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present share."""
        return reference(self.window, x, self.share.number())


class LearnedMixedPool1d(_LearnedMixedPool):
    """Mixed max-average pooling over ``(N, C, L)``; arguments and errors as :class:`LearnedMixedPool2d`."""

    rank = 1


class LearnedMixedPool2d(_LearnedMixedPool):
    """Mixed max-average pooling over ``(N, C, H, W)``, with a learned share of the maximum.

    ``share`` is where it starts, between 0 and 1; ``channels`` learns one for each channel, ``regions``, the output's
    size, one for each of its positions, both together one for each of both. float16 and bfloat16 are computed in
    float32. Other arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also :class:`ArgumentError`
    for others, and in ``forward`` for other channels or another output.

    >>> import torch
    >>> LearnedMixedPool2d(2)(torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]])).item()
    4.875
    """

    rank = 2


class LearnedMixedPool3d(_LearnedMixedPool):
    """Mixed max-average pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`LearnedMixedPool2d`."""

    rank = 3
