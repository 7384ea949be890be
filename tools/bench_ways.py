"""The ways that tools/bench compares, each ready to be called again and again, and the float64 answer for each.

Of each operator of ours, with values drawn from a normal distribution:

    native           the function form of one node, with our kernel            ONNX Runtime
    function form    the same file, with its function body                     ONNX Runtime
    standard form    for every other runtime                                   ONNX Runtime
    naive graph      the formula as it stands: Exp, Mul, AveragePool, Div      ONNX Runtime
    PyTorch          the same with avg_pool, eager; torch.compile if asked for
    onnxpool.nn      our own operator, eager: the native kernel                PyTorch

and ONNX Runtime's own MaxPool and AveragePool with the same window, and ``copy``, which moves as many bytes as any
pooling must: half of input and output together, read and written. Nothing can be faster than that by much.

The number of channels is left open in every model. Where it is fixed, ONNX Runtime puts a lone MaxPool or AveragePool
between two that reorder channels, which triples its time; within a network it does that once for many operators. No
session of one pooling that does so is timed.

All sessions have the same options. Their threads wait actively while a model runs, as usual, but not afterwards: they
would take their processors from the next. Input and output lie in memory made once. PyTorch makes its output anew.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import bench_openvino
import ml_dtypes  # noqa: F401 - names bfloat16 to NumPy
import numpy as np
import onnx
import onnxruntime
import torch
from bench_report import (
    AVERAGE,
    COMPILED,
    COPY,
    FUNCTION,
    MAX,
    MODULE,
    NAIVE,
    NATIVE,
    NORMAL,
    OPENVINO,
    OPENVINO_STANDARD,
    PYTORCH,
    STANDARD,
)
from numpy.typing import NDArray
from onnx import TensorProto, helper, parser

import onnxpool
from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.dtypes import Array
from onnxpool.golden import bounds
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.pools._method import over_windows
from onnxpool.pools.local_importance import local_importance_pool
from onnxpool.pools.soft import soft_pool
from onnxpool.pools.stochastic import stochastic_pool
from onnxpool.run import native_library
from onnxpool.run.session import Session
from onnxpool.window import Window

CODES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Absent(Exception):  # noqa: N818 - no error: a way that this machine does not have
    """Why there is no such way here."""


@dataclass(frozen=True)
class Case:
    """One input and window, where and with how many threads.

    ``scale`` is the deviation of the values; ``data``, of :data:`DATA`, is what is done to them.
    """

    shape: tuple[int, ...]
    window: Window
    dtype: str
    threads: int
    provider: str
    scale: float
    data: str = NORMAL

    def inputs(self, operator: str) -> dict[str, NDArray[Any]]:
        """By name; what serves all operators has one input."""
        names = OPERATORS[operator].inputs if operator in OPERATORS else ("x",)
        return {name: _values(i, self.shape, self.dtype, self.scale, self.data) for i, name in enumerate(names)}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(N, C, *output)``."""
        return self.window.check(self.shape)


@dataclass(frozen=True)
class Way:
    """``run()`` computes, ``output()`` then gives what it computed."""

    operator: str
    name: str
    run: Callable[[], Any]
    output: Callable[[], NDArray[Any]]


def _one_per_plane(value: float) -> "Callable[[NDArray[Any]], NDArray[Any]]":
    def put(x: NDArray[Any]) -> NDArray[Any]:
        x = x.copy()
        x.reshape(*x.shape[:2], -1)[..., math.prod(x.shape[2:]) // 2] = value
        return x

    return put


DATA: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    NORMAL: lambda x: x,
    "after ReLU": lambda x: np.maximum(x, 0),
    "zeros": np.zeros_like,
    "times 20": lambda x: x * 20,
    "times 100": lambda x: x * 100,
    "one 1000 per plane": _one_per_plane(1000),
    "one NaN per plane": _one_per_plane(math.nan),
    "times 1e-30": lambda x: x * 1e-30,
}
"""What networks make of normal values, now and then. How long a kernel takes should not depend on it."""


@lru_cache(4)
def _values(seed: int, shape: tuple[int, ...], dtype: str, scale: float, data: str) -> NDArray[Any]:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32) * scale
    return DATA[data](x.astype(np.float32)).astype(dtype)


# --- what is right


@lru_cache(4)
def _answer(operator: str, shape: tuple[int, ...], window: Window, dtype: str, scale: float, data: str) -> Array:
    case = Case(shape, window, dtype, 1, CPU, scale, data)
    wide = [x.astype(np.float64) for x in case.inputs(operator).values()]
    plain = {MAX: partial(over_windows, lambda x: x.max(-1)), AVERAGE: partial(over_windows, lambda x: x.mean(-1))}
    return plain[operator](window, *wide) if operator in plain else OPERATORS[operator].reference(window, *wide)


