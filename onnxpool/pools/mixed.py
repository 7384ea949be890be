"""Mixed pooling: maximum or mean of the window, drawn at random while training.

    y = l max_i x_i + (1 - l) mean_i x_i,   l = 0 or 1,   over the in-bounds cells of the window

Source: Yu, Wang, Chen, Wei, "Mixed pooling for convolutional neural networks", RSKT 2014. In training every forward
pass draws l anew, 1 with probability 1/2, for each channel or for the layer, from PyTorch's global generator; its
gradient is that of the l it drew. Both outcomes are counted, in buffers that are saved with the weights. In evaluation
each channel uses what training used more often, and the maximum where neither was, or nothing was trained. NaN in the
window gives NaN.

In ONNX, in every form of a model: ``MaxPool`` or ``AveragePool`` where all channels use the same, else both and a
choice by channel.

>>> import numpy as np
>>> reference(Window.of(2, 2), np.array([[[[1.0, 3.0], [5.0, 6.0]]]]), np.array([False])).item()
3.75
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import average
from onnxpool.pools import max as maximum
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import WindowModule, is_jit_tracing, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MixedPool1d", "MixedPool2d", "MixedPool3d"]

Per = Literal["channel", "layer"]


def reference(window: Window, x: Array, uses_max: NDArray[np.bool_]) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, the choice for each channel or for all: the definition."""
    choice = uses_max.reshape(-1, *[1] * window.rank)
    return np.where(choice, maximum.reference(window, x), average.reference(window, x, count_include_pad=False))


METHOD = Method(
    name="MixedPool",
    summary="maximum or mean of the window, drawn at random while training",
    formula="y = l max x_i + (1 - l) mean x_i, l = 0 or 1",
    source="Yu et al., RSKT 2014",
    modules=("MixedPool1d(3, 2, 1, 2)", "MixedPool2d(3, 2, 1)", "MixedPool2d(2, per='layer')", "MixedPool3d(2)"),
)


class _MixedPool(WindowModule):
    max_draws: "Tensor"
    mean_draws: "Tensor"

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        per: Per = "channel",
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if per not in get_args(Per):
            raise ArgumentError(f"per={per!r} is unknown; use one of {', '.join(get_args(Per))}")
        self.per: Per = per
        self._everywhere: bool | None = None
        for name in _COUNTERS:
            self.register_buffer(name, torch.zeros(int(per == "layer"), dtype=torch.int64))

    @property
    def draws(self) -> bool:
        """Whether forward draws at random, as it does in training."""
        return self.training

    @property
    def uses_max(self) -> "Tensor":
        """For each channel, or for the layer, whether evaluation uses the maximum; of size 0 before any training."""
        return self.max_draws >= self.mean_draws

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Where all channels use the same, pool once."""
        choice = self.uses_max
        if not self.training and (choice.all() or not choice.any()):
            self._everywhere = bool(choice.all())
        try:
            yield
        finally:
            self._everywhere = None

    def pool(self, x: "Tensor") -> "Tensor":
        choice = self._draw(x) if self.training else self.uses_max
        self._check_channels(x)
        if self._everywhere or not _length(choice):
            return maximum.max_pool(self.window, x)
        if self._everywhere is False:
            return average.average_pool(self.window, x, False, None)
        wide = widen(x)  # ONNX Runtime's CPU provider chooses among no bfloat16
        mean = average.average_pool(self.window, wide, False, None)
        return torch.where(choice.reshape(-1, *[1] * self.rank), maximum.max_pool(self.window, wide), mean).to(x.dtype)

    def _draw(self, x: "Tensor") -> "Tensor":
        if not len(self.max_draws):
            for name in _COUNTERS:
                setattr(self, name, torch.zeros(x.shape[1], dtype=torch.int64, device=x.device))
        self._check_channels(x)
        choice = torch.rand(len(self.max_draws), device=x.device) < 0.5
        self.max_draws += choice
        self.mean_draws += ~choice
        return choice

    def _check_channels(self, x: "Tensor") -> None:
        if self.per == "channel" and not is_jit_tracing() and len(self.max_draws) not in (0, x.shape[1]):
            raise ArgumentError(f"x has {x.shape[1]} channels; this layer was trained with {len(self.max_draws)}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Counters take the size of those that are loaded: how many channels there are, training finds out."""
        for name in _COUNTERS:
            loaded = state_dict.get(prefix + name)
            if self.per == "channel" and loaded is not None and loaded.dim() == 1:
                setattr(self, name, getattr(self, name).new_zeros(len(loaded)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reference(self, x: Array) -> Array:
        choice = self.uses_max.cpu().numpy()
        return reference(self.window, x, choice if len(choice) else np.array([True]))

    def extra_repr(self) -> str:
        return super().extra_repr() + ", per='layer'" * (self.per == "layer")


def _length(choice: "Tensor") -> int:
    """How many choices there are: a number that ``torch.jit.trace`` does not take for one that may change."""
    return choice.untyped_storage().nbytes() if is_jit_tracing() else len(choice)


_COUNTERS = ("max_draws", "mean_draws")


class MixedPool1d(_MixedPool):
    """Mixed pooling over ``(N, C, L)``; arguments and errors as :class:`MixedPool2d`."""

    rank = 1


class MixedPool2d(_MixedPool):
    """Mixed pooling over ``(N, C, H, W)``.

    Window arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`. ``per`` is ``"channel"`` or
    ``"layer"``: how many choices there are. The buffers ``max_draws`` and ``mean_draws``, int64, count the choices of
    training; those per channel are empty until the first forward pass in training, or until counters are loaded. Raises
    :class:`ArgumentError` for another ``per``, and in ``forward`` for another number of channels than was trained.

    >>> import torch
    >>> MixedPool2d(2).eval()(torch.tensor([[[[1.0, 3.0], [5.0, 6.0]]]])).item()
    6.0
    """

    rank = 2


class MixedPool3d(_MixedPool):
    """Mixed pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`MixedPool2d`."""

    rank = 3
