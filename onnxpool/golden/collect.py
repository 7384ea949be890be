"""Asks for the float64 answers to every case, whoever gives them, and makes a golden of it.

:mod:`~onnxpool.golden.from_torch`, :mod:`~onnxpool.golden.from_function` and :mod:`~onnxpool.golden.from_model` bring
who answers, and a yardstick: how far a run in the model's own type is from these answers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.golden import bounds
from onnxpool.golden.choices import Choices, Pointed, of_runs
from onnxpool.golden.file import Answers, Case, Golden
from onnxpool.golden.inputs import MODEST, Feeds, Input, generate, inputs_of, modest
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.golden.perturbed import moved_inputs

MOST_BYTES = 20_000_000
"""Cases are added while inputs and answers are smaller than this; the export's own example is always there.
One that is larger by itself does not count."""

_SIZES = ((MODEST // 2, MODEST // 4), (MODEST, MODEST))
"""Sizes of axes that may change, at most, and the size that a network must take for that: half of it is tried too."""

Otherwise: TypeAlias = Callable[[Feeds, int, float], dict[str, NDArray[Any]]]
"""A run in which every operator rounds otherwise, as a seed draws, by so many ULP."""

JUMPING = 4.0
"""ULP by which roundings move in the runs that look for outputs that jump: as many as another program may err."""

MANY, FEW, SMALL = 8, 4, 200
"""How many runs with other roundings there are: of so many elements at most, and of more."""

UNDETERMINED = 0.1
"""Of the largest answer: where the median error of the network's own runs is above this, no answer says anything."""


@dataclass(frozen=True)
class Measured:
    """What a network's own runs say about how far off a result may be, by output: see :class:`Case`.

    ``undetermined`` says what rounding alone decides, if it decides all of a case.
    """

    yardstick: Mapping[str, float | ByMagnitude]
    choices: Mapping[str, Choices] = field(default_factory=dict)
    pointed: Mapping[str, Pointed] = field(default_factory=dict)
    undetermined: str = ""


Yardstick: TypeAlias = Callable[[Feeds, Answers], Measured]
"""How far the network's own runs in the model's type are from the answers; :class:`GoldenError` if one has NaN or
infinity in other places, so that nothing can be said about others."""


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
    inputs = _smallest(inputs_of(model, example), answer)
    found: list[Case] = []
    refused: dict[str, str] = {}
    doubtful: list[Case] = []
    size_bytes = 0
    chosen = dict(generate(inputs, example))
    if only is not None and only not in chosen:
        raise ArgumentError(f"case={only!r} is not one of {', '.join(chosen)}")
    for name, feeds in chosen.items():
        if only not in (None, name):
            continue
        try:
            answers = answer(widen(feeds))
            measured = yardstick(feeds, answers)
        except Exception as error:  # whatever a network raises
            refused[name] = first_line(error)
            continue
        case = Case(name, feeds, answers, measured.yardstick, measured.choices, measured.pointed)
        pointed = (one.values for one in measured.pointed.values())
        more = sum(array.nbytes for array in (*feeds.values(), *answers.values(), *pointed))
        if found and size_bytes + more > MOST_BYTES:
            refused[name] = f"the golden file would exceed {MOST_BYTES / 1e6:g} MB"
            continue
        if measured.undetermined:
            refused[name] = measured.undetermined
            doubtful.append(case)
            continue
        size_bytes += more if more <= MOST_BYTES else 0  # an example of more leaves room for the others
        found.append(case)
    if not found and doubtful:  # better than none: what is allowed there is as wide as what rounding does
        found, refused = doubtful, {}
    notes = _left_out(refused)
    if not found:
        raise GoldenError(f"{source} could answer no case: {'; '.join(notes)}")
    dtypes = {
        str(value.name): str(np.dtype(value.dtype.numpy())) for value in model.graph.outputs if value.dtype is not None
    }
    return Golden(source, yardstick_source, dtypes, tuple(found), tuple(notes), fingerprints=None)


