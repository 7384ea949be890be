"""A model in OpenVINO on the CPU, with the face of an ``onnxruntime.InferenceSession``.

    form of the model     with our extension           without it, or with kernels="off"
    function, custom      as it is, pooled natively    in standard form
    standard              as it is                     as it is

It computes in the model's own type, which it would not do by itself on every processor; float16 where the processor has
arithmetic for it, else in float32. It has no float64, and no integers beyond int32: such inputs, and float64 outputs,
are refused; within a model such numbers lose bits unseen. Inputs are read where they lie, outputs are the caller's.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import BFLOAT16, BY_CODE, BY_NAME, from_bits, to_bits
from onnxpool.errors import KernelError, MissingExtra, SessionError
from onnxpool.graph import forms
from onnxpool.graph.forms import Model
from onnxpool.graph.repair import RENAMED
from onnxpool.openvino import extension_path, why_missing

if TYPE_CHECKING:
    import openvino

DEVICE = "CPU"

_PLACES = re.compile(
    r"Caught exception: |Exception from src/\S+|Check '.*?' failed at \S+"
    r"|While validating node '.*?' with friendly_name '.*?':"
)

_WIDE = (np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.uint32))
_LEAST, _MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max

_NODE = "onnxpool_node"
"""Where the extension keeps a node's name in the ONNX file."""


@dataclass(frozen=True)
class Argument:
    """An input or output, as a ``NodeArg`` of ONNX Runtime has it."""

    name: str
    type: str
    shape: list[int | str | None]


class Cancel:
    """Ends the run that has it, when it is called from another thread; OpenVINO looks between two nodes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._request: Any = None
        self._called = False

    def __call__(self) -> None:
        """End it; one that has not begun does not begin."""
        with self._lock:
            self._called = True
            if self._request is not None:
                self._request.cancel()

    def start(self, request: Any, feeds: Mapping[str, Any]) -> None:
        """Begin a run that can be ended, unless it is to end already."""
        with self._lock:
            if self._called:
                raise SessionError("it was stopped before it began")
            request.start_async(feeds)
            self._request = request

    def done(self) -> None:
        """From now on the request may be another run's."""
        with self._lock:
            self._request = None


class InferenceSession:
    """What :class:`onnxpool.run.session.Session` asks of ONNX Runtime's; ``compiled`` is OpenVINO's own model.

    ``native`` has the name of each pooling node that runs natively. Runs at the same time have a request each.
    """

    def __init__(self, compiled: "openvino.CompiledModel", held: ir.Model, native: Sequence[str]) -> None:
        self.compiled: openvino.CompiledModel = compiled
        self.native: dict[str, str] = dict.fromkeys(native, DEVICE)
        graph = held.graph
        taken = [value for value in graph.inputs if value.name not in graph.initializers]
        self._inputs = [_argument(value, compiled.input(str(value.name))) for value in taken]
        self._outputs = [_argument(*pair) for pair in zip(graph.outputs, compiled.outputs, strict=True)]
        self._free: list[Any] = []

    def get_inputs(self) -> list[Argument]:
        """As the model declares them."""
        return list(self._inputs)

    def get_outputs(self) -> list[Argument]:
        """As the model declares them."""
        return list(self._outputs)

    def get_providers(self) -> list[str]:
        """The device."""
        return [DEVICE]

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]], stop: Cancel | None = None
    ) -> list[NDArray[Any]]:
        """The outputs of these names, or all in order."""
        tensors = {name: _tensor(name, array) for name, array in feeds.items()}
        try:
            request = self._free.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        stop = stop or Cancel()
        stop.start(request, tensors)
        try:
            request.wait()
        finally:
            stop.done()
        found = [_array(request.get_output_tensor(i)) for i in range(len(self._outputs))]
        self._free.append(request)  # one that failed is left behind
        by_name = dict(zip((output.name for output in self._outputs), found, strict=True))
        return found if names is None else [by_name[name] for name in names]


