"""Detail-preserving image downscaling (DPID): a mean of each patch weighted by how far a pixel is from its guide.

    O[p] = sum_q a_q I[q] d_q^lambda / sum_q a_q d_q^lambda,   d_q = |I[q] - G[p]|,   over the pixels q of patch p

The picture is divided into as many equal patches as the output has pixels; sizes need not be multiples. ``a_q`` is the
share of pixel q that lies in the patch. The distance is Euclidean over all channels together, so that they have the
same weights. The guide ``G`` is the mean of each patch, these means smoothed by [1 2 1] x [1 2 1] / 16; at an edge the
neighbours that are missing take no part. ``lambda`` is 1 by default; 0 gives the mean of each patch, which is also the
answer where all distances are 0.

Source: Weber, Waechter, Amend, Guthe, Goesele, "Rapid, detail-preserving image downscaling", SIGGRAPH Asia 2016. The
rule at edges is that of the authors' code, mergian/dpid. That code rounds means and answers down to whole numbers, and
its Matlab version errs in the share of a patch's last row; neither is followed.

Each channel stays within its patch; equal pixels give their value; nothing overflows before the result does. NaN or an
infinity gives NaN in its patch and the patches around, since it has no distance from a guide, but where lambda is 0.
Distances in float32 are multiples of 1.4e-42, so that weights of pixels below some 1e-36 are coarse.

>>> import numpy as np
>>> round(reference(np.array([[[[1.0, 2.0], [3.0, 9.0]]]]), (1, 1)).item(), 10)
5.3095238095
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import (
    PoolModule,
    has_known_sizes,
    is_jit_tracing,
    laid_out_as,
    standard_operator,
    torch,
    widen,
)
from onnxpool.pools._windows_at_run_time import Whole, length
from onnxpool.window import Size, per_axis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DetailPreservingDownscale", "DetailPreservingDownscale2d"]

METHOD = Method(
    name="DetailPreservingDownscale",
    summary="mean of each patch weighted by how far a pixel is from its surroundings",
    formula="y = sum a_i x_i |x_i - guide|^lambda / sum a_i |x_i - guide|^lambda",
    source="Weber et al., SIGGRAPH Asia 2016",
    modules=("DetailPreservingDownscale2d((4, 3))",),
)


# --- what it computes: float64, plain

_SCALE = 2.0**-10
"""Distances are measured in such units, so that they do not overflow before the answer does."""


def reference(x: Array, size: tuple[int, int], lambda_: float = 1.0) -> Array:
    """Float64 ``(N, C, H, W) -> (N, C, *size)``: the definition."""
    patches = [list(_reference_patches(n, out)) for n, out in zip(x.shape[2:], size, strict=True)]
    mean, y = np.empty((*x.shape[:2], *size)), np.empty((*x.shape[:2], *size))
    every = list(product(*(range(out) for out in size)))
    with np.errstate(all="ignore"):  # NaN and infinity follow the formula and are part of the answer
        for i, j in every:
            cells, share = _reference_cells(x, patches[0][i], patches[1][j])
            mean[:, :, i, j] = (share / share.sum() * cells).sum((-2, -1))
        for i, j in every:
            cells, share = _reference_cells(x, patches[0][i], patches[1][j])
            weight = np.broadcast_to(share, (len(x), 1, *share.shape))
            if lambda_:
                distance = _reference_distance(cells * _SCALE, _reference_guide(mean * _SCALE, i, j)[..., None, None])
                largest = distance.max((-3, -2, -1), keepdims=True)
                weighted = share * np.where(largest == 0, 1, distance / largest) ** lambda_
                weight = np.where(largest == 0, weight, weighted)
            y[:, :, i, j] = (weight / weight.sum((-2, -1), keepdims=True) * cells).sum((-2, -1))
    return y


def _reference_patches(n: int, out: int) -> Iterator[tuple[slice, Array]]:
    """Of each patch the pixels, and how much of each lies in it; exact."""
    for patch in range(out):
        start, end = Fraction(patch * n, out), Fraction((patch + 1) * n, out)
        pixels = range(math.floor(start), math.ceil(end))
        shares = [float(min(Fraction(pixel + 1), end) - max(Fraction(pixel), start)) for pixel in pixels]
        yield slice(pixels.start, pixels.stop), np.array(shares)


def _reference_cells(x: Array, rows: tuple[slice, Array], columns: tuple[slice, Array]) -> tuple[Array, Array]:
    return x[:, :, rows[0], columns[0]], np.outer(rows[1], columns[1])


def _reference_guide(mean: Array, i: int, j: int) -> Array:
    around = [mean[:, :, i + di, j + dj] * (2 - abs(di)) * (2 - abs(dj)) for di, dj in _around(mean, i, j)]
    total = sum((2 - abs(di)) * (2 - abs(dj)) for di, dj in _around(mean, i, j))
    return sum((part / total for part in around), np.zeros(mean.shape[:2]))


def _around(mean: Array, i: int, j: int) -> list[tuple[int, int]]:
    h, w = mean.shape[2:]
    return [(di, dj) for di, dj in product((-1, 0, 1), repeat=2) if 0 <= i + di < h and 0 <= j + dj < w]


def _reference_distance(cells: Array, guide: Array) -> Array:
    apart = np.abs(cells - guide)
    largest: Array = apart.max(1, keepdims=True)
    squares = np.where(largest == 0, 0, (apart / largest) ** 2)
    return np.asarray(largest * np.sqrt(squares.sum(1, keepdims=True)))


# --- how it trains

_LARGEST = 2**22
"""Pixels of a channel that are gathered at once, where sizes are known."""


@dataclass(frozen=True)
class _Patches:
    """Of each patch along one axis its pixels, and their shares in it, of 1 together: both ``(out, most)``.

    ``most`` is as many as one can touch; a patch with fewer has its last one again, with a share of 0. Shares are whole
    numbers before the division.
    """

    pixel: "Tensor"
    share: "Tensor"

    @classmethod
    def of(cls, n: Any, out: Any, x: "Tensor", most: Any) -> Self:
        patch = torch.arange(out, device=x.device)[:, None]
        pixel = patch * n // out + torch.arange(most, device=x.device)
        share = torch.minimum((pixel + 1) * out, (patch + 1) * n) - torch.maximum(pixel * out, patch * n)
        return cls(torch.minimum(pixel, ((patch + 1) * n - 1) // out), share.clamp(min=0).to(x.dtype) / n)

    def strips(self, across: "_Patches") -> "list[_Patches]":
        """Few patches at a time, so that a large picture needs little memory."""
        step = max(1, _LARGEST // (self.pixel.shape[1] * across.pixel.numel()))
        parts = zip(torch.split(self.pixel, step), torch.split(self.share, step), strict=True)
        return [_Patches(pixel, share) for pixel, share in parts]


def _gathered(x: "Tensor", rows: _Patches, columns: _Patches) -> "tuple[Tensor, Tensor]":
    """The pixels of every patch, ``(N, C, h, w, pixels)``, and their shares, ``(h, w, pixels)``."""
    place = rows.pixel[:, None, :, None] * x.shape[3] + columns.pixel[None, :, None, :]
    share = (rows.share[:, None, :, None] * columns.share[None, :, None, :]).flatten(2)
    cells = x.flatten(2).index_select(2, place.flatten())
    return cells.reshape(*x.shape[:2], *share.shape), share


def _smooth(mean: "Tensor") -> "Tensor":
    """``[1 2 1] x [1 2 1]`` over a map, divided by the sum of what lies inside of it."""
    rows = _sums(mean, 2) / _sums(torch.ones_like(mean[:1, :1, :, :1]), 2)
    return _sums(rows, 3) / _sums(torch.ones_like(mean[:1, :1, :1]), 3)


def _sums(values: "Tensor", axis: int) -> "Tensor":
    size = values.shape[axis]
    around = torch.nn.functional.pad(values, (0, 0, 1, 1) if axis == 2 else (1, 1))
    return around.narrow(axis, 0, size) + 2 * values + around.narrow(axis, 2, size)


def _distance(cells: "Tensor", guide: "Tensor") -> "tuple[Tensor, Tensor]":
    """Over channels together, ``(N, 1, h, w, pixels)``; and whether it is 0, where it stands as 1 without a slope."""
    apart = cells - guide.unsqueeze(-1)
    largest = apart.abs().amax(1, keepdim=True).detach()
    largest = torch.where(largest == 0, 1, largest)
    squares = (apart / largest).square().sum(1, keepdim=True)
    is_zero = squares == 0
    return torch.where(is_zero, 1, largest * torch.where(is_zero, 1, squares).sqrt()), is_zero


def _weights(cells: "Tensor", share: "Tensor", guide: "Tensor", power: float) -> "Tensor":
    """Shares times the distance to that power, in units of the largest; shares where all distances are 0."""
    distance, is_zero = _distance(cells, guide)
    top = torch.where(is_zero, 0, distance).amax(-1, keepdim=True).detach()
    top = torch.where(top == 0, 1, top)
    ratio = torch.where(is_zero, top, distance) / top
    weight = torch.where(is_zero, 0, ratio**power) * share
    return torch.where(weight.sum(-1, keepdim=True) == 0, share, weight)


def _mean(cells: "Tensor", weight: "Tensor") -> "Tensor":
    """Weighted, as a distance from the pixel nearest to 0: no difference overflows, and rounding is brought back."""
    low, high = cells.amin(-1, keepdim=True), cells.amax(-1, keepdim=True)
    origin = (low.clamp(min=0) + high.clamp(max=0)).detach()
    parts = weight / weight.sum(-1, keepdim=True) * (cells - origin)
    return (origin + parts.sum(-1, keepdim=True)).clamp(low, high).squeeze(-1)


def _box(cells: "Tensor", share: "Tensor") -> "Tensor":
    """The mean; a pixel without a share takes no part, infinite or not."""
    return torch.where(share == 0, 0, cells * share).sum(-1)


def _box_within(cells: "Tensor", share: "Tensor") -> "Tensor":
    """The mean, brought back where rounding leads out of the patch's range."""
    return _box(cells, share).clamp(cells.amin(-1), cells.amax(-1))


