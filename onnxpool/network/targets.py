"""What a rule puts in the place of a layer: from a spelling, or by the caller's function, to a module that fits.

A spelling names a layer of :mod:`onnxpool.nn` without its rank, with or without arguments: literals, the name
``channels``, and layers again. Window arguments that it leaves out are the old layer's, ``channels`` is the number that
the old layer pools, and a local importance pool without logits gets the simplified ones.

>>> import torch
>>> layer = Layer(torch.nn.MaxPool2d(3, 2, 1), "max", 2, ("pool",))
>>> make("SoftPool", layer)
SoftPool2d(3x3 s2 p1)
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch.nn import Module

from onnxpool import nn
from onnxpool.errors import ArgumentError, nearest
from onnxpool.network import layers, official, spelled_layers
from onnxpool.network.layers import Layer
from onnxpool.network.replacement_layers import POOLED_CONV, FixedSizePool
from onnxpool.network.spelled_layers import Spelling
from onnxpool.pools._torch_ops import PoolModule
from onnxpool.window import Window

_WINDOW = {"kernel_size": "kernel", "stride": "stride", "padding": "pad", "dilation": "dilation", "ceil_mode": "ceil"}


def check(target: Any) -> None:
    """Raise :class:`ArgumentError` for what can be no target of any layer."""
    if isinstance(target, str):
        if target not in ("keep", "same"):
            name = _read(target).name
            if not any(f"{name}{rank}d" in nn.__all__ for rank in (1, 2, 3)):
                known = sorted({re.sub(r"[123]d$", "", known) for known in nn.__all__})
                raise ArgumentError(
                    f"target {target!r}: use one of {', '.join(known)}, keep, or same{nearest(name, known)}"
                )
    elif not callable(target):
        raise ArgumentError(
            f"target {target!r:.80} is neither a spelling such as 'SoftPool' nor a function that makes a layer"
        )


def make(target: Any, layer: Layer) -> Module:
    """The module that takes the place of the layer, on its device, in its dtype and mode.

    Raises :class:`ArgumentError` with the reason where none can, and :class:`layers.ExampleNeededError` where an
    example is missing.
    """
    module: Any = layer.module
    layers.check(layer, divisor=target != "same")
    pool = _same(layer) if target == "same" else _pool(target, layer)
    pool.train(module.training)
    if layer.kind == "strided-convolution":
        return POOLED_CONV[layer.rank](module, pool.to(module.weight))
    if layer.seen and target != "same":
        pool.to(layer.seen[0].device, layer.seen[0].dtype)
    return FixedSizePool(pool, layer.spatial) if layer.kind == "adaptive" and hasattr(pool, "window") else pool


def _same(layer: Layer) -> Module:
    """What computes the same: for an official layer, and for a pooling of torch.nn."""
    module: Any = layer.module
    if layer.kind == "official":
        return official.same(module)
    if isinstance(module, PoolModule):
        raise ArgumentError("it is a layer of onnxpool.nn already")
    if layer.kind not in ("max", "average", "power", "adaptive"):
        raise ArgumentError("only poolings of torch.nn and of official packages have the same in onnxpool.nn")

    def made(name: str, *args: Any, **words: Any) -> Module:
        pool: Module = _class(name, layer.rank)(*args, **words)
        return pool

    if layer.kind == "adaptive":
        name = "AdaptiveMaxPool" if "Max" in layer.base else "AdaptiveAvgPool"
        return made(name, layers.output_size(layer))
    window = layers.window(layer)
    assert window is not None
    words: dict[str, Any] = {word: getattr(window, name) for word, name in _WINDOW.items()}
    if layer.kind == "average":
        words |= {word: getattr(module, word) for word in _AVERAGE if hasattr(module, word)}
    elif layer.kind == "power":
        words["p"] = _power(module.norm_type, window)
    name = {"max": "MaxPool", "average": "AvgPool", "power": "PowerAvgPool"}[layer.kind]
    return made(name, **words)


_AVERAGE = ("count_include_pad", "divisor_override")


def _power(p: float, window: Window) -> float:
    """The exponent of an Lp pooling of torch.nn, where PowerAvgPool is the same."""
    if not (p > 0 and p % 2 == 0):
        raise ArgumentError(f"norm_type={p:g}: torch.nn adds up signed powers, PowerAvgPool those of magnitudes")
    if window.ceil:
        raise ArgumentError("ceil_mode=True: torch.nn scales the sums of clipped windows up, PowerAvgPool does not")
    return float(p)


def _pool(target: Any, layer: Layer) -> Module:
    if isinstance(target, str) and layer.kind == "adaptive":
        spelling = _read(target)
        known = inspect.signature(_class(spelling.name, layer.rank)).parameters
        if "output_size" in known:
            return _layer(spelling, layer, {"output_size": layers.output_size(layer)})
        if "kernel_size" not in known and layers.to_one_position(layer):
            return _layer(spelling, layer, {})
    window = layers.window(layer)
    pool = _spelled(_read(target), layer, window) if isinstance(target, str) else _called(target, layer, window)
    new = getattr(pool, "window", None)
    if window and isinstance(new, Window) and _sizes(new) != _sizes(window):
        raise ArgumentError(f"a window {new} gives other sizes than {window}")
    return pool


def _sizes(window: Window) -> tuple[Any, ...]:
    """What the output's size depends on, for inputs of any size."""
    ends = zip(window.pad, window.tail, window.extent, strict=True)
    return window.stride, tuple(pad + tail - extent for pad, tail, extent in ends)