def share_of_allowed(case: Case, way: Way) -> float | None:
    """The largest error over the allowed one (infinite for a misplaced NaN), or None where nothing is computed."""
    if way.name == COPY:
        return None
    operator = way.operator or way.name
    answer = _answer(operator, case.shape, case.window, case.dtype, case.scale, case.data)
    x = case.inputs(operator)["x"].astype(np.float64)
    bound = bounds.pooling(case.window, x, answer, case.dtype, native=way.name in {NATIVE, OPENVINO, *DATA})
    error = bounds.measure(way.output(), answer, bound.allowed)
    return math.inf if error.nan or error.infinite else error.share


# --- ONNX Runtime


class Reordered(Exception):  # noqa: N818 - named for what it is
    """A lone pooling that would be timed with what reorders its channels."""


def session(model: Any, threads: int, provider: str, *, library: bool, alone: bool = False) -> Session:
    """A session with the options that all have here; with the ``library``, every pooling node must run natively.

    Raises :class:`Reordered` where the model is one pooling ``alone`` and ONNX Runtime reorders channels for it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if library:
        if reason := native_library.why_missing():
            raise Absent(reason)
        native_library.register(options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        forms.write(forms.read(model), path)
        if alone:
            options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        inner = onnxruntime.InferenceSession(path, options, providers=[provider])
        if alone:
            nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
            if reorders := {node.op_type for node in nodes if node.op_type.startswith("Reorder")}:
                raise Reordered(f"{', '.join(sorted(reorders))} would be timed as well")
    opened = Session(inner, onnxpool.pool_nodes(model))
    if library and not all(placement.provider == provider for placement in opened.placements):
        raise Absent(f"the native library has no such kernel for {provider}")
    return opened


def bound(opened: Session, provider: str, feeds: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> Any:
    """Its inputs and its output in memory of the provider's device: ``(run, output)``."""
    device = "cuda" if provider == CUDA else "cpu"
    (info,) = opened.outputs
    binding, make = opened.io_binding(), onnxruntime.OrtValue
    values = {name: make.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    result = make.ortvalue_from_shape_and_type(shape, info.dtype, device, 0)
    binding.bind_ortvalue_output(info.name, result)

    def run() -> None:
        opened.inner.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run, result.numpy


def _in_onnxruntime(case: Case, operator: str, name: str, model: Any, *, library: bool = False) -> Way:
    opened = session(model, case.threads, case.provider, library=library, alone=True)
    return Way(operator, name, *bound(opened, case.provider, case.inputs(operator), case.output_shape))


def _graph(case: Case, operator: str, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    code, inputs = CODES[case.dtype], case.inputs(operator)
    shape, output = ((case.shape[0], "channels", *sizes[2:]) for sizes in (case.shape, case.output_shape))
    graph = helper.make_graph(
        nodes,
        "pooling",
        [helper.make_tensor_value_info(name, code, shape) for name in inputs],
        [helper.make_tensor_value_info("y", code, output)],
    )
    opsets = [helper.make_opsetid("", OPSETS[0]), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _node(case: Case, operator: str) -> onnx.ModelProto:
    made = helper.make_node(operator, list(case.inputs(operator)), ["y"], "pool", domain=DOMAIN)
    made.attribute.extend(helper.make_attribute(*pair) for pair in case.window.attributes().items())
    return _graph(case, operator, [made])


_FORMULAS = {
    "SoftPool": "w = Exp (x32) p = Mul (x32, w)",
    "LocalImportancePool": "w = Exp (logit32) p = Mul (x32, w)",
    "StochasticPool": "w = Relu (x32) p = Mul (w, w)",
}


def _naive(case: Case, operator: str) -> onnx.ModelProto:
    """In float32 whatever comes in, as one would to keep the exponentials in range."""
    window = ", ".join(f"{name} = {value}" for name, value in case.window.attributes().items() if name != "dilations")
    text = f"""pooling (x) => (y) {{
        {"".join(f"{name}32 = Cast <to = 1> ({name}) " for name in case.inputs(operator))}
        {_FORMULAS[operator]}
        above = AveragePool <{window}> (p)
        mean = AveragePool <{window}> (w)
        tiny = Constant <value = float {{{_TINY}}}> ()
        below = Max (mean, tiny)
        y32 = Div (above, below)
        y = Cast <to = {CODES[case.dtype]}> (y32)
    }}"""
    return _graph(case, operator, list(parser.parse_graph(text).node))


_TINY = 1e-30  # below a mean weight: a stochastic pool's may be 0


def _standard_operator(case: Case, name: str) -> Way:
    attributes = {key: value for key, value in case.window.attributes().items() if key != "dilations"}
    return _in_onnxruntime(case, "", name, _graph(case, "", [helper.make_node(name, ["x"], ["y"], **attributes)]))


# --- OpenVINO


def in_openvino(operator: str, model: Any, feeds: dict[str, NDArray[Any]], threads: int, *, native: bool = True) -> Way:
    """A model in OpenVINO, with our extension or in standard form."""
    if reason := bench_openvino.why_not(native=native):
        raise Absent(reason)
    name = OPENVINO if native else OPENVINO_STANDARD
    return Way(operator, name, *bench_openvino.bound(model, feeds, threads, native=native))


# --- PyTorch


def naive_formula(operator: str, window: Window) -> "Callable[..., torch.Tensor]":
    """As one writes it without us: exponentials, and a ratio of two average pools, in float32."""
    pool = getattr(torch.nn.functional, f"avg_pool{window.rank}d")
    average = partial(pool, kernel_size=window.kernel, stride=window.stride, padding=window.pad)

    def soft(x: torch.Tensor) -> torch.Tensor:
        return importance(x, x)

    def importance(x: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
        w = logit.float().exp()
        return (average(x.float() * w) / average(w).clamp(min=_TINY)).to(x.dtype)

    def stochastic(x: torch.Tensor) -> torch.Tensor:
        w = x.float().relu()
        return (average(w * w) / average(w).clamp(min=_TINY)).to(x.dtype)

    return {"SoftPool": soft, "LocalImportancePool": importance, "StochasticPool": stochastic}[operator]


def in_pytorch(operator: str, name: str, function: Any, feeds: "list[torch.Tensor]") -> Way:
    """``function`` on these tensors, without gradients, and on a GPU until it is done."""
    results: list[torch.Tensor] = []
    cuda = feeds[0].is_cuda

    @torch.inference_mode()
    def run() -> None:
        results[:] = [function(*feeds)]
        if cuda:
            torch.cuda.synchronize()

    return Way(operator, name, run, lambda: results[0].cpu().numpy())


def _tensors(case: Case, operator: str) -> "list[torch.Tensor]":
    if case.provider == CUDA and not torch.cuda.is_available():
        raise Absent("this PyTorch has no CUDA")
    device = "cuda" if case.provider == CUDA else "cpu"
    return [torch.from_numpy(x).to(device) for x in case.inputs(operator).values()]


def _copy(case: Case) -> Way:
    (x,) = _tensors(case, "")
    every = x.view(-1).view(torch.uint8)
    size = (every.numel() + math.prod(case.output_shape) * x.element_size()) // 2
    source, target = every[:size], torch.empty_like(every[:size])
    return in_pytorch("", COPY, lambda _: target.copy_(source), [x])


# --- all of them

BENCHED = tuple(operator for operator in OPERATORS if operator in _FORMULAS)

OURS = {"SoftPool": soft_pool, "LocalImportancePool": local_importance_pool, "StochasticPool": stochastic_pool}

_Make = Callable[[], Way]


def ways(case: Case, compiled: bool) -> Iterator[tuple[str, str, _Make]]:
    """Operator, name and how to make it, which raises :class:`Absent` where this machine has no such way."""
    yield "", COPY, partial(_copy, case)
    for name in (MAX, AVERAGE):
        yield "", name, partial(_standard_operator, case, name)
    for operator in BENCHED:
        model = _node(case, operator)
        to_form, run = partial(onnxpool.to_form, model), partial(_in_onnxruntime, case, operator)
        yield operator, NATIVE, lambda run=run, f=to_form: run(NATIVE, f("function"), library=True)
        yield operator, FUNCTION, lambda run=run, f=to_form: run(FUNCTION, f("function"))
        yield operator, STANDARD, lambda run=run, f=to_form: run(STANDARD, f("standard"))
        if case.provider == CPU:
            yield operator, OPENVINO, partial(in_openvino, operator, model, case.inputs(operator), case.threads)
            standard = partial(in_openvino, operator, model, case.inputs(operator), case.threads, native=False)
            yield operator, OPENVINO_STANDARD, standard
        yield operator, NAIVE, lambda run=run, o=operator: run(NAIVE, _naive(case, o))
        formula = naive_formula(operator, case.window)
        yield operator, PYTORCH, lambda o=operator, f=formula: in_pytorch(o, PYTORCH, f, _tensors(case, o))
        ours = partial(OURS[operator], case.window)
        yield operator, MODULE, lambda o=operator, f=ours: in_pytorch(o, MODULE, f, _tensors(case, o))
        if compiled:
            quick = torch.compile(formula)
            yield operator, COMPILED, lambda o=operator, f=quick: in_pytorch(o, COMPILED, f, _tensors(case, o))


def native(case: Case, operator: str) -> Way:
    """Our kernel alone, named by the data that it gets."""
    model = onnxpool.to_form(_node(case, operator), "function")
    return _in_onnxruntime(case, operator, case.data, model, library=True)
