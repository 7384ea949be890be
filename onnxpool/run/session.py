"""From an ONNX model to a running session: provider, native library, and the truth about which nodes ran natively.

>>> session = load("network.onnx")  # doctest: +SKIP
>>> session.run({"x": images})["y"]  # doctest: +SKIP
>>> session.run(None, {"x": images})[0]  # doctest: +SKIP

The second way is ONNX Runtime's own, so that code written for an ``onnxruntime.InferenceSession`` runs as it is.
"""

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

from onnxpool.domain import OURS
from onnxpool.dtypes import BFLOAT16
from onnxpool.errors import ArgumentError, KernelError, SessionError, nearest
from onnxpool.graph import forms
from onnxpool.graph.forms import Model, PoolNode
from onnxpool.graph.inlined import inlined
from onnxpool.graph.integers import folded
from onnxpool.graph.repair import RENAMED
from onnxpool.run import in_openvino
from onnxpool.run.native_library import CPU, is_registered, register, register_other, why_missing, why_none_for
from onnxpool.run.options import Provider, available_providers, name_of, onnxruntime_itself, with_options
from onnxpool.run.options import session_options as checked_options
from onnxpool.run.tensors import TensorInfo, checked, described, to_array, to_value, unlike
from onnxpool.window import Window

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Kernels", "Placement", "Provider", "Runtime", "Session", "Stop", "TensorInfo", "load"]

Kernels: TypeAlias = Literal["auto", "require", "off"]

Runtime: TypeAlias = Literal["onnxruntime", "openvino"]

_CALLED = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


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
        self.options: onnxruntime.RunOptions = onnxruntime_itself().RunOptions()
        self.options.log_severity_level = 4  # the caller knows why it stopped

    def __call__(self) -> None:
        """End it; :meth:`Session.run` raises :class:`SessionError` then."""
        self.options.terminate = True


