"""What poolings over tokens share: modules that take a mask, what a mask must be, and the mask in ONNX.

Here the axis that is pooled comes before the channels, as transformers have it: ``(N, T, C)``, with a mask ``(N, T)``
that is 1 for each token and 0 for padding.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

import onnx_ir as ir

from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._torch_ops import HAVE_TORCH, PoolModule, has_known_sizes, is_symbol, torch

if TYPE_CHECKING:
    from torch import Tensor

if TYPE_CHECKING or HAVE_TORCH:
    from torch._subclasses.fake_tensor import is_fake

    from onnxpool.pools._composite import functorch_levels

Empty = Literal["zero", "nan"]
"""What a sequence without a token gives."""


class TokenModule(PoolModule):
    """Base of the modules over tokens: ``(N, T, C)`` to ``(N, outputs)``, or ``(T, C)`` to ``(outputs,)``.

    Raises :class:`ArgumentError` in ``forward`` for a wrong rank, an integer dtype, no token at all, and a ``mask``
    that is not of the shape ``(N, T)``, or on the CPU of other values than 0 and 1.
    """

    rank = 1

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            """As :meth:`forward`, which it calls."""

    def __init__(self, empty: Empty) -> None:
        super().__init__()
        check_choice("empty", empty, Empty)
        self.empty: Empty = empty

    def pool_tokens(self, x: "Tensor", mask: "Tensor | None") -> "Tensor":
        """Pool a batch ``(N, T, C)``."""
        raise NotImplementedError

    def forward(self, x: "Tensor", mask: "Tensor | None" = None) -> "Tensor":
        """Pool ``x``; ``mask`` is 1 for each token that takes part: bool, int or float, ``(N, T)`` or ``(T,)``."""
        if is_symbol(x):
            return self._leaf(x) if mask is None else self._leaf(x, mask)
        if x.dim() not in (2, 3):
            raise ArgumentError(
                f"x has shape {tuple(x.shape)}; {type(self).__name__} takes 3 axes, (N, T, C), or 2 without a batch"
            )
        if not x.is_floating_point():
            raise ArgumentError(f"x has dtype {x.dtype}; pooling takes floating point, use .float()")
        if mask is not None:
            _check_mask(x, mask)
        if x.dim() == 3:
            return self.pool_tokens(x, mask)
        return self.pool_tokens(x.unsqueeze(0), None if mask is None else mask.unsqueeze(0)).squeeze(0)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse what is not one of a ``Literal``'s strings."""
    if value not in get_args(choices):
        raise ArgumentError(f"{name}={value!r} is unknown; use one of {', '.join(get_args(choices))}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is not a bool."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name}={value!r} is not a bool; use True or False")


def check_some_token(x: "Tensor") -> None:
    """Refuse sequences that have no position at all."""
    if has_known_sizes(x) and x.shape[1] == 0:
        raise ArgumentError(f"x has shape {tuple(x.shape)}, which has no token to pool; use at least one")


def _check_mask(x: "Tensor", mask: "Tensor") -> None:
    if mask.dim() != x.dim() - 1 or (has_known_sizes(x) and mask.shape != x.shape[:-1]):
        raise ArgumentError(
            f"mask has shape {tuple(mask.shape)}; x of shape {tuple(x.shape)} needs {tuple(x.shape[:-1])}, one number "
            "for each token"
        )
    if mask.is_complex():
        raise ArgumentError(f"mask has dtype {mask.dtype}; use bool, an integer or a floating point type")
    if mask.dtype == torch.bool or mask.device.type != "cpu" or not has_known_sizes(x):
        return
    if functorch_levels() or is_fake(mask):
        return
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise ArgumentError(
            f"mask holds {odd[0].item():g}; use 1 for a token and 0 for padding (a mask that is added to scores, 0 for "
            "a token, is mask == 0 here)"
        )


# --- in ONNX


def written_mask(op: Any, mask: Any) -> Any:
    """Which tokens take part, as bool ``(N, T)``."""
    return onnx_ops.cast(op, mask, ir.DataType.BOOL)


def without_padding(op: Any, x: Any, kept: Any, fill: float, dtype: ir.DataType) -> Any:
    """``x (N, T, C)`` with ``fill`` in place of tokens that take no part."""
    return op.Where(op.Unsqueeze(kept, onnx_ops.ints(op, 2)), x, onnx_ops.number(op, fill, dtype))
