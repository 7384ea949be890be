"""From an ONNX model to a running session: provider, native library, and the truth about which nodes ran natively.

>>> session = load("network.onnx")  # doctest: +SKIP
>>> session.run({"x": images})["y"]  # doctest: +SKIP
"""

import ctypes
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import BFLOAT16, BY_NAME, BY_ONNX, to_bits
from onnxpool.errors import ArgumentError, KernelError, MissingExtra, SessionError
from onnxpool.graph import forms
from onnxpool.graph.forms import Model, PoolNode
from onnxpool.graph.inlined import inlined
from onnxpool.graph.integers import folded
from onnxpool.graph.repair import RENAMED
from onnxpool.graph.shapes import fits
from onnxpool.run.native_library import CPU, CUDA, register, register_other, why_missing, why_none_for
from onnxpool.runtimes._devices import why_no_device
from onnxpool.window import Window

if TYPE_CHECKING:
    import onnxruntime

Kernels: TypeAlias = Literal["auto", "require", "off"]
Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""A provider of ONNX Runtime by name, or with its options."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model: a number per fixed axis, a name or None per axis that may change."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def sizes(self) -> list[int]:
        """The shape as the inference protocol writes it: -1 for an axis that may change."""
        return [size if isinstance(size, int) else -1 for size in self.shape]


@dataclass(frozen=True)
class Placement:
    """Where one pooling node runs: natively on a provider, or as its function body (``provider`` is None)."""

    pool_node: PoolNode
    provider: str | None

    @property
    def node(self) -> str:
        """The node's name."""
        return self.pool_node.name

    @property
    def op_type(self) -> str:
        """The node's operator, such as ``SoftPool``."""
        return self.pool_node.op_type

    @property
    def window(self) -> Window:
        """The node's window."""
        return self.pool_node.window

    @property
    def native(self) -> bool:
        """Whether our kernel runs, rather than the function body or standard operators."""
        return self.provider is not None


class Stop:
    """Ends a run of :meth:`Session.run` that has it, when it is called from another thread.

    ONNX Runtime looks between two nodes: one that never ends is not stopped.
    """

    def __init__(self) -> None:
        self.options: onnxruntime.RunOptions = _onnxruntime().RunOptions()
        self.options.log_severity_level = 4  # the caller knows why it stopped

    def __call__(self) -> None:
        """End it; :meth:`Session.run` raises :class:`SessionError` then."""
        self.options.terminate = True


class Session:
    """A model ready to run; made by :func:`load`.

    ``inputs`` and ``outputs`` describe the tensors, ``placements`` says of each pooling node whether it runs natively
    (as ONNX Runtime itself recorded it), ``inner`` is the ``onnxruntime.InferenceSession``.
    """

    def __init__(self, inner: "onnxruntime.InferenceSession", nodes: Sequence[PoolNode]) -> None:
        self.inner: onnxruntime.InferenceSession = inner
        self.inputs: tuple[TensorInfo, ...] = tuple(map(_info, inner.get_inputs()))
        self.outputs: tuple[TensorInfo, ...] = tuple(map(_info, inner.get_outputs()))
        self._names = frozenset(info.name for info in self.inputs)
        self._outputs = [info.name for info in self.outputs]
        self._has_bits = any(info.dtype == BFLOAT16 for info in (*self.inputs, *self.outputs))
        ran = {
            node.name: subgraph.ep_name
            for subgraph in inner.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
            if node.domain == DOMAIN
        }
        self.placements: tuple[Placement, ...] = tuple(Placement(node, ran.get(node.name)) for node in nodes)

    def run(self, feeds: Mapping[str, Any], stop: Stop | None = None) -> dict[str, NDArray[Any]]:
        """Run the model on arrays by input name; the outputs by name. bfloat16 is ``ml_dtypes.bfloat16``.

        ``stop``, called from another thread, ends the run.

        Raises :class:`ArgumentError` for a missing or unknown name, a wrong dtype or a wrong shape, and
        :class:`SessionError` where ONNX Runtime fails.
        """
        if wrong := self._names ^ feeds.keys():
            state = "missing" if wrong - set(feeds) else "unknown"
            raise ArgumentError(f"inputs {sorted(wrong)} are {state}; this model takes {[i.name for i in self.inputs]}")
        arrays = {info.name: _checked(info, feeds[info.name]) for info in self.inputs}
        names, options = self._outputs, stop.options if stop else None
        try:
            if not self._has_bits:  # ONNX Runtime's own way is four times as fast
                return dict(zip(names, map(np.asarray, self.inner.run(names, arrays, options)), strict=True))
            values = {name: _to_value(array) for name, array in arrays.items()}
            outputs = self.inner.run_with_ort_values(names, values, options)
        except Exception as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise SessionError(f"ONNX Runtime could not run the model on inputs of shapes {shapes}: {error}") from error
        return {info.name: _to_array(info, value) for info, value in zip(self.outputs, outputs, strict=True)}

    @property
    def batched(self) -> bool:
        """Whether rows of several inputs can run together: every input and output begins with one axis of one name."""
        first = {info.shape[0] if info.shape else None for info in (*self.inputs, *self.outputs)}
        return len(first) == 1 and isinstance(first.pop(), str)

    def io_binding(self) -> "onnxruntime.IOBinding":
        """ONNX Runtime's binding of inputs and outputs to fixed memory; run it with ``inner.run_with_iobinding``."""
        return self.inner.io_binding()


