"""Detail-preserving pooling by stochastic spatial sampling (S3DPP): rows and columns of a dense map, drawn at random.

    u = detail-preserving pooling of x with stride 1, as large as x: beyond the end the last row and column repeat
    training:    y[i, j] = u[r_i, c_j],   rows r and columns c drawn, the same for every channel and sample
    evaluation:  y = mean of u over windows s x s that do not overlap, s the kernel size

In each group of ``grid`` successive rows, g / s of them are drawn without replacement, and kept in order; so are
columns. By default there are two groups, halves of the picture, as in the authors' code; with ``grid`` = s each window
is pooled by one of its own rows and columns. Draws come from PyTorch's global generator. The four variants of
:class:`DetailPreservingPool2d`, lite and full, symmetric and asymmetric, thus become eight.

Source: Saeedan, Weber, Goesele, Roth, "Detail-preserving pooling in deep networks", CVPR 2018, with the sampling of
Zhai et al., "S3Pool: pooling with stochastic spatial sampling", CVPR 2017. The authors' code, visinf/dpp, pools four
shifted pictures instead of a dense map, so that a full guide sees zeros in place of the first row or column when it is
shifted; here it sees the picture. What :mod:`onnxpool.pools.detail_preserving` says of values holds here too.

>>> import numpy as np
>>> x = np.array([[[[1.0, 2.0], [3.0, 9.0]]]])
>>> round(reference(Window.of(2, 2), x, np.zeros(1), np.zeros(1)).item(), 10)
6.3447864212
"""

from typing import TYPE_CHECKING

import numpy as np

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import detail_preserving
from onnxpool.pools._method import Method
from onnxpool.pools._torch_ops import pooled_shape, torch
from onnxpool.pools.detail_preserving import DetailPreservingPool2d, Guide, Init, Normalize, Reward
from onnxpool.window import Size, Window, per_axis

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["S3DetailPreservingPool2d"]

METHOD = Method(
    name="S3DetailPreservingPool",
    summary="detail-preserving pooling of rows and columns drawn at random while training",
    formula="y = mean u over the window, u = DetailPreservingPool of x with stride 1",
    source="Saeedan et al., CVPR 2018; Zhai et al., CVPR 2017",
    modules=("S3DetailPreservingPool2d(3, guide='full', reward='asymmetric')",),
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
    """Float64 ``(N, C, H, W) -> (N, C, H // kh, W // kw)`` in evaluation: the definition."""
    (kh, kw), (*_, h, w) = window.kernel, window.check(x.shape)
    around = np.pad(x, [(0, 0), (0, 0), (0, kh - 1), (0, kw - 1)], mode="edge")
    dense = detail_preserving.reference(dense_window(window), around, a, log_lambda, guide, reward, normalize)
    parts = dense[:, :, : h * kh, : w * kw].reshape(*x.shape[:2], h, kh, w, kw)
    with np.errstate(all="ignore"):
        return np.asarray((parts / (kh * kw)).sum((3, 5)))


def dense_window(window: Window) -> Window:
    """The same kernel, at stride 1."""
    return Window.of(2, window.kernel, 1)


# --- how it trains, and what is exported


class S3DetailPreservingPool2d(DetailPreservingPool2d):
    """Detail-preserving pooling of rows and columns drawn in training: ``(N, C, H, W) -> (N, C, H // kh, W // kw)``.

    ``grid``, an int or two, is how many successive rows, and columns, those of one group are drawn from: multiples of
    ``kernel_size``. None makes two groups of halves. Other arguments and errors as :class:`DetailPreservingPool2d`,
    without the gaussian guide, whose windows do not overlap; also :class:`ArgumentError` for another ``grid``.

    >>> import torch
    >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 9.0]]]], dtype=torch.float64)
    >>> round(S3DetailPreservingPool2d(1).double().eval()(x).item(), 10)
    6.3447864212
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Size = 2,
        guide: Guide = "lite",
        reward: Reward = "symmetric",
        normalize: Normalize = "none",
        init: Init = "ones",
        *,
        grid: Size | None = None,
    ) -> None:
        super().__init__(channels, kernel_size, guide, reward, normalize, init)
        if guide == "gaussian":
            raise ArgumentError("guide='gaussian' needs windows that do not overlap; use 'lite' or 'full'")
        sizes = None if grid is None else per_axis("grid", grid, 2, 1)
        if sizes and any(g % k for g, k in zip(sizes, self.window.kernel, strict=True)):
            raise ArgumentError(f"grid={grid!r} must be a multiple of the kernel size {self.window.kernel}, or two")
        self.grid: tuple[int, ...] | None = sizes

    @property
    def draws(self) -> bool:
        """Whether forward draws at random, as it does in training."""
        return self.training

    def _pooled(self, window: Window, x: "Tensor") -> "Tensor":
        pooled_shape(window, x)
        (kh, kw), sizes = window.kernel, x.shape[2:]
        around = torch.nn.functional.pad(x, (0, kw - 1, 0, kh - 1), mode="replicate")
        dense = super()._pooled(dense_window(window), around)
        if not self.training:
            scale = 1 / (kh * kw)
            return torch.nn.functional.avg_pool2d(dense * scale, (kh, kw), divisor_override=1)
        for axis, (kernel, size) in enumerate(zip(window.kernel, sizes, strict=True), start=2):
            dense = dense.index_select(axis, self._drawn(axis - 2, int(size) // kernel, kernel, x))
        return dense

    def _drawn(self, axis: int, count: int, kernel: int, x: "Tensor") -> "Tensor":
        """Places in order, ``count`` of them: of each group one for every ``kernel``."""
        grid = self.grid[axis] if self.grid else -(-count // 2) * kernel
        chosen = []
        for start in range(0, count * kernel, grid):
            group = min(grid, count * kernel - start)
            order = torch.rand(group, device=x.device).argsort()
            chosen.append(start + order[: group // kernel].sort().values)
        return torch.cat(chosen)

    def reference(self, x: Array) -> Array:
        """As :func:`reference`, with the present parameters: what evaluation gives."""
        return reference(self.window, x, *self._arguments())
