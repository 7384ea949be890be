"""Attention pooling: the mean of a window weighted by the softmax of a linear function of its cells, as in Enformer.

    y = sum_i w_i x_i,   w_i = exp(l_i) / sum_j exp(l_j),   l_i = A x_i,   over the in-bounds cells of the window

``A`` is a matrix over channels, ``logits="full"``, which starts as ``scale`` times the identity; ``"channel"`` is a
number for each channel, its diagonal, and ``"shared"`` a row, which gives all channels the same logits. This is
:mod:`onnxpool.pools.local_importance` with that logit and windows that do not overlap, the last of which may be cut
short. What it says of values holds here: a logit of -inf masks its cell, and NaN or an infinity in one channel reaches
the logits of all, where they are mixed. Logits are computed in float32 where ``x`` is of a shorter type; one beyond the
type that it is computed in is infinite.

Source: Avsec et al., "Effective gene expression prediction from sequence by integrating long-range interactions",
Nature Methods 2021, where ``scale`` is 2; published weights have the name ``to_attn_logits``, which is taken here too.

>>> import numpy as np
>>> x = np.array([[[1.0, 2.0, 3.0]]])
>>> reference(Window.of(1, 2, ceil_mode=True), x, np.array([[2.0]]))
array([[[1.88079708, 3.        ]]])
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import local_importance
from onnxpool.pools._channels import check_channels, check_has_channels
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import Module, WindowModule, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionPool1d", "AttentionPool2d", "AttentionPool3d"]

Logits = Literal["full", "channel", "shared"]

METHOD = Method(
    name="AttentionPool",
    summary="mean of the window weighted by the softmax of a learned linear function",
    formula="y = sum x_i exp(l_i) / sum exp(l_i), l_i = A x_i",
    source="Avsec et al., Nature Methods 2021",
    modules=("AttentionPool1d(3)",),
)


def reference(window: Window, x: Array, matrix: Array) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``: the definition.

    ``matrix`` is ``(C, C)``, ``(1, C)`` for logits that all channels share, or ``(C,)`` for those of each channel.
    """
    with np.errstate(all="ignore"):
        if matrix.ndim == 1:
            logit = matrix.reshape(-1, *[1] * window.rank) * x
        else:
            logit = np.stack([sum(a * x[:, c] for c, a in enumerate(row)) for row in matrix], 1)
    return local_importance.reference(window, x, np.broadcast_to(logit, x.shape))


class _AttentionPool(WindowModule):
    def __init__(
        self,
        channels: int,
        kernel_size: Size = 2,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = True,
        *,
        logits: Logits = "full",
        scale: float = 2.0,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        check_channels(channels)
        if logits not in get_args(Logits):
            raise ArgumentError(f"logits={logits!r} is unknown; use one of {', '.join(get_args(Logits))}")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < float("inf"):
            raise ArgumentError(f"scale={scale!r} must be a number, such as 2")
        self.channels: int = channels
        self.logits: Logits = logits
        self.to_attn_logits: Any = Module()
        start = {"full": scale * torch.eye(channels), "channel": torch.full((channels, 1), float(scale))}.get(logits)
        weight = torch.full((1, channels), scale / channels) if start is None else start
        self.to_attn_logits.weight = torch.nn.Parameter(weight.reshape(*weight.shape, *[1] * self.rank))

    def pool(self, x: "Tensor") -> "Tensor":
        check_has_channels(x, self.channels)
        wide = widen(x)
        weight = widen(self.to_attn_logits.weight).to(wide)
        if self.logits == "channel":
            logit = wide * weight.reshape(-1, *[1] * self.rank)
        else:
            matrix = weight.reshape(-1, self.channels)
            logit = (matrix @ wide.flatten(2)).reshape(x.shape[0], matrix.shape[0], *x.shape[2:]).expand_as(x)
        return local_importance.local_importance_pool(self.window, wide, logit).to(x.dtype)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present weights."""
        weight = self.to_attn_logits.weight.detach().double().cpu().numpy()
        return reference(
            self.window, x, weight.reshape(-1) if self.logits == "channel" else weight.reshape(-1, self.channels)
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Weights may have axes of length 1 more or less: published ones are those of a 2d convolution."""
        name = f"{prefix}to_attn_logits.weight"
        own, given = self.to_attn_logits.weight, state_dict.get(name)
        if given is not None and given.shape[:2] == own.shape[:2] and given.numel() == own.numel():
            state_dict[name] = given.reshape(own.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.window}, logits={self.logits!r}"


class AttentionPool1d(_AttentionPool):
    """Attention pooling over ``(N, C, L)``; arguments and errors as :class:`AttentionPool2d`.

    >>> import torch
    >>> AttentionPool1d(1)(torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)).detach().round(decimals=6)
    tensor([[[1.8808, 3.0000]]], dtype=torch.float64)
    """

    rank = 1


class AttentionPool2d(_AttentionPool):
    """Attention pooling over ``(N, C, H, W)``, by default windows of 2x2, cut short at the end.

    ``channels`` is C. ``logits``: ``"full"`` learns a matrix over channels, ``"channel"`` a number for each,
    ``"shared"`` one logit for all channels. ``scale`` is where they start: times the identity, or the mean of channels.
    Other arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`; also :class:`ArgumentError` for
    others, and in ``forward`` for another number of channels.
    """

    rank = 2


class AttentionPool3d(_AttentionPool):
    """Attention pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`AttentionPool2d`."""

    rank = 3
