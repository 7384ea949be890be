"""Answers from the PyTorch module that was exported: a copy of it in float64.

The yardstick is the error of another copy, in the module's own type (float32 for a float64 module).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import BFLOAT16
from onnxpool.errors import GoldenError, MissingExtra
from onnxpool.golden import bounds
from onnxpool.golden.arrangement import Arrangement, arrangements
from onnxpool.golden.arrangement import parameters as parameters_of
from onnxpool.golden.choices import Pointed
from onnxpool.golden.collect import (
    Measured,
    Otherwise,
    Yardstick,
    collect,
    first_line,
    is_double,
    moved,
    own_error,
    widen,
)
from onnxpool.golden.file import Answers, Golden
from onnxpool.golden.inputs import Feeds, generate, inputs_of
from onnxpool.golden.perturbed import each, in_torch
from onnxpool.golden.pointed import pointed, watched
from onnxpool.graph.fingerprint import fingerprints, of_parameters
from onnxpool.graph.forms import Model, read

if TYPE_CHECKING:
    import torch


_WHOLE = {ir.DataType.INT64, ir.DataType.INT32}
"""Element types of indices."""


def record(
    module: "torch.nn.Module",
    model: Model,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: bool = True,
    only: str | None = None,
    answering: "Answering | None" = None,
) -> Golden:
    """The answers of a PyTorch module to every case, for the ``model`` that was exported from it.

    ``args`` and ``kwargs`` are what the module was just exported with, so that ``model`` is right and is fingerprinted;
    without them its inputs are taken to be those of the model (:mod:`onnxpool.golden.arrangement`), and only its
    parameters are. The module itself is left as it is: copies of it run on the CPU, in evaluation mode unless
    ``evaluate`` is False. ``only`` as in :func:`collect`; ``answering`` is what :func:`answers` gave, where that was
    asked already.
    A module that runs in its own type alone answers in that, with a note, and is allowed more error.
    Raises :class:`GoldenError` where the inputs or outputs of module and model differ in number, and where no
    case could be answered; :class:`MissingExtra` without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "export", "record") from error
    model = read(model)
    answering = answering or answers(module, model, args, kwargs, evaluate=evaluate)
    name, version = type(module).__name__, f"PyTorch {torch.__version__}"
    try:
        golden = collect(
            model,
            answering.double,
            own_error(answering.own, model, answering.otherwise, answering.pointed),
            source=f"{name} in float64, {version}",
            yardstick_source="PyTorch's own error",
            example=answering.example,
            only=only,
        )
    except GoldenError:
        if (reason := _why_not_double(answering, model)) is None:
            raise
        golden = collect(
            model,
            answering.narrow,
            _moving(answering, len(model.graph)),
            source=f"{name} in its own type, {version}",
            yardstick_source="a rounding of each input and weight, per node",
            example=answering.example,
            only=only,
        )
        note = f"the answers are in the network's own type, since it does not run in float64: {reason}"
        golden = replace(golden, notes=(note, *golden.notes))
    if args is not None:
        return replace(golden, fingerprints=fingerprints(model))
    parameters = {name: from_torch(tensor) for name, tensor in module.state_dict().items()}
    return replace(golden, fingerprints=of_parameters(parameters, model))


@dataclass(frozen=True)
class Answering:
    """What a module makes of a model's inputs, by the model's output names: in float64, and in the types it has.

    ``otherwise`` is ``own`` with other roundings; ``pointed`` says what outputs of indices point at.
    ``narrow`` takes float64 as ``double`` does, and answers in the types the module has; ``near`` is that of a copy
    whose weights are moved by one ULP. ``example`` is what it was exported with, where that is known.
    """

    double: Callable[[Feeds], Answers]
    own: Callable[[Feeds], dict[str, NDArray[Any]]]
    narrow: Callable[[Feeds], Answers]
    near: Callable[[Feeds], Answers]
    otherwise: Otherwise
    pointed: Callable[[Feeds], Mapping[str, Pointed]]
    example: Feeds | None


