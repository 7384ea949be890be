"""Inputs and float64 answers that travel beside a model, so that validation needs no PyTorch.

``network.golden.npz`` beside ``network.onnx`` holds for each case the inputs in the model's own types, the answers of
the original network computed in float64, and as a yardstick the errors that PyTorch's own runs in the model's type have
against them; a fingerprint of every exported node; and, of one case, some cells of every value on the way
(:mod:`onnxpool.golden.trace`), unless they could not be had. It is an npz file without pickles: a ``header`` in JSON,
and arrays that the header names. bfloat16, which NumPy's format lacks, is stored as its bits.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpool._files import complete, similar
from onnxpool.dtypes import Array, from_bits, to_bits
from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.errors import nearest as meant
from onnxpool.golden.choices import Choices, Pointed, nearest
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.golden.trace import Trace, listed, unlisted
from onnxpool.graph.fingerprint import Fingerprints

VERSION = 2
"""Version of the file format; files of other versions are refused."""

Answers = dict[str, Array]
"""Float64 arrays by output name."""


@dataclass(frozen=True)
class Case:
    """One input and its answers. ``yardstick`` is the error by output that the network itself has in its own type.

    ``choices`` and ``pointed`` are of the outputs that jump (:mod:`onnxpool.golden.choices`).
    """

    name: str
    inputs: Feeds
    answers: Answers
    yardstick: Mapping[str, float | ByMagnitude]
    choices: Mapping[str, Choices] = field(default_factory=dict)
    pointed: Mapping[str, Pointed] = field(default_factory=dict)

    def nearest(self, name: str, actual: NDArray[Any]) -> Array:
        """The right answer of this output that is next to ``actual``, of the same shape."""
        return nearest(self.answers[name], actual, self.choices.get(name), self.pointed.get(name))


@dataclass(frozen=True)
class Golden:
    """What a model is judged by.

    ``source`` says who answered, ``yardstick`` whose error the yardstick is, ``dtypes`` the type of each output,
    ``notes`` which cases were left out and why. ``fingerprints`` and ``trace`` are None where they were not taken at
    export.
    """

    source: str
    yardstick: str
    dtypes: dict[str, str]
    cases: tuple[Case, ...]
    notes: tuple[str, ...]
    fingerprints: Fingerprints | None
    trace: Trace | None = None

    @property
    def by_the_model(self) -> bool:
        """Whether the model that is judged gave the answers itself."""
        return "model itself" in self.source

    def case(self, name: str | None = None) -> Case:
        """The case of that name, or the first; :class:`ArgumentError` where there is none."""
        for case in self.cases:
            if name in (None, case.name):
                return case
        known = [case.name for case in self.cases]
        raise ArgumentError(f"case={name!r}{meant(str(name), known)} is not one of {', '.join(known)}")

    def only(self, name: str | None) -> "Golden":
        """The same with the case of that name alone; with all, for None."""
        return self if name is None else replace(self, cases=(self.case(name),))

    def without(self, names: Sequence[str]) -> "Golden":
        """The same without the cases of these names, in which ``*`` stands for anything; a note says which.

        Raises :class:`ArgumentError` for a name that fits no case, and where none would be left.
        """
        known = [case.name for case in self.cases]
        for name in names:
            if not any(fnmatchcase(one, name) for one in known):
                raise ArgumentError(f"without={name!r}{meant(name, known)} is not one of {', '.join(known)}")
        left = tuple(case for case in self.cases if not any(fnmatchcase(case.name, name) for name in names))
        if names and not left:
            raise ArgumentError(f"without={[*names]!r} leaves no case")
        gone = [repr(case.name) for case in self.cases if all(case is not one for one in left)] if names else []
        notes = (*self.notes, f"left out as asked: {', '.join(gone)}") if gone else self.notes
        return replace(self, cases=left, notes=notes)


# --- the file


def path_for(model: str | os.PathLike[str]) -> Path:
    """Where the golden file of a model file is: ``network.onnx`` has ``network.golden.npz``."""
    return Path(model).with_suffix(".golden.npz")


def follow(model: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Let the golden file of ``model`` stand beside ``other`` too, which computes the same; or none, if it has none."""
    if path_for(model) == path_for(other):
        return
    path_for(other).unlink(missing_ok=True)  # the answers of another network
    if path_for(model).exists():
        save(load(path_for(model)), path_for(other))


