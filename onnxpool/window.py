"""The pooling window: which input cells make one output cell, and how many output cells there are.

Along one axis of length ``n``, a window of ``kernel`` cells, ``dilation`` apart, spans
``extent = dilation * (kernel - 1) + 1`` positions. It starts ``pad`` positions before the input and moves on by
``stride`` while it stays inside ``pad + n + tail`` positions, so that there are

    output = (pad + n + tail - extent) // stride + 1

of them. ``tail`` is ``pad`` again, or with ``ceil`` the length that lets every window take part which would overhang
the end, unless it would start in the padding there:

    tail = pad                                                  (floor)
    tail = min(pad, extent - stride) + stride - 1               (ceil)

This is PyTorch's rule (ONNX Runtime agrees) in a form without a condition on ``n``: it holds for symbolic sizes too,
and it is the only shape formula of the Python package.

>>> Window.of(2, kernel_size=3, stride=2, padding=1).output((112, 112))
(56, 56)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self, TypeAlias

from onnxpool.errors import ArgumentError

Size: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Window:
    """One pooling window, checked: each field holds one number per spatial axis (1 to 3 of them).

    Raises :class:`ArgumentError` for sizes that are not positive integers, fields of different lengths, and padding
    that exceeds half the extent of the window (such a window could lie wholly in the padding).
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 3:
            raise ArgumentError(f"kernel_size={self.kernel!r} has {self.rank} axes; pooling has 1, 2 or 3")
        for name, sizes, least in (
            ("kernel_size", self.kernel, 1),
            ("stride", self.stride, 1),
            ("padding", self.pad, 0),
            ("dilation", self.dilation, 1),
        ):
            if len(sizes) != self.rank:
                raise ArgumentError(f"{name}={sizes!r} has {len(sizes)} numbers; give one per axis, {self.rank}")
            if any(size < least for size in sizes):
                raise ArgumentError(f"{name}={sizes!r}: each number must be at least {least}")
        for pad, extent in zip(self.pad, self.extent, strict=True):
            if pad > extent // 2:
                raise ArgumentError(
                    f"padding={self.pad!r} is more than half the extent of the window, {self.extent!r}; "
                    f"use at most {tuple(extent // 2 for extent in self.extent)!r}"
                )

    @classmethod
    def of(
        cls,
        rank: int,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> Self:
        """A window from the arguments of ``torch.nn`` poolings: each an int, or one int per axis."""
        if not isinstance(ceil_mode, bool):
            raise ArgumentError(f"ceil_mode={ceil_mode!r} is not a bool; use True or False")
        return cls(
            kernel=per_axis("kernel_size", kernel_size, rank),
            stride=per_axis("stride", kernel_size if stride is None else stride, rank),
            pad=per_axis("padding", padding, rank),
            dilation=per_axis("dilation", dilation, rank),
            ceil=ceil_mode,
        )

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self:
        """The window of an ONNX node, from its attributes as plain values; the inverse of :meth:`attributes`."""
        names = {"kernel_shape", "strides", "pads", "dilations", "ceil_mode"}
        if wrong := names ^ set(attributes):
            state = "missing" if wrong & names else "unknown"
            raise ArgumentError(f"attributes {sorted(wrong)} are {state}; a pooling node has {sorted(names)}")
        kernel, pads = tuple(attributes["kernel_shape"]), tuple(attributes["pads"])
        if pads != pads[: len(kernel)] * 2:
            raise ArgumentError(f"pads={pads!r} differ at begin and end; pad the input with -inf before this node")
        if attributes["ceil_mode"] not in (0, 1):
            raise ArgumentError(f"ceil_mode={attributes['ceil_mode']!r} must be 0 or 1")
        return cls(
            kernel=kernel,
            stride=tuple(attributes["strides"]),
            pad=pads[: len(kernel)],
            dilation=tuple(attributes["dilations"]),
            ceil=bool(attributes["ceil_mode"]),
        )

    def attributes(self) -> dict[str, list[int] | int]:
        """The window in ONNX's words: ``kernel_shape, strides, pads, dilations, ceil_mode``."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.stride),
            "pads": list(self.pad * 2),
            "dilations": list(self.dilation),
            "ceil_mode": int(self.ceil),
        }

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Positions that the window spans, per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def tail(self) -> tuple[int, ...]:
        """Positions beyond the end of the input that windows may cover, per axis."""
        if not self.ceil:
            return self.pad
        return tuple(
            min(pad, extent - stride) + stride - 1
            for pad, extent, stride in zip(self.pad, self.extent, self.stride, strict=True)
        )

    def output(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Spatial output sizes for spatial input sizes, which may be symbolic; see :meth:`check` for real ones."""
        return tuple(
            (pad + n + tail - extent) // stride + 1
            for n, pad, tail, extent, stride in zip(spatial, self.pad, self.tail, self.extent, self.stride, strict=True)
        )

    def check(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The output shape ``(N, C, *output)`` for an input of this ``shape``.

        Raises :class:`ArgumentError` for a wrong number of axes, where the window does not fit the input, and where
        dilated cells step over a short input so that a window would be empty.
        """
        if len(shape) != self.rank + 2:
            raise ArgumentError(
                f"input of shape {tuple(shape)} has {len(shape)} axes; {self.rank}d pooling takes (N, C, *spatial), "
                f"{self.rank + 2} axes"
            )
        output = self.output(shape[2:])
        if min(shape[2:]) < 1 or min(output) < 1:
            raise ArgumentError(
                f"input of shape {tuple(shape)} is too small for {self}; its padded sizes must reach {self.extent}"
            )
        if any(
            start % dilation >= n
            for n, stride, pad, dilation in zip(shape[2:], self.stride, self.pad, self.dilation, strict=True)
            for start in range(-pad, 0, stride)
        ):
            raise ArgumentError(
                f"input of shape {tuple(shape)} leaves a window {self} without any cell: all its cells fall into the "
                f"padding; use a smaller dilation or padding"
            )
        return (shape[0], shape[1], *output)

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Where each cell of the window lies from the window's start, in row-major order."""
        return product(*(range(0, d * k, d) for k, d in zip(self.kernel, self.dilation, strict=True)))

    def inside(self, axis: int, size: int) -> list[slice]:
        """For every output position along an axis of this size, the input cells that are there (never padding)."""
        stride, pad, d, extent = self.stride[axis], self.pad[axis], self.dilation[axis], self.extent[axis]
        starts = range(-pad, size + self.tail[axis] - extent + 1, stride)
        return [slice(start if start >= 0 else start % d, max(0, min(start + extent, size)), d) for start in starts]

    def windows(self, spatial: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Every output position with the slices of the input cells of its window."""
        axes = [self.inside(axis, size) for axis, size in enumerate(spatial)]
        return zip(product(*(range(len(axis)) for axis in axes)), product(*axes), strict=True)

    def __str__(self) -> str:
        """Short form for tables and messages, for example ``3x3 s2 p1``; what is default is left out."""
        text = "x".join(map(str, self.kernel))
        for letter, sizes, default in (
            ("s", self.stride, self.kernel),
            ("p", self.pad, (0,) * self.rank),
            ("d", self.dilation, (1,) * self.rank),
        ):
            if sizes != default:
                text += f" {letter}" + "x".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))
        return text + " ceil" * self.ceil


def per_axis(name: str, size: Size, rank: int, least: int | None = None) -> tuple[int, ...]:
    """One number for each axis.

    Raises :class:`ArgumentError`, with ``name``, for what is no int and not ``rank`` ints, and below ``least``.

    >>> per_axis("stride", 2, 3)
    (2, 2, 2)
    """
    sizes = (size,) * rank if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sizes) != rank or not all(type(number) is int for number in sizes):
        raise ArgumentError(f"{name}={size!r} must be an int or {rank} ints")
    if least is not None and min(sizes) < least:
        raise ArgumentError(f"{name}={size!r}: each number must be at least {least}")
    return sizes