class Session:
    """A model ready to run; made by :func:`load`.

    ``inputs`` and ``outputs`` describe the tensors, ``placements`` says of each pooling node whether it runs natively
    (as the runtime itself recorded it), ``runtime`` where that is. ``inner`` is the ``onnxruntime.InferenceSession``,
    which has all that is not here; in OpenVINO it stands for one, and ``inner.compiled`` is OpenVINO's model. ``run``,
    ``get_inputs``, ``get_outputs`` and ``get_providers`` may also be called as that session's.
    """

    def __init__(self, inner: "onnxruntime.InferenceSession | in_openvino.InferenceSession", nodes: Sequence[PoolNode]):
        self.inner: Any = inner
        self.runtime: Runtime = "openvino" if isinstance(inner, in_openvino.InferenceSession) else "onnxruntime"
        self.inputs: tuple[TensorInfo, ...] = tuple(map(described, inner.get_inputs()))
        self.outputs: tuple[TensorInfo, ...] = tuple(map(described, inner.get_outputs()))
        self._outputs = [info.name for info in self.outputs]
        bfloat16 = any(info.dtype == BFLOAT16 for info in (*self.inputs, *self.outputs))
        self._has_bits = bfloat16 and self.runtime == "onnxruntime"
        ran = _ran(inner)
        self.placements: tuple[Placement, ...] = tuple(Placement(node, ran.get(node.name)) for node in nodes)

    def make_stop(self) -> "Stop | in_openvino.Cancel":
        """What :meth:`run` takes as ``stop``: called from another thread, it ends that run, between two nodes."""
        return Stop() if self.runtime == "onnxruntime" else in_openvino.Cancel()

    @overload
    def run(
        self, feeds: Mapping[str, Any], stop: "Stop | in_openvino.Cancel | None" = None
    ) -> dict[str, NDArray[Any]]: ...
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

        ``run(feeds, stop=None)`` gives the outputs by name; ``stop``, of :meth:`make_stop`, ends the run.
        ``run(output_names, input_feed, run_options=None)``, as in ONNX Runtime, by place or by name, gives a list: of
        all outputs in order where ``output_names`` is None, else of these.

        Raises :class:`ArgumentError` for a missing or unknown name, a wrong dtype or a wrong shape, and another
        runtime's ``stop``; :class:`SessionError` where the runtime fails.
        """
        if not isinstance(feeds, Mapping) or input_feed is not None:
            names = output_names if feeds is None else feeds
            return self._listed(names, stop if input_feed is None else input_feed, run_options)
        if len(feeds) != len(self.inputs) or any(info.name not in feeds for info in self.inputs):
            raise ArgumentError(unlike(self.inputs, feeds))
        arrays = {info.name: checked(info, feeds[info.name]) for info in self.inputs}
        if stop is not None and not isinstance(stop, Stop if self.runtime == "onnxruntime" else in_openvino.Cancel):
            raise ArgumentError(f"stop={stop!r:.80} is not of this session's make_stop()")
        names, options = self._outputs, stop.options if isinstance(stop, Stop) else stop
        try:
            if not self._has_bits:  # ONNX Runtime's own way is four times as fast
                return dict(zip(names, map(np.asarray, self.inner.run(names, arrays, options)), strict=True))
            values = {name: to_value(array) for name, array in arrays.items()}
            outputs = self.inner.run_with_ort_values(names, values, options)
        except Exception as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            told = in_openvino.told(error) if self.runtime == "openvino" else error
            raise SessionError(
                f"{_CALLED[self.runtime]} could not run the model on inputs of shapes {shapes}: {told}"
            ) from error
        return {info.name: to_array(info, value) for info, value in zip(self.outputs, outputs, strict=True)}

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
        if options is not None and self.runtime == "openvino":
            raise ArgumentError("run_options are ONNX Runtime's; this session runs in OpenVINO: leave them out")
        stop = Stop() if options is not None else None
        if stop is not None:
            stop.options = options
        outputs = self.run(feeds, stop)
        return [outputs[name] for name in names or known]

    def get_inputs(self) -> "list[onnxruntime.NodeArg]":
        """As ONNX Runtime describes the inputs; :attr:`inputs` has NumPy's types."""
        return list(self.inner.get_inputs())

    def get_outputs(self) -> "list[onnxruntime.NodeArg]":
        """As ONNX Runtime describes the outputs; :attr:`outputs` has NumPy's types."""
        return list(self.inner.get_outputs())

    def get_providers(self) -> list[str]:
        """The execution providers that started, the first choice first; in OpenVINO, its device."""
        return list(self.inner.get_providers())

    def __repr__(self) -> str:
        """What goes in and out, where it runs, and how many pooling nodes run natively."""
        taken, given = ("; ".join(map(str, infos)) for infos in (self.inputs, self.outputs))
        native = sum(placement.native for placement in self.placements)
        pools = f", {native} of {len(self.placements)} pooling nodes natively" if self.placements else ""
        place = f"{'' if self.runtime == 'onnxruntime' else 'OpenVINO, '}{self.get_providers()[0]}"
        return f"<onnxpool.Session {taken} -> {given}, on {place}{pools}>"

    @property
    def batched(self) -> bool:
        """Whether rows of several inputs can run together: every input and output begins with one axis of one name."""
        first = {info.shape[0] if info.shape else None for info in (*self.inputs, *self.outputs)}
        return len(first) == 1 and isinstance(first.pop(), str)

    def io_binding(self) -> "onnxruntime.IOBinding":
        """ONNX Runtime's binding of inputs and outputs to fixed memory; run it with ``inner.run_with_iobinding``.

        Raises :class:`SessionError` in OpenVINO, whose own requests ``inner.compiled.create_infer_request()`` makes.
        """
        if self.runtime == "openvino":
            raise SessionError("OpenVINO has no IOBinding: use inner.compiled.create_infer_request()")
        binding: onnxruntime.IOBinding = self.inner.io_binding()
        return binding


