"""What passes through a network: the shapes that its layers see, and the pooling functions that it calls.

Layers can be swapped, calls such as ``torch.nn.functional.max_pool2d(x, 2)`` in somebody's ``forward`` cannot: they are
counted, so that nobody takes them for swapped. A run on an example finds those that it comes by; symbolic tracing needs
no example but fails on many networks.

>>> class Network(torch.nn.Module):
...     def forward(self, x):
...         return torch.nn.functional.max_pool2d(x, 2)
>>> trace(Network())
[Call(path='', layer='Network', function='max_pool2d', calls=1)]
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Tracer
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from onnxpool.network.layers import Layer, Seen, kind

_FUNCTION = re.compile(r"\w*pool[123]d(_with_indices)?")  # max_pool2d, adaptive_avg_pool1d, lp_pool3d, ...


@dataclass(frozen=True)
class Call:
    """How often the layer at ``path`` itself calls a pooling function."""

    path: str
    layer: str
    function: str
    calls: int


def run(network: Module, layers: Sequence[Layer], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Call]:
    """Run the network once, in evaluation mode: sets ``seen`` of the layers, and returns the functions called."""
    seen: dict[Module, list[Seen]] = {layer.module: [] for layer in layers}

    def note(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(x := next(iter((*args, *kwargs.values())), None), Tensor):
            given = tuple(output.shape) if isinstance(output, Tensor) else None
            seen[module].append(Seen(tuple(x.shape), given, x.dtype, x.device))

    calls = _Calls(network)
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in seen]
    try:
        with _evaluating(network), torch.no_grad(), calls.following(), calls:
            network(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        layer.seen = seen[layer.module]
    return _counted(calls.found)


def trace(network: Module) -> list[Call] | None:
    """The pooling functions that symbolic tracing comes by; None where the network cannot be traced."""

    class Leaves(Tracer):
        def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
            ours = type(m).__module__.startswith("onnxpool.")
            return ours or bool(kind(m)[0]) or super().is_leaf_module(m, module_qualified_name)

    if kind(network)[0]:
        return []
    try:
        graph = Leaves().trace(network)
    except Exception:  # whatever a stranger's forward raises for a symbol
        return None
    found: Counter[tuple[str, str, str]] = Counter()
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if _FUNCTION.fullmatch(name):
            path, owner = next(reversed(node.meta.get("nn_module_stack", {}).values()), ("", type(network)))
            found[path, owner.__name__, name] += 1
    return _counted(found)


def _counted(found: Mapping[tuple[str, str, str], int]) -> list[Call]:
    return [Call(*key, calls) for key, calls in found.items()]


class _Calls(TorchFunctionMode):
    """Counts pooling functions called outside of pooling layers."""

    def __init__(self, network: Module) -> None:
        super().__init__()
        self.paths = {module: path for path, module in network.named_modules()}
        self.running: list[Module] = []
        self.found: Counter[tuple[str, str, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if _FUNCTION.fullmatch(name) and not any(kind(module)[0] for module in self.running):
            inner = self.running[-1]
            self.found[self.paths[inner], type(inner).__name__, name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know at each moment whose ``forward`` is running."""

        def enter(module: Module, _: Any) -> None:
            self.running.append(module)

        def leave(*_: Any) -> None:
            self.running.pop()

        hooks = [module.register_forward_pre_hook(enter) for module in self.paths]
        hooks += [module.register_forward_hook(leave, always_call=True) for module in self.paths]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _evaluating(network: Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
