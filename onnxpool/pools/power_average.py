"""Power average pooling, or Lp pooling: from the sum of magnitudes, at p = 1, to the largest of them, at p = infinity.

    y = (sum_i |x_i|^p)^(1/p)         norm "sum"
    y = (mean_i |x_i|^p)^(1/p)        norm "mean": generalised mean; GeM is in generalized_mean.py

over the in-bounds cells of the window; p >= 1 may be learned, one for all channels or one for each.

Sources: Bruna, Szlam, LeCun, "Signal recovery from pooling representations", ICML 2014; Radenovic, Tolias, Chum,
"Fine-tuning CNN image retrieval with no human annotation", 2018 (GeM). Everywhere computed as ``y = m (sum_i (|x_i| /
m)^p)^(1/p)`` with ``m`` the window's largest magnitude, so that no power overflows or vanishes: 4^8 is beyond float16.
A window of zeros gives 0, with zero gradients. NaN in the window gives NaN, an infinity gives infinity.

In ONNX it is that decomposition in standard operators, in every form of a model. ONNX has an ``LpPool``, for the sum
and integers p: without the division by ``m``, and on ONNX Runtime's CPU provider five times slower than this
decomposition (24 ms to 4.7 ms for 4x64x56x56 pooled 3x3 s2 p1, one thread), so it is not used. PyTorch's ``LPPool``
differs: it has no magnitude, and inflates the clipped windows of ``ceil_mode``.

>>> import numpy as np
>>> round(reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), 3.0).item(), 9)
4.641588834
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._channels import check_channels
from onnxpool.pools._method import Method, over_windows
from onnxpool.pools._torch_ops import WindowModule, cells, is_jit_tracing, pooled_shape, standard_operator, torch, widen
from onnxpool.pools.max import max_pool
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PowerAvgPool1d", "PowerAvgPool2d", "PowerAvgPool3d"]

Norm = Literal["sum", "mean"]


def reference(window: Window, x: Array, p: float | Array = 2.0, norm: Norm = "sum") -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, *output)``, ``p`` a number or one per channel: the definition."""
    exponent = np.reshape(p, (-1, 1))

    def power_average(cells: Array) -> Array:
        top = np.abs(cells).max(-1, keepdims=True)
        scale = np.where((top > 0) & (top < np.inf), top, 1)
        powers = (np.abs(cells) / scale) ** exponent
        total = powers.sum(-1, keepdims=True) if norm == "sum" else powers.mean(-1, keepdims=True)
        y: Array = (scale * total ** (1 / exponent))[..., 0]
        return y

    if np.all(np.isinf(exponent)):
        return over_windows(lambda cells: np.abs(cells).max(-1), window, x)
    return over_windows(power_average, window, x)


METHOD = Method(
    name="PowerAvgPool",
    summary="p-norm, or power mean, of the window; p may be learned",
    formula="y = (sum |x_i|^p)^(1/p)",
    source="Bruna et al., ICML 2014",
    modules=(
        "PowerAvgPool1d(3, 2, 1, 2)",
        "PowerAvgPool2d(3, 2, 1)",
        "PowerAvgPool2d(2, ceil_mode=True, p=3.0, norm='mean')",
        "PowerAvgPool2d(2, p=2.5, learn_p=True, per_channel=True, channels=3)",
        "PowerAvgPool3d(2, p=1.5)",
    ),
)


# --- how it trains


def relative_powers(sizes: "list[Tensor]", top: "Tensor", p: "Tensor | float") -> "tuple[Tensor, list[Tensor]]":
    """``scale``, which is ``top`` where that is above 0 and finite, else 1; and ``(size / scale)^p`` for each size.

    Without a gradient to ``scale``, on which no power mean depends.
    """
    top = top.detach()
    scale = torch.where((top > 0) & (top < torch.inf), top, 1)
    return scale, [(size / scale) ** p for size in sizes]


