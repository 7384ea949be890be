"""What a model says about pictures: the best classes with their scores, or figures of outputs that are not scores.

    scores    (1, classes), also with further axes of size 1: the ``top`` largest, after softmax where they are logits
    others    shape, least, largest, mean and number of NaN

An output is taken for logits unless a Softmax or Sigmoid makes it; ``scores`` says otherwise.

Names of classes come from a text file, one per line: by default ``network.labels.txt`` beside ``network.onnx``.

>>> predict("network.onnx", ["photo.jpg"], labels="labels.txt").pictures[0].outputs[0].classes  # doctest: +SKIP
(Class(index=285, label='Egyptian cat', score=0.93), ...)
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.errors import ArgumentError
from onnxpool.graph import forms
from onnxpool.run import session
from onnxpool.run.picture import Preparation

Scores: TypeAlias = Literal["auto", "softmax", "as-is"]

_SETTLED = ("Softmax", "Sigmoid")
_PASSED = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")


@dataclass(frozen=True)
class Class:
    """One class and its score; ``label`` is None without a file of labels, ``score`` None where it is not finite."""

    index: int
    label: str | None
    score: float | None


@dataclass(frozen=True)
class Output:
    """An output for one picture: ``classes`` where it holds scores, figures always (None where there is no number)."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[Class, ...]
    least: float | None
    largest: float | None
    mean: float | None
    nan: int


@dataclass(frozen=True)
class Prediction:
    """One picture's outputs, the time that the model took, and the height and width that it was shown."""

    picture: str
    time_s: float
    outputs: tuple[Output, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Predictions:
    """What :func:`predict` returns, in the order of the pictures."""

    model: str
    pictures: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def predict(
    model: str | os.PathLike[str],
    pictures: Sequence[str | os.PathLike[str]],
    *,
    labels: str | os.PathLike[str] | None = None,
    top: int = 5,
    scores: Scores = "auto",
    size: tuple[int, int] | None = None,
    crop: float = 0.875,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    kernels: session.Kernels = "auto",
    runtime: session.Runtime = "onnxruntime",
) -> Predictions:
    """Run a model on picture files, one after the other.

    ``labels`` is a text file with the name of one class per line. ``scores``: ``"softmax"`` takes it, ``"as-is"`` does
    not. ``size`` is (height, width) for a model that takes any; the other arguments as in :mod:`onnxpool.run.picture`
    and :func:`onnxpool.load`.

    Raises :class:`ArgumentError` for a model that takes no picture, a file that is none, and labels that do not fit.
    """
    if not pictures:
        raise ArgumentError("pictures=[] is empty; name at least one file")
    reader = Reader(model, labels=labels, top=top, scores=scores)
    running = session.load(model, runtime=runtime, kernels=kernels)
    preparation = Preparation.of(running.inputs, size=size, crop=crop, mean=mean, std=std)
    found = (_predicted(running, reader, preparation, picture) for picture in pictures)
    return Predictions(os.fspath(model), tuple(found))


def _predicted(
    running: session.Session, reader: "Reader", preparation: Preparation, picture: str | os.PathLike[str]
) -> Prediction:
    feeds = preparation.feeds(picture)
    start = perf_counter()
    outputs = running.run(feeds)
    time_s, size = perf_counter() - start, preparation.size_of(feeds[preparation.name])
    return Prediction(os.fspath(picture), time_s, reader.read(outputs), size)


class Reader:
    """How a model's outputs for one picture are read; the arguments are those of :func:`predict`."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        labels: str | os.PathLike[str] | None = None,
        top: int = 5,
        scores: Scores = "auto",
    ) -> None:
        if top < 1:
            raise ArgumentError(f"top={top!r} must be at least 1")
        if scores not in get_args(Scores):
            raise ArgumentError(f"scores={scores!r} is unknown; use one of {', '.join(get_args(Scores))}")
        beside = Path(model).with_suffix(".labels.txt")
        labels = beside if labels is None and beside.is_file() else labels
        self.labels: tuple[str, ...] | None = None if labels is None else read_labels(labels)
        self.top: int = top
        self.settled: frozenset[str] = settled_outputs(model) if scores == "auto" else frozenset()
        self.softmax: bool = scores != "as-is"

    def read(self, outputs: Mapping[str, NDArray[Any]]) -> tuple[Output, ...]:
        """The model's outputs for one picture. Raises :class:`ArgumentError` for labels of another number."""
        return tuple(self._output(name, array) for name, array in outputs.items())

    def _output(self, name: str, array: NDArray[Any]) -> Output:
        values = array.astype(np.float64)
        known = values[~np.isnan(values)]
        scored = values.ndim >= 2 and values.size == values.shape[1] > 1
        return Output(
            name=name,
            shape=values.shape,
            classes=self._classes(name, values.ravel()) if scored else (),
            least=_number(known.min()) if known.size else None,
            largest=_number(known.max()) if known.size else None,
            mean=_number(known.mean()) if known.size else None,
            nan=values.size - known.size,
        )

    def _classes(self, name: str, values: NDArray[np.float64]) -> tuple[Class, ...]:
        if self.labels is not None and len(self.labels) != len(values):
            raise ArgumentError(f"labels has {len(self.labels)} lines, but output {name!r} has {len(values)} classes")
        if self.softmax and name not in self.settled:
            values = softmax(values)
        order = np.argsort(-values, kind="stable")[: self.top]
        return tuple(Class(int(i), self.labels[i] if self.labels else None, _number(values[i])) for i in order)


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The name of one class per line. Raises :class:`ArgumentError` for a file that is missing, empty or no text."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"labels={os.fspath(path)!r} cannot be read as a text file: {error}") from error
    if not lines:
        raise ArgumentError(f"labels={os.fspath(path)!r} is empty; write the name of one class per line")
    return tuple(line.strip() for line in lines)


def settled_outputs(model: forms.Model) -> frozenset[str]:
    """Names of the outputs that a Softmax or Sigmoid makes: scores already."""
    return frozenset(str(value.name) for value in forms.read(model).graph.outputs if _maker(value) in _SETTLED)


def _maker(value: ir.Value) -> str | None:
    """The operator that makes the numbers of a value, past those that only pass them on."""
    node = value.producer()
    while node is not None and node.domain == "" and node.op_type in _PASSED and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None else node.op_type


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(v) / sum(exp(v)); NaN where an infinity leaves no other answer."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(values - values.max())
        shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def _number(value: np.floating[Any]) -> float | None:
    """A number that JSON has, or None."""
    return float(value) if np.isfinite(value) else None