def load(
    model: Model,
    *,
    providers: Sequence[Provider] | None = None,
    kernels: Kernels = "auto",
    threads: int | None = None,
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> Session:
    """A session for a model in any form.

    ``providers`` as ONNX Runtime takes them; by default CUDA where it is available, and the CPU. One whose device is
    not here, or that does not start, is passed over for the next, and in the end for the CPU. ``kernels``: ``"auto"``
    uses the native library where it is installed and has kernels for the first provider that starts, ``"require"``
    insists that every pooling node runs natively, ``"off"`` runs function bodies. ``threads`` is the number of threads
    inside one operator; by default ONNX Runtime's own choice. ``libraries`` are files of custom operators by others.

    A model in ONNX Runtime's own format, ``.ort``, runs, but does not tell which of its nodes were ours: it has no
    ``placements``, and ``"require"`` cannot be met.

    Raises :class:`ArgumentError` for an argument out of range, :class:`MissingExtra` without ONNX Runtime,
    :class:`KernelError` where ``"require"`` cannot be met or ONNX Runtime refuses a library, and :class:`SessionError`
    where the model does not load.
    """
    if kernels not in get_args(Kernels):
        raise ArgumentError(f"kernels={kernels!r} is unknown; use one of {', '.join(get_args(Kernels))}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError(f"threads={threads!r} must be a positive int, or None")
    chosen = _providers(providers)
    own_format = forms.is_ort_format(model)
    if kernels == "require" and own_format:
        raise KernelError(
            "kernels='require', but a model in ONNX Runtime's own format does not tell which of its nodes were ours; "
            "load the ONNX model that it was made from"
        )
    held = None if own_format else forms.read(model, in_place=True)
    nodes = [] if held is None else forms.pool_nodes(held)
    try:
        session = Session(_started(model, held, chosen, kernels, threads, libraries), nodes)
    except KernelError:
        raise
    except Exception as error:
        lacking = kernels == "off" or why_missing() is not None
        remedy = ""
        if lacking and held is not None and forms.form_of(held) == "custom":
            remedy = f"; a custom form needs the native library: {why_missing() or 'use kernels=auto'}"
        raise SessionError(f"ONNX Runtime could not load the model: {error}{remedy}") from error
    if kernels == "require" and held is not None:
        _insist(session, held)
    return session


def _providers(asked: Sequence[Provider] | None) -> list[Provider]:
    """Those that can be asked for here."""
    available = _onnxruntime().get_available_providers()
    chosen: list[Provider] = list(asked or [p for p in (CUDA, CPU) if p in available])
    if missing := [_name(provider) for provider in chosen if _name(provider) not in available]:
        raise ArgumentError(f"providers={missing!r} are not available here; this onnxruntime has {available}")
    reasons = {_name(provider): why_no_device(_name(provider)) for provider in chosen}
    if all(reasons.values()):
        raise ArgumentError(f"providers={list(reasons)!r} cannot start here: {next(iter(reasons.values()))}")
    return [provider for provider in chosen if not reasons[_name(provider)]]


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _started(
    given: Model,
    held: ir.Model | None,
    providers: Sequence[Provider],
    kernels: Kernels,
    threads: int | None,
    libraries: Sequence[str | os.PathLike[str]],
) -> "onnxruntime.InferenceSession":
    """A session with the first of the providers that starts, and with the kernels for that one.

    ``held`` is what was read of the model that was given; None where that cannot be read.
    """
    options = _onnxruntime().SessionOptions()
    options.log_severity_level = 4  # errors reach the caller as exceptions
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    first, *others = providers
    model: Model = held if held is not None and RENAMED in held.meta else given
    if kernels == "require" or (kernels == "auto" and why_none_for(_name(first)) is None):
        register(options)  # with no kernel for another provider, its function body beats a copy to the CPU and back
        if held is not None and _name(first) == CPU:
            model = folded(held) or model
    for library in libraries:
        register_other(options, library)
    session: onnxruntime.InferenceSession = _open(model, options, providers)
    if _name(first) in session.get_providers():
        return session
    return _started(given, held, others or [CPU], kernels, threads, libraries)


def _insist(session: Session, model: ir.Model) -> None:
    """Raise :class:`KernelError` unless every pooling node runs natively, those included that were written out."""
    bodies = [placement.node for placement in session.placements if not placement.native]
    if bodies:
        raise KernelError(
            f"kernels='require', but these pooling nodes do not run natively: {', '.join(bodies)}; "
            "convert a standard form with onnxpool.to_form(model, 'function'), or use kernels='auto'"
        )
    if gone := [one.name for one in inlined(model)]:
        raise KernelError(
            f"kernels='require', but another program wrote out the functions of {len(gone)} pooling nodes, at "
            f"{', '.join(gone)}: onnxpool.lift, or 'onnxpool lift', makes nodes of them again"
        )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu", "load") from error
    return onnxruntime


def _open(model: Model, options: "onnxruntime.SessionOptions", providers: Sequence[Any]) -> Any:
    start = partial(_onnxruntime().InferenceSession, enable_fallback=False)  # which would print, and start again
    if isinstance(model, bytes):
        return start(model, options, providers=providers)
    if isinstance(model, str | os.PathLike):
        return start(os.fspath(model), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:  # a file, since weights may exceed one message
        path = Path(folder, "model.onnx")
        forms.write(forms.read(model), path)
        return start(os.fspath(path), options, providers=providers)


def _info(argument: Any) -> TensorInfo:
    element = BY_ONNX.get(argument.type.removeprefix("tensor(").removesuffix(")"))
    if element is None:
        raise SessionError(f"{argument.name!r} is a {argument.type}; onnxpool runs models of plain tensors")
    sizes = (None if size == "?" or (isinstance(size, int) and size < 0) else size for size in argument.shape)
    return TensorInfo(argument.name, element.dtype, tuple(sizes))


def _checked(info: TensorInfo, value: Any) -> NDArray[Any]:
    array = value if type(value) is np.ndarray else np.asarray(value)
    if array.dtype != info.dtype:
        raise ArgumentError(f"input {info.name!r} has dtype {array.dtype}; this model takes {info.dtype}: use .astype")
    if not fits(array.shape, info.shape):
        raise ArgumentError(f"input {info.name!r} has shape {array.shape}; this model takes {info.shape}")
    # np.ascontiguousarray would give a scalar an axis
    return array if array.flags.c_contiguous else np.asarray(array, order="C")


def _to_value(array: NDArray[Any]) -> Any:
    make = _onnxruntime().OrtValue
    if array.dtype == BFLOAT16:  # NumPy has no such type of its own: ONNX Runtime takes the bits
        return make.ortvalue_from_numpy_with_onnx_type(to_bits(array), BY_NAME[BFLOAT16.name].code)
    return make.ortvalue_from_numpy(array)


def _to_array(info: TensorInfo, value: Any) -> NDArray[Any]:
    if info.dtype != BFLOAT16:
        array: NDArray[Any] = value.numpy()
        return array
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return (
        np.frombuffer(bits, np.uint16).reshape(shape).view(BFLOAT16).copy() if len(bits) else np.empty(shape, BFLOAT16)
    )