def _forward(window: Window, x: "Tensor", learned: "Tensor | None", fixed: float, mean: bool) -> "Tensor":
    p = fixed if learned is None else widen(learned).reshape(-1, *[1] * window.rank)
    sizes = list(cells(widen(x).abs(), window, 0))
    top = reduce(torch.maximum, sizes)
    scale, powers = relative_powers(sizes, top, p)
    total = reduce(torch.add, powers)
    if mean:
        total = total / reduce(torch.add, cells(top.new_ones((1, 1, *x.shape[2:])), window, 0))
    nothing = total == 0
    root = torch.where(nothing, 1, total) ** (1 / p)  # the slope of the root at 0 is infinite, or NaN
    return torch.where(nothing, 0, scale * root).to(x.dtype)


# --- how it looks in ONNX


def write_windows(op: Any, x: Any, window: Window, p: Any, inverse: Any, count: Any | None, dtype: ir.DataType) -> Any:
    """``(sum |x_i|^p / count)^inverse`` of each window; no division where ``count`` is None."""
    sizes = list(onnx_ops.cells(op, op.Abs(x), window, 0, dtype))
    scale, powers = _written_powers(op, sizes, op.Max(*sizes), p, dtype)
    total = op.Sum(*powers)
    return op.Mul(scale, op.Pow(total if count is None else op.Div(total, count), inverse))


def write_whole(op: Any, x: Any, axes: Sequence[int], p: Any, inverse: Any, dtype: ir.DataType) -> Any:
    """``(mean |x_i|^p)^inverse`` over these axes, which stay with size 1."""
    return write_means(op, op.Abs(x), axes, p, inverse, dtype)


def write_means(op: Any, size: Any, axes: Sequence[int], p: Any, inverse: Any, dtype: ir.DataType) -> Any:
    """``(mean size_i^p)^inverse`` over these axes, which stay with size 1, for sizes that are 0 or more."""
    reduced = onnx_ops.ints(op, *axes)
    scale, powers = _written_powers(op, [size], op.ReduceMax(size, reduced, keepdims=1), p, dtype)
    return op.Mul(scale, op.Pow(op.ReduceMean(*powers, reduced, keepdims=1), inverse))


def _written_powers(op: Any, sizes: Sequence[Any], top: Any, p: Any, dtype: ir.DataType) -> tuple[Any, list[Any]]:
    """As :func:`relative_powers`."""
    usable = op.And(op.Greater(top, onnx_ops.number(op, 0, dtype)), op.Less(top, onnx_ops.number(op, math.inf, dtype)))
    scale = op.Where(usable, top, onnx_ops.number(op, 1, dtype))
    return scale, [op.Pow(op.Div(size, scale), p) for size in sizes]


def _translate(op: Any, window: Window, x: Any, learned: Any, fixed: float, mean: bool) -> Any:
    wide = onnx_ops.wide_for(x.dtype)

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def write(x: Any) -> Any:
        if learned is None:
            p, inverse = number(fixed), number(1 / fixed)
        else:
            p = op.Reshape(onnx_ops.cast(op, learned, wide), onnx_ops.ints(op, -1, *[1] * window.rank))
            inverse = op.Reciprocal(p)
        count = onnx_ops.count(op, x, window, wide) if mean else None
        return write_windows(op, x, window, p, inverse, count, wide)

    return onnx_ops.computed_in(op, x, wide, write)


power_average_pool = standard_operator(
    "power_average_pool",
    "Window window, Tensor x, Tensor? learned, float fixed, bool mean",
    _forward,
    lambda window, x, *_: pooled_shape(window, x),
    _translate,
)


# --- modules


