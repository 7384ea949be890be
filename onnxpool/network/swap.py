"""Other poolings in a network that exists: layers are exchanged, their geometry and all weights stay.

A rule says what takes the place of which layers. What it chooses by is

    "max" "average" "power" "adaptive" "strided-convolution" "official" "onnxpool"    a kind of layer
    "all"                                                                             all of these but convolutions and
                                                                                      layers that are onnxpool's
    "layer1.*"                                                                        paths, as a shell pattern
    torch.nn.MaxPool2d                                                                a class

and what it puts there is

    "SoftPool"                                    a layer of onnxpool.nn, without its rank
    "PowerAvgPool(p=3)"                           the same with arguments
    "LocalImportancePool(BottleneckLogit(channels, width=64))"
    "same"                                        what the layer computes, by onnxpool.nn: for official layers, and
                                                  for torch.nn's max, average, adaptive and even Lp pooling
    "keep"                                        what is there
    make(layer, channels, window) -> Module       whatever you make

The first rule that chooses a layer decides. Rank and window (kernel, stride, padding, dilation, ceil mode) come from
the old layer; where the new one cannot have them the old layer is kept, and the report says why.

A strided convolution, which pools by leaving positions out, becomes the same convolution at stride 1 followed by the
pool; weights keep their names. (Springenberg et al., "Striving for simplicity: the all convolutional net", 2015, went
the other way.) It then computes the positions that it left out: ``stride^rank`` times the arithmetic. The pool has
``kernel = stride`` in ceil mode, or a window of the same output sizes that the rule asks for, such as
``"SoftPool(kernel_size=3, padding=1, ceil_mode=False)"``, whose windows lie around the positions it had. ``"BlurPool"``
and ``"AdaptivePolyphasePool"`` take the stride alone.

>>> import torch
>>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(3, 2, 1))
>>> swapped = swap(network, {"max": "SoftPool"})
>>> swapped.network[1]
SoftPool2d(3x3 s2 p1)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxpool.errors import ArgumentError, MissingExtra, nearest
from onnxpool.network import KINDS, POOLINGS
from onnxpool.window import Window

if TYPE_CHECKING:
    import torch

    from onnxpool.network.calls import Call
    from onnxpool.network.layers import Layer

Target: TypeAlias = "str | Callable[[torch.nn.Module, int | None, Window | None], torch.nn.Module]"
_NAMED = (*KINDS, "all")
Rules: TypeAlias = "Mapping[str, Target] | Mapping[type[torch.nn.Module], Target] | Mapping[Any, Target]"


# --- what it returns


@dataclass(frozen=True)
class Replaced:
    """One layer that was replaced, at every path where it stands.

    ``parameters`` counts the new, untrained numbers. ``remark`` tells what "the same" was taken for, where the old
    layer's code has had several meanings; else it is empty.
    """

    paths: tuple[str, ...]
    old: str
    new: str
    rule: str
    parameters: int
    remark: str = ""


@dataclass(frozen=True)
class Kept:
    """One layer that a rule chose and that is still there."""

    paths: tuple[str, ...]
    layer: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Swapped:
    """The new ``network``, and what happened to every layer that a rule chose.

    ``functional`` lists pooling functions that the network calls itself and that no rule can reach; None where they
    could not be looked for.
    """

    network: "torch.nn.Module"
    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]
    functional: "tuple[Call, ...] | None"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``, without the network."""
        return {
            "replaced": [asdict(one) for one in self.replaced],
            "kept": [asdict(one) for one in self.kept],
            "functional": None if self.functional is None else [asdict(one) for one in self.functional],
        }

    def sentences(self) -> list[str]:
        """What layers were taken for, and what rules cannot reach."""
        told = [f"{one.old} ({', '.join(one.paths)}): {one.remark}" for one in self.replaced if one.remark]
        if self.functional is None:
            network = type(self.network).__name__
            return [*told, f"{network} cannot be traced: give an example to find the poolings it calls"]
        told += [
            f"not swapped: forward of {call.layer} ({call.path or 'the network'}) calls {call.function}"
            + (f" {call.calls} times" if call.calls > 1 else "")
            for call in self.functional
        ]
        if self.functional:
            told.append("onnxpool.export translates the functions of torch.nn.functional itself: they need no swap")
        return told


# --- rules


@dataclass(frozen=True)
class _Rule:
    by: Any
    target: Any

    def chooses(self, layer: "Layer") -> bool:
        if self.by in _NAMED:
            return layer.kind in POOLINGS if self.by == "all" else bool(layer.kind == self.by)
        return any(self.names(layer.module, path) or fnmatchcase(path, str(self.by)) for path in layer.paths)

    def names(self, module: "torch.nn.Module", path: str) -> bool:
        """Whether the rule chooses this layer even if it is of no kind."""
        if isinstance(self.by, type):
            return isinstance(module, self.by)
        return self.by not in _NAMED and bool(self.by == path)

    def __str__(self) -> str:
        return self.by.__name__ if isinstance(self.by, type) else str(self.by)


def _read(rules: Any) -> list[_Rule]:
    import torch

    from onnxpool.network import targets

    if not isinstance(rules, Mapping) or not rules:
        raise ArgumentError(
            f"rules={rules!r:.80}: give a mapping from layers to poolings, such as {{'max': 'SoftPool'}}"
        )
    for by, target in rules.items():
        if not isinstance(by, str) and not (isinstance(by, type) and issubclass(by, torch.nn.Module)):
            raise ArgumentError(f"rule {by!r:.80}: choose layers by a kind ({', '.join(_NAMED)}), a path, or a class")
        targets.check(target)
    return [_Rule(by, target) for by, target in rules.items()]


