"""Who answers: a PyTorch module in float64, or any function of float64 arrays, asked for every case.

(For a model that came alone, :mod:`onnxpool.judge` answers.) What comes of it is a :class:`~onnxpool.golden.Golden`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from onnxpool import bounds, cases
from onnxpool.cases import Feeds
from onnxpool.errors import ArgumentError, GoldenError, MissingExtra
from onnxpool.fingerprint import fingerprints, of_parameters
from onnxpool.forms import Model, read
from onnxpool.golden import Answers, Case, Golden

if TYPE_CHECKING:
    import torch

MOST_BYTES = 20_000_000
"""Cases are added while inputs and answers are smaller than this; the export's own example is always there."""

Yardstick = Callable[[Feeds, Answers], dict[str, float]]
"""How far the network's own run in the model's type is from the answers, by output; :class:`GoldenError` if it has
NaN or infinity in other places, so that nothing can be said about others."""


def collect(
    model: ir.Model,
    answer: Callable[[Feeds], Answers],
    yardstick: Yardstick,
    *,
    source: str,
    yardstick_source: str,
    example: Feeds | None = None,
    only: str | None = None,
) -> Golden:
    """Ask ``answer`` for the float64 answers to every case that fits ``model``, given the inputs in float64.

    ``only`` names the one case to ask for; :class:`ArgumentError` where there is none of that name.

    A case that ``answer`` or ``yardstick`` fails on (an image too small for the network, say) is left out, with a note.
    Raises :class:`GoldenError` where none is left.
    """
    inputs = cases.inputs_of(model, example)
    smaller = cases.modest(inputs)
    trial = next(feeds for name, feeds in cases.generate(smaller) if name == "ordinary")
    with suppress(Exception):  # too small for this network
        answer(widen(trial))
        inputs = smaller

    found: list[Case] = []
    notes: list[str] = []
    refused: dict[str, str] = {}
    size_bytes = 0
    chosen = dict(cases.generate(inputs, example))
    if only is not None and only not in chosen:
        raise ArgumentError(f"case={only!r} is none of {', '.join(chosen)}")
    for name, feeds in chosen.items():
        if only not in (None, name):
            continue
        try:
            answers = answer(widen(feeds))
            case = Case(name, feeds, answers, yardstick(feeds, answers))
        except Exception as error:  # whatever a network raises
            refused[name] = _first_line(error)
            continue
        more = sum(array.nbytes for array in (*feeds.values(), *answers.values()))
        if found and size_bytes + more > MOST_BYTES:
            notes.append(f"case {name!r} left out: the golden file would exceed {MOST_BYTES / 1e6:g} MB")
            continue
        size_bytes += more
        found.append(case)
    notes += _left_out(refused)
    if not found:
        raise GoldenError(f"{source} could answer no case: {'; '.join(notes)}")
    dtypes = {
        str(value.name): str(np.dtype(value.dtype.numpy())) for value in model.graph.outputs if value.dtype is not None
    }
    return Golden(source, yardstick_source, dtypes, tuple(found), tuple(notes), fingerprints=None)


def _left_out(refused: Mapping[str, str]) -> list[str]:
    """A sentence on each case that was refused, sizes together."""
    sizes = [name for name in refused if name.startswith("sizes ")]
    told = [f"case {name!r} left out: {reason}" for name, reason in refused.items() if name not in sizes]
    if sizes:
        every = "; ".join(name.removeprefix("sizes ") for name in sizes)
        told.append(f"sizes left out, since the network itself refuses them: {every} ({refused[sizes[0]]})")
    return told


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def widen(feeds: Mapping[str, NDArray[Any]], dtype: DTypeLike = np.float64) -> Feeds:
    """The floating point arrays in float64, or another type; others as they are."""
    return {name: array.astype(dtype) if bounds.is_floating(array.dtype) else array for name, array in feeds.items()}


def own_error(run: Callable[[Feeds], dict[str, NDArray[Any]]], model: ir.Model) -> Yardstick:
    """The yardstick of a network that ``run`` runs on inputs in whatever floating point type they come in.

    A float64 network would have no error against itself: it is run in float32, and the error scaled to float64.
    """
    if any(value.dtype == ir.DataType.DOUBLE for value in model.graph.inputs):

        def scaled(feeds: Feeds, answers: Answers) -> dict[str, float]:
            results = run(widen(feeds, np.float32))
            return {name: bounds.measure(results[name], answers[name], 0).max_abs * 2.0**-29 for name in answers}

        return scaled

    def measured(feeds: Feeds, answers: Answers) -> dict[str, float]:
        results = run(feeds)
        errors = {name: bounds.measure(results[name], answers[name], 0) for name in answers}
        for name, error in errors.items():
            if error.nan or error.infinite:
                raise GoldenError(
                    f"in its own type the network overflows, or has NaN where float64 has none, in {name!r} "
                    f"({error.nan + error.infinite} cells)"
                )
        return {name: error.max_abs for name, error in errors.items()}

    return measured


