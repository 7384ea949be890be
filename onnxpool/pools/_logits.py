"""The networks that give logits to local importance pooling.

Source: Gao, Wang, Wu, "LIP: Local Importance-based Pooling", ICCV 2019. Names of children are those of the authors'
code, so that their checkpoints load.
"""

import math
from typing import TYPE_CHECKING, ClassVar

from onnxpool.errors import ArgumentError
from onnxpool.pools._torch_ops import Module, Sequential, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BottleneckLogit1d",
    "BottleneckLogit2d",
    "BottleneckLogit3d",
    "ProjectionLogit1d",
    "ProjectionLogit2d",
    "ProjectionLogit3d",
    "SimplifiedLogit1d",
    "SimplifiedLogit2d",
    "SimplifiedLogit3d",
    "SoftGate",
]


class SoftGate(Module):
    """``coefficient * sigmoid(z)``: keeps logits in ``[0, coefficient]``, so that no cell's weight is negligible.

    The authors' coefficient is 12. Raises :class:`ArgumentError` for one that is not positive and finite.
    """

    def __init__(self, coefficient: float = 12.0) -> None:
        super().__init__()
        if not (isinstance(coefficient, int | float) and 0 < coefficient < math.inf):
            raise ArgumentError(f"coefficient={coefficient!r} must be a positive number")
        self.coefficient: float = float(coefficient)

    if TYPE_CHECKING:

        def __call__(self, z: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def forward(self, z: "Tensor") -> "Tensor":
        """Logits of the shape of ``z``."""
        return self.coefficient * torch.sigmoid(z)

    def extra_repr(self) -> str:
        """The coefficient."""
        return f"{self.coefficient:g}"


class _Logit(Sequential):
    """Convolutions without bias, each with instance norm (affine, eps 1e-5, the input's own statistics always).

    ``(N, C, *spatial)`` in and out. ``coefficient`` is that of the :class:`SoftGate` at the end, None for no gate.
    ``zero`` starts the last convolution at 0, so that the untrained layer is average pooling; else it starts as
    PyTorch's convolutions do.
    """

    rank: ClassVar[int]

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(self, sizes: "list[tuple[str, int, int, int]]", coefficient: float | None, zero: bool) -> None:
        super().__init__()
        convolution, norm = (getattr(torch.nn, f"{name}{self.rank}d") for name in ("Conv", "InstanceNorm"))
        for number, taken, given, kernel in sizes:
            if min(taken, given) < 1:
                raise ArgumentError(f"channels or width is {min(taken, given)}; use 1 or more")
            last = convolution(taken, given, kernel, padding=kernel // 2, bias=False)
            self.add_module(f"conv{number}", last)
            self.add_module(f"bn{number}", norm(given, affine=True))
            if number != sizes[-1][0]:
                self.add_module(f"relu{number}", torch.nn.ReLU())
        if zero:
            torch.nn.init.zeros_(last.weight)
        if coefficient is not None:
            self.add_module("gate", SoftGate(coefficient))


class _ProjectionLogit(_Logit):
    def __init__(self, channels: int, *, coefficient: float | None = 12.0, zero: bool = True) -> None:
        super().__init__([("", channels, channels, 1)], coefficient, zero)


class _SimplifiedLogit(_Logit):
    def __init__(self, channels: int, *, coefficient: float | None = 12.0, zero: bool = True) -> None:
        super().__init__([("", channels, channels, 3)], coefficient, zero)


class _BottleneckLogit(_Logit):
    def __init__(self, channels: int, width: int = 128, *, coefficient: float | None = 12.0, zero: bool = True) -> None:
        sizes = [("1", channels, width, 1), ("2", width, width, 3), ("3", width, channels, 1)]
        super().__init__(sizes, coefficient, zero)


class ProjectionLogit1d(_ProjectionLogit):
    """Logits over ``(N, C, L)``: as :class:`ProjectionLogit2d`."""

    rank = 1


class ProjectionLogit2d(_ProjectionLogit):
    """Logits by a 1x1 convolution ``channels -> channels``, instance norm and gate; see :class:`SoftGate`."""

    rank = 2


class ProjectionLogit3d(_ProjectionLogit):
    """Logits over ``(N, C, D, H, W)``: as :class:`ProjectionLogit2d`."""

    rank = 3


class SimplifiedLogit1d(_SimplifiedLogit):
    """Logits over ``(N, C, L)``: as :class:`SimplifiedLogit2d`."""

    rank = 1


class SimplifiedLogit2d(_SimplifiedLogit):
    """Logits by a 3x3 convolution ``channels -> channels``, instance norm and gate; for a stem."""

    rank = 2


class SimplifiedLogit3d(_SimplifiedLogit):
    """Logits over ``(N, C, D, H, W)``: as :class:`SimplifiedLogit2d`."""

    rank = 3


class BottleneckLogit1d(_BottleneckLogit):
    """Logits over ``(N, C, L)``: as :class:`BottleneckLogit2d`."""

    rank = 1


class BottleneckLogit2d(_BottleneckLogit):
    """Logits by convolutions 1x1 to ``width``, 3x3, 1x1 back, each with instance norm, ReLU between, and gate."""

    rank = 2


class BottleneckLogit3d(_BottleneckLogit):
    """Logits over ``(N, C, D, H, W)``: as :class:`BottleneckLogit2d`."""

    rank = 3
