"""A model in float32 as one that computes in whole numbers of 8 bits, by ONNX Runtime's static quantiser.

The quantiser works on the function form, where each pooling of ours is one node: it stays one, in float, between a
DequantizeLinear and a QuantizeLinear, and runs natively where the library is. (In the standard form it would quantise
the steps within a pooling, such as a padding of -inf, whose scale is infinite.) What comes out is judged before it is
written: by itself, weight by weight beside the float model, and in ONNX Runtime against its own float64 answers, which
are written beside it.

>>> quantize("network.onnx", "network-int8.onnx", "photos").outputs  # doctest: +SKIP
(Output(name='scores', step=0.21, max_steps=1.4, ...),)
"""

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, FormError, MissingExtra, nearest
from onnxpool.golden import bounds, from_quantized
from onnxpool.golden import file as golden_file
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms, quantized
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.graph.forms import Model
from onnxpool.quantizing.calibration import Calibration, Samples, samples
from onnxpool.quantizing.saturation import WHY, saturates
from onnxpool.run.native_library import why_missing
from onnxpool.run.session import load
from onnxpool.validation.as_text import sentences
from onnxpool.validation.quantized import Distance
from onnxpool.validation.validate import Progress, validate

Method: TypeAlias = Literal["minmax", "percentile", "entropy"]
Stored: TypeAlias = Literal["uint8", "int8"]

OLDEST_OPSET = 13
"""The first with a scale for each channel."""

MOST_COMPARED = 32
"""Samples that the two models are compared on."""

_CROP = 0.875
"""What :mod:`onnxpool.run.picture` takes of a picture, if nobody says otherwise."""

_LARGE = 1_900_000_000  # a protobuf message ends at 2 GiB


@dataclass(frozen=True)
class Quantized:
    """What was written, and how far it is from the float model.

    ``source`` says what it was calibrated with, ``samples`` how many; ``outputs`` compare the two in ONNX Runtime on
    the first ``compared`` of these. ``quantized`` and ``in_float`` count the nodes that compute in whole numbers, and
    those that compute in float. ``native`` names the pooling nodes that ran natively here. ``weights`` is how many were
    compared. ``checked`` says what was judged, ``notes`` what else a reader should know.
    """

    model: str
    output: str
    golden: str
    source: str
    samples: int
    compared: int
    outputs: tuple[Distance, ...]
    size_before_bytes: int
    size_after_bytes: int
    quantized: int
    in_float: int
    native: tuple[str, ...]
    weights: int
    checked: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; what is not a finite number is None."""
        values = asdict(self)
        for one in values["outputs"]:
            one.update(
                {name: None for name, value in one.items() if isinstance(value, float) and not np.isfinite(value)}
            )
        return values


def quantize(
    model: Model,
    output: str | os.PathLike[str],
    calibration: Calibration = None,
    *,
    method: Method = "minmax",
    per_channel: bool = True,
    activations: Stored = "uint8",
    weights: Stored | None = None,
    exclude: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    crop: float = _CROP,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Quantise a float32 ``model`` in any form; written to ``output``, in function form, if nothing is wrong with it.

    ``calibration`` is a folder of pictures, npy or npz files, an npz file with an array for each input, or an iterable
    of feeds (:mod:`onnxpool.quantizing.calibration`); by default the golden inputs beside the model, which are drawn,
    not real. ``method`` takes the range of a tensor from these: ``"minmax"`` all of it, ``"percentile"`` all but the
    rarest 1e-5, ``"entropy"`` what loses least information. ``per_channel`` gives each channel of a weight its own
    scale. ``weights`` are int8 if nobody says otherwise, or uint8 where this processor would add products of int8
    wrongly (:mod:`onnxpool.quantizing.saturation`); a note says so. ``exclude`` names nodes that stay in float.
    ``size``, ``crop``, ``mean`` and ``std`` are for pictures (:mod:`onnxpool.run.picture`).
    ``progress`` is called with how many samples are done, of how many, and what is done.

    Raises :class:`ArgumentError` for what cannot be used, :class:`MissingExtra` without ONNX Runtime, and
    :class:`FormError` for a model that cannot be quantised, or whose quantised form is wrong: then nothing is written.
    """
    told = progress or (lambda *_: None)
    _check(method, activations, "int8" if weights is None else weights)
    stored = weights if weights is not None else "uint8" if activations == "uint8" and saturates() else "int8"
    if isinstance(model, str | os.PathLike) and Path(output).resolve() == Path(model).resolve():
        raise ArgumentError(f"output={os.fspath(output)!r} is the model itself; write to another file")
    original = forms.read(model)
    was = forms.form_of(original)
    base = _prepared(original, exclude)
    running = load(base)
    picture = {"size": size, "crop": None if crop == _CROP else crop, "mean": mean, "std": std}
    given = samples(calibration, model, running.inputs, picture)
    first = given.feeds(0)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        forms.write(base.clone(), before)
        with _silent():
            _quantize(before, after, _Reader(given, told), method, per_channel, activations, stored, exclude)
        made = forms.read(after)
        likeness = _checked(made, base)
        told(len(given), len(given), "answering in float64")
        golden = replace(from_quantized.record(made, first), fingerprints=fingerprints(made))
        told(len(given), len(given), "validating")
        needed = ("native",) if forms.pool_nodes(made) and why_missing() is None else ()
        report = validate(after, golden, forms=("function",), require=needed)  # type: ignore[arg-type]
        if not report.passed:
            remedy = f"{WHY}; with activations and weights 'uint8' (--weights uint8) it adds rightly: "
            cause = remedy if _saturated(stored) else ""
            raise FormError(f"the quantised model is wrong, and was not written: {cause}{'; '.join(sentences(report))}")
        told(len(given), len(given), "comparing")
        compared = _compared(load(base), load(after), given, made)
        native = tuple(one.node for one in load(after).placements if one.native)
        sizes = _size_bytes(before), _size_bytes(after)
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        forms.write(made, output)
        golden_file.save(golden, golden_file.path_for(output))
    whole, floating = _counted(made)
    return Quantized(
        model=os.fspath(model) if isinstance(model, str | os.PathLike) else original.graph.name or "model",
        output=os.fspath(output),
        golden=str(golden_file.path_for(output)),
        source=given.source,
        samples=len(given),
        compared=min(len(given), MOST_COMPARED),
        outputs=compared,
        size_before_bytes=sizes[0],
        size_after_bytes=sizes[1],
        quantized=whole,
        in_float=floating,
        native=native,
        weights=likeness.weights,
        checked=f"{report.summary}: against its own answers in float64, {len(golden.cases)} cases",
        notes=tuple(_notes(was, calibration, base, stored if weights is None else None, report.notes)),
    )


