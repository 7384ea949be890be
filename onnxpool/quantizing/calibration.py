"""Inputs to calibrate a model with, one sample at a time.

    folder          pictures; npy files, for a model with one input; npz files of named inputs; each in order of names
    NAME.npz        an array for each input: of the input's own axes, or with one more in front that counts samples
    golden file     what it holds in its ordinary cases
    None            the golden file beside the model
    iterable        of feeds: arrays by input name

Where the first axis of every input may change, arrays are taken apart along it, so that samples are of one row.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxpool.errors import ArgumentError
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import Feeds
from onnxpool.graph.shapes import fits
from onnxpool.run.picture import Preparation
from onnxpool.run.session import TensorInfo

Calibration: TypeAlias = str | os.PathLike[str] | Iterable[Mapping[str, NDArray[Any]]] | None

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

_ORDINARY = ("example", "ordinary", "image", "sizes ")
"""The golden cases with values that a network might see; the others are extreme on purpose."""


@dataclass(frozen=True)
class Samples:
    """The feeds to calibrate with, each read when it is asked for, and where they come from, in words."""

    source: str
    places: tuple[Any, ...]
    inputs: tuple[TensorInfo, ...]
    picture: Preparation | None

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Feeds]:
        return map(self.feeds, range(len(self.places)))

    def feeds(self, i: int) -> Feeds:
        """Sample number ``i``; raises :class:`ArgumentError` for a file that is damaged, or does not fit the model."""
        place = self.places[i]
        if isinstance(place, Path):
            assert self.picture is not None
            place = self.picture.feeds(place)
        return {info.name: _fitted(info, place[info.name], self.source) for info in self.inputs}


def samples(calibration: Calibration, model: Any, inputs: Sequence[TensorInfo], picture: Mapping[str, Any]) -> Samples:
    """What there is to calibrate a model with; ``picture`` holds arguments of :meth:`Preparation.of`.

    Raises :class:`ArgumentError` for a place without samples, an array that fits no input, and picture options where
    there are no pictures.
    """
    given = {name: value for name, value in picture.items() if value is not None}
    preparation: Preparation | None = None
    if calibration is None:
        source, places = _golden_beside(model)
    elif not isinstance(calibration, str | os.PathLike):
        source, places = (
            "the given feeds",
            [one for feeds in calibration for one in _rows(dict(feeds), inputs, "feeds")],
        )
    elif Path(calibration).is_dir():
        source = os.fspath(calibration)
        places = list(_folder(Path(calibration), inputs))
        if any(isinstance(place, Path) for place in places):
            preparation = Preparation.of(inputs, **given)
    elif Path(calibration).suffix == ".npz" and Path(calibration).is_file():
        source = os.fspath(calibration)
        places = _npz(Path(calibration), inputs)
    else:
        raise ArgumentError(
            f"calibration={os.fspath(calibration)!r} is neither a folder nor an npz file; name a folder of pictures, "
            "npy or npz files, or an npz file with an array for each input"
        )
    if given and preparation is None:
        raise ArgumentError(
            f"{next(iter(given))}={next(iter(given.values()))!r} is for pictures, and {source} holds none"
        )
    if not places:
        raise ArgumentError(
            f"calibration={source!r} holds no sample; it takes pictures ({', '.join(PICTURES)}), npy and npz files"
        )
    return Samples(source, tuple(places), tuple(inputs), preparation)


def _golden_beside(model: Any) -> tuple[str, list[Feeds]]:
    path = golden_file.path_for(model) if isinstance(model, str | os.PathLike) else None
    if path is None or not path.exists():
        raise ArgumentError(
            "calibration=None takes the golden inputs beside the model, and there are none: name a folder of pictures, "
            "npy or npz files, or an npz file with an array for each input"
        )
    cases = golden_file.load(path).cases
    chosen = [case.inputs for case in cases if case.name.startswith(_ORDINARY)]
    return f"the golden inputs, {path}", [feeds for feeds in chosen if all(array.size for array in feeds.values())]


def _folder(folder: Path, inputs: Sequence[TensorInfo]) -> Iterator[Any]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES:
            yield path
        elif path.suffix == ".npz":
            yield from _npz(path, inputs)
        elif path.suffix == ".npy":
            if len(inputs) != 1:
                raise ArgumentError(
                    f"calibration: {path} is one array, and the model takes {len(inputs)} inputs, "
                    f"{', '.join(info.name for info in inputs)}: write npz files with an array for each"
                )
            yield from _rows({inputs[0].name: _read(path)}, inputs, str(path))


def _npz(path: Path, inputs: Sequence[TensorInfo]) -> list[Feeds]:
    held = _read(path)
    if "header" in held and "header" not in {info.name for info in inputs}:
        cases = [case for case in golden_file.load(path).cases if case.name.startswith(_ORDINARY)]
        return [row for case in cases for row in _rows(case.inputs, inputs, str(path))]
    return _rows(held, inputs, str(path))


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return dict(found) if path.suffix == ".npz" else found
    except Exception as error:  # a damaged file fails in many ways
        raise ArgumentError(f"calibration: {path} cannot be read as a {path.suffix[1:]} file: {error}") from error


def _rows(held: Mapping[str, NDArray[Any]], inputs: Sequence[TensorInfo], where: str) -> list[Feeds]:
    """The samples in these arrays."""
    names = [info.name for info in inputs]
    if set(held) != set(names):
        raise ArgumentError(f"calibration: {where} holds {sorted(held)}; the model takes {names}")
    arrays = {name: np.asarray(held[name]) for name in names}
    extra = {arrays[info.name].ndim - len(info.shape) for info in inputs}
    if extra == {1}:
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1:
            raise ArgumentError(f"calibration: {where} holds {sorted(lengths)} samples of its inputs; give one number")
        every: list[Feeds] = [{name: arrays[name][i] for name in names} for i in range(lengths.pop())]
        return [row for feeds in every for row in _rows(feeds, inputs, where)]
    for info in inputs:
        _fitted(info, arrays[info.name], where)
    first = {info.shape[0] if info.shape else None for info in inputs}
    rows = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(first) == 1 and isinstance(first.pop(), str) and len(rows) == 1:
        return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(rows.pop())]
    return [arrays]


def _fitted(info: TensorInfo, value: NDArray[Any], where: str) -> NDArray[Any]:
    array = np.asarray(value)
    if not fits(array.shape, info.shape):
        raise ArgumentError(
            f"calibration: {where} gives {info.name!r} of shape {array.shape}; the model takes {info.shape}"
        )
    if array.dtype != info.dtype and not (array.dtype.kind == info.dtype.kind == "f"):
        raise ArgumentError(f"calibration: {where} gives {info.name!r} as {array.dtype}; the model takes {info.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArgumentError(
            f"calibration: {where} gives {info.name!r} with NaN or infinity, of which no range can be taken"
        )
    return array.astype(info.dtype, copy=False)