class _PowerAvgPool(WindowModule):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        *,
        p: float = 2.0,
        learn_p: bool = False,
        per_channel: bool = False,
        norm: Norm = "sum",
        channels: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        _check(p, learn_p, per_channel, norm, channels)
        self.norm: Norm = norm
        self.channels: int | None = channels
        self.fixed: float = float(p)
        self.exponent: torch.nn.Parameter | None = (
            torch.nn.Parameter(torch.full((channels,) if channels else (), self.fixed)) if learn_p else None
        )

    @property
    def p(self) -> "float | Tensor":
        """The exponent in use: a number or, where it is learned, a tensor, of one for each channel or of none."""
        if self.exponent is None:
            return self.fixed
        exponent = widen(self.exponent)  # ONNX Runtime's CPU provider cannot subtract in bfloat16
        return torch.where(exponent >= 1, exponent, 2 - exponent)

    def pool(self, x: "Tensor") -> "Tensor":
        if self.channels and not is_jit_tracing() and x.shape[1] != self.channels:
            raise ArgumentError(f"x has {x.shape[1]} channels; channels={self.channels} was promised")
        if self.fixed == math.inf:
            return max_pool(self.window, x.abs())
        learned = None if self.exponent is None else self.p
        return power_average_pool(self.window, x, learned, self.fixed, self.norm == "mean")

    def reference(self, x: Array) -> Array:
        p = torch.as_tensor(self.p, dtype=torch.float64).detach().cpu().numpy()
        return reference(self.window, x, p, self.norm)

    def extra_repr(self) -> str:
        learned = "" if self.exponent is None else ", learn_p=True"
        channels = f", per_channel=True, channels={self.channels}" if self.channels else ""
        return f"{super().extra_repr()}, p={self.fixed:g}{learned}{channels}, norm={self.norm!r}"


def _check(p: float, learn_p: bool, per_channel: bool, norm: str, channels: int | None) -> None:
    for name, flag in (("learn_p", learn_p), ("per_channel", per_channel)):
        if not isinstance(flag, bool):
            raise ArgumentError(f"{name}={flag!r} is not a bool; use True or False")
    if isinstance(p, bool) or not isinstance(p, int | float) or not p >= 1:
        raise ArgumentError(f"p={p!r} must be a number of at least 1; math.inf gives the maximum")
    if learn_p and math.isinf(p):
        raise ArgumentError(f"p={p!r} cannot be learned; start from a finite one, or use learn_p=False")
    if norm not in get_args(Norm):
        raise ArgumentError(f"norm={norm!r} is unknown; use one of {', '.join(get_args(Norm))}")
    if per_channel and not learn_p:
        raise ArgumentError(f"per_channel={per_channel!r} needs learn_p=True: a fixed p is one number")
    if per_channel != (channels is not None):
        raise ArgumentError(f"channels={channels!r} goes with per_channel=True; give both or neither")
    check_channels(channels, or_none=True)


class PowerAvgPool1d(_PowerAvgPool):
    """Power average pooling over ``(N, C, L)``; arguments and errors as :class:`PowerAvgPool2d`."""

    rank = 1


class PowerAvgPool2d(_PowerAvgPool):
    """Power average pooling over ``(N, C, H, W)``.

    Window arguments and errors as :class:`onnxpool.pools._torch_ops.WindowModule`. ``p`` is 1 or more, ``math.inf`` for
    the largest magnitude; with ``learn_p`` it is where learning starts, in the parameter ``exponent``, ``e``: p is e,
    and 2 - e where e < 1, so that it never falls below 1 and never stops learning. With ``per_channel`` each of
    ``channels`` channels learns its own. ``norm`` is ``"sum"`` or ``"mean"``. Raises :class:`ArgumentError` for other
    values.

    >>> import torch
    >>> PowerAvgPool2d(2)(torch.tensor([[[[1.0, 1.0], [1.0, -1.0]]]])).item()
    2.0
    """

    rank = 2


class PowerAvgPool3d(_PowerAvgPool):
    """Power average pooling over ``(N, C, D, H, W)``; arguments and errors as :class:`PowerAvgPool2d`."""

    rank = 3