def own_error(
    run: Callable[[Feeds], dict[str, NDArray[Any]]],
    model: ir.Model,
    otherwise: Otherwise,
    pointed: Callable[[Feeds], Mapping[str, Pointed]] = lambda _: {},
    most: int | None = None,
) -> Yardstick:
    """The yardstick of a network that ``run`` runs on inputs in whatever floating point type they come in.

    ``otherwise`` runs it with other roundings (:mod:`onnxpool.golden.perturbed`), at most ``most`` times if that is
    given; ``pointed`` says what outputs of indices point at. A float64 network would have no error against itself: it
    is run in float32, and the error scaled to float64.
    """
    double = is_double(model)
    scale = bounds.FLOAT32_IN_FLOAT64 if double else 1.0
    types = {str(value.name): str(np.dtype(value.dtype.numpy())) for value in model.graph.outputs if value.dtype}

    def measured(feeds: Feeds, answers: Answers) -> Measured:
        own = widen(feeds, np.float32) if double else feeds
        first = run(own)
        for name in () if double else answers:
            error = bounds.measure(first[name], answers[name], 0)
            if error.nan or error.infinite:
                raise GoldenError(
                    f"in its own type the network overflows, or has NaN where float64 has none, in {name!r} "
                    f"({error.nan + error.infinite} elements)"
                )
        size = sum(array.size for array in answers.values())
        runs = MANY if size <= SMALL else FEW
        others = list(_others(own, otherwise, range(min(runs, most or runs)), 1))
        jumps = any(not bounds.is_floating(array.dtype) for array in first.values())
        yardstick, choices, undetermined = {}, {}, ""
        for name, answer in answers.items():
            dtype = "float32" if double else types.get(name, "float32")
            floating = bounds.is_floating(first[name].dtype)
            found = _of_shape(name, answer, (first, *others))
            curve, chosen = of_runs(answer, found, floating=floating, dtype=dtype)
            if floating and _undetermined(answer, curve, found):
                undetermined = f"rounding alone decides what {name!r} is"
            yardstick[name] = curve.scaled(scale)
            jumps |= len(chosen.places) > 0
        further = list(_others(own, otherwise, range(MANY, 2 * MANY), JUMPING)) if jumps else []
        for name, answer in answers.items() if jumps else ():
            floating = bounds.is_floating(first[name].dtype)
            dtype = "float32" if double else types.get(name, "float32")
            near, far = (_of_shape(name, answer, runs) for runs in ((first, *others), further))
            _, chosen = of_runs(answer, near, far, floating=floating, dtype=dtype)
            if len(chosen.places):
                choices[name] = chosen
        return Measured(yardstick, choices, pointed(feeds), undetermined)

    return measured


def _others(feeds: Feeds, otherwise: Otherwise, seeds: Iterable[int], ulps: float) -> Iterator[Feeds]:
    """Runs with other roundings."""
    for seed in seeds:
        with suppress(Exception):  # a network that looks at its numbers, and refuses some
            yield otherwise(moved_inputs(feeds, np.random.default_rng(seed), ulps), seed, ulps)


def _of_shape(name: str, answer: Array, runs: Iterable[Mapping[str, NDArray[Any]]]) -> list[Array]:
    """What these runs gave for one output, those of its shape, in float64."""
    return [_wide(run[name]) for run in runs if name in run and run[name].shape == answer.shape]


def _wide(array: NDArray[Any]) -> Array:
    return array.astype(np.float64)


def _undetermined(answer: Array, curve: ByMagnitude, runs: Sequence[Array]) -> bool:
    """Whether half of all answers could be anything, or whether they are numbers at all, by luck of the first run.

    Where that is as far off, the network itself loses its numbers in its own type: the report says so.
    """
    if any((np.isnan(run) != np.isnan(answer)).any() for run in runs[1:]):
        return True
    finite = np.isfinite(answer)
    if not finite.any():
        return False
    most = UNDETERMINED * float(np.abs(answer[finite]).max())
    off = [float(np.median(error)) for error in (np.abs(runs[0][finite] - answer[finite]), curve.at(answer)[finite])]
    return off[0] <= most < off[1]


def moved(feeds: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> Feeds:
    """The floating point arrays in float64, with every element moved up or down by one ULP of the type they had."""
    found = widen(feeds)
    for name, array in feeds.items():
        if bounds.is_floating(array.dtype):
            step = np.nan_to_num(bounds.ulp(found[name], array.dtype))
            found[name] = found[name] + rng.choice([-1, 1], array.shape) * step
    return found


def widen(feeds: Mapping[str, NDArray[Any]], dtype: DTypeLike = np.float64) -> Feeds:
    """The floating point arrays in float64, or another type; others as they are."""
    return {name: array.astype(dtype) if bounds.is_floating(array.dtype) else array for name, array in feeds.items()}


def is_double(model: ir.Model) -> bool:
    """Whether a model computes in float64, by its inputs."""
    return any(value.dtype == ir.DataType.DOUBLE for value in model.graph.inputs)


def _smallest(inputs: list[Input], answer: Callable[[Feeds], Answers]) -> list[Input]:
    """The same inputs, as small as the network takes them where axes may change."""
    for most, tried in _SIZES:
        smaller = modest(inputs, most)
        trial = next(feeds for name, feeds in generate(modest(inputs, tried)) if name == "ordinary")
        with suppress(Exception):  # too small for this network
            if smaller != inputs:
                answer(widen(trial))
            return smaller
    return inputs


def _left_out(refused: Mapping[str, str]) -> list[str]:
    """A sentence on the cases that were refused for one reason; reasons that differ in numbers alone are one."""
    groups: dict[str, list[str]] = {}
    for name, reason in refused.items():
        groups.setdefault(re.sub(r"\d+", "0", reason), []).append(name)
    told = []
    for names in groups.values():
        sizes = [name.removeprefix("sizes ") for name in names if name.startswith("sizes ")]
        others = [repr(name) for name in names if not name.startswith("sizes ")]
        parts = [f"case{'s' * (len(others) > 1)} {', '.join(others)}"] if others else []
        parts += [f"sizes {'; '.join(sizes)}"] if sizes else []
        told.append(f"{' and '.join(parts)} left out: {refused[names[0]]}")
    return told


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
