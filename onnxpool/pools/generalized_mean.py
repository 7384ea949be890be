"""Generalised mean pooling, GeM: from the mean of all positions, at p = 1, to their maximum, as p grows.

    y[n, c] = (mean_i max(x_i, eps)^p)^(1/p)   over every position i of x[n, c],   p > 0, which is learned

Source: Radenovic, Tolias, Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018. Unlike the mean of
:class:`PowerAvgPool2d` it has no window and no magnitude: what is below ``eps``, -inf too, counts as ``eps``.
Computed as ``y = m (mean_i (max(x_i, eps) / m)^p)^(1/p)`` with ``m`` the largest position, so that no power overflows:
the published formula gives infinity for a float16 input of 41, or a float32 input of 7e12, at p = 3. NaN anywhere gives
NaN, an infinity gives infinity.

In ONNX it is that in standard operators, in every form of a model; the lower limit is a ``Max``, since ``Clip`` without
an upper one turns infinity into 3.4e38 on ONNX Runtime's CPU provider.

>>> import numpy as np
>>> round(reference(np.array([[[[1.0, 2.0], [3.0, 4.0]]]])).item(), 9)
2.924017738
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._channels import check_channels
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import PoolModule, has_known_sizes, standard_operator, torch, widen
from onnxpool.pools.power_average import relative_powers, write_means

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GeM", "GeM1d", "GeM2d", "GeM3d"]


def reference(x: Array, p: float | Array = 3.0, eps: float = 1e-6) -> Array:
    """Float64 ``(N, C, *spatial) -> (N, C, 1, ...)``, ``p`` a number or one per channel: the definition."""
    axes = tuple(range(2, x.ndim))
    exponent = np.reshape(p, (-1, *[1] * len(axes)))
    limited = np.maximum(x, eps)
    top = limited.max(axes, keepdims=True)
    scale = np.where((top > 0) & (top < np.inf), top, 1)
    mean: Array = ((limited / scale) ** exponent).mean(axes, keepdims=True)
    y: Array = scale * mean ** (1 / exponent)
    return y


METHOD = Method(
    name="GeM",
    summary="power mean over all positions; p is learned",
    formula="y = (mean max(x_i, eps)^p)^(1/p)",
    source="Radenovic et al., 2018",
    modules=("GeM1d()", "GeM2d()", "GeM2d(2.5, 0.001, flatten=True)", "GeM2d(channels=3)", "GeM3d(learn_p=False)"),
)


# --- how it trains


def _forward(x: "Tensor", learned: "Tensor | None", fixed: float, eps: float) -> "Tensor":
    axes = tuple(range(2, x.dim()))
    p = fixed if learned is None else widen(learned).reshape(-1, *[1] * len(axes))
    limited = widen(x).clamp(min=eps)
    scale, (powers,) = relative_powers([limited], limited.amax(axes, keepdim=True), p)
    mean = powers.mean(axes, keepdim=True)
    nothing = mean == 0  # with eps = 0 only; the slope of the root at 0 is infinite, or NaN
    return torch.where(nothing, 0, scale * torch.where(nothing, 1, mean) ** (1 / p)).to(x.dtype)


def _shape(x: "Tensor", learned: "Tensor | None", *_: Any) -> tuple[int, ...]:
    if has_known_sizes(x):
        if 0 in x.shape[2:]:
            raise ArgumentError(f"x has shape {tuple(x.shape)}, which has no position to pool; use at least one")
        if learned is not None and learned.numel() not in (1, x.shape[1]):
            raise ArgumentError(f"x has {x.shape[1]} channels; p has {learned.numel()} numbers: one, or one for each")
    return (*x.shape[:2], *(1 for _ in x.shape[2:]))


# --- how it looks in ONNX


def _translate(op: Any, x: Any, learned: Any, fixed: float, eps: float) -> Any:
    wide = onnx_ops.wide_for(x.dtype)
    axes = range(2, len(x.shape))

    def write(x: Any) -> Any:
        if learned is None:
            p, inverse = (onnx_ops.number(op, value, wide) for value in (fixed, 1 / fixed))
        else:
            p = op.Reshape(onnx_ops.cast(op, learned, wide), onnx_ops.ints(op, -1, *[1] * len(axes)))
            inverse = op.Reciprocal(p)
        return write_means(op, op.Max(x, onnx_ops.number(op, eps, wide)), axes, p, inverse, wide)

    return onnx_ops.computed_in(op, x, wide, write)


generalized_mean_pool = standard_operator(
    "generalized_mean_pool", "Tensor x, Tensor? learned, float fixed, float eps", _forward, _shape, _translate
)


# --- modules


class _GeM(PoolModule):
    def __init__(
        self, p: float = 3.0, eps: float = 1e-6, *, flatten: bool = False, learn_p: bool = True, channels: int = 1
    ) -> None:
        super().__init__()
        _check(p, eps, flatten, learn_p, channels)
        self.p: float | torch.nn.Parameter = torch.nn.Parameter(torch.full((channels,), float(p))) if learn_p else p
        self.eps: float = float(eps)
        self.flatten: bool = flatten

    def pool(self, x: "Tensor") -> "Tensor":
        learned, fixed = (self.p, 0.0) if isinstance(self.p, torch.Tensor) else (None, float(self.p))
        y = generalized_mean_pool(x, learned, fixed, self.eps)
        return y.flatten(1) if self.flatten else y

    def reference(self, x: Array) -> Array:
        y = reference(x, torch.as_tensor(self.p, dtype=torch.float64).detach().cpu().numpy(), self.eps)
        return y.reshape(x.shape[:2]) if self.flatten else y

    def extra_repr(self) -> str:
        """``p`` as it is now."""
        numbers = self.p.flatten().tolist() if isinstance(self.p, torch.Tensor) else [self.p]
        p = f"{numbers[0]:.4g}" if len(set(numbers)) == 1 else f"{min(numbers):.4g} to {max(numbers):.4g}"
        return f"p={p}, eps={self.eps:g}" + ", flatten=True" * self.flatten


def _check(p: float, eps: float, flatten: bool, learn_p: bool, channels: int) -> None:
    for name, flag in (("flatten", flatten), ("learn_p", learn_p)):
        if not isinstance(flag, bool):
            raise ArgumentError(f"{name}={flag!r} is not a bool; use True or False")
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p < math.inf:
        raise ArgumentError(f"p={p!r} must be a positive number; 1 gives the mean")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise ArgumentError(f"eps={eps!r} must be a number of at least 0, such as 1e-6")
    check_channels(channels)
    if channels != 1 and not learn_p:
        raise ArgumentError(f"channels={channels!r} needs learn_p=True: a fixed p is one number")


class GeM1d(_GeM):
    """Generalised mean over ``(N, C, L)``; arguments and errors as :class:`GeM2d`."""

    rank = 1


class GeM2d(_GeM):
    """Generalised mean over ``(N, C, H, W)``: to ``(N, C, 1, 1)``, or to ``(N, C)`` with ``flatten``.

    ``p`` is where learning starts, in the parameter ``p`` of shape ``(1,)`` that published checkpoints have; with
    ``channels`` each channel learns its own, ``(channels,)``; without ``learn_p`` it is a number. What is below ``eps``
    counts as ``eps``. float16 and bfloat16 are computed in float32. Raises :class:`ArgumentError` for a ``p`` that is
    not positive and finite, a negative ``eps``, and in ``forward`` for a wrong rank, an integer dtype, another number
    of channels, and an input without positions.

    >>> import torch
    >>> round(GeM2d()(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)).item(), 9)
    2.924017738
    """

    rank = 2


GeM = GeM2d
"""The name that the published code has."""


class GeM3d(_GeM):
    """Generalised mean over ``(N, C, D, H, W)``; arguments and errors as :class:`GeM2d`."""

    rank = 3
