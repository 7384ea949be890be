"""The inputs that a network is tried on: ordinary ones, adversarial ones, and other sizes where axes may change.

    example         what the network was exported with
    ordinary        standard normal                          image      smooth, in [0, 1]
    constant        all 0.7                                  negative   below -1
    huge            normal times 1e4                         tiny       normal times the smallest normal number
    zeros
    nan, inf, -inf  ordinary, but for one such element in the first input
    sizes ...       of the first axis, if it may change: 0, 1, 3, 7; of the others that may change, all at once and
                    unlike each other: one less, one more, half, prime, large, 1; and one of them at a time: 1, large

All are drawn from fixed seeds, and each is independent of the others. Inputs that are not floating point numbers keep
the values of the example.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.errors import GoldenError
from onnxpool.golden.bounds import is_floating

Feeds = dict[str, NDArray[Any]]
"""Arrays by input name."""

MODEST = 64
"""Axes that may change are tried at no more than about this size, however large the example is."""

_SMALL = (2, 3, 32)
"""Sizes of axes that may change where there is no example: batch, channels, and each spatial axis."""


@dataclass(frozen=True)
class Input:
    """One input: its ordinary ``shape``, and of each axis the name if its size may change, else None.

    Axes of one name have one size. A name that is not an identifier is an expression of others, such as ``2*height``.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]


def inputs_of(model: ir.Model, example: Mapping[str, NDArray[Any]] | None = None) -> list[Input]:
    """The inputs that a model must be given: sizes of axes that may change as in the ``example``, or small ones.

    Raises :class:`GoldenError` for an input whose rank or element type the model does not tell.
    """
    inputs = []
    for value in model.graph.inputs:
        if value.is_initializer():  # has a value already, which a caller may replace
            continue
        if value.shape is None or value.dtype is None:
            raise GoldenError(
                f"the model does not tell the shape and type of its input {value.name!r}; export it again"
            )
        name = str(value.name)
        known = [dim if isinstance(dim, int) else None for dim in value.shape]
        axes = tuple(None if isinstance(dim, int) else dim.value or f"{name}_{i}" for i, dim in enumerate(value.shape))
        sizes = example[name].shape if example else [_SMALL[min(i, 2)] if n is None else n for i, n in enumerate(known)]
        inputs.append(Input(name, np.dtype(value.dtype.numpy()), tuple(sizes), axes))
    return inputs


def generate(inputs: Sequence[Input], example: Mapping[str, NDArray[Any]] | None = None) -> Iterator[tuple[str, Feeds]]:
    """Every case, as a name and the inputs; ``example`` is the case of that name, if there is one."""
    if example is not None:
        yield "example", dict(example)
    for name, fill in _FILLS.items():
        yield name, _feeds(name, inputs, fill, example)
    for sizes in _sizes(inputs):
        yield at_sizes(inputs, sizes, example)


def at_sizes(
    inputs: Sequence[Input], sizes: Mapping[str, int], example: Mapping[str, NDArray[Any]] | None = None
) -> tuple[str, Feeds]:
    """The case of ordinary values at other ``sizes``, by the names of axes; others keep theirs."""
    resized = [replace(entry, shape=_resize(entry, sizes)) for entry in inputs]
    name = "sizes " + ", ".join("x".join(map(str, entry.shape)) for entry in resized)
    return name, _feeds(name, resized, _FILLS["ordinary"], example)


def modest(inputs: Sequence[Input], most: int = MODEST) -> list[Input]:
    """The same inputs, at most ``most`` where axes may change; the first axis is taken for the batch and becomes 2."""
    sizes = {name: min(size, 2 if name in batch_axes(inputs) else most) for name, size in changeable(inputs).items()}
    return [replace(entry, shape=_resize(entry, sizes)) for entry in inputs]


# --- values


def _ordinary(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape)


