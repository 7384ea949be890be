"""From the spellings of the command line to PyTorch's objects: a module, example inputs, the axes that may change.

    module    SoftPool2d(3, stride=2, padding=1)   a layer of onnxpool.nn; its arguments are literals, nothing is run,
                                                   or layers: LocalImportancePool2d(SimplifiedLogit2d(3))
              lip_resnet50                         a network of onnxpool.models, or lip_resnet50(num_classes=10)
              package.module:network               a torch.nn.Module in a Python module, or what makes one when called
              folder/file.py:network               the same in a file, which may import others from its folder
    inputs    1x3x224x224                          the shape of one input, in the order of forward
              1x128:int64                          of another type than the network's; integers are 0 or 1
              mask:1x128:bool                      of the argument of that name
    axes      batch,height,width                   axes of every input, by the names that poolings give them
              x:0=batch,2=time                     axes of the input x by number, with names of one's own

>>> module("SoftPool2d(3, stride=2, padding=1)")
SoftPool2d(3x3 s2 p1)
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxpool._files import similar
from onnxpool.cli import completion
from onnxpool.dtypes import BY_NAME
from onnxpool.errors import ArgumentError, MissingExtra, nearest
from onnxpool.network import spelled_layers
from onnxpool.network.spelled_layers import ARGUMENTS, Spelling

if TYPE_CHECKING:
    import torch

_AXES = {3: ("batch", "channels", "length"), 4: ("batch", "channels", "height", "width")}
_AXES[5] = ("batch", "channels", "depth", "height", "width")
"""What the axes of an input are called, by their number."""


def module(source: str, seed: int = 0) -> "torch.nn.Module":
    """The module that ``source`` spells, made with PyTorch's generator at ``seed``.

    Raises :class:`ArgumentError` for a spelling that leads to no module, and :class:`MissingExtra` without PyTorch.
    """
    check(source)
    pytorch = _torch()
    pytorch.manual_seed(seed)
    place, colon, name = source.rpartition(":")
    found = _attribute(source, place, name) if colon else _built_in(source)
    if callable(found) and not isinstance(found, pytorch.nn.Module):
        try:
            found = found()
        except Exception as error:  # whatever a stranger's function raises
            raise ArgumentError(f"source={source!r}: {name}() raised {type(error).__name__}: {error}") from error
    if not isinstance(found, pytorch.nn.Module):
        raise ArgumentError(
            f"source={source!r} gives a {type(found).__name__}; name a torch.nn.Module, or a function without "
            "arguments that returns one"
        )
    network: torch.nn.Module = found
    return network


def check(source: str, inputs: Sequence[str] = ()) -> None:
    """Raise :class:`ArgumentError` for a layer, network, file or shape that is not there, before PyTorch loads."""
    place, colon, _ = source.rpartition(":")
    if colon and place.endswith(".py") and not Path(place).is_file():
        raise ArgumentError(f"source={source!r}: there is no file {place}{similar(place)}")
    if not colon:
        _spelled(source)
    for text in inputs:
        _input(text)


def _spelled(source: str) -> Spelling:
    """The layer or network that is named."""
    layers, networks = completion.layer_names(), completion.network_names()
    expected = (
        f"write a layer ({', '.join(layers)}) such as 'SoftPool2d(3, stride=2)', a network "
        f"({', '.join(networks)}), package.module:name or file.py:name"
    )
    try:
        spelling = spelled_layers.read(source)
    except ArgumentError as error:
        raise ArgumentError(f"source={source!r} {error}: {expected}") from error
    if spelling.name not in (*layers, *networks):
        close = nearest(spelling.name, (*layers, *networks))
        told = "" if close else f": {expected}"  # the names are many
        raise ArgumentError(f"source={source!r}{close} is neither a layer nor a network of onnxpool{told}")
    return spelling


def reference(text: str | None, seed: int = 0) -> "torch.nn.Module | Callable[[Any], Any] | str | None":
    """What a model is compared with: the path of a golden or an ONNX file as it is, else a module or a function.

    A function takes float64 arrays by the names of inputs and gives arrays by the names of outputs; it is the one that
    is named, or what a function without arguments returns. Raises as :func:`module`; a function needs no PyTorch.
    """
    if text is None:
        return None
    if text.endswith((".npz", ".onnx")):
        if not Path(text).exists():
            kind = "golden" if text.endswith(".npz") else "model"
            raise ArgumentError(f"reference={text!r}: there is no {kind} file {text}{similar(text)}")
        return text
    place, colon, name = text.rpartition(":")
    if not colon:
        return module(text, seed)
    if importlib.util.find_spec("torch"):
        _torch().manual_seed(seed)
    found = _attribute(text, place, name)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "state_dict") and not _takes(found)):
        try:
            found = found()
        except Exception as error:  # whatever a stranger's function raises
            raise ArgumentError(f"reference={text!r}: {name}() raised {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ArgumentError(
            f"reference={text!r} gives a {type(found).__name__}; name a torch.nn.Module, a function of arrays by name, "
            "or a function without arguments that returns one"
        )
    chosen: Callable[[Any], Any] = found
    return chosen


def _takes(function: Callable[..., Any]) -> bool:
    """Whether it must be given an argument."""
    return any(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in inspect.signature(function).parameters.values()
    )


def inputs(texts: Sequence[str], dtype: str, seed: int = 0) -> "tuple[torch.Tensor, ...]":
    """Standard normal tensors, integers of 0 and 1, or truth values, as the inputs are spelled, without their names.

    Raises :class:`ArgumentError` for what is not a shape or type, and :class:`MissingExtra` without PyTorch.
    """
    pytorch = _torch()
    generator = pytorch.Generator().manual_seed(seed)

    def tensor(text: str) -> "torch.Tensor":
        _, shape, wanted = _input(text)
        element = getattr(pytorch, wanted or dtype)
        drawn: torch.Tensor = (
            pytorch.randn(shape, generator=generator)
            if element.is_floating_point
            else pytorch.randint(0, 2, shape, generator=generator)
        )
        return drawn.to(element)

    return tuple(map(tensor, texts))


def named(texts: Sequence[str], module: "torch.nn.Module") -> list[str]:
    """The argument of the module's forward that each input is for: the one that it names, or the next in order.

    Raises :class:`ArgumentError` for a name that forward does not have, or that is given twice.
    """
    parameters = list(inspect.signature(module.forward).parameters)
    chosen: list[str] = []
    for place, text in enumerate(texts):
        name, _, _ = _input(text)
        known = parameters[place] if name is None and place < len(parameters) else name or f"args_{place}"
        if name is not None and name not in parameters:
            raise ArgumentError(
                f"input={text!r}: forward has no argument {name!r}{nearest(name, parameters)}; it takes "
                f"{', '.join(parameters)}"
            )
        if known in chosen:
            raise ArgumentError(f"input={text!r}: {known!r} is given twice")
        chosen.append(known)
    return chosen


def call(texts: Sequence[str], module: "torch.nn.Module", inputs: "Sequence[torch.Tensor]") -> Any:
    """The example as ``onnxpool.swap`` takes it: a tuple, or a mapping where an input has a name. Errors as named."""
    given = any(_input(text)[0] is not None for text in texts)
    return dict(zip(named(texts, module), inputs, strict=True)) if given else tuple(inputs)


def axes(
    texts: Sequence[str],
    module: "torch.nn.Module",
    inputs: "Sequence[torch.Tensor]",
    names: Sequence[str] | None = None,
) -> tuple[dict[int, str], ...]:
    """The name of each axis that may change, for each input: what ``onnxpool.export`` takes as ``dynamic_shapes``.

    ``names`` are the inputs' if they are not forward's first arguments.
    Raises :class:`ArgumentError` for an input or axis that is not there.
    """
    names = list(names or inspect.signature(module.forward).parameters)[: len(inputs)]
    chosen: tuple[dict[int, str], ...] = tuple({} for _ in inputs)
    for text in texts:
        target, colon, items = text.rpartition(":")
        if colon and target not in names:
            raise ArgumentError(
                f"dynamic={text!r}: there is no input {target!r}{nearest(target, names)}; the inputs are "
                f"{', '.join(names)}"
            )
        places = [names.index(target)] if colon else range(len(inputs))
        for item in items.split(","):
            found = {place: axis for place in places if (axis := _axis(item, inputs[place].dim()))}
            if not found:
                usual = _AXES.get(inputs[0].dim(), ())
                raise ArgumentError(
                    f"dynamic={text!r}: no input has an axis {item!r}; write axes as {','.join(usual) or '0=batch'}, "
                    "or by number with a name, such as 0=batch,2=time"
                )
            for place, (number, name) in found.items():
                chosen[place][number] = name
    return chosen


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "export", "making a module") from error
    return torch


def _built_in(source: str) -> Any:
    from onnxpool import models, nn

    makers = {name: getattr(nn, name) for name in nn.__all__} | models.NETWORKS
    try:
        return _make(_spelled(source), makers)
    except ArgumentError as error:
        raise ArgumentError(f"source={source!r}: {error}") from error
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"source={source!r}: {error}; its arguments are {ARGUMENTS}") from error


def _make(spelling: Spelling, makers: Mapping[str, Callable[..., Any]]) -> Any:
    if spelling.name not in makers:
        raise ArgumentError(f"{spelling} cannot be an argument; these are {ARGUMENTS}")
    given, named = spelling.arguments(partial(_make, makers=makers))
    return makers[spelling.name](*given, **named)


def _attribute(source: str, place: str, name: str) -> Any:
    file = Path(place)
    folder = str(file.resolve().parent if file.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = _run(file) if file.suffix == ".py" else importlib.import_module(place)
    except Exception as error:  # whatever a stranger's file raises
        raise ArgumentError(f"source={source!r}: importing {place} raised {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        there = [one for one in vars(found) if not one.startswith("_")]
        raise ArgumentError(f"source={source!r}: there is no {name!r} in {place}{nearest(name, there)}")
    return getattr(found, name)


def _run(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = found
    spec.loader.exec_module(found)
    return found


def _input(text: str) -> tuple[str | None, tuple[int, ...], str | None]:
    """Name, shape and element type of an input; what it does not say is None."""
    parts = text.split(":")
    dtype = parts.pop() if len(parts) > 1 and parts[-1] in BY_NAME else None
    name = parts.pop(0) if len(parts) > 1 else None
    sizes = parts[0].split("x")
    if len(parts) > 1 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ArgumentError(
            f"input={text!r} is not a shape; write sizes with x between them, such as 1x3x224x224, with a name and a "
            f"type if need be, such as ids:1x128:int64; types are {', '.join(BY_NAME)}"
        )
    return name, tuple(map(int, sizes)), dtype


def _axis(item: str, rank: int) -> tuple[int, str] | None:
    """Number and name of the axis, if an input with so many axes has it."""
    axis, _, name = item.partition("=")
    usual = _AXES.get(rank, ())
    if axis in usual:
        return usual.index(axis), name or axis
    return (int(axis), name) if axis.isdecimal() and int(axis) < rank and name else None
