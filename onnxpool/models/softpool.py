"""The pools of SoftPool networks: by the formula, or as the authors' kernels computed them before April 2022.

Until the commit "fix for pooling kernel strides on torch>+1.10" of 7 April 2022, in the authors' repository
(github.com/alexandrosstergiou/SoftPool, pytorch/CUDA/softpool_cuda_kernel.cu), output ``p`` of an axis pooled the cells
from ``p stride - kernel // 2`` on, those outside of the input left out, and there were ``n // stride`` outputs: 2x2
windows with stride 2 held the cells ``2 p - 1`` and ``2 p``. The published weights are of January 2021: they were
trained with these windows. Since then a window begins at ``p stride``.

>>> x = torch.arange(4.0, dtype=torch.float64).expand(1, 1, 4, 4)
>>> [round(y, 4) for y in soft_pool2d(2, 2, shifted=True)(x)[0, 0, 0].tolist()]
[0.0, 1.7311]
"""

from typing import TYPE_CHECKING

from onnxpool.errors import ArgumentError
from onnxpool.pools._torch_ops import Sequential
from onnxpool.pools.soft import SoftPool2d, SoftPool3d

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["soft_pool2d", "soft_pool3d"]


def soft_pool2d(kernel: int, stride: int, *, shifted: bool) -> "torch.nn.Module":
    """A SoftPool without padding, or with ``shifted`` windows; raises :class:`ArgumentError` if that is no bool."""
    return _Shifted(SoftPool2d(kernel, stride, kernel // 2)) if checked(shifted) else SoftPool2d(kernel, stride)


def soft_pool3d(kernel: int, stride: int, *, shifted: bool) -> "torch.nn.Module":
    """The same over ``(N, C, D, H, W)``."""
    return _Shifted(SoftPool3d(kernel, stride, kernel // 2)) if checked(shifted) else SoftPool3d(kernel, stride)


def checked(shifted: bool) -> bool:
    """The flag; raises :class:`ArgumentError` if it is no bool."""
    if not isinstance(shifted, bool):
        raise ArgumentError(f"shifted={shifted!r} is not a bool; use True or False")
    return shifted


class _Shifted(Sequential):
    """A pool with half its kernel as padding, of which each axis of ``n`` cells keeps the first ``n // stride``."""

    def __init__(self, pool: SoftPool2d | SoftPool3d) -> None:
        super().__init__(pool)
        self.strides: tuple[int, ...] = pool.window.stride

    def forward(self, x: "Tensor") -> "Tensor":
        """Pool ``x``."""
        y: Tensor = self[0](x)
        for axis, stride in enumerate(self.strides, start=2):
            y = y.narrow(axis, 0, x.shape[axis] // stride)
        return y
