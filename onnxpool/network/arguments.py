"""What people give to export, arranged for PyTorch's exporter; what cannot work is refused here, with a sentence.

    a bare tensor           the one argument, not something to iterate over
    a dict as last          an argument, not the exporter's keyword arguments
    opset_version           the older exporter's word for ``opset``
    dynamic_axes            its form of ``dynamic_shapes``: by the names of inputs, axes with or without a name

The module runs once on the example before PyTorch traces it: what it refuses is told as what it is, with the line of
the module's own code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from onnxpool.domain import OPSETS
from onnxpool.errors import ArgumentError, ExportError, nearest
from onnxpool.golden.arrangement import parameters
from onnxpool.golden.collect import first_line
from onnxpool.network import lines, official

DynamicAxes: TypeAlias = Mapping[str, Mapping[int, str] | Sequence[int]]
"""Axes that may change as ``torch.onnx.export`` took them: for each input their numbers, or names by number."""


@dataclass(frozen=True)
class Call:
    """A call of a module: its arguments, and which of their axes may change as ``torch.export`` takes that."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any

    def tensors(self) -> list[torch.Tensor]:
        """The tensors among the arguments: the inputs of the model to be."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]


def arranged(
    module: torch.nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    dynamic_axes: DynamicAxes | None,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> Call:
    """The call that is meant; arguments as of :func:`onnxpool.export`.

    Raises :class:`ArgumentError` for arguments that cannot be meant.
    """
    if isinstance(args, torch.Tensor):
        args = (args,)
        if isinstance(dynamic_shapes, Mapping) and all(isinstance(axis, int) for axis in dynamic_shapes):
            dynamic_shapes = (dynamic_shapes,)
    if isinstance(args, str | Mapping) or not isinstance(args, Sequence):
        raise ArgumentError(f"args is a {type(args).__name__}; give a tuple of what the module is called with")
    words = parameters(module.forward)
    named = dict(sorted((kwargs or {}).items(), key=lambda item: words.index(item[0]) if item[0] in words else 99))
    for place, value in [*enumerate(args), *named.items()]:
        if isinstance(value, np.ndarray):
            where = f"args[{place}]" if isinstance(place, int) else f"kwargs[{place!r}]"
            raise ArgumentError(f"{where} is a NumPy array; a module takes torch.from_numpy(array)")
    if dynamic_axes is not None:
        if dynamic_shapes is not None:
            raise ArgumentError("dynamic_axes and dynamic_shapes say the same in two ways; give dynamic_shapes")
        dynamic_shapes = _shapes(words, args, named, dynamic_axes, input_names, output_names)
    if args and isinstance(args[-1], Mapping) and not named:  # PyTorch's exporter would take it for kwargs
        if len(args) > len(words):
            raise ArgumentError(f"the last of args is a dict that {type(module).__name__}.forward has no name for")
        if isinstance(dynamic_shapes, Sequence):
            dynamic_shapes = dict(zip(words, dynamic_shapes, strict=False))
        named[words[len(args) - 1]] = args[-1]
        args = args[:-1]
    call = Call(tuple(args), named, dynamic_shapes)
    if input_names is not None and len(input_names) != (count := len(call.tensors())):
        raise ArgumentError(f"input_names={list(input_names)} names {len(input_names)} inputs; the example has {count}")
    return call


def opset_of(opset: int | None, opset_version: int | None) -> int:
    """The opset that is meant. Raises :class:`ArgumentError` for two, and for one out of range."""
    if opset is not None and opset_version is not None:
        raise ArgumentError("opset and opset_version say the same; give opset")
    chosen = OPSETS[0] if opset is opset_version is None else opset_version if opset is None else opset
    if chosen not in OPSETS:
        word = "opset" if opset_version is None else "opset_version"
        raise ArgumentError(f"{word}={chosen!r} is out of range; use {OPSETS[0]} to {OPSETS[-1]}")
    assert chosen is not None
    return chosen


def _shapes(
    words: Sequence[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    axes: DynamicAxes,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> dict[str, Any]:
    """``dynamic_axes`` in the form of ``dynamic_shapes``; what it says of outputs follows from the inputs."""
    given = [*words[: len(args)], *kwargs]
    called = dict(zip(input_names or given, given, strict=False)) | dict(zip(given, given, strict=True))
    found: dict[str, Any] = dict.fromkeys(given)
    for name, chosen in axes.items():
        if name in (output_names or ()) and name not in called:
            continue
        if name not in called:
            raise ArgumentError(
                f"dynamic_axes={name!r} is not an input{nearest(name, called)}; the inputs are {', '.join(called)}"
            )
        pairs = chosen.items() if isinstance(chosen, Mapping) else ((axis, f"{name}_{axis}") for axis in chosen)
        found[called[name]] = dict(pairs)
    return found


def _unfit(tensor: torch.Tensor) -> str:
    """What makes ``tensor`` nothing that an ONNX model takes or gives, and what to do; empty where it is fit."""
    if tensor.is_complex():
        return "complex, which ONNX Runtime does not have; use real and imaginary parts (torch.view_as_real)"
    if tensor.is_quantized:
        return "quantized, which ONNX models do not take; use .dequantize()"
    if tensor.layout is not torch.strided:
        return "sparse, which ONNX models do not take; use .to_dense()"
    return ""


# --- before and after PyTorch's exporter


def tried(module: torch.nn.Module, call: Call, output_names: Sequence[str] | None) -> None:
    """Run the module on the example, as it is.

    Raises :class:`ExportError` where it cannot or gives tensors that ONNX does not have, and :class:`ArgumentError` for
    such arguments and for ``output_names`` of another number than it gives.
    """
    for index, tensor in enumerate(call.tensors()):
        if kind := _unfit(tensor):
            raise ArgumentError(f"tensor {index} of args is {kind}")
    devices = range(torch.cuda.device_count())
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            outputs = tree_leaves(module(*call.args, **call.kwargs))
    except Exception as error:  # whatever a module raises
        shapes = ", ".join(f"{str(one.dtype).removeprefix('torch.')} {_times(one.shape)}" for one in call.tensors())
        place = lines.line_where(error.__traceback__, __file__)
        raise ExportError(
            f"could not export {type(module).__name__}: it does not run on the example, {shapes or 'no tensors'}: "
            f"{first_line(error)}{f' ({place})' if place else ''}; give args as forward takes them{_hint(module)}"
        ) from error
    found = [leaf for leaf in outputs if isinstance(leaf, torch.Tensor)]
    for index, tensor in enumerate(found):
        if kind := _unfit(tensor):
            raise ExportError(f"output {index} of {type(module).__name__} is {kind}")
    if output_names is not None and len(output_names) != len(found):
        raise ArgumentError(
            f"output_names={list(output_names)} names {len(output_names)} outputs; {type(module).__name__} gives "
            f"{len(found)}"
        )


def untranslated(module: torch.nn.Module, error: Exception) -> ExportError:
    """What is said where PyTorch's exporter fails: why, and at which line of the module's code."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception) and cause not in causes:
        causes.append(cause)
    place = next(filter(None, (lines.line_where(cause.__traceback__, _START) for cause in reversed(causes))), "")
    place = place or next(filter(None, (lines.line_in(str(cause))[0] for cause in reversed(causes))), "")
    return ExportError(
        f"PyTorch could not export {type(module).__name__}: {first_line(causes[-1])}{f' ({place})' if place else ''}"
        f"{_advice(str(error))}{_hint(module)}; the error's __cause__ (--verbose) has PyTorch's own text"
    )


_START = torch.nn.modules.module.__file__
"""Where the calls of a module's forward pass through: what is below it in a traceback is the module's."""


def _advice(text: str) -> str:
    if "Constraints violated" in text or "specialized" in text:
        return "; the module fixes the size of an axis that dynamic_shapes lets change: leave that axis out"
    if "data-dependent" in text:
        return "; the module decides by the values of a tensor, which a graph cannot follow: use torch.where"
    return ""


def _hint(module: torch.nn.Module) -> str:
    names = sorted({type(part).__name__ for part in module.modules() if official.rank(part)})
    return (
        f"; it has {', '.join(names)}: onnxpool.swap(module, {{'official': 'same'}}) (onnxpool swap --rule "
        "official=same) puts layers in their place that export"
        if names
        else ""
    )


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