def answers(
    module: "torch.nn.Module",
    model: ir.Model,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    *,
    evaluate: bool = True,
) -> Answering:
    """Ways to ask copies of ``module`` on the CPU; arguments and errors as of :func:`record`."""
    import torch
    from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

    names = [str(value.name) for value in model.graph.inputs]
    if args is None:
        leaves, structure = tree_flatten(arrangement(module, model))
        names, places = list(leaves), list(range(len(leaves)))
    else:
        leaves, structure = tree_flatten((tuple(args), _in_order(module, kwargs or {})))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    if len(places) != len(names):
        raise GoldenError(f"the module was called with {len(places)} tensors, the model has the inputs {names}")
    wanted = [str(value.name) for value in model.graph.outputs]

    def tensors(
        network: torch.nn.Module, feeds: Feeds, mode: AbstractContextManager[None] | None = None
    ) -> dict[str, torch.Tensor]:
        filled = list(leaves)
        for place, name in zip(places, names, strict=True):
            filled[place] = to_torch(feeds[name])
        positional, named = tree_unflatten(filled, structure)
        with torch.no_grad(), mode or nullcontext():
            outputs = tree_leaves(network(*positional, **named))
        found = [leaf for leaf in outputs if isinstance(leaf, torch.Tensor)]
        if len(found) != len(wanted):
            raise GoldenError(f"the module gives {len(found)} tensors, the model has the outputs {wanted}")
        return dict(zip(wanted, found, strict=True))

    def call(
        network: torch.nn.Module, feeds: Feeds, mode: AbstractContextManager[None] | None = None
    ) -> dict[str, NDArray[Any]]:
        return {name: from_torch(tensor) for name, tensor in tensors(network, feeds, mode).items()}

    own = copied(module).cpu()
    if evaluate:
        own.eval()
    wide = copied(own).double()
    narrowed = is_double(model)
    if narrowed:
        own = own.float()

    def double(feeds: Feeds) -> Answers:
        found = call(wide, widen(feeds), in_float64())
        return {name: array.astype(np.float64) for name, array in found.items()}

    def in_own_type(feeds: Feeds) -> dict[str, NDArray[Any]]:
        return call(own, feeds, _in_float32() if narrowed else None)

    def otherwise(feeds: Feeds, seed: int, ulps: float) -> dict[str, NDArray[Any]]:
        if not narrowed:
            return call(own, feeds, in_torch(seed, ulps))
        with _in_float32():
            return call(own, feeds, in_torch(seed, ulps))

    def exact_tensors(feeds: Feeds) -> "dict[str, torch.Tensor]":
        return tensors(wide, widen(feeds), in_float64())

    def own_tensors(feeds: Feeds) -> "dict[str, torch.Tensor]":
        with _in_float32() if narrowed else nullcontext():
            return tensors(own, widen(feeds, np.float32) if narrowed else feeds)

    types = {entry.name: entry.dtype for entry in inputs_of(model)}

    def narrow(network: torch.nn.Module, feeds: Feeds) -> Answers:
        found = call(network, {name: array.astype(types[name]) for name, array in feeds.items()})
        return {name: array.astype(np.float64) for name, array in found.items()}

    near = cache(lambda: _near(own))
    example = None
    if args is not None:
        example = {name: from_torch(leaves[place]) for place, name in zip(places, names, strict=True)}
    return Answering(
        double,
        in_own_type,
        lambda feeds: narrow(own, feeds),
        lambda feeds: narrow(near(), feeds),
        otherwise,
        _pointing(exact_tensors, own_tensors, model),
        example,
    )


def _pointing(
    exact: "Callable[[Feeds], dict[str, torch.Tensor]]",
    own: "Callable[[Feeds], dict[str, torch.Tensor]]",
    model: ir.Model,
) -> Callable[[Feeds], Mapping[str, Pointed]]:
    """What the outputs of indices point at, by these runs in float64 and in the network's own type."""
    whole = {str(value.name) for value in model.graph.outputs if value.dtype in _WHOLE}

    def found(feeds: Feeds) -> dict[str, Pointed]:
        if not whole:
            return {}
        with watched() as source:
            right = {name: source(tensor) for name, tensor in exact(feeds).items()}
        with watched() as source:
            near = {name: source(tensor) for name, tensor in own(feeds).items()}
        every = {name: pointed(right[name], near[name], from_torch) for name in whole}
        return {name: one for name, one in every.items() if one is not None}

    return found


def arrangement(module: "torch.nn.Module", model: ir.Model) -> Arrangement:
    """How the module, on the CPU, takes the inputs of ``model``; where names alone do not tell, it runs once."""
    import torch
    from torch.utils._pytree import tree_map

    inputs = inputs_of(model)
    *others, last = arrangements([entry.name for entry in inputs], parameters_of(module.forward))
    if not others:
        return last
    own = copied(module).cpu().eval()
    feeds = next(feeds for name, feeds in generate(inputs) if name == "ordinary")
    tensors = {entry.name: to_torch(feeds[entry.name].astype(entry.dtype)) for entry in inputs}
    for one in others:
        args, kwargs = tree_map(tensors.__getitem__, one)
        with suppress(Exception), torch.no_grad():  # whatever a module raises
            own(*args, **kwargs)
            return one
    return last


