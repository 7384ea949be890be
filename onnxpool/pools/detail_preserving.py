"""Detail-preserving pooling: a mean of the window that favours cells which differ from their surroundings.

    y = sum_q w_q x_q / sum_q w_q,   w_q = alpha + rho(x_q - g),   rho(t) = (t^2 + e2)^(lambda / 2),   e2 = 1e-3

over non-overlapping windows; the asymmetric reward has max(0, t) in place of t. The guide ``g`` is the mean of the
window (lite), a learned 3x3 filter (full), or the means smoothed by [1 2 1] x [1 2 1] / 16 (gaussian).
``alpha = exp(a)`` and ``lambda = exp(l)`` are learned, one of each per channel. With lambda -> 0 this is the average;
with a large lambda the cell that is furthest from the guide, or the largest where the reward is asymmetric.

Source: Saeedan, Weber, Goesele, Roth, "Detail-preserving pooling in deep networks", CVPR 2018; the gaussian guide is
that of Weber et al., "Rapid, detail-preserving image downscaling", SIGGRAPH Asia 2016.
``min <= y <= max``; equal cells give their value. NaN in the window or under the 3x3 filter gives NaN, and so does an
infinity (it is not a distance from its own guide). Nothing overflows before the result does.

>>> import numpy as np
>>> round(reference(Window.of(2, 2), np.array([[[[1.0, 2.0], [3.0, 9.0]]]]), np.zeros(1), np.zeros(1)).item(), 10)
4.8791456848
"""

import math
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools._channels import check_channels, check_has_channels
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import WindowModule, cells, is_jit_tracing, pooled_shape, torch, widen
from onnxpool.window import Size, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DetailPreservingPool2d"]

Guide: TypeAlias = Literal["lite", "full", "gaussian"]
Reward: TypeAlias = Literal["symmetric", "asymmetric"]
Normalize: TypeAlias = Literal["none", "mean", "sum"]
Init: TypeAlias = Literal["ones", "uniform"]

EPSILON = math.sqrt(1e-3)
"""``e2`` is its square."""

METHOD = Method(
    name="DetailPreservingPool",
    summary="mean of the window weighted by how far each cell is from a guide",
    formula="y = sum w x / sum w, w = alpha + ((x - guide)^2 + 0.001)^(lambda / 2)",
    source="Saeedan et al., CVPR 2018",
    modules=(
        "DetailPreservingPool2d(3)",
        "DetailPreservingPool2d(3, (2, 3), reward='asymmetric', normalize='mean')",
        "DetailPreservingPool2d(3, guide='gaussian', normalize='sum', init='uniform')",
    ),
)


# --- what it computes: float64, plain


def reference(
    window: Window,
    x: Array,
    a: Array,
    log_lambda: Array,
    guide: Guide | Array = "lite",
    reward: Reward = "symmetric",
    normalize: Normalize = "none",
) -> Array:
    """Float64 ``(N, C, H, W) -> (N, C, *output)``: the definition, for a window without padding.

    ``a`` and ``log_lambda`` have one number per channel. A full ``guide`` is given as its filter ``(C, 1, 3, 3)``.
    """
    every = np.lib.stride_tricks.sliding_window_view(x, window.kernel, (2, 3))
    cell = every[:, :, :: window.stride[0], :: window.stride[1]].reshape(
        *window.check(x.shape), math.prod(window.kernel)
    )
    with np.errstate(all="ignore"):  # NaN and infinity follow the formula and are part of the answer
        t = cell - _reference_guide(window, x, cell, guide)[..., None]
        size = np.hypot(t if reward == "symmetric" else np.maximum(t, 0), EPSILON)  # (t^2 + e2)^(1/2)
        largest = size.max(-1, keepdims=True)
        ratio = size / largest  # log of a ratio is more exact than a difference of logs
        if normalize != "none":
            total = (ratio * ratio).sum(-1, keepdims=True)
            largest = 1 / np.sqrt(total / cell.shape[-1] if normalize == "mean" else total)
        power = np.exp(log_lambda)[:, None, None, None]
        log_weight = np.logaddexp(a[:, None, None, None] - power * np.log(largest), power * np.log(ratio))
        weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
        y: Array = (weight / weight.sum(-1, keepdims=True) * cell).sum(-1)
    return y


