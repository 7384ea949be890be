"""From an ONNX model to a running session: provider, native library, and the truth about which nodes ran natively.

>>> session = load("network.onnx")  # doctest: +SKIP
>>> session.run({"x": images})["y"]  # doctest: +SKIP
>>> session.run(None, {"x": images})[0]  # doctest: +SKIP

The second way is ONNX Runtime's own, so that code written for an ``onnxruntime.InferenceSession`` runs as it is.
"""

import ctypes
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import BFLOAT16, BY_NAME, BY_ONNX, to_bits
from onnxpool.errors import ArgumentError, KernelError, MissingExtra, SessionError, nearest
from onnxpool.graph import forms
from onnxpool.graph.forms import Model, PoolNode
from onnxpool.graph.inlined import inlined
from onnxpool.graph.integers import folded
from onnxpool.graph.repair import RENAMED
from onnxpool.graph.shapes import fits
from onnxpool.run.native_library import CPU, CUDA, is_registered, register, register_other, why_missing, why_none_for
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

    def __str__(self) -> str:
        """Short form, for example ``x: float32 (batch, 3, 224, 224)``."""
        return f"{self.name}: {self.dtype} ({', '.join(str('?' if size is None else size) for size in self.shape)})"


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
    (as ONNX Runtime itself recorded it), ``inner`` is the ``onnxruntime.InferenceSession``, which has all that is not
    here. ``run``, ``get_inputs``, ``get_outputs`` and ``get_providers`` may also be called as that session's.
    """

    def __init__(self, inner: "onnxruntime.InferenceSession", nodes: Sequence[PoolNode]) -> None:
        self.inner: onnxruntime.InferenceSession = inner
        self.inputs: tuple[TensorInfo, ...] = tuple(map(_info, inner.get_inputs()))
        self.outputs: tuple[TensorInfo, ...] = tuple(map(_info, inner.get_outputs()))
        self._outputs = [info.name for info in self.outputs]
        self._has_bits = any(info.dtype == BFLOAT16 for info in (*self.inputs, *self.outputs))
        ran = {
            node.name: subgraph.ep_name
            for subgraph in inner.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
            if node.domain == DOMAIN
        }
        self.placements: tuple[Placement, ...] = tuple(Placement(node, ran.get(node.name)) for node in nodes)

    @overload
    def run(self, feeds: Mapping[str, Any], stop: Stop | None = None) -> dict[str, NDArray[Any]]: ...
    @overload
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: "onnxruntime.RunOptions | None" = None,
        /,
    ) -> list[NDArray[Any]]: ...
    @overload
    def run(
        self,
        names: Sequence[str] | None = None,
        /,
        *,
        input_feed: Mapping[str, Any],
        run_options: "onnxruntime.RunOptions | None" = None,
    ) -> list[NDArray[Any]]: ...
    @overload
    def run(
        self,
        *,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: "onnxruntime.RunOptions | None" = None,
    ) -> list[NDArray[Any]]: ...
    def run(
        self,
        feeds: Any = None,
        stop: Any = None,
        run_options: Any = None,
        *,
        output_names: Any = None,
        input_feed: Any = None,
    ) -> Any:
        """Run the model on arrays by input name. bfloat16 is ``ml_dtypes.bfloat16``.

        ``run(feeds, stop=None)`` gives the outputs by name; ``stop``, called from another thread, ends the run.
        ``run(output_names, input_feed, run_options=None)``, as in ONNX Runtime, by place or by name, gives a list: of
        all outputs in order where ``output_names`` is None, else of these.

        Raises :class:`ArgumentError` for a missing or unknown name, a wrong dtype or a wrong shape, and
        :class:`SessionError` where ONNX Runtime fails.
        """
        if not isinstance(feeds, Mapping) or input_feed is not None:
            names = output_names if feeds is None else feeds
            return self._listed(names, stop if input_feed is None else input_feed, run_options)
        if len(feeds) != len(self.inputs) or any(info.name not in feeds for info in self.inputs):
            raise ArgumentError(_unlike(self.inputs, feeds))
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

    def _listed(self, names: Sequence[str] | None, feeds: Any, options: Any) -> list[NDArray[Any]]:
        """The outputs of these names, or all, as ONNX Runtime's own session gives them."""
        known = [info.name for info in self.outputs]
        if isinstance(names, str | Mapping) or not isinstance(feeds, Mapping):
            raise ArgumentError(
                "run takes arrays by the names of inputs, or a list of output names (None for all) and these, as ONNX "
                f"Runtime does; got {type(names).__name__} and {type(feeds).__name__}"
            )
        for name in names or ():
            if name not in known:
                raise ArgumentError(f"output {name!r} is unknown{nearest(str(name), known)}; this model gives {known}")
        stop = Stop() if options is not None else None
        if stop is not None:
            stop.options = options
        outputs = self.run(feeds, stop)
        return [outputs[name] for name in names or known]

    def get_inputs(self) -> "list[onnxruntime.NodeArg]":
        """ONNX Runtime's own description of the inputs; :attr:`inputs` has NumPy's types."""
        return list(self.inner.get_inputs())

    def get_outputs(self) -> "list[onnxruntime.NodeArg]":
        """ONNX Runtime's own description of the outputs; :attr:`outputs` has NumPy's types."""
        return list(self.inner.get_outputs())

    def get_providers(self) -> list[str]:
        """The execution providers that started, the first choice first."""
        return list(self.inner.get_providers())

    def __repr__(self) -> str:
        """What goes in and out, where it runs, and how many pooling nodes run natively."""
        taken, given = ("; ".join(map(str, infos)) for infos in (self.inputs, self.outputs))
        native = sum(placement.native for placement in self.placements)
        pools = f", {native} of {len(self.placements)} pooling nodes natively" if self.placements else ""
        return f"<onnxpool.Session {taken} -> {given}, on {self.get_providers()[0]}{pools}>"

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
    provider_options: Sequence[Mapping[str, Any]] | None = None,
    kernels: Kernels = "auto",
    threads: int | None = None,
    libraries: Sequence[str | os.PathLike[str]] = (),
    session_options: "onnxruntime.SessionOptions | None" = None,
    session_config: Mapping[str, str] | None = None,
) -> Session:
    """A session for a model in any form.

    ``providers`` as ONNX Runtime takes them, names or pairs of a name and its options; by default CUDA where it is
    available, and the CPU. ``provider_options`` are those options apart, one mapping for each provider. One whose
    device is not here, or that does not start, is passed over for the next, and in the end for the CPU.
    ``session_options`` are ONNX Runtime's own, to which kernels and libraries are added, so that they can make further
    sessions of such models; ``session_config`` adds entries to them, such as ``{"session.disable_prepacking": "1"}``.

    ``kernels``: ``"auto"`` uses the native library where it is installed and has kernels for the first provider that
    starts, ``"require"`` insists that every pooling node runs natively, ``"off"`` runs function bodies, and refuses
    ``session_options`` that have the kernels from an earlier session. ``threads`` is the number of threads inside one
    operator; by default ONNX Runtime's own choice. ``libraries`` are files of custom operators by others.

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
    chosen = _providers(_with_options(providers, provider_options))
    if kernels == "off" and session_options is not None and is_registered(session_options):
        raise ArgumentError(
            "kernels='off', but session_options have the native kernels from an earlier session; give new ones"
        )
    options = _options(session_options, session_config, threads)
    own_format = forms.is_ort_format(model)
    if kernels == "require" and own_format:
        raise KernelError(
            "kernels='require', but a model in ONNX Runtime's own format does not tell which of its nodes were ours; "
            "load the ONNX model that it was made from"
        )
    held = None if own_format else forms.read(model, in_place=True)
    nodes = [] if held is None else forms.pool_nodes(held)
    try:
        session = Session(_started(model, held, chosen, kernels, options, libraries), nodes)
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


def _with_options(
    providers: Sequence[Provider] | None, options: Sequence[Mapping[str, Any]] | None
) -> Sequence[Provider] | None:
    """Each provider with its options; :class:`ArgumentError` where they do not belong together."""
    if isinstance(providers, str):
        raise ArgumentError(f"providers={providers!r} must be a list, such as [{providers!r}]")
    if not options:
        return providers
    if providers is None or len(providers) != len(options):
        raise ArgumentError(
            f"provider_options={options!r:.80} must be one mapping for each of providers={providers!r:.80}"
        )
    if paired := [provider for provider in providers if not isinstance(provider, str)]:
        raise ArgumentError(f"provider_options is given, and providers={paired!r:.80} have options: give them once")
    return [(_name(provider), dict(one)) for provider, one in zip(providers, options, strict=True)]


def _options(given: Any, config: Mapping[str, str] | None, threads: int | None) -> Any:
    """Options for a session: those that are given, or new ones; :class:`ArgumentError` for what are none."""
    made = _onnxruntime().SessionOptions
    if given is not None and not isinstance(given, made):
        raise ArgumentError(f"session_options={given!r:.80} must be an onnxruntime.SessionOptions, or None")
    options = made() if given is None else given
    if given is None:
        options.log_severity_level = 4  # errors reach the caller as exceptions
    for key, value in {**(config or {}), "session.record_ep_graph_assignment_info": "1"}.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ArgumentError(f"session_config={{{key!r}: {value!r}}} must be text: names and values of entries")
        if _entry(options, key) != value:  # it would warn of what is there already
            options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _entry(options: Any, key: str) -> str | None:
    """An entry of the configuration, if it is there."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def _providers(asked: Sequence[Provider] | None) -> list[Provider]:
    """Those that can be asked for here."""
    available = _onnxruntime().get_available_providers()
    chosen: list[Provider] = list(asked or [p for p in (CUDA, CPU) if p in available])
    if missing := [_name(provider) for provider in chosen if _name(provider) not in available]:
        close = nearest(str(missing[0]), available)
        raise ArgumentError(f"providers={missing!r} are not available here{close}; this onnxruntime has {available}")
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
    options: "onnxruntime.SessionOptions",
    libraries: Sequence[str | os.PathLike[str]],
) -> "onnxruntime.InferenceSession":
    """A session with the first of the providers that starts, and with the kernels for that one.

    ``held`` is what was read of the model that was given; None where that cannot be read.
    """
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
    return _started(given, held, others or [CPU], kernels, options, libraries)


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
        raise ArgumentError(_other_type(info, array.dtype))
    if not fits(array.shape, info.shape):
        raise ArgumentError(f"input {info.name!r} has shape {array.shape}; this model takes {info.shape}")
    # np.ascontiguousarray would give a scalar an axis
    return array if array.flags.c_contiguous else np.asarray(array, order="C")


def _other_type(info: TensorInfo, dtype: np.dtype[Any]) -> str:
    """Why an array of this type is not taken, and what to do."""
    told = f"input {info.name!r} has dtype {dtype}; this model takes {info.dtype}: use .astype({info.dtype.name!r})"
    whole = dtype.kind in "iub" and info.dtype.kind not in "iub"
    return (
        f"{told}, and scale it as the network was trained: pixels from 0 to 255 seldom go in as such" if whole else told
    )


def _unlike(inputs: Sequence[TensorInfo], feeds: Mapping[str, Any]) -> str:
    """Which names are not those of the inputs, and which are meant."""
    known = [info.name for info in inputs]
    unknown, missing = [name for name in feeds if name not in known], [name for name in known if name not in feeds]
    told = [f"inputs {missing} are missing"] if missing else []
    if unknown:
        told.append(f"inputs {unknown} are unknown{nearest(str(unknown[0]), known)}")
    return f"{' and '.join(told)}; this model takes {known}"


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
