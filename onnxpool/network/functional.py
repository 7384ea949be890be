"""torch.nn's own poolings for export: each of PyTorch's functions, of whatever spelling, as an operator of ours.

PyTorch's exporter translates them itself, but fixes sizes, is silently wrong for some and refuses others. Here the
arguments of a call are bound to names as PyTorch does, and the pooling becomes one operator that knows its output shape
for symbolic sizes, and how to write itself in ONNX. :data:`POOLINGS` has them all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from onnxpool.errors import ArgumentError
from onnxpool.pools import _as_torch as as_torch
from onnxpool.pools._as_torch import WHOLE, known
from onnxpool.pools._torch_ops import window_from
from onnxpool.pools.adaptive_average import adaptive_average_pool
from onnxpool.pools.adaptive_max import adaptive_max_pool
from onnxpool.pools.average import average_pool
from onnxpool.pools.global_average import global_average_pool
from onnxpool.pools.max import max_pool

Sizes = list[Any]
"""One int or SymInt per axis."""

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# --- arguments


def _sizes(name: str, value: Any, rank: int) -> Sizes:
    """``value`` as PyTorch takes it: a number for all axes, alone or in a list, or one per axis."""
    sizes = list(value) if isinstance(value, Sequence) else [value]
    if len(sizes) == 1:
        sizes *= rank
    if len(sizes) != rank:
        raise ArgumentError(f"{name}={value!r} must be an int or {rank} ints")
    return [_plain(size) for size in sizes]


def _plain(size: Any) -> Any:
    """A symbolic size that is always the same number as that number."""
    if isinstance(size, torch.SymInt):
        number = size.node.maybe_as_int()
        return size if number is None else number
    return size if size is None else size.__index__()


def _hint(size: Any) -> int | None:
    """The size in the example that is captured; None where it depends on values."""
    if isinstance(size, torch.SymInt):
        return size.node.hint if size.node.has_hint() else None
    return int(size)


def _batched(x: Tensor, rank: int, pool: Callable[[Tensor], Any], *, whole_numbers: bool = False) -> Any:
    """``pool(x)`` for a batch; an ``x`` without one gets an axis and loses it again."""
    if x.dtype not in (FLOATING + WHOLE_NUMBERS if whole_numbers else FLOATING):
        raise ArgumentError(f"the input has dtype {x.dtype}, which ONNX Runtime does not pool so; use .float() before")
    if x.dim() not in {rank + 1, rank + 2}:
        raise ArgumentError(
            f"the input has shape {tuple(x.shape)}; {rank}d pooling takes (N, C, *spatial), {rank + 2} axes, or one "
            "less without a batch"
        )
    if x.dim() == rank + 2:
        return pool(x)
    y = pool(x.unsqueeze(0))
    return tuple(part.squeeze(0) for part in y) if isinstance(y, tuple) else y.squeeze(0)


def _check(x: Tensor, kernel: Sizes, stride: Sizes, pad: Sizes, dilation: Sizes, ceil: bool) -> None:
    """Refuse, with :class:`ArgumentError`, what does not fit the example, as PyTorch does when it runs the module."""
    hints = [[_hint(size) for size in sizes] for sizes in (kernel, stride, pad, dilation, x.shape[2:])]
    if all(hint is not None for sizes in hints for hint in sizes):
        window_from((*hints[:4], bool(ceil))).check([1, 1, *(hint or 0 for hint in hints[4])])


def _window(rank: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    kernel = _sizes("kernel_size", kernel_size, rank)
    nothing = stride is None or (isinstance(stride, Sequence) and not stride)
    return (
        kernel,
        kernel if nothing else _sizes("stride", stride, rank),
        _sizes("padding", padding, rank),
        _sizes("dilation", dilation, rank),
    )


def _whole(x: Tensor, kernel: Sizes, pad: Sizes, dilation: Sizes) -> Sizes:
    """The kernel, 0 where it is an axis' length, whatever that is."""
    axes = zip(x.shape[2:], kernel, pad, dilation, strict=True)
    return [WHOLE if known([p, d]) and (p, d) == (0, 1) and statically_known_true(k == n) else k for n, k, p, d in axes]


def _all_whole(kernel: Sizes) -> bool:
    return known(kernel) and set(kernel) == {WHOLE}


# --- the poolings, each with the arguments of its function in PyTorch, after the number of spatial axes