def _saturated(weights: Stored) -> bool:
    return weights == "int8" and saturates()


# --- before


def _check(method: str, activations: str, weights: str) -> None:
    for name, value, known in (
        ("method", method, get_args(Method)),
        ("activations", activations, get_args(Stored)),
        ("weights", weights, get_args(Stored)),
    ):
        if value not in known:
            raise ArgumentError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")
    if (activations, weights) == ("int8", "uint8"):
        raise ArgumentError(
            "weights='uint8' with activations='int8' is not a pair that ONNX Runtime runs; use int8 weights"
        )


def _prepared(original: ir.Model, exclude: Sequence[str]) -> ir.Model:
    """In function form, each node with a name, of a kind that can be quantised."""
    if quantized.is_quantized(original):
        raise FormError("the model is quantised already; quantise its float original")
    if (opset := original.opset_imports.get("", 0)) < OLDEST_OPSET:
        raise FormError(
            f"the model has opset {opset}; quantising needs {OLDEST_OPSET}: convert it with onnx.version_converter, or "
            "export it again"
        )
    base = forms.to_form(original, "function")
    other = next((value for value in base.graph.inputs if value.dtype in _OTHER), None)
    other = other or next((value for value in base.graph.initializers.values() if value.dtype in _OTHER), None)
    if other is not None:
        raise FormError(
            f"the model computes in {other.dtype.numpy().name if other.dtype else 'another type'} ({other.name!r}); "
            "quantising takes float32: export it with that"
        )
    passes.NameFixPass()(base)
    names = [node.name for node in base.graph if node.name]
    for name in exclude:
        if name not in names:
            raise ArgumentError(f"exclude={name!r}: the model has no node of that name{nearest(name, names)}")
    return base


_OTHER = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


# --- ONNX Runtime's quantiser