def _called(function: Callable[..., Any], layer: Layer, window: Window | None) -> Module:
    known = layer.kind == "strided-convolution" or layer.seen
    pool = function(layer.module, layer.channels if known else None, window)
    if not isinstance(pool, Module):
        raise ArgumentError(f"the rule's function gave a {type(pool).__name__}, no torch.nn.Module")
    return pool


# --- spellings


def _spelled(spelling: Spelling, layer: Layer, window: Window | None) -> Module:
    if window is None:
        raise ArgumentError("it has no window that a pool could take over")
    made = _class(spelling.name, layer.rank)
    known = inspect.signature(made).parameters
    words = {word: getattr(window, name) for word, name in _WINDOW.items()}
    if layer.kind == "strided-convolution" and "stride" in known and "kernel_size" not in known:
        return _layer(spelling, layer, {"stride": window.stride})
    if "kernel_size" not in known:
        raise ArgumentError(f"{made.__name__} has no window, and this layer's is {window}")
    plain = {"stride": window.kernel, "padding": (0,) * window.rank, "dilation": (1,) * window.rank, "ceil_mode": False}
    for word, default in plain.items():
        if word not in known and words[word] != default:
            raise ArgumentError(f"{made.__name__} has no {word}, and this layer's is {words[word]}")
    return _layer(spelling, layer, {word: value for word, value in words.items() if word in known})


def _layer(spelling: Spelling, layer: Layer, filled: dict[str, Any]) -> Module:
    """The layer that is spelled; ``filled`` are arguments that it may leave out."""
    made = _class(spelling.name, layer.rank)
    signature = inspect.signature(made)
    try:
        positional, named = spelling.arguments(
            lambda inner: _layer(inner, layer, {}), {"channels": lambda: layer.channels}
        )
        given = signature.bind_partial(*positional, **named).arguments
        for word, parameter in signature.parameters.items():
            if parameter.default is parameter.empty and word not in {**filled, **given}:
                if word == "channels":
                    given[word] = layer.channels
                elif word == "logit":
                    given[word] = _class("SimplifiedLogit", layer.rank)(layer.channels)
        pool: Module = made(**{**filled, **given})
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{made.__name__}: {error}") from error
    return pool


def _read(target: str) -> Spelling:
    try:
        return spelled_layers.read(target)
    except ArgumentError as error:
        raise ArgumentError(f"target {target!r} {error}: write 'SoftPool' or 'PowerAvgPool(p=3)'") from error


def _class(name: str, rank: int) -> Any:
    full = f"{name}{rank}d"
    if full not in nn.__all__:
        raise ArgumentError(f"onnxpool.nn has no {full}")
    return getattr(nn, full)