def opened(model: Model, held: ir.Model, *, kernels: str, threads: int | None) -> InferenceSession:
    """``model``, which was read as ``held``, compiled; ``kernels`` and ``threads`` as in ``onnxpool.load``.

    Raises :class:`MissingExtra` without OpenVINO, :class:`KernelError` where the extension is wanted and there is none,
    or OpenVINO refuses it, and :class:`SessionError` where it cannot run the model in its own type, or load it.
    """
    ov = _openvino()
    for value in (*held.graph.inputs, *held.graph.outputs):
        if value.dtype == ir.DataType.DOUBLE:
            raise SessionError(
                f"OpenVINO computes float64 in float32, and {value.name!r} is float64: "
                "load the model with runtime='onnxruntime', or export it in float32"
            )
    if kernels == "require" and (reason := why_missing()):
        raise KernelError(f"kernels='require', but {reason}")
    native = kernels != "off" and forms.form_of(held) != "standard" and why_missing() is None
    core = ov.Core()
    if native:
        try:
            core.add_extension(extension_path())
        except RuntimeError as error:
            raise KernelError(f"OpenVINO refuses the extension for it: {told(error)}") from error
    settings = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    settings |= {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
    as_it_is = isinstance(model, str | os.PathLike) and RENAMED not in held.meta
    as_it_is = as_it_is and (native or forms.form_of(held) == "standard")
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
        path = Path(os.fspath(model)) if as_it_is else Path(folder, "model.onnx")  # type: ignore[arg-type]
        if not as_it_is:
            forms.write((held if native else forms.to_form(held, "standard")).clone(), path)
        try:
            read = core.read_model(path)
            compiled = core.compile_model(read, DEVICE, settings)
        except Exception as error:
            raise SessionError(f"OpenVINO could not load the model: {told(error)}") from error
    names = [op.get_rt_info()[_NODE].astype(str) for op in read.get_ordered_ops() if _NODE in op.get_rt_info()]
    return InferenceSession(compiled, held, names)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "openvino", "runtime='openvino'") from error
    return openvino


def told(error: Exception) -> str:
    """What OpenVINO says, in one line, without the places in its sources."""
    return " ".join(_PLACES.sub(" ", str(error)).split()) or str(error)


def _argument(value: ir.Value, port: Any) -> Argument:
    """As the model declares it, or where it does not, as OpenVINO inferred it."""
    element, sizes = port.get_element_type(), port.get_partial_shape()
    if value.dtype is None:
        known = BY_NAME.get("bfloat16" if element.get_type_name() == "bf16" else element.to_dtype().name)
    else:
        known = BY_CODE.get(int(value.dtype))
    shape: list[int | str | None] = []
    if value.shape is not None:
        shape = [size if isinstance(size, int) else size.value for size in value.shape]
    elif sizes.rank.is_static:
        shape = [size.get_length() if size.is_static else None for size in sizes]
    return Argument(str(value.name), f"tensor({known.onnx})" if known else element.get_type_name(), shape)


def _tensor(name: str, array: NDArray[Any]) -> Any:
    """Without a copy, but for memory that may not be written to, which OpenVINO does not take."""
    ov, bits = _openvino(), to_bits(array)
    if array.dtype in _WIDE and array.size and not (array.min() >= _LEAST and array.max() <= _MOST):
        raise SessionError(f"OpenVINO computes {array.dtype} in int32, and input {name!r} has numbers beyond that")
    bits = bits if bits.flags.writeable else bits.copy()
    return ov.Tensor(bits, array.shape, ov.Type.bf16) if array.dtype == BFLOAT16 else ov.Tensor(bits, True)


def _array(tensor: Any) -> NDArray[Any]:
    bfloat16 = tensor.element_type == _openvino().Type.bf16
    data: NDArray[Any] = np.array(tensor.data)
    return from_bits(data.view(np.uint16), BFLOAT16) if bfloat16 else data
