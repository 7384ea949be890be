"""Layers of the published pooling packages, known by their class names, and the same as our layers.

    SoftPool1d, 2d, 3d                            of Stergiou's SoftPool: attributes kernel_size and stride
    SimplifiedLIP, BottleneckLIP, ProjectionLIP   of Gao's LIP: a child ``logit``; or, in LIP-ResNet, a child
                                                  ``postprocessing`` and the method ``forward_with_shared``
    GeM, GeMmp, GeneralizedMeanPooling, GeneralizedMeanPoolingP
                                                  of image retrieval (Radenovic et al.): attributes p and eps
    AttentionPool                                 of Enformer (Avsec et al. 2021): attribute pool_size and a child
                                                  ``to_attn_logits``; LIP, with a 1x1 convolution of x as logits

None of the packages is imported. Many networks have copies of these classes with changes, under the same names, so
that no name is believed: a layer runs beside ours, in float64 on the CPU, and must give the same. Only where it cannot
run, as without its CUDA extension, name and attributes suffice.

The published SoftPool has had several meanings, which agree for one channel of positive values: its first code on the
CPU, and its CUDA code today, weigh each channel by its own exponentials; its code on the CPU today sums exponentials
over all channels; copies let no result fall below 0; its CUDA code of 2021 moved windows by half a kernel. It is taken
for the first, SoftPool as its authors describe it, and :func:`remark` tells how far from that its own code is.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from onnxpool import nn
from onnxpool.errors import ArgumentError
from onnxpool.golden.from_torch import copied
from onnxpool.models.lip_resnet import SharedImportancePool
from onnxpool.network.replacement_layers import PositionLogit
from onnxpool.pools.local_importance import local_importance_pool
from onnxpool.window import Window

_RANKS = {"SoftPool1d": 1, "SoftPool2d": 2, "SoftPool3d": 3, "SimplifiedLIP": 2, "BottleneckLIP": 2, "ProjectionLIP": 2}
_GEM = ("GeM", "GeMmp", "GeneralizedMeanPooling", "GeneralizedMeanPoolingP")
_RANKS |= dict.fromkeys(_GEM, 2) | {"AttentionPool": 1}

_SIDE = 9
"""Length of each spatial axis of what a layer is tried on: windows 3x3 s2 p1 and 2x2 s2 give different sizes."""


_SAME = 1e-9
"""Largest difference of results that are the same, in parts of the largest of them."""


def rank(module: Module) -> int:
    """Number of spatial axes of an official layer; 0 for any other."""
    name = type(module).__name__
    other = name == "AttentionPool" and not isinstance(getattr(module, "to_attn_logits", None), Module)
    return 0 if other or type(module).__module__.startswith("onnxpool.") else _RANKS.get(name, 0)


def window(module: Any) -> Window | None:
    """Its window, None for global pooling. Raises :class:`ArgumentError` for a class that only has the name."""
    found: Window | None = getattr(same(module), "window", None)
    return found


def same(module: Any) -> Module:
    """Our layer that computes the same, with the same parameters.

    Raises :class:`ArgumentError` for a class that only has the name: other attributes, or other results.
    """
    reasons = []
    for candidate, inputs in _candidates(module):
        reason = _difference(module, candidate, inputs)
        if reason is None and type(module).__name__.startswith("SoftPool"):
            reason = _signed_difference(module, candidate)
        if reason is None and type(module).__name__ == "AttentionPool":
            reason = _attention_difference(module, candidate)
        if reason is None:
            return candidate
        reasons.append(reason)
    name = type(module).__name__
    raise ArgumentError(f"it is not the official {name}: " + ("; ".join(reasons) or "its attributes are others"))


def remark(module: Any, candidate: Module) -> str:
    """Which meaning of the published SoftPool was taken, and what its own code gives; nothing for other layers."""
    if not type(module).__name__.startswith("SoftPool"):
        return ""
    taken = "taken for SoftPool of each channel by itself, which its CUDA code computes since 2022"
    x = _signed(rank(module))
    expected, y = _result(module, x), _result(candidate, x)
    if expected is None or y is None:
        return (
            f"{taken}; nothing was compared, since its own code does not run here: that of 2021 for CUDA moves windows "
            "by half a kernel, and that for the CPU sums exponentials over channels"
        )
    off = _off(expected, y)
    where = f"on {x.shape[1]} channels of values from {x.min().item():.1f} to {x.max().item():.1f}"
    if off < _SAME:
        return f"{taken}; its own code gives the same {where}"
    told = ", and ".join(_told(candidate, x, expected))
    return f"{taken}; its own code {told}, and differs by up to {(expected - y).abs().max().item():.2g} {where}"


def _told(candidate: Any, x: Tensor, expected: Tensor) -> list[str]:
    """What the published code does that SoftPool does not, told by its results; nothing where none of it fits."""
    together = x.logsumexp(1, keepdim=True).expand_as(x)
    for summed, logit in ((False, x), (True, together)):
        y = local_importance_pool(candidate.window, x, logit.contiguous())
        for limited, result in ((False, y), (True, y.clamp(min=0))):
            if _off(expected, result) < _SAME:
                return ["sums exponentials over channels"] * summed + ["lets no result fall below 0"] * limited
    return []


def _candidates(module: Any) -> Iterator[tuple[Module, tuple[Tensor, ...]]]:
    """What it may be, with inputs to try that on; the likeliest first."""
    name, size = type(module).__name__, (_SIDE,) * rank(module)
    if name.startswith("SoftPool"):
        if hasattr(module, "kernel_size") and hasattr(module, "stride"):
            more = {
                word: getattr(module, word) for word in ("padding", "dilation", "ceil_mode") if hasattr(module, word)
            }
            yield getattr(nn, name)(module.kernel_size, module.stride, **more), (_ramp(1, *size),)
    elif name in _GEM:
        if hasattr(module, "p") and hasattr(module, "eps"):
            channels = module.p.numel() if isinstance(module.p, Tensor) else 1
            for flat in (False, True):
                yield _gem(module, flat), (_ramp(channels, *size) - 1,)
    elif name == "AttentionPool":
        size_of_window = getattr(module, "pool_size", None)
        if isinstance(size_of_window, int) and size_of_window > 1:
            pool = nn.LocalImportancePool1d(PositionLogit(module.to_attn_logits), size_of_window, None, 0, 1, True)
            yield pool, (_ramp(_taken(module), 4 * size_of_window) - 1.5,)
    elif isinstance(logit := getattr(module, "logit", None), Module):
        windows = ((2, 2, 0), (3, 2, 1)) if name == "BottleneckLIP" else ((3, 2, 1), (2, 2, 0))
        for kernel, stride, padding in windows:
            yield nn.LocalImportancePool2d(logit, kernel, stride, padding), (_ramp(_taken(logit), *size),)
    elif isinstance(shared := getattr(module, "postprocessing", None), Module):
        inputs = _ramp(_given(shared), *size), _ramp(_taken(shared), *size)
        yield SharedImportancePool(shared), inputs


def _gem(module: Any, flat: bool) -> Module:
    """GeM with the very ``p`` of the module: its parameter, buffer or number."""
    p = module.p
    if not isinstance(p, Tensor):
        return nn.GeM2d(float(p), float(module.eps), flatten=flat, learn_p=False)
    pool = nn.GeM2d(eps=float(module.eps), flatten=flat)
    del pool.p
    if isinstance(p, Parameter):
        pool.p = p
    else:
        pool.register_buffer("p", p)
    return pool


def _difference(module: Module, candidate: Module, inputs: tuple[Tensor, ...]) -> str | None:
    """How the results differ; None where they do not, and where the layer cannot run here."""
    theirs: Any = copied(module).cpu().double().eval()
    ours: Any = copied(candidate).cpu().double().eval()
    with torch.no_grad():
        try:
            expected = getattr(theirs, "forward_with_shared", theirs)(*inputs)
        except Exception:  # whatever a layer raises without its extension
            return None
        try:
            y: Tensor = ours(*inputs)
        except ArgumentError as error:
            return str(error)
    if not isinstance(expected, Tensor) or expected.shape != y.shape:
        return f"of {tuple(inputs[0].shape)} it makes {tuple(getattr(expected, 'shape', ()))}, ours {tuple(y.shape)}"
    if _off(expected, y) >= _SAME:
        return f"its results differ from ours by {(expected - y).abs().max().item():.1e}"
    return None


def _signed_difference(module: Module, candidate: Module) -> str | None:
    """As :func:`_difference`, for SoftPool alone, on several channels of both signs: but for published meanings."""
    x = _signed(rank(module))
    expected, y = _result(module, x), _result(candidate, x)
    if expected is None or y is None:
        return None
    if expected.shape == y.shape and (_off(expected, y) < _SAME or _told(candidate, x, expected)):
        return None
    return "its results on several channels of both signs are those of no published code"


def _attention_difference(module: Module, candidate: Any) -> str | None:
    """As :func:`_difference`, where it must run, and with half a window at the end, which it must leave out."""
    (size,) = candidate.window.kernel
    for length in (4 * size, 4 * size + size // 2):
        x = _ramp(_taken(module), length) - 1.5
        expected, y = _result(module, x), _result(candidate, x)
        if expected is None and length % size == 0:
            return f"it does not run on {tuple(x.shape)}"
        if expected is not None and (y is None or expected.shape != y.shape or _off(expected, y) >= _SAME):
            return f"its results differ from ours on {tuple(x.shape)}"
    return None


def _result(module: Module, *inputs: Tensor) -> Tensor | None:
    """What the module gives in float64 on the CPU; None where it cannot run."""
    with torch.no_grad():
        try:
            y = copied(module).cpu().double().eval()(*inputs)
        except Exception:  # whatever a layer raises without its extension
            return None
    return y if isinstance(y, Tensor) else None


def _off(expected: Tensor, y: Tensor) -> float:
    """The largest difference, in parts of the largest result."""
    return (expected - y).abs().max().item() / max(y.abs().max().item(), 1e-300)


def _signed(rank: int) -> Tensor:
    """Three channels of values from -4 to 4: most of the first are negative, most of the last positive."""
    shift = torch.tensor([-2.0, 0, 2], dtype=torch.float64).reshape(1, 3, *[1] * rank)
    return 2 * (_ramp(3, *(_SIDE,) * rank) - 1.5) + shift


def _ramp(channels: int, *spatial: int) -> Tensor:
    """Values from 0.5 to 2.5 in no order, the same every time."""
    numbers = torch.arange(channels * math.prod(spatial), dtype=torch.float64)
    return ((numbers * 0.618) % 1 * 2 + 0.5).reshape(1, channels, *spatial)


def _convolutions(module: Module) -> list[Any]:
    found = [part for part in module.modules() if isinstance(getattr(part, "weight", None), Parameter)]
    if not (found := [part for part in found if hasattr(part, "in_channels")]):
        raise ArgumentError("its logits come from no convolution")
    return found


def _taken(module: Module) -> int:
    number: int = _convolutions(module)[0].in_channels
    return number


def _given(module: Module) -> int:
    number: int = _convolutions(module)[-1].out_channels
    return number
