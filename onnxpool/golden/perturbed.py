"""A network that rounds a little otherwise: what another order of sums, or another library, would do to it.

One run of a network in its own type may be lucky, and exact where others are not. So it runs several times more, with
every input, and what each operator gives, moved by up to one ULP at random.
What operators only move about is left as it is, and so are numbers whose last bits are 0: they are exact in every
program (sizes, grids, indices). Where a function saturates, programs promise an absolute error: :data:`SATURATING`.
A sum of numbers that cancel errs as its order has it, however small it is itself: :data:`SUMMING`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.golden import bounds

if TYPE_CHECKING:
    import torch

SATURATING = {
    "sigmoid": 2.0**-23,
    "tanh": 2.0**-23,
    "erf": 2.0**-23,
    "silu": 2.0**-23,
    "gelu": 2.0**-23,
}
"""Operators whose results may also move by so much, whatever they are; ONNX Runtime's Sigmoid errs 1.7e-7. Of the last
two, times the input. Names as in PyTorch; those of ONNX are the same in small letters."""

_GATED = ("silu", "gelu")

SUMMING = {
    *("mean", "sum", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("reducemean", "reducesum", "globalaveragepool"),
}
"""Operators whose results may also move by half an ULP of what they give for magnitudes, which is about what adding one
number after the other errs."""

_EXACT_BITS = {"float32": 10, "float64": 32, "float16": 4, "bfloat16": 3}
"""A number in which so many last bits are 0 is taken for one that no operator rounded."""

MOVING = {
    *("abs", "amax", "amin", "cat", "clamp", "clamp_max", "clamp_min", "clone", "concat", "constant_pad_nd", "copy"),
    *("embedding", "fill", "flip", "full", "full_like", "gather", "hardtanh", "identity", "index", "index_put", "max"),
    *("index_select", "masked_fill", "maximum", "max_pool2d_with_indices", "max_pool3d_with_indices", "maxpool", "min"),
    *("minimum", "neg", "new_full", "new_zeros", "ones", "ones_like", "pad", "reflection_pad2d", "relu", "repeat"),
    *("replication_pad2d", "roll", "round", "scalar_tensor", "scatter", "sign", "slice", "sort", "split", "stack"),
    *("topk", "trunc", "floor", "ceil", "where", "zeros", "zeros_like", "_to_copy", "arange", "constant", "reshape"),
    *("transpose", "unsqueeze", "squeeze", "expand", "tile", "flatten", "clip", "cast", "gathernd", "scatternd"),
    *("reducemax", "reducemin", "globalmaxpool", "constantofshape", "range", "depthtospace", "spacetodepth", "shape"),
    *("scatterelements", "gatherelements", "concatfromsequence", "splittosequence", "leaky_relu", "eye"),
}
"""Operators that round nothing, of PyTorch and of ONNX, in small letters."""


_DRAWN = 2**22
"""How many numbers are drawn once for all runs: drawing costs more than most operators."""


def moved_inputs(
    feeds: dict[str, NDArray[Any]], rng: np.random.Generator, ulps: float = 1.0
) -> dict[str, NDArray[Any]]:
    """The same, with floating point numbers moved by up to so many ULP."""
    return {
        name: shaken(array, rng, ulps=ulps) if bounds.is_floating(array.dtype) else array
        for name, array in feeds.items()
    }


def shaken(
    array: NDArray[Any], rng: np.random.Generator, absolute: float | Array = 0.0, ulps: float = 1.0
) -> NDArray[Any]:
    """Moved by up to so many ULP and ``absolute``, but for numbers that are exact; what is not finite stays."""
    wide = array.astype(np.float64)
    step = ulps * rng.uniform(-1, 1, array.shape) * np.nan_to_num(bounds.ulp(wide, array.dtype))
    step[_exact(array)] = 0
    if np.any(absolute):
        step += absolute * rng.uniform(-1, 1, array.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        result: NDArray[Any] = np.where(np.isfinite(wide), wide + step, wide).astype(array.dtype)
    return np.where(np.isfinite(result.astype(np.float64)), result, array)


def _exact(array: NDArray[Any]) -> NDArray[np.bool_]:
    bits = array.view(f"u{array.dtype.itemsize}") if array.ndim else array.reshape(1).view(f"u{array.dtype.itemsize}")
    mask = (1 << _EXACT_BITS[array.dtype.name]) - 1
    exact: NDArray[np.bool_] = ((bits & bits.dtype.type(mask)) == 0).reshape(array.shape)
    return exact


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of what PyTorch's dispatcher gives or takes, and of each value in its lists and tuples."""
    return type(value)([each(function, one) for one in value]) if isinstance(value, list | tuple) else function(value)


@cache
def _drawn(dtype: "torch.dtype") -> "torch.Tensor":
    import torch

    return 2 * torch.rand(_DRAWN, generator=torch.Generator().manual_seed(0), dtype=dtype) - 1


@contextmanager
def in_torch(seed: int, ulps: float = 1.0) -> Iterator[None]:
    """Every operator that PyTorch runs rounds otherwise by up to so many ULP, as ``seed`` draws."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    draws = torch.Generator().manual_seed(seed)
    eps = {dtype: torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    whole = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}

    def drawn(like: "torch.Tensor") -> "torch.Tensor":
        """Numbers in [-1, 1), of this shape: a run of those that are drawn already, from a place that is drawn."""
        count = like.numel()
        if count > _DRAWN:
            return 2 * torch.rand(like.shape, generator=draws, dtype=like.dtype) - 1
        start = int(torch.randint(_DRAWN - count + 1, (), generator=draws))
        return _drawn(like.dtype)[start : start + count].view(like.shape)

    def moved(tensor: "torch.Tensor", absolute: "float | torch.Tensor") -> "torch.Tensor":
        dtype = tensor.dtype
        wide = tensor.to(torch.float64 if dtype == torch.float64 else torch.float32)
        found = torch.addcmul(wide, wide, drawn(wide), value=ulps * eps[dtype])
        if dtype in whole:
            mask = (1 << _EXACT_BITS[str(dtype).removeprefix("torch.")]) - 1
            found = torch.where((tensor.contiguous().view(whole[dtype]) & mask) == 0, wide, found)
        if not (isinstance(absolute, float) and absolute == 0):
            found = found + absolute * drawn(wide)
        found = found.to(dtype)
        if math.isfinite(found.sum(dtype=wide.dtype)):  # one pass over the numbers, and so are they all
            return found
        return torch.where(torch.isfinite(found), found, tensor)

    class Perturbed(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            name = func._schema.name.split("::")[-1]
            if name in MOVING or any(one.alias_info is not None for one in func._schema.returns):
                return found

            def other(value: Any) -> Any:
                if not (isinstance(value, torch.Tensor) and value.dtype in eps and value.numel()):
                    return value
                absolute: Any = SATURATING.get(name, 0.0)
                if name in _GATED:
                    absolute = absolute * args[0].to(value.dtype).abs()
                if name in SUMMING and args[0].is_floating_point():
                    magnitudes = func(args[0].abs(), *args[1:], **(kwargs or {}))
                    absolute = torch.nan_to_num(magnitudes, nan=0, posinf=0) * (ulps * eps[value.dtype] / 2)
                return moved(value, absolute)

            return each(other, found)

    with Perturbed():  # type: ignore[no-untyped-call]
        yield