def _reference_guide(window: Window, x: Array, cell: Array, guide: Guide | Array) -> Array:
    mean: Array = (cell / cell.shape[-1]).sum(-1)
    h, w = mean.shape[2:]
    if isinstance(guide, np.ndarray):
        around, step, taps = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), window.stride, guide[:, 0, :, :, None, None]
    elif guide == "gaussian":
        taps = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None, None] / 16
        around, step = np.pad(mean, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge"), (1, 1)
    else:
        return mean
    shifted = (
        taps[:, i, j] * around[:, :, i :: step[0], j :: step[1]][:, :, :h, :w] for i in range(3) for j in range(3)
    )
    return sum(shifted, np.zeros_like(mean))


# --- how it trains, and what is exported: strided slices, one per cell of the window, and elementwise operators.
# (ONNX Runtime, one thread, 4x64x112x112: windows of 2x2 in 30 ms, of 3x3 in 27. The same arithmetic on one tensor with
# an axis of cells takes 43 and 38, and 167 and 113 reduced over the axes of (N, C, H/k, k, W/k, k).)

_EXACT = 1e15
"""``t^2 + e2`` is ``t^2`` in float32 and float64 from here on, and its square is far from overflow."""


def _cells(window: Window, x: "Tensor") -> "list[Tensor]":
    """Each cell of all windows at once: views ``(N, C, H // kh, W // kw)`` in row-major order."""
    if not is_jit_tracing():
        for size, least in zip(x.shape[2:], window.kernel, strict=True):
            torch._check(size >= least)  # type: ignore[no-untyped-call]  # so that sizes of slices are plain quotients
    return list(cells(x, window, 0))


def _total(terms: "list[Tensor]") -> "Tensor":
    return sum(terms[1:], terms[0])


def _mean(values: "list[Tensor]", weights: "list[Tensor]") -> "Tensor":
    """The weighted mean, for weights in [0, 1] of which one is 1.

    It is a distance from the cell nearest to zero (from zero between cells of both signs): no difference overflows, and
    equal cells have distances of 0. Rounding may lead out of the window's range, even to infinity, and clamp back.
    """
    low, high = reduce(torch.minimum, values), reduce(torch.maximum, values)
    origin = (low.clamp(min=0) + high.clamp(max=0)).detach()
    total = _total(weights)
    distance = _total([weight / total * (value - origin) for weight, value in zip(weights, values, strict=True)])
    return (origin + distance).clamp(low, high)


class DetailPreservingPool2d(WindowModule):
    """Detail-preserving pooling ``(N, C, H, W) -> (N, C, H // kh, W // kw)``; trailing cells of odd sizes are unused.

    ``channels`` is C; ``kernel_size`` (an int or two) is the stride as well. ``guide``: ``"lite"`` the mean of the
    window, ``"full"`` a learned 3x3 filter per channel (parameter ``guide_filter``, with the stride of the pool and
    padding 1, at first the mean), ``"gaussian"`` the smoothed map of means. ``reward``: ``"symmetric"``, or
    ``"asymmetric"`` for cells above the guide only. ``normalize``: ``"mean"`` or ``"sum"`` divides ``t^2 + e2`` by its
    mean or sum over the window first, as the authors' two implementations do. ``init``: ``"ones"`` starts alpha and
    lambda at 1, ``"uniform"`` draws their logarithms ``a`` and ``l`` within ``1 / sqrt(C)`` of 0.

    float16 and bfloat16 are computed in float32. Raises :class:`ArgumentError` for arguments that are not among these,
    and in ``forward`` for a wrong rank, dtype or number of channels, and an input smaller than the window.

    >>> import torch
    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]], dtype=torch.float64)
    >>> round(DetailPreservingPool2d(1).double()(x).item(), 10)
    4.8791456848
    """

    rank = 2

    def __init__(
        self,
        channels: int,
        kernel_size: Size = 2,
        guide: Guide = "lite",
        reward: Reward = "symmetric",
        normalize: Normalize = "none",
        init: Init = "ones",
    ) -> None:
        super().__init__(kernel_size)
        check_channels(channels)
        _check("guide", guide, Guide)
        _check("reward", reward, Reward)
        _check("normalize", normalize, Normalize)
        _check("init", init, Init)
        self.channels: int = channels
        self.guide: Guide = guide
        self.reward: Reward = reward
        self.normalize: Normalize = normalize
        reach = channels**-0.5 if init == "uniform" else 0.0
        self.a: torch.nn.Parameter = torch.nn.Parameter(torch.empty(channels).uniform_(-reach, reach))
        self.l: torch.nn.Parameter = torch.nn.Parameter(torch.empty(channels).uniform_(-reach, reach))
        self.guide_filter: torch.nn.Parameter | None = (
            torch.nn.Parameter(torch.full((channels, 1, 3, 3), 1 / 9)) if guide == "full" else None
        )

    @property
    def alpha(self) -> "Tensor":
        """``exp(a)``, what every cell's weight has at least: ``(C,)``."""
        return widen(self.a).exp()

    @property
    def lambda_(self) -> "Tensor":
        """``exp(l)``, the power of the reward: ``(C,)``."""
        return widen(self.l).exp()

    def pool(self, x: "Tensor") -> "Tensor":
        """Pool a batch ``(N, C, H, W)``."""
        check_has_channels(x, self.channels)
        return self._pooled(self.window, widen(x)).to(x.dtype)

    def _pooled(self, window: Window, x: "Tensor") -> "Tensor":
        pooled_shape(window, x)
        values = _cells(window, x)
        return _mean(values, self._weights(window, x, values))

    def _weights(self, window: Window, x: "Tensor", values: "list[Tensor]") -> "list[Tensor]":
        """The weights relative to the largest: ``rest + share r^lambda``, where r is a size relative to the largest.

        The sizes ``(t^2 + e2)^(1/2)`` are scaled so that neither sums nor differences overflow. From here on their
        square roots stand for them, which keeps their ratios above the smallest float32.
        """
        scale = 2.0 ** -(len(values).bit_length() + 4)
        scaled = [value * scale for value in values]
        guide = self._guide(window, x, scaled, scale)
        roots = [self._size(value - guide, EPSILON * scale).sqrt() for value in scaled]
        largest = reduce(torch.maximum, roots).detach()  # a common factor has no gradient
        ratios = [root / largest for root in roots]
        if self.normalize == "none":
            log_size = 2 * largest.log() - math.log(scale)
        else:
            squares = [ratio * ratio for ratio in ratios]
            total = _total([square * square for square in squares])
            log_size = -0.5 * (total / len(ratios) if self.normalize == "mean" else total).log()
        a, power = (parameter[:, None, None] for parameter in (widen(self.a), self.lambda_))
        odds = power * log_size - a  # of the reward against alpha, for the largest size
        share, rest = odds.sigmoid(), (-odds).sigmoid()
        return [rest + share * (2 * power * ratio.log()).exp() for ratio in ratios]

    def _guide(self, window: Window, x: "Tensor", scaled: "list[Tensor]", scale: float) -> "Tensor":
        if self.guide_filter is not None:
            weight = widen(self.guide_filter) * scale
            filtered = torch.nn.functional.conv2d(x, weight, None, window.stride, padding=1, groups=self.channels)
            h, w = window.output(x.shape[2:])
            return filtered.narrow(2, 0, h).narrow(3, 0, w)
        mean = _total(scaled) / len(scaled)
        return _smooth(mean) if self.guide == "gaussian" else mean

    def _size(self, t: "Tensor", epsilon: float) -> "Tensor":
        t = t.abs() if self.reward == "symmetric" else t.clamp(min=0)
        moderate = t.clamp(max=_EXACT)
        return torch.maximum(t, (moderate * moderate + epsilon**2).sqrt())

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present parameters."""
        return reference(self.window, x, *self._arguments())

    def _arguments(self) -> tuple[Array, Array, Guide | Array, Reward, Normalize]:
        """What the reference takes after ``x``."""
        guide = self.guide if self.guide_filter is None else _plain(self.guide_filter)
        return _plain(self.a), _plain(self.l), guide, self.reward, self.normalize

    def extra_repr(self) -> str:
        """Channels, window and what is chosen."""
        return f"{self.channels}, {self.window}, {self.guide}, {self.reward}, normalize {self.normalize}"


def _check(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ArgumentError(f"{name}={value!r} is unknown; use one of {', '.join(get_args(choices))}")


def _plain(parameter: "Tensor") -> Array:
    array: Array = parameter.detach().double().cpu().numpy()
    return array


def _smooth(mean: "Tensor") -> "Tensor":
    """``[1 2 1] x [1 2 1] / 16`` over a map whose edges repeat."""
    around = torch.nn.functional.pad(mean, (1, 1, 1, 1), mode="replicate")
    rows = (around[..., :-2, :] + 2 * around[..., 1:-1, :] + around[..., 2:, :]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