def _why_not_double(answering: Answering, model: ir.Model) -> str | None:
    """Why the module gives no answer in float64 where it gives one in its own type; None where it does, or neither."""
    if is_double(model):
        return None
    feeds = answering.example or next(feeds for name, feeds in generate(inputs_of(model)) if name == "ordinary")
    try:
        answering.double(widen(feeds))
    except Exception as error:  # whatever a module raises
        with suppress(Exception):
            answering.own(feeds)
            return first_line(error)
    return None


def _moving(answering: Answering, nodes: int) -> Yardstick:
    """How far the answers move when every input and weight moves by one ULP, once for each of the ``nodes``."""

    def measured(feeds: Feeds, answers: Answers) -> Measured:
        changed = answering.near(moved(feeds, np.random.default_rng(0)))
        return Measured({name: nodes * bounds.measure(changed[name], answers[name], 0).max_abs for name in answers})

    return measured


def _near(module: "torch.nn.Module") -> "torch.nn.Module":
    """A copy whose weights are moved up or down by one ULP."""
    import torch

    near, rng = copied(module), np.random.default_rng(1)
    with torch.no_grad():
        for name, tensor in near.state_dict().items():
            if tensor.is_floating_point():
                weight = from_torch(tensor)
                tensor.copy_(to_torch(moved({name: weight}, rng)[name].astype(weight.dtype)))
    return near


def _in_order(module: "torch.nn.Module", kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name in the order that ``forward`` names them, which is that of an exported model's inputs."""
    words = [word for word in signature(module.forward).parameters if word in kwargs]
    return {word: kwargs[word] for word in dict.fromkeys([*words, *kwargs])}


def copied(module: "torch.nn.Module") -> "torch.nn.Module":
    """A copy of ``module`` with weights of its own, also where ``copy.deepcopy`` alone refuses.

    It refuses tensors that were computed with a gradient, as the weight that ``torch.nn.utils.weight_norm`` leaves in a
    layer; its hook computes that anew in every call.
    """
    import torch

    held = (value for layer in module.modules() for value in vars(layer).values())
    computed = [value for value in held if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in computed})


@contextmanager
def in_float64() -> Iterator[None]:
    """Every floating point tensor that PyTorch makes is made in float64, whatever type the code asks for.

    So a module in float64 stays there where its forward says ``x.float()`` or ``torch.eye(3)``. Numbers that become a
    tensor, as in ``torch.tensor([0.1])``, are those of the type that the code asks for, as weights are.
    """
    import torch

    narrow = (torch.float32, torch.float16, torch.bfloat16)
    with _retyped(dict.fromkeys(narrow, torch.float64) | {torch.complex64: torch.complex128}, torch.float64):
        yield


@contextmanager
def _in_float32() -> Iterator[None]:
    """As :func:`in_float64`, for float64 that is to become float32."""
    import torch

    with _retyped({torch.float64: torch.float32, torch.complex128: torch.complex64}, torch.float32):
        yield


@contextmanager
def _retyped(types: "Mapping[torch.dtype, torch.dtype]", default: "torch.dtype") -> Iterator[None]:
    """Every operator that PyTorch runs takes and gives tensors of other types than the code says.

    ``default`` is the type for what has none, such as the quotient of two integers.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    def retyped(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return types.get(value, value)
        return value.to(types[value.dtype]) if isinstance(value, torch.Tensor) and value.dtype in types else value

    class Retyped(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            usual = torch.get_default_dtype()
            torch.set_default_dtype(default)
            try:
                named = {name: each(retyped, value) for name, value in (kwargs or {}).items()}
                return each(retyped, func(*each(retyped, args), **named))
            finally:
                torch.set_default_dtype(usual)

    with Retyped():  # type: ignore[no-untyped-call]
        yield


def to_torch(array: NDArray[Any]) -> "torch.Tensor":
    """The same array as a tensor."""
    import torch

    if array.dtype == BFLOAT16:
        return torch.tensor(array.astype(np.float32)).to(torch.bfloat16)  # a view of bits is wrong in `in_float64`
    return torch.tensor(array)


def from_torch(tensor: "torch.Tensor") -> NDArray[Any]:
    """The same tensor as an array of its own."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return from_torch(tensor.view(torch.int16)).view(BFLOAT16)
    array: NDArray[Any] = tensor.numpy().copy()
    return array