class _Reader:
    """The samples as the quantiser asks for them: one for each call of ``set_range``, so that it keeps no others."""

    def __init__(self, given: Samples, progress: Progress) -> None:
        self._given, self._progress = given, progress
        self._next = self._end = 0

    def __len__(self) -> int:
        return len(self._given)

    def set_range(self, start_index: int, end_index: int) -> None:
        """From which sample to which."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> Feeds | None:
        """The next one of that range; None after the last."""
        if self._next >= self._end:
            return None
        self._progress(self._next, len(self._given), "calibrating")
        self._next += 1
        return self._given.feeds(self._next - 1)


def _quantize(
    before: Path,
    after: Path,
    reader: _Reader,
    method: Method,
    per_channel: bool,
    activations: Stored,
    weights: Stored,
    exclude: Sequence[str],
) -> None:
    from onnxpool.pools import OPERATORS

    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu", "quantize") from error
    methods = quantization.CalibrationMethod
    stored = {"uint8": quantization.QuantType.QUInt8, "int8": quantization.QuantType.QInt8}
    try:
        quantization.quantize_static(
            before,
            after,
            reader,
            op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry, *OPERATORS}),
            per_channel=per_channel,
            activation_type=stored[activations],
            weight_type=stored[weights],
            nodes_to_exclude=list(exclude),
            use_external_data_format=before.stat().st_size > _LARGE or before.with_name(f"{before.name}.data").exists(),
            calibrate_method={"minmax": methods.MinMax, "percentile": methods.Percentile, "entropy": methods.Entropy}[
                method
            ],
            extra_options={"CalibStridedMinMax": 1},  # whatever the method: one sample in memory at a time
        )
    except ArgumentError:
        raise
    except Exception as error:  # whatever the quantiser does with a model or numbers that it does not expect
        raise FormError(f"ONNX Runtime's quantiser failed: {type(error).__name__}: {error}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, the quantiser's advice, on the root logger and on standard output, is not printed; its errors raise."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(nowhere)
    root.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(nowhere)


# --- after


def _checked(made: ir.Model, base: ir.Model) -> quantized.Likeness:
    """That the quantiser has done what it should; raises :class:`FormError`."""
    if not quantized.is_quantized(made):
        raise FormError("the model has no operator that ONNX Runtime quantises, so that it stays as it is")
    if faults := quantized.faults(made):
        names = sorted({node for fault in faults for node in _named(fault, base)})
        raise FormError(
            f"{'; '.join(faults)}: such numbers came up in calibration; leave the node in float with "
            f"exclude={names!r}, or calibrate with inputs that do not lead there"
        )
    likeness = quantized.unlike(made, base)
    lost = [f"node {one.name!r} ({one.op_type}) was lost" for one in _lost(made, base)]
    if likeness.faults or lost:
        raise FormError(f"ONNX Runtime's quantiser changed the model: {'; '.join([*likeness.faults, *lost])}")
    return likeness


def _named(fault: str, base: ir.Model) -> Iterator[str]:
    return (node.name for node in base.graph if node.name and f"{node.name!r} (" in fault)


def _lost(made: ir.Model, base: ir.Model) -> Iterator[forms.PoolNode]:
    kept = {(one.name, one.op_type, str(one.window)) for one in forms.pool_nodes(made)}
    yield from (one for one in forms.pool_nodes(base) if (one.name, one.op_type, str(one.window)) not in kept)


def _compared(floating: Any, whole: Any, given: Samples, made: ir.Model) -> tuple[Distance, ...]:
    """How far the outputs are from those of the float model, both in ONNX Runtime."""
    evaluated, first = from_quantized.Evaluated(forms.to_form(made, "custom")), given.feeds(0)
    steps = evaluated.steps(first, evaluated.exact(first))
    pairs: dict[str, list[tuple[float, int, NDArray[Any], Array]]] = {}
    for i in range(min(len(given), MOST_COMPARED)):
        feeds = given.feeds(i)
        wanted, mine = floating.run(feeds), whole.run(feeds)
        for name, answer in mine.items():
            if answer.size and answer.dtype.kind == "f":
                right = wanted[name].astype(np.float64)
                pairs.setdefault(name, []).append((float(np.abs(answer - right).max()), i, answer, right))
    found = []
    for name, of in pairs.items():
        most, sample, *_ = max(of, key=lambda one: one[0])
        every = np.concatenate([one[2].ravel() for one in of])
        right = np.concatenate([one[3].ravel() for one in of])
        snr_db = bounds.measure(every, right, 0).snr_db
        away = most / steps[name] if steps[name] else float("inf")
        found.append(Distance(name, steps[name], away, most, snr_db, f"sample {sample}"))
    return tuple(found)


def _size_bytes(path: Path) -> int:
    """Of a model, and of the weights beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _counted(made: ir.Model) -> tuple[int, int]:
    """The nodes between DQ and Q that are ONNX's own, which runtimes join to kernels for integers, and the others."""
    whole = floating = 0
    for node in made.graph:
        if (
            node.op_type in (quantized.Q, quantized.DQ)
            or not node.outputs
            or node.outputs[0].dtype != ir.DataType.FLOAT
        ):
            continue
        taken = [value.producer() for value in node.inputs if value is not None]
        if node.domain != DOMAIN and any(one is not None and one.op_type == quantized.DQ for one in taken):
            whole += 1
        else:
            floating += 1
    return whole, floating


def _notes(
    was: str, calibration: Calibration, base: ir.Model, chosen: Stored | None, more: Sequence[str]
) -> Iterator[str]:
    if not forms.pool_nodes(base):
        yield "the model has no pooling node of onnxpool; onnxpool lift finds those that are spelled out"
    elif was != "function":
        yield f"the model was in {was} form; it was quantised, and is written, in function form"
    if calibration is None:
        yield "calibrated with golden inputs, which are drawn: pictures or other real data are better"
    if chosen == "uint8":
        yield f"weights are uint8: {WHY}"
    yield from more
