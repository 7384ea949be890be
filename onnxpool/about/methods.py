"""The pooling methods: what each computes, its modules, and the element types that a native kernel really pools here.

>>> [method.name for method in catalog().methods if method.native]
['LocalImportancePool', 'SoftPool', 'StochasticPool']
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxpool.domain import DOMAIN, IR_VERSION, OPSETS, VERSION
from onnxpool.dtypes import BY_NAME, POOLED
from onnxpool.errors import OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.pools._method import Method, Operator
from onnxpool.run.native_library import CPU, CUDA, why_none_for
from onnxpool.run.session import load
from onnxpool.window import Window


@dataclass(frozen=True)
class MethodFacts:
    """One pooling method. ``operator`` is its own in ONNX, None where standard operators are all it needs; ``native``
    lists the element types for which a native kernel ran here on the CPU and was right, ``cuda`` the same for CUDA.
    """

    name: str
    summary: str
    formula: str
    source: str
    modules: tuple[str, ...]
    ranks: tuple[int, ...]
    operator: str | None
    dtypes: tuple[str, ...]
    native: tuple[str, ...]
    cuda: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """Every method, and why none runs natively here on the CPU or on CUDA, where that is so."""

    methods: tuple[MethodFacts, ...]
    no_kernels: str | None
    no_cuda: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def catalog() -> Catalog:
    """Every method of :mod:`onnxpool.pools`, with each of its kernels tried."""
    from onnxpool.pools import METHODS

    reasons = {provider: why_none_for(provider) for provider in (CPU, CUDA)}
    if reasons[CUDA] is None and CUDA not in _providers():
        reasons[CUDA] = "this onnxruntime has no CUDA provider; install onnxruntime-gpu in its place"
    tried = [provider for provider, reason in reasons.items() if reason is None]
    return Catalog(tuple(_facts(method, tried) for method in METHODS.values()), reasons[CPU], reasons[CUDA])


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _facts(method: Method, tried: list[str]) -> MethodFacts:
    def right(provider: str) -> tuple[str, ...]:
        operator = method.operator if provider in tried else None
        return tuple(
            element.name for element in POOLED if operator and why_not_native(operator, element.name, provider) is None
        )

    from onnxpool import nn

    modules = sorted({spelling.partition("(")[0] for spelling in method.modules})
    return MethodFacts(
        name=method.name,
        summary=method.summary,
        formula=method.formula,
        source=method.source,
        modules=tuple(modules),
        ranks=tuple(getattr(nn, name).rank for name in modules),
        operator=method.operator.op_type if method.operator else None,
        dtypes=tuple(element.name for element in POOLED),
        native=right(CPU),
        cuda=right(CUDA),
    )


def why_not_native(operator: Operator, dtype: str = "float32", provider: str = CPU) -> str | None:
    """Why the native kernel for this type does not work here; None where it pools ``[[1, 2], [3, 4]]`` rightly."""
    window = Window.of(2, 2)
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    answer = operator.reference(window, *[x] * len(operator.inputs))
    try:
        session = load(_bare(operator, window, dtype), providers=[provider], kernels="require")
        (y,) = session.run({name: x.astype(BY_NAME[dtype].dtype) for name in operator.inputs}).values()
    except OnnxpoolError as error:
        return str(error)
    native: bounds.Native = "cuda" if provider == CUDA else True
    bound = bounds.pooling(window, x, answer, BY_NAME[dtype].dtype, native=native)
    if bounds.measure(y, answer, bound.allowed).within:
        return None
    return f"{operator.op_type} of [[1, 2], [3, 4]] in {dtype} gave {y.item()}, not {answer.item():.8}"


def _bare(operator: Operator, window: Window, dtype: str) -> ir.Model:
    """A model of one bare pooling node, from the method's inputs to ``y``."""
    code = ir.DataType(BY_NAME[dtype].code)
    shape = ir.Shape([None] * (window.rank + 2))
    taken = [ir.Value(name=name, shape=shape, type=ir.TensorType(code)) for name in operator.inputs]
    given = ir.Value(name="y", shape=shape, type=ir.TensorType(code))
    call = ir.node(operator.op_type, taken, window.attributes(), domain=DOMAIN, outputs=[given], name=operator.op_type)
    opsets = {"": OPSETS[0], DOMAIN: VERSION}
    return ir.Model(
        ir.Graph(taken, [given], nodes=[call], opset_imports=opsets, name=operator.op_type), ir_version=IR_VERSION
    )