def _forward(x: "Tensor", size: Sequence[int], up: Sequence[int], down: Sequence[int], power: float) -> "Tensor":
    out, wide, axes = _output_size(x, size, up, down), widen(x), []
    for n, patches in zip(x.shape[2:], out, strict=True):
        axes.append(_Patches.of(n, patches, wide, (n - 1) // patches + 2))
    rows, columns = axes
    strips = rows.strips(columns) if has_known_sizes(x) and not is_jit_tracing() else [rows]
    if power == 0:
        boxes = [_box_within(*_gathered(wide, strip, columns)) for strip in strips]
        return laid_out_as(x, torch.cat(boxes, 2).to(x.dtype))
    means = [_box(*_gathered(wide * _SCALE, strip, columns)) for strip in strips]
    guides = _smooth(torch.cat(means, 2))
    answers, start = [], 0
    for strip, mean in zip(strips, means, strict=True):
        cells, share = _gathered(wide, strip, columns)
        guide = guides.narrow(2, start, mean.shape[2])
        answers.append(_mean(cells, _weights(cells * _SCALE, share, guide, power)))
        start += mean.shape[2]
    return laid_out_as(x, torch.cat(answers, 2).to(x.dtype))


def _output_size(x: "Tensor", size: Sequence[int], up: Sequence[int], down: Sequence[int]) -> Sequence[Any]:
    return size or [n * a // b for n, a, b in zip(x.shape[2:], up, down, strict=True)]


def _shape(x: "Tensor", size: Sequence[int], up: Sequence[int], down: Sequence[int], _: float) -> tuple[int, ...]:
    out = _output_size(x, size, up, down)
    if has_known_sizes(x) and not all(0 < patches <= n for patches, n in zip(out, x.shape[2:], strict=True)):
        raise ArgumentError(
            f"x has shape {tuple(x.shape)}, which cannot be downscaled to {tuple(out)}; use a smaller size"
        )
    return (*x.shape[:2], *out)


# --- how it looks in ONNX


def _translate(op: Any, x: Any, size: Sequence[int], up: Sequence[int], down: Sequence[int], power: float) -> Any:
    wide = onnx_ops.wide_for(x.dtype)
    last, channels = onnx_ops.ints(op, -1), onnx_ops.ints(op, 1)
    lengths = {axis: length(op, x, axis) for axis in (2, 3)}

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def patches(axis: int) -> tuple[Whole, Any]:
        """The pixels of each patch, and their shares: ``(out, most)``."""
        n = lengths[axis]
        out = Whole(op, size[axis - 2]) if size else n * up[axis - 2] // down[axis - 2]
        start = (out.range() * n).column()
        end = start + n
        first, final = start // out, (end - 1) // out
        most = Whole(op, op.ReduceMax((final - first).node, keepdims=0)) + 1
        pixel = first + most.range()
        share = ((pixel + 1) * out).least(end) - (pixel * out).most(start)
        return pixel.least(final), op.Div(op.Cast(share.most(0).node, to=wide), op.Cast(n.node, to=wide))

    def spread(first: Any, second: Any, write: Callable[[Any, Any], Any]) -> Any:
        """Of each row of patches with each column: ``(h, w, pixels)``."""
        made = write(op.Unsqueeze(first, onnx_ops.ints(op, 1, 3)), op.Unsqueeze(second, onnx_ops.ints(op, 0, 2)))
        return op.Reshape(made, op.Concat(op.Shape(made, end=2), last, axis=0))

    def sums(values: Any, axis: int) -> Any:
        around = op.Pad(values, onnx_ops.ints(op, *(int(i in (axis, axis + 4)) for i in range(8))))
        before, after = (
            op.Slice(around, onnx_ops.ints(op, start), onnx_ops.ints(op, end), onnx_ops.ints(op, axis))
            for start, end in ((0, -2), (2, 2**31 - 1))
        )
        return op.Add(op.Add(before, after), op.Mul(values, number(2)))

    def smooth(mean: Any) -> Any:
        ones = onnx_ops.ones_like(op, mean, wide)
        for axis in (2, 3):
            mean = op.Div(sums(mean, axis), sums(ones, axis))
        return mean

    def write(x: Any) -> Any:
        (rows, heights), (columns, widths) = patches(2), patches(3)
        place = spread((rows * lengths[3]).node, columns.node, op.Add)
        share = spread(heights, widths, op.Mul)
        flat = op.Reshape(x, op.Concat(op.Shape(x, end=2), op.Reshape((lengths[2] * lengths[3]).node, last), axis=0))
        cells, nothing, one = op.Gather(flat, place, axis=2), number(0), number(1)

        def box(cells: Any) -> Any:
            parts = op.Where(op.Greater(share, nothing), op.Mul(cells, share), nothing)
            return op.ReduceSum(parts, last, keepdims=0)

        low, high = op.ReduceMin(cells, last), op.ReduceMax(cells, last)
        if power == 0:
            return op.Min(op.Max(box(cells), op.Squeeze(low, last)), op.Squeeze(high, last))
        small = op.Mul(cells, number(_SCALE))
        apart = op.Sub(small, op.Unsqueeze(smooth(box(small)), last))
        largest = op.ReduceMax(op.Abs(apart), channels)
        unit = op.Where(op.Equal(largest, nothing), one, largest)
        ratio = op.Div(apart, unit)
        distance = op.Mul(unit, op.Sqrt(op.ReduceSum(op.Mul(ratio, ratio), channels)))
        top = op.ReduceMax(distance, last)
        share_of_top = op.Div(distance, op.Where(op.Equal(top, nothing), one, top))
        weight = op.Mul(share_of_top if power == 1 else op.Pow(share_of_top, number(power)), share)
        total = op.ReduceSum(weight, last)
        weight = op.Where(op.Equal(total, nothing), share, weight)
        origin = op.Add(op.Max(low, nothing), op.Min(high, nothing))
        parts = op.Mul(op.Div(weight, op.ReduceSum(weight, last)), op.Sub(cells, origin))
        y = op.Min(op.Max(op.Add(origin, op.ReduceSum(parts, last)), low), high)
        return op.Squeeze(y, last)

    return onnx_ops.computed_in(op, x, wide, write)


detail_preserving_downscale = standard_operator(
    "detail_preserving_downscale",
    "Tensor x, int[] size, int[] up, int[] down, float power",
    _forward,
    _shape,
    _translate,
)


# --- module


class DetailPreservingDownscale2d(PoolModule):
    """Detail-preserving downscaling ``(N, C, H, W) -> (N, C, *size)``, of pictures: channels share their weights.

    ``size`` (an int or two) is the output's; in its place ``scale_factor`` (a number or two, above 0 and at most 1)
    gives ``floor(H * scale_factor)``. Patches always cover the whole input. ``lambda_``: 0 is the mean, 1 the paper's,
    more keeps more of what differs. Exported with sizes that change, it takes each of them; one below ``size``, which
    PyTorch refuses, gives pixels again. float16 and bfloat16 are computed in float32.

    Raises :class:`ArgumentError` for arguments that are not among these, and in ``forward`` for a wrong rank or dtype
    and an input that is smaller than the output.

    >>> import torch
    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]], dtype=torch.float64)
    >>> round(DetailPreservingDownscale2d(1)(x).item(), 10)
    5.3095238095
    """

    rank = 2

    def __init__(
        self,
        size: Size | None = None,
        *,
        scale_factor: float | Sequence[float] | None = None,
        lambda_: float = 1.0,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ArgumentError(f"size={size!r} and scale_factor={scale_factor!r}: give one of them")
        if isinstance(lambda_, bool) or not isinstance(lambda_, int | float) or not 0 <= lambda_ < math.inf:
            raise ArgumentError(f"lambda_={lambda_!r} must be a number of at least 0, such as 1")
        self.size: tuple[int, ...] | None = None if size is None else per_axis("size", size, 2, 1)
        self.scale_factor: tuple[float, float] | None = None if scale_factor is None else _factors(scale_factor)
        self.lambda_: float = float(lambda_)
        ratios = [Fraction(factor).limit_denominator(10_000) for factor in self.scale_factor or ()]  # 1/3 is a third
        self._ratios: list[tuple[int, int]] = [(ratio.numerator, ratio.denominator) for ratio in ratios]

    def pool(self, x: "Tensor") -> "Tensor":
        """Downscale a batch ``(N, C, H, W)``."""
        up, down = zip(*(self._ratios or [(1, 1)]), strict=True)
        return detail_preserving_downscale(x, list(self.size or ()), list(up), list(down), self.lambda_)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with this layer's size and lambda."""
        sizes = [n * up // down for n, (up, down) in zip(x.shape[2:], self._ratios, strict=False)]
        h, w = self.size or sizes
        return reference(x, (h, w), self.lambda_)

    def extra_repr(self) -> str:
        """What was asked for."""
        asked = f"{self.size}" if self.size else f"scale_factor={self.scale_factor}"
        return f"{asked}, lambda_={self.lambda_:g}"


DetailPreservingDownscale = DetailPreservingDownscale2d
"""Pictures have two axes."""


def _factors(factor: float | Sequence[float]) -> tuple[float, float]:
    factors = (factor, factor) if isinstance(factor, int | float) else tuple(factor)
    if len(factors) != 2 or not all(type(f) in (int, float) and 1e-4 <= f <= 1 for f in factors):
        raise ArgumentError(f"scale_factor={factor!r} must be a number from 0.0001 to 1, or two, for height and width")
    return factors[0], factors[1]