def from_callable(function: Callable[[Feeds], Mapping[str, Any]], model: Model, *, only: str | None = None) -> Golden:
    """The answers of any function ``{name: float64 array} -> {name: array}`` to every case that fits ``model``.

    ``only`` as in :func:`collect`.

    It computes in float64 alone, so the yardstick is how far its answers move when every input moves by one ULP of
    the model's type, once for each node of the model, since each rounds like an input was.
    """
    model = read(model)
    nodes = len(model.graph)

    def answer(feeds: Feeds) -> Answers:
        answers = function(feeds)
        names = {str(value.name) for value in model.graph.outputs}
        if set(answers) != names:
            raise GoldenError(f"the reference gave {sorted(answers)}; the model has the outputs {sorted(names)}")
        return {name: np.asarray(array, np.float64) for name, array in answers.items()}

    def yardstick(feeds: Feeds, answers: Answers) -> dict[str, float]:
        rng = np.random.default_rng(0)
        moved = widen(feeds)
        for name, array in feeds.items():
            if bounds.is_floating(array.dtype):
                step = np.nan_to_num(bounds.ulp(moved[name], array.dtype))
                moved[name] = moved[name] + rng.choice([-1, 1], array.shape) * step
        changed = answer(moved)
        return {name: nodes * bounds.measure(changed[name], answers[name], 0).max_abs for name in answers}

    golden = collect(
        model,
        answer,
        yardstick,
        source="the given function",
        yardstick_source="a rounding of each input, per node",
        only=only,
    )
    return replace(golden, fingerprints={"nodes": {}, "functions": {}})


def record(
    module: "torch.nn.Module",
    model: Model,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: bool = True,
    only: str | None = None,
) -> Golden:
    """The answers of a PyTorch module to every case, for the ``model`` that was exported from it.

    ``args`` and ``kwargs`` are what the module was just exported with, so that ``model`` is right and is fingerprinted;
    without them its inputs are taken to be those of the model, in order, and only its parameters are. The module itself
    is left as it is: copies of it run on the CPU, in evaluation mode unless ``evaluate`` is False. ``only`` as in
    :func:`collect`.
    Raises :class:`GoldenError` where the inputs or outputs of module and model differ in number, and where no
    case could be answered; :class:`MissingExtra` without PyTorch.
    """
    try:
        import torch
        from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
    except ImportError as error:
        raise MissingExtra("torch", "export", "record") from error
    model = read(model)
    names = [str(value.name) for value in model.graph.inputs]
    given = tuple(torch.empty(0) for _ in names) if args is None else tuple(args)
    leaves, structure = tree_flatten((given, dict(kwargs or {})))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    if len(places) != len(names):
        raise GoldenError(f"the module was called with {len(places)} tensors, the model has the inputs {names}")

    def runner(network: torch.nn.Module) -> Callable[[Feeds], dict[str, NDArray[Any]]]:
        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            filled = list(leaves)
            for place, name in zip(places, names, strict=True):
                filled[place] = to_torch(feeds[name])
            positional, named = tree_unflatten(filled, structure)
            with torch.no_grad():
                outputs = tree_leaves(network(*positional, **named))
            tensors = [from_torch(leaf) for leaf in outputs if isinstance(leaf, torch.Tensor)]
            wanted = [str(value.name) for value in model.graph.outputs]
            if len(tensors) != len(wanted):
                raise GoldenError(f"the module gives {len(tensors)} tensors, the model has the outputs {wanted}")
            return dict(zip(wanted, tensors, strict=True))

        return run

    own = copy.deepcopy(module).cpu()
    if evaluate:
        own.eval()
    double = runner(copy.deepcopy(own).double())
    if any(value.dtype == ir.DataType.DOUBLE for value in model.graph.inputs):
        own = own.float()
    example = None
    if args is not None:
        example = {name: from_torch(leaves[place]) for place, name in zip(places, names, strict=True)}
    golden = collect(
        model,
        lambda feeds: {name: array.astype(np.float64) for name, array in double(feeds).items()},
        own_error(runner(own), model),
        source=f"{type(module).__name__} in float64, PyTorch {torch.__version__}",
        yardstick_source="PyTorch's own error",
        example=example,
        only=only,
    )
    if args is not None:
        return replace(golden, fingerprints=fingerprints(model))
    parameters = {name: from_torch(tensor) for name, tensor in own.state_dict().items()}
    return replace(golden, fingerprints=of_parameters(parameters, model))


_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def to_torch(array: NDArray[Any]) -> "torch.Tensor":
    """The same array as a tensor."""
    import torch

    if array.dtype == _BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def from_torch(tensor: "torch.Tensor") -> NDArray[Any]:
    """The same tensor as an array of its own."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return from_torch(tensor.view(torch.int16)).view(_BFLOAT16)
    array: NDArray[Any] = tensor.numpy().copy()
    return array
