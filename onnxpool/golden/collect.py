"""Asks for the float64 answers to every case, whoever gives them, and makes a golden of it.

:mod:`~onnxpool.golden.from_torch`, :mod:`~onnxpool.golden.from_function` and :mod:`~onnxpool.golden.from_model` bring
who answers, and a yardstick: how far a run in the model's own type is from these answers.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.golden import bounds
from onnxpool.golden.file import Answers, Case, Golden
from onnxpool.golden.inputs import Feeds, generate, inputs_of, modest

MOST_BYTES = 20_000_000
"""Cases are added while inputs and answers are smaller than this; the export's own example is always there."""

Yardstick: TypeAlias = Callable[[Feeds, Answers], dict[str, float]]
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
    inputs = inputs_of(model, example)
    smaller = modest(inputs)
    trial = next(feeds for name, feeds in generate(smaller) if name == "ordinary")
    with suppress(Exception):  # too small for this network
        answer(widen(trial))
        inputs = smaller

    found: list[Case] = []
    notes: list[str] = []
    refused: dict[str, str] = {}
    size_bytes = 0
    chosen = dict(generate(inputs, example))
    if only is not None and only not in chosen:
        raise ArgumentError(f"case={only!r} is not one of {', '.join(chosen)}")
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


def own_error(run: Callable[[Feeds], dict[str, NDArray[Any]]], model: ir.Model) -> Yardstick:
    """The yardstick of a network that ``run`` runs on inputs in whatever floating point type they come in.

    A float64 network would have no error against itself: it is run in float32, and the error scaled to float64.
    """
    if is_double(model):

        def scaled(feeds: Feeds, answers: Answers) -> dict[str, float]:
            results = run(widen(feeds, np.float32))
            errors = {name: bounds.measure(results[name], answers[name], 0) for name in answers}
            return {name: bounds.FLOAT32_IN_FLOAT64 * error.max_abs for name, error in errors.items()}

        return scaled

    def measured(feeds: Feeds, answers: Answers) -> dict[str, float]:
        results = run(feeds)
        errors = {name: bounds.measure(results[name], answers[name], 0) for name in answers}
        for name, error in errors.items():
            if error.nan or error.infinite:
                raise GoldenError(
                    f"in its own type the network overflows, or has NaN where float64 has none, in {name!r} "
                    f"({error.nan + error.infinite} elements)"
                )
        return {name: error.max_abs for name, error in errors.items()}

    return measured


def widen(feeds: Mapping[str, NDArray[Any]], dtype: DTypeLike = np.float64) -> Feeds:
    """The floating point arrays in float64, or another type; others as they are."""
    return {name: array.astype(dtype) if bounds.is_floating(array.dtype) else array for name, array in feeds.items()}


def is_double(model: ir.Model) -> bool:
    """Whether a model computes in float64, by its inputs."""
    return any(value.dtype == ir.DataType.DOUBLE for value in model.graph.inputs)


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
