"""The pooling layers of a PyTorch network: which there are, and their windows.

A layer's kind is

    max                   MaxPool1d, 2d, 3d
    average               AvgPool1d, 2d, 3d
    power                 LPPool1d, 2d, 3d
    adaptive              AdaptiveMaxPool1d, 2d, 3d and AdaptiveAvgPool1d, 2d, 3d, of onnxpool.nn too
    strided-convolution   Conv1d, 2d, 3d with a stride above 1: they pool by leaving positions out
    official              layers of published pooling packages: :mod:`onnxpool.network.official`
    onnxpool              other layers of :mod:`onnxpool.nn`

Subclasses count while they have the ``forward`` of their class.

>>> [layer.paths for layer in find(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2)))]
[('1',)]
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.nn import Conv1d, Conv2d, Conv3d, Module

from onnxpool.errors import ArgumentError
from onnxpool.network import official
from onnxpool.network.replacement_layers import FixedSizePool
from onnxpool.pools._torch_ops import PoolModule
from onnxpool.window import Window

_Value = TypeVar("_Value")

_CLASSES: dict[Any, tuple[str, int]] = {
    getattr(torch.nn, f"{name}{rank}d"): (kind, rank)
    for name, kind in {
        "MaxPool": "max",
        "AvgPool": "average",
        "LPPool": "power",
        "AdaptiveMaxPool": "adaptive",
        "AdaptiveAvgPool": "adaptive",
        "Conv": "strided-convolution",
    }.items()
    for rank in (1, 2, 3)
}


@dataclass(frozen=True)
class Seen:
    """One call of a layer: the shape, dtype and device of what it was given, and the shape of what it gave."""

    shape: tuple[int, ...]
    output: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device


class ExampleNeededError(ArgumentError):
    """What a layer is given must be seen, and no example was given."""


@dataclass(eq=False)
class Layer:
    """One layer, the paths at which it stands, and the calls of it in a run; ``seen`` is None before one."""

    module: Module
    kind: str | None
    rank: int
    paths: tuple[str, ...]
    seen: list[Seen] | None = None

    @property
    def name(self) -> str:
        """Class name."""
        return type(self.module).__name__

    @property
    def base(self) -> str:
        """Name of the class of torch.nn that it is, or is made from."""
        return next(base.__name__ for base in type(self.module).__mro__ if base in _CLASSES)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial size of its inputs; errors as :meth:`_one`."""
        return self._one("spatial size", lambda seen: seen.shape[-self.rank :])

    @property
    def channels(self) -> int:
        """Number of channels that it pools; errors as :meth:`_one`."""
        if self.kind == "strided-convolution":
            return int(self.module.out_channels)  # type: ignore[arg-type]
        return self._one("number of channels", lambda seen: seen.shape[-self.rank - 1])

    def _one(self, what: str, get: Callable[[Seen], _Value]) -> _Value:
        """The value that all calls share.

        Raises :class:`ExampleNeededError` without an example, and :class:`ArgumentError` where the example does not
        reach the layer or calls differ.
        """
        if self.seen is None:
            raise ExampleNeededError(f"the {what} of its input must be known: give an example")
        if not self.seen:
            raise ArgumentError("the example does not reach it")
        first, *others = {get(seen) for seen in self.seen}
        if others:
            raise ArgumentError(f"it is given inputs of more than one {what}")
        return first


# --- which there are


def find(network: Module, also: Callable[[Module, str], bool] = lambda *_: False) -> list[Layer]:
    """The layers of some kind, and those that ``also`` holds for, in the network's order; none lies inside another."""
    paths: dict[Module, list[str]] = {}

    def walk(module: Module, path: str) -> None:
        if kind(module)[0] or also(module, path):
            paths.setdefault(module, []).append(path)
            return
        for name, child in module._modules.items():
            if child is not None:
                walk(child, f"{path}.{name}" if path else name)

    walk(network, "")
    return [Layer(module, *kind(module), tuple(places)) for module, places in paths.items()]


