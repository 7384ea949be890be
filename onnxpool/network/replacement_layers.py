"""Layers that take the place of another where a pool of :mod:`onnxpool.nn` alone cannot.

    FixedSizePool            for adaptive pooling: a pool, and a refusal of inputs of another size
    PooledConv1d, 2d, 3d     for a strided convolution: the convolution at stride 1, then a pool
    PositionLogit            for the logits of Enformer's AttentionPool: its 1x1 convolution, of a signal

They keep the parameters, and the parameters' names, of what they take the place of.
"""

from typing import Any

from torch import Tensor
from torch.nn import Conv1d, Conv2d, Conv3d, Module

from onnxpool.errors import ArgumentError


class FixedSizePool(Module):
    """A pool for inputs of one spatial size, in place of adaptive pooling; raises :class:`ArgumentError` for others."""

    def __init__(self, pool: Module, spatial: tuple[int, ...]) -> None:
        super().__init__()
        self.pool, self.spatial = pool, spatial

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``x``."""
        if tuple(x.shape[-len(self.spatial) :]) != self.spatial:
            raise ArgumentError(
                f"x has shape {tuple(x.shape)}; this pool took the place of adaptive pooling for spatial size "
                f"{self.spatial} only: swap again with an example of the size that you need"
            )
        pooled: Tensor = self.pool(x)
        return pooled

    def extra_repr(self) -> str:
        """The size that it is for."""
        return f"for {'x'.join(map(str, self.spatial))}"


class PositionLogit(Module):
    """A 1x1 convolution of pictures, taken over the positions of a signal: ``(N, C, L) -> (N, C, L)``."""

    def __init__(self, to_attn_logits: Module) -> None:
        super().__init__()
        self.to_attn_logits = to_attn_logits

    def forward(self, x: Tensor) -> Tensor:
        """The logits of ``x``."""
        logits: Tensor = self.to_attn_logits(x[..., None])
        return logits[..., 0]


class _PooledConv(Module):
    def __init__(self, convolution: Any, pool: Module) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            padding=convolution.padding,
            dilation=convolution.dilation,
            groups=convolution.groups,
            bias=False,
            padding_mode=convolution.padding_mode,
            device="meta",
        )
        self.weight, self.bias, self.pool = convolution.weight, convolution.bias, pool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as convolutions call it
        """Convolve and pool ``input``."""
        pooled: Tensor = self.pool(super().forward(input))
        return pooled


class PooledConv1d(_PooledConv, Conv1d):
    """The ``convolution`` at stride 1, with its weights, then ``pool``."""


class PooledConv2d(_PooledConv, Conv2d):
    """The ``convolution`` at stride 1, with its weights, then ``pool``."""


class PooledConv3d(_PooledConv, Conv3d):
    """The ``convolution`` at stride 1, with its weights, then ``pool``."""


POOLED_CONV = {1: PooledConv1d, 2: PooledConv2d, 3: PooledConv3d}