def load(
    model: Model,
    *,
    runtime: Runtime = "onnxruntime",
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

    ``runtime="openvino"`` runs the model in OpenVINO on the CPU. ``kernels="auto"`` is then native where there is an
    extension (``onnxpool build openvino``) and the form has nodes for it, and otherwise, as ``"off"``, the standard
    form, into which the model is brought. All other arguments but ``threads`` are ONNX Runtime's, and refused.

    Native kernels refuse an input with too few cells for a window. Without them what comes out is empty, or in ONNX
    Runtime, whose AveragePool rounds sizes up there, the function form's mean of the cells that there are.

    A model in ONNX Runtime's own format, ``.ort``, runs, but does not tell which of its nodes were ours: it has no
    ``placements``, and ``"require"`` cannot be met.

    Raises :class:`ArgumentError` for an argument out of range, :class:`MissingExtra` without the runtime,
    :class:`KernelError` where ``"require"`` cannot be met or the runtime refuses a library, :class:`SessionError`
    where the model does not load, and :class:`FormError` for what is not an ONNX model.
    """
    if runtime not in get_args(Runtime):
        known = get_args(Runtime)
        raise ArgumentError(
            f"runtime={runtime!r} is unknown{nearest(str(runtime), known)}; use one of {', '.join(known)}"
        )
    if kernels not in get_args(Kernels):
        raise ArgumentError(f"kernels={kernels!r} is unknown; use one of {', '.join(get_args(Kernels))}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ArgumentError(f"threads={threads!r} must be a positive int, or None")
    if runtime == "openvino":
        theirs: dict[str, Any] = {"providers": providers, "provider_options": provider_options}
        theirs |= {"session_options": session_options, "session_config": session_config, "libraries": libraries or None}
        for name, value in theirs.items():
            if value is not None:
                raise ArgumentError(f"{name}={value!r:.80} is for ONNX Runtime; runtime='openvino' does not take it")
        return _in_openvino(model, kernels, threads)
    chosen = available_providers(with_options(providers, provider_options))
    if kernels == "off" and session_options is not None and is_registered(session_options):
        raise ArgumentError(
            "kernels='off', but session_options have the native kernels from an earlier session; give new ones"
        )
    options = checked_options(session_options, session_config, threads)
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
    if kernels == "require" or (kernels == "auto" and why_none_for(name_of(first)) is None):
        register(options)  # with no kernel for another provider, its function body beats a copy to the CPU and back
        if held is not None and name_of(first) == CPU:
            model = folded(held) or model
    for library in libraries:
        register_other(options, library)
    session: onnxruntime.InferenceSession = _open(model, options, providers)
    if name_of(first) in session.get_providers():
        return session
    return _started(given, held, others or [CPU], kernels, options, libraries)


def _in_openvino(model: Model, kernels: Kernels, threads: int | None) -> Session:
    held = forms.read(model, in_place=True)
    session = Session(in_openvino.opened(model, held, kernels=kernels, threads=threads), forms.pool_nodes(held))
    if kernels == "require":
        _insist(session, held)
    return session


def _ran(inner: Any) -> dict[str, str]:
    """Where each of our nodes runs natively, as the runtime tells, by its name."""
    if isinstance(inner, in_openvino.InferenceSession):
        return inner.native
    return {
        node.name: subgraph.ep_name
        for subgraph in inner.get_provider_graph_assignment_info()
        for node in subgraph.get_nodes()
        if node.domain in OURS
    }


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


def _open(model: Model, options: "onnxruntime.SessionOptions", providers: Sequence[Any]) -> Any:
    start = partial(onnxruntime_itself().InferenceSession, enable_fallback=False)  # which would print, and start again
    if isinstance(model, bytes):
        return start(model, options, providers=providers)
    if isinstance(model, str | os.PathLike):
        return start(os.fspath(model), options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:  # a file, since weights may exceed one message
        path = Path(folder, "model.onnx")
        forms.write(forms.read(model), path)
        return start(os.fspath(path), options, providers=providers)