def _image(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    waves = [
        np.cos(rng.uniform(1, 3) * np.linspace(0, math.tau, size) + rng.uniform(0, math.tau)) for size in shape[2:]
    ]
    smooth = 0.5 + 0.4 * math.prod(np.ix_(*waves)) if waves else 0.5
    image: Array = np.clip(smooth + 0.05 * rng.normal(size=shape), 0, 1)
    return image


_FILLS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "ordinary": _ordinary,
    "image": _image,
    "constant": lambda _, shape: np.full(shape, 0.7),
    "negative": lambda rng, shape: -1 - np.abs(rng.normal(size=shape)),
    "huge": lambda rng, shape: 1e4 * rng.normal(size=shape),
    "tiny": _ordinary,
    "zeros": lambda _, shape: np.zeros(shape),
    "nan": _ordinary,
    "inf": _ordinary,
    "-inf": _ordinary,
}


def _feeds(
    case: str,
    inputs: Sequence[Input],
    fill: Callable[[np.random.Generator, tuple[int, ...]], Array],
    example: Mapping[str, NDArray[Any]] | None,
) -> Feeds:
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    odd_value = float(case) if case in ("nan", "inf", "-inf") else None
    feeds: Feeds = {}
    for entry in inputs:
        if not is_floating(entry.dtype):
            known = example[entry.name] if example else rng.integers(0, 2, entry.shape)
            feeds[entry.name] = np.resize(known, entry.shape).astype(entry.dtype)
            continue
        limits: Any = ml_dtypes.finfo(entry.dtype)  # type: ignore[no-untyped-call]
        values = fill(rng, entry.shape) * (float(limits.smallest_normal) if case == "tiny" else 1)
        values = np.clip(values, float(limits.min), float(limits.max))
        if odd_value is not None and values.size:
            values.flat[_odd_place(entry.shape)] = odd_value
            odd_value = None
        feeds[entry.name] = values.astype(entry.dtype)
    return feeds


def _odd_place(shape: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index([size // 4 for size in shape], shape)) if shape else 0


# --- sizes


def changeable(inputs: Sequence[Input]) -> dict[str, int]:
    """The name of every axis that may change, with its ordinary size."""
    return {
        name: size for entry in inputs for name, size in zip(entry.axes, entry.shape, strict=True) if name is not None
    }


def batch_axes(inputs: Sequence[Input]) -> set[str]:
    """The names of first axes that may change."""
    return {entry.axes[0] for entry in inputs if entry.axes and entry.axes[0] is not None}


def _resize(entry: Input, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(
        size if name is None else sizes.get(name, size) for name, size in zip(entry.axes, entry.shape, strict=True)
    )


def _large(size: int, i: int) -> int:
    """More than twice the ordinary size, and odd."""
    return 2 * size + 1 + 2 * i


_CHANGES: tuple[Callable[[int, int], int], ...] = (
    lambda size, i: size - 1 - i,
    lambda size, i: size + 1 + i,
    lambda size, i: size // 2 + i,
    lambda size, i: prime_above(size + 2 + 4 * i),
    _large,
    lambda _size, _i: 1,
)
"""New sizes of axis number ``i`` that may change."""


def prime_above(size: int) -> int:
    """The next prime above."""
    return next(n for n in range(size + 1, 2 * size + 2) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))


def _sizes(inputs: Sequence[Input]) -> Iterator[dict[str, int]]:
    """Other sizes by axis name; none where an axis depends on others in a way that is not known here."""
    ordinary = changeable(inputs)
    if not all(name.isidentifier() for name in ordinary):
        return
    batches = batch_axes(inputs)
    usual = {ordinary[name] for name in batches}
    yield from (dict.fromkeys(batches, size) for size in (0, 1, 3, 7) if batches and {size} != usual)
    others = {name: size for name, size in ordinary.items() if name not in batches}
    for change in _CHANGES if others else ():
        yield {name: max(1, change(size, i)) for i, (name, size) in enumerate(others.items())}
    for name, size in others.items() if len(others) > 1 else ():
        yield from ({name: 1}, {name: _large(size, 0)})
