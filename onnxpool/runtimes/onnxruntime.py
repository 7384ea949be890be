"""ONNX Runtime: every form, with and without native kernels, at each level of graph optimisation and number of threads.

In any Python environment that has it: other releases are other environments. It records which provider each node was
assigned to; releases that keep no such record give None for ``nodes``.
"""

import ctypes
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

FORMS = ("function", "standard", "custom")
KERNELS = ("function", "custom")
LOSES_NAN = ("MaxPool", "GlobalMaxPool", "ReduceMax", "ArgMax", "ArgMin", "LSTM", "GRU")

Pairs = dict[str, tuple[str, Any]]

_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_THREADS = sorted({1, 2, os.cpu_count() or 1})
_GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")

VARIANTS = (
    *({"optimisation": level, "threads": threads} for level in _LEVELS for threads in _THREADS),
    *({"provider": provider} for provider in _GPU),
)

_BFLOAT16_CODE = 16  # TensorProto.BFLOAT16


def ordinary() -> tuple[dict[str, Any], ...]:
    """On the CPU, and on a GPU where ONNX Runtime was built for one: without one such runs are skipped, and shown."""
    return {}, *({"provider": provider} for provider in _GPU if not _not_built(provider))


def why_not(options: dict[str, Any]) -> str:
    """Why this cannot be tried here, or nothing."""
    from onnxpool.runtimes._devices import why_no_device

    provider = options.get("provider", "CPUExecutionProvider")
    return _not_built(provider) or why_no_device(provider)


def _not_built(provider: str) -> str:
    try:
        import onnxruntime as ort
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}): pip install 'onnxpool[cpu]'"
    available = ort.get_available_providers()
    return "" if provider in available else f"this onnxruntime has no {provider}, but {', '.join(available)}"


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """A session: in the child, without onnxpool. The option ``denormals="zero"`` takes these numbers for 0.

    ``library`` is the file of our kernels, ``libraries`` are those of other custom operators.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # errors are told as exceptions
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[options.get("optimisation", "all")])
    settings.intra_op_num_threads = options.get("threads", 0)
    if options.get("denormals") == "zero":
        settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    own = [options["library"]] if options.get("library") else []
    for library in (*own, *options.get("libraries", ())):
        settings.register_custom_ops_library(library)
    provider = options.get("provider", "CPUExecutionProvider")
    session = ort.InferenceSession(path, settings, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"])))
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} did not start, and ONNX Runtime went on with {session.get_providers()}")
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Pairs) -> Pairs:
        values = {name: _value(ort, *pair) for name, pair in feeds.items()}
        return dict(zip(names, map(_pair, session.run_with_ort_values(names, values)), strict=True))

    return run, {"version": ort.__version__, "providers": session.get_providers(), "nodes": _nodes(session)}


def _nodes(session: Any) -> list[list[str]] | None:
    """Name, domain, operator and provider of each node, as ONNX Runtime assigned it."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return [
        [node.name, node.domain, node.op_type, part.ep_name]
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def _value(ort: Any, dtype: str, array: Any) -> Any:
    if dtype == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16_CODE)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _pair(value: Any) -> tuple[str, Any]:
    if value.data_type() != "tensor(bfloat16)":
        array = value.numpy()
        return array.dtype.name, array
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr() or 0)
    return "bfloat16", np.frombuffer(bits, np.uint16).reshape(shape).copy() if len(bits) else np.empty(shape, np.uint16)
