"""Learned mixes of two poolings: shares between 0 and 1, of the layer, of each channel, or of each region.

>>> Share("beta", 2, 0.25, channels=3).number().shape
(3, 1, 1)
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import average
from onnxpool.pools._channels import check_channels, check_has_channels
from onnxpool.pools._large import without_overflow
from onnxpool.pools._torch_ops import Module, is_jit_tracing, torch, widen
from onnxpool.window import Size, Window, per_axis

if TYPE_CHECKING:
    from torch import Tensor


def mixed(share: "Tensor", first: "Tensor", second: "Tensor") -> "Tensor":
    """``share first + (1 - share) second``, between both whatever rounding does, and so never beyond the largest."""
    y = share * first + (1 - share) * second
    return y.clamp(torch.minimum(first, second), torch.maximum(first, second))


def mean_of(window: Window, x: "Tensor") -> "Tensor":
    """The mean of the in-bounds cells, where their sum exceeds the type too."""
    return without_overflow(x, lambda x: average.average_pool(window, x, False, None))


class Share(Module):
    """A number from 0 to 1, or one of each channel, or region of the output; learned as its ``logit``, or fixed.

    ``regions`` is the output's size. Raises :class:`ArgumentError`, with ``name``, for numbers that are not from 0 to
    1, or not between them where they are to be learned, and for channels and regions that are not positive.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        value: float,
        learned: bool = True,
        channels: int | None = None,
        regions: Size | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(learned, bool):
            raise ArgumentError(f"learn_{name}={learned!r} is not a bool; use True or False")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ArgumentError(f"{name}={value!r} must be a number from 0 to 1")
        if learned and value in (0, 1):
            raise ArgumentError(f"{name}={value!r} cannot be learned; start between 0 and 1, or use learn_{name}=False")
        check_channels(channels, or_none=True)
        sizes = (1,) * rank if regions is None else per_axis("regions", regions, rank, 1)
        shape = (channels or 1, *sizes)
        if math.prod(shape) > 1 and not learned:
            raise ArgumentError(f"channels={channels!r} and regions={regions!r} need learn_{name}=True")
        self._shape = shape
        self.value: float = float(value)
        self.logit: torch.nn.Parameter | None = None
        if learned:
            self.logit = torch.nn.Parameter(torch.full(shape, math.log(value / (1 - value))))

    def of(self, window: Window, x: "Tensor") -> "Tensor":
        """The share, of a shape that fits the output for ``x``, in its type.

        Raises :class:`ArgumentError` where it was learned for other channels or another output.
        """
        if self.logit is None:
            return torch.full((), self.value, dtype=x.dtype, device=x.device)
        channels, *regions = self._shape
        if channels != 1:
            check_has_channels(x, channels)
        if any(n != 1 for n in regions) and not is_jit_tracing():
            output = window.output(x.shape[2:])
            if any(n > 1 and n != out for n, out in zip(regions, output, strict=True)):  # `in` does not compile
                raise ArgumentError(
                    f"x of shape {tuple(x.shape)} gives an output of {tuple(output)}; this layer has regions {regions}"
                )
        return widen(self.logit).to(x.dtype).sigmoid()

    def number(self) -> Array:
        """The share in float64."""
        if self.logit is None:
            return np.array(self.value)
        share: Array = self.logit.detach().double().sigmoid().cpu().numpy()
        return share

    def extra_repr(self) -> str:
        """Of what shape, or the fixed number."""
        return f"{self.value:g}" if self.logit is None else "x".join(map(str, self.logit.shape))