def _max(
    rank: int,
    input: Tensor,  # noqa: A002 - PyTorch's name
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # noqa: ARG001 - told by the function
    *,
    indices: bool = False,
) -> Any:
    kernel, stride, pad, dilation = _window(rank, kernel_size, stride, padding, dilation)

    def pool(x: Tensor) -> Any:
        _check(x, kernel, stride, pad, dilation, ceil_mode)
        hints = zip(map(_hint, kernel), map(_hint, pad), strict=True)
        if (rank > 1 or indices) and any(p is not None and k is not None and p > k // 2 for k, p in hints):
            raise ArgumentError(f"padding={padding!r} is more than half of kernel_size={kernel_size!r}")
        sizes = (kernel, stride, pad, dilation)
        if known(*sizes) and not indices and x.is_floating_point():
            return max_pool(window_from((*sizes, bool(ceil_mode))), x)
        if not known(*sizes):
            sizes = (_whole(x, kernel, pad, dilation), stride, pad, dilation)
        if _all_whole(sizes[0]) and not indices and x.is_floating_point():
            return adaptive_max_pool(x, [1] * rank)
        return (as_torch.max_windows_with_indices if indices else as_torch.max_windows)(x, *sizes, bool(ceil_mode))

    return _batched(input, rank, pool, whole_numbers=True)


def _max_with_indices(rank: int, *args: Any, **kwargs: Any) -> Any:
    return _max(rank, *args, **kwargs, indices=True)


def _average(
    rank: int,
    input: Tensor,  # noqa: A002
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    kernel, stride, pad, dilation = _window(rank, kernel_size, stride, padding, 1)
    divisor, ceil, include = _plain(divisor_override), bool(ceil_mode), bool(count_include_pad)

    def pool(x: Tensor) -> Any:
        _check(x, kernel, stride, pad, dilation, ceil)
        if divisor == 0:
            raise ArgumentError(f"divisor_override={divisor_override!r} must not be 0")
        sizes = (kernel, stride, pad)
        if known(*sizes) and isinstance(divisor, int | None):
            return average_pool(window_from((*sizes, dilation, ceil)), x, include, divisor)
        whole = _whole(x, kernel, pad, dilation)
        if _all_whole(whole) and divisor is None:
            return global_average_pool(x)
        return as_torch.average_windows(x, whole, stride, pad, ceil, include, divisor)

    return _batched(input, rank, pool)


def _lp(
    rank: int,
    input: Tensor,  # noqa: A002
    norm_type: float,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
) -> Any:
    p = float(norm_type)
    if p in {float("inf"), -float("inf")}:
        size = (input if input.dtype in FLOATING[:2] else input.float()).abs()  # ONNX Runtime has no Abs in bfloat16
        largest = _max(rank, size if p > 0 else -size, kernel_size, stride, 0, 1, ceil_mode)
        return (largest if p > 0 else -largest).to(input.dtype)
    kernel, stride, pad, dilation = _window(rank, kernel_size, stride, 0, 1)

    def pool(x: Tensor) -> Any:
        if p == 0:
            raise ArgumentError("norm_type=0 has no root; use another")
        _check(x, kernel, stride, pad, dilation, ceil_mode)
        sizes = kernel if known(kernel) else _whole(x, kernel, pad, dilation)
        return as_torch.lp_windows(x, p, sizes, stride, bool(ceil_mode))

    return _batched(input, rank, pool)


def _adaptive(rank: int, x: Tensor, output_size: Any, *, largest: bool, indices: bool = False) -> Any:
    sizes = _sizes("output_size", output_size, rank)
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise ArgumentError(f"output_size={output_size!r} must be positive, or None for the input's size")

    def pool(x: Tensor) -> Any:
        lengths = x.shape[2:]
        if any(_hint(n) == 0 for n in lengths):
            raise ArgumentError(f"the input has shape {tuple(x.shape)}, with an axis without positions")
        own = [
            WHOLE if size is None or statically_known_true(size == n) else size
            for size, n in zip(sizes, lengths, strict=True)
        ]
        if indices:
            return as_torch.adaptive_max_with_indices(x, own)
        if _all_whole(own):
            return x.clone()
        if known(own) and x.is_floating_point():
            return (adaptive_max_pool if largest else adaptive_average_pool)(x, own)
        return as_torch.adaptive_windows(x, own, largest)

    return _batched(x, rank, pool, whole_numbers=largest)


def _adaptive_average(rank: int, input: Tensor, output_size: Any) -> Any:  # noqa: A002
    return _adaptive(rank, input, output_size, largest=False)


def _adaptive_max(rank: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:  # noqa: A002, ARG001
    return _adaptive(rank, input, output_size, largest=True)


def _adaptive_max_with_indices(
    rank: int,
    input: Tensor,  # noqa: A002
    output_size: Any,
    return_indices: bool = True,  # noqa: ARG001
) -> Any:
    return _adaptive(rank, input, output_size, largest=True, indices=True)


def _unpool(
    rank: int,
    input: Tensor,  # noqa: A002
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Any:
    kernel, stride, pad, _ = _window(rank, kernel_size, stride, padding, 1)
    axes = zip(input.shape[-rank:], kernel, stride, pad, strict=True)
    sizes = [(n - 1) * s + k - 2 * p for n, k, s, p in axes]
    if output_size is not None:
        given = [_plain(size) for size in list(output_size)[-rank:]]
        if len(output_size) not in {rank, rank + 2}:
            raise ArgumentError(f"output_size={output_size!r} must be {rank} or {rank + 2} ints")
        for size, usual, s in zip(given, sizes, stride, strict=True):
            difference, step = _hint(size - usual), _hint(s)
            if difference is not None and step is not None and abs(difference) >= step:
                raise ArgumentError(
                    f"output_size={output_size!r} must differ from the usual {sizes} by less than the stride, {stride}"
                )
        sizes = given
    return _unpool_to(rank, input, indices, sizes)


def _unpool_to(rank: int, input: Tensor, indices: Tensor, output_size: Any, *_: Any) -> Any:  # noqa: A002
    sizes = _sizes("output_size", output_size, rank)
    places = indices if indices.dim() == rank + 2 else indices.unsqueeze(0)
    return _batched(input, rank, lambda x: as_torch.unpool(x, places, sizes), whole_numbers=True)


def _fractional(rank: int, *_: Any, **__: Any) -> Any:
    raise ArgumentError(
        "it draws its windows at random, in evaluation too, so that no two runs agree; use "
        f"AdaptiveMaxPool{rank}d with the same output size, whose windows lie evenly"
    )


# --- functions that pool inside, where a call of a pooling is out of sight


def _interpolate(
    _rank: int,
    input: Tensor,  # noqa: A002
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *args: Any,
    **kwargs: Any,
) -> Any:
    """``mode="area"`` is adaptive average pooling; the other modes, and what PyTorch refuses, are PyTorch's."""
    factors = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * (input.dim() - 2)
    chosen = (size is None) != (scale_factor is None) and len(factors) == input.dim() - 2
    if mode != "area" or not chosen or any(args) or any(kwargs.values()):
        return NotImplemented
    if size is None:
        size = [torch.sym_int(n * factor) for n, factor in zip(input.shape[2:], factors, strict=True)]  # type: ignore[no-untyped-call]
    return _adaptive_average(input.dim() - 2, input, size)


def _local_response_norm(
    _rank: int,
    input: Tensor,  # noqa: A002
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Any:
    """``x / (k + alpha · mean of x²)^beta``, the mean over ``size`` channels around (Krizhevsky et al., 2012)."""
    if input.dim() < 3:
        return NotImplemented
    rank = min(input.dim() - 1, 3)  # the channels are the first spatial axis
    squares = (input if input.dim() == rank + 1 else input.flatten(rank)).square().unsqueeze(1)
    padded = F.pad(squares, (*[0, 0] * (rank - 1), size // 2, (size - 1) // 2))
    mean = _average(rank, padded, (size, *[1] * (rank - 1)), 1).squeeze(1).reshape(input.shape)
    return input / mean.mul(alpha).add(k).pow(beta)


def _table() -> dict[Any, tuple[Callable[..., Any], int]]:
    """The pooling of each of PyTorch's functions, and its number of spatial axes (0 where its input tells)."""
    functions, native, operators = F, torch._C._nn, torch.ops.aten
    spellings: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "max_pool": (_max, (functions, torch, operators)),
        "max_pool{}_with_indices": (_max_with_indices, (functions, torch, native, operators)),
        "avg_pool": (_average, (functions, torch, native, operators)),
        "lp_pool": (_lp, (functions,)),
        "adaptive_avg_pool": (_adaptive_average, (functions, torch, native, operators)),
        "_adaptive_avg_pool": (_adaptive_average, (torch, operators)),
        "adaptive_max_pool": (_adaptive_max, (functions,)),
        "adaptive_max_pool{}_with_indices": (_adaptive_max_with_indices, (functions,)),
        "adaptive_max_pool ": (_adaptive_max_with_indices, (torch, native, operators)),
        "max_unpool": (_unpool, (functions,)),
        "max_unpool ": (_unpool_to, (native, operators)),
        "fractional_max_pool": (_fractional, (functions, native, operators)),
        "fractional_max_pool{}_with_indices": (_fractional, (functions,)),
    }
    table: dict[Any, tuple[Callable[..., Any], int]] = {
        F.interpolate: (_interpolate, 0),
        F.local_response_norm: (_local_response_norm, 0),
    }
    for spelling, (pool, homes) in spellings.items():
        for rank in (1, 2, 3):
            name = (spelling if "{}" in spelling else spelling.strip() + "{}").format(f"{rank}d")
            for function in (getattr(home, name, None) for home in homes):
                if function is not None:
                    table.setdefault(function, (pool, rank))
                    if isinstance(function, torch._ops.OpOverloadPacket) and hasattr(function, "default"):
                        table.setdefault(function.default, (pool, rank))
    return table


POOLINGS = _table()
"""By PyTorch's function."""