def kind(module: Module) -> tuple[str | None, int]:
    """Kind and rank; (None, 0) for a layer that does not pool."""
    if isinstance(module, PoolModule):
        return ("adaptive" if hasattr(module, "output_size") else "onnxpool"), module.rank
    if rank := official.rank(module):
        return "official", rank
    base: Any = next((base for base in type(module).__mro__ if base in _CLASSES), None)
    if base is None or getattr(type(module), "forward", None) is not base.forward:
        return None, 0
    if isinstance(module, Conv1d | Conv2d | Conv3d) and set(module.stride) == {1}:
        return None, 0
    return _CLASSES[base]


def summary(module: Any) -> str:
    """A layer in a table, for example ``MaxPool2d(3x3 s2 p1)``."""
    name, (sort, rank) = type(module).__name__, kind(module)
    if isinstance(module, Conv1d | Conv2d | Conv3d):
        geometry = str(Window.of(len(module.kernel_size), module.kernel_size, module.stride))
        pool = getattr(module, "pool", None)
        return f"{name.removeprefix('Pooled')}({geometry})" + (f", {summary(pool)}" if pool else "")
    if isinstance(module, FixedSizePool):
        return f"{summary(module.pool)} {module.extra_repr()}"
    with suppress(ArgumentError):
        if sort in ("max", "average", "power"):
            return f"{name}({window(Layer(module, sort, rank, ()))})"
    return f"{name}({module.extra_repr()})"


# --- their windows


def window(layer: Layer) -> Window | None:
    """The window of a layer; None where it has none: global poolings, and layers of no kind.

    A strided convolution's is the one that pools what the convolution gives at stride 1 to the size that it gave, for
    inputs of any size: ``kernel = stride``, in ceil mode. Adaptive pooling has one for inputs of the size seen.

    Raises :class:`ArgumentError` where it can have none, and as :attr:`Layer.spatial` does.
    """
    module: Any = layer.module
    match layer.kind:
        case "onnxpool":
            found: Window | None = getattr(module, "window", None)
            return found
        case "official":
            return official.window(module)
        case "strided-convolution":
            return Window.of(layer.rank, module.stride, ceil_mode=True)
        case "adaptive":
            return _fixed(layer)
        case "max" | "average" | "power":
            defaults = {"padding": 0, "dilation": 1, "ceil_mode": False}
            more: Any = {word: getattr(module, word, default) for word, default in defaults.items()}
            return Window.of(layer.rank, module.kernel_size, module.stride, **more)
    return None


def check(layer: Layer, divisor: bool = True) -> None:
    """Raise :class:`ArgumentError` for a layer that does more than pool, and with ``divisor`` for sums not means."""
    if getattr(layer.module, "return_indices", False):
        raise ArgumentError("return_indices=True: another layer uses the indices")
    if divisor and (number := getattr(layer.module, "divisor_override", None)) is not None:
        raise ArgumentError(f"divisor_override={number}: what it gives are not means")
    if layer.kind == "strided-convolution" and type(layer.module) not in _CLASSES:
        raise ArgumentError(f"{layer.name} may be more than a convolution")
    if layer.module._forward_hooks or layer.module._forward_pre_hooks:
        raise ArgumentError("it has forward hooks, which a new layer would not have")


def to_one_position(layer: Layer) -> bool:
    """Whether this is adaptive pooling of the whole input."""
    return layer.kind == "adaptive" and set(output_size(layer)) == {1}


def output_size(layer: Layer) -> tuple[int | None, ...]:
    """Spatial size that an adaptive layer gives; None is its input's."""
    size: Any = layer.module.output_size
    return tuple(size) if isinstance(size, Sequence) else (size,) * layer.rank


def _fixed(layer: Layer) -> Window:
    outputs = [target or length for target, length in zip(output_size(layer), layer.spatial, strict=True)]
    if any(length % output for length, output in zip(layer.spatial, outputs, strict=True)):
        raise ArgumentError(f"{layer.spatial} inputs do not divide into {tuple(outputs)} equal windows")
    return Window.of(layer.rank, [length // output for length, output in zip(layer.spatial, outputs, strict=True)])