def save(golden: Golden, path: str | os.PathLike[str]) -> None:
    """Write ``golden`` to ``path``; the file gets its name only when it is complete."""
    arrays: dict[str, NDArray[Any]] = {}
    entries = []
    for i, case in enumerate(golden.cases):
        types = {name: array.dtype.name for name, array in case.inputs.items()}
        yardstick = {name: _listed(one) for name, one in case.yardstick.items()}
        pointed = {
            name: {"axis": one.axis, "dtype": one.dtype, "yardstick": _listed(one.yardstick)}
            for name, one in case.pointed.items()
        }
        entry = {"name": case.name, "inputs": types, "answers": [*case.answers], "yardstick": yardstick}
        entries.append({**entry, "choices": [*case.choices], "pointed": pointed})
        arrays |= {f"{i}.input.{j}": to_bits(array) for j, array in enumerate(case.inputs.values())}
        arrays |= {f"{i}.answer.{j}": array for j, array in enumerate(case.answers.values())}
        for j, choices in enumerate(case.choices.values()):
            arrays |= {f"{i}.places.{j}": choices.places, f"{i}.values.{j}": choices.values}
        arrays |= {f"{i}.pointed.{j}": one.values for j, one in enumerate(case.pointed.values())}
    header = {
        "version": VERSION,
        "source": golden.source,
        "yardstick": golden.yardstick,
        "dtypes": golden.dtypes,
        "notes": golden.notes,
        "fingerprints": golden.fingerprints,
        "cases": entries,
    }
    if golden.trace is not None:
        header["trace"], arrays["trace"] = listed(golden.trace)
    arrays["header"] = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    complete(Path(path), write)


def load(path: str | os.PathLike[str]) -> Golden:
    """Read a golden file.

    Raises :class:`GoldenError` for a file that is missing, damaged, no golden file, or of another version.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            _check(header["version"])
            found = tuple(
                Case(
                    name=entry["name"],
                    inputs={
                        name: from_bits(file[f"{i}.input.{j}"], dtype)
                        for j, (name, dtype) in enumerate(entry["inputs"].items())
                    },
                    answers={name: file[f"{i}.answer.{j}"] for j, name in enumerate(entry["answers"])},
                    yardstick={name: _unlisted(one) for name, one in entry["yardstick"].items()},
                    choices={
                        name: Choices(file[f"{i}.places.{j}"], file[f"{i}.values.{j}"])
                        for j, name in enumerate(entry["choices"])
                    },
                    pointed={
                        name: Pointed(file[f"{i}.pointed.{j}"], one["axis"], one["dtype"], _curve(one["yardstick"]))
                        for j, (name, one) in enumerate(entry["pointed"].items())
                    },
                )
                for i, entry in enumerate(header["cases"])
            )
            return Golden(
                source=header["source"],
                yardstick=header["yardstick"],
                dtypes=header["dtypes"],
                cases=found,
                notes=tuple(header["notes"]),
                fingerprints=header["fingerprints"],
                trace=unlisted(header["trace"], file["trace"]) if "trace" in header else None,
            )
    except FileNotFoundError as error:
        told = f"there is no golden file {path}{similar(path)}; export the model again, or give reference="
        raise GoldenError(told) from error
    except Exception as error:  # a damaged zip file, array or header fails in many ways
        raise GoldenError(f"{path} is damaged or no golden file ({error}); export the model again") from error


def _listed(yardstick: float | ByMagnitude) -> Any:
    """For JSON."""
    return (
        yardstick
        if isinstance(yardstick, int | float)
        else [yardstick.exponents, yardstick.errors, yardstick.axis, yardstick.slices]
    )


def _unlisted(yardstick: Any) -> float | ByMagnitude:
    return yardstick if isinstance(yardstick, int | float) else _curve(yardstick)


def _curve(yardstick: Any) -> ByMagnitude:
    exponents, errors, axis, slices = yardstick
    return ByMagnitude(tuple(exponents), tuple(errors), axis, tuple(slices))


def _check(version: int) -> None:
    if version != VERSION:
        raise ValueError(f"its format has version {version}, this onnxpool reads {VERSION}")