def _choose(plan: Sequence[_Rule], network: "torch.nn.Module") -> "list[tuple[Layer, _Rule]]":
    """Each layer with the first rule that chooses it."""
    from onnxpool.network import layers

    found = layers.find(network, lambda module, path: any(rule.names(module, path) for rule in plan))
    for rule in plan:
        if rule.by not in _NAMED and not any(rule.chooses(layer) for layer in found):
            there = ", ".join(f"{layer.paths[0]} ({layer.kind})" for layer in found) or "none"
            raise ArgumentError(
                f"rule {str(rule)!r}{_meant(rule, found)} is not a kind ({', '.join(_NAMED)}) and chooses no layer of "
                f"{there}"
            )
    first = ((layer, next((rule for rule in plan if rule.chooses(layer)), None)) for layer in found)
    return [(layer, rule) for layer, rule in first if rule]


def _meant(rule: _Rule, found: "Sequence[Layer]") -> str:
    """A question after the kind, "max" for "maxpool", or the path that the rule may have meant."""
    if isinstance(rule.by, type):
        return ""
    kind = re.sub(r"_?pool(ing)?$", "", rule.by, flags=re.IGNORECASE)
    return nearest(kind, _NAMED) or nearest(rule.by, [path for layer in found for path in layer.paths])


# --- the whole


def swap(module: "torch.nn.Module", rules: "Rules", *, example: Any = None, strict: bool = False) -> Swapped:
    """A copy of ``module`` in which ``rules`` have replaced pooling layers; ``module`` stays as it is.

    ``example`` is what the network takes: a tensor, a tuple of arguments, or a mapping of named ones. It is needed
    where a new layer has weights for each channel, and for adaptive pooling, which gets the window that it has for
    inputs of this size and refuses others from then on. With it the swapped network is run once, and the pooling
    functions that it calls are found for certain. A layer that stands at several places is replaced by one that does.
    Device, dtype, and training or evaluation mode follow the old layer. ``strict`` makes an error of a layer that was
    chosen, not by ``"keep"``, and cannot be replaced.

    Raises :class:`ArgumentError` for rules that cannot be read, whose path or class is nowhere in the network, or that
    need an example; for an example that does not run, before or after; and under ``strict``. :class:`MissingExtra`
    without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "export", "swap") from error
    from onnxpool.golden.from_torch import copied
    from onnxpool.network import calls, layers

    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"module={module!r:.80} is not a torch.nn.Module; wrap a function in one")
    plan = _read(rules)
    network = copied(module)
    chosen = _choose(plan, network)
    if example is not None:
        _run(network, [layer for layer, _ in chosen], example, "")
    new, replaced, kept = _make(chosen, strict)
    network = _exchange(network, {layer.module: fresh.module for layer, fresh in new})
    found = calls.trace(network) if example is None else _run(network, [fresh for _, fresh in new], example, "swapped ")
    for layer, fresh in new:
        if example is not None and _outputs(layer) != _outputs(fresh):
            raise ArgumentError(
                f"{layers.summary(fresh.module)} gives {_outputs(fresh)} at {layer.paths[0]!r}, where "
                f"{layers.summary(layer.module)} gave {_outputs(layer)}"
            )
    return Swapped(network, replaced, kept, None if found is None else tuple(found))


def _make(
    chosen: "Sequence[tuple[Layer, _Rule]]", strict: bool
) -> "tuple[list[tuple[Layer, Layer]], tuple[Replaced, ...], tuple[Kept, ...]]":
    """Old and new layers in pairs, and the report on them."""
    from onnxpool.network import layers, official, targets

    new, replaced, kept = [], [], []
    for layer, rule in chosen:
        old = layers.summary(layer.module)
        if rule.target == "keep":
            kept.append(Kept(layer.paths, old, str(rule), "the rule says so"))
            continue
        try:
            module = targets.make(rule.target, layer)
        except ArgumentError as error:
            if strict or isinstance(error, layers.ExampleNeededError):
                raise ArgumentError(
                    f"{old} at {layer.paths[0]!r} cannot become {rule.target!r:.80}: {error}"
                ) from error
            kept.append(Kept(layer.paths, old, str(rule), str(error)))
        else:
            owned = set(layer.module.parameters())
            count = sum(parameter.numel() for parameter in module.parameters() if parameter not in owned)
            remark = official.remark(layer.module, module) if (rule.target, layer.kind) == ("same", "official") else ""
            replaced.append(Replaced(layer.paths, old, layers.summary(module), str(rule), count, remark))
            new.append((layer, replace(layer, module=module)))
    return new, tuple(replaced), tuple(kept)


def _exchange(network: "torch.nn.Module", new: "Mapping[torch.nn.Module, torch.nn.Module]") -> "torch.nn.Module":
    for parent in list(network.modules()):
        children = [(name, child) for name, child in parent._modules.items() if child is not None]
        parent._modules.update({name: new[child] for name, child in children if child in new})
    return new.get(network, network)


def _run(network: "torch.nn.Module", layers: "Sequence[Layer]", example: Any, state: str) -> "list[Call]":
    from onnxpool.network import calls

    args = () if isinstance(example, Mapping) else tuple(example) if isinstance(example, tuple | list) else (example,)
    try:
        return calls.run(network, layers, args, example if isinstance(example, Mapping) else {})
    except Exception as error:  # whatever a stranger's forward raises
        raise ArgumentError(f"the {state}network cannot run on example: {error}") from error


def _outputs(layer: "Layer") -> "list[tuple[int, ...] | None]":
    return [seen.output for seen in layer.seen or ()]
