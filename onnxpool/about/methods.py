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
from onnxpool.pools._method import Node, Pool
from onnxpool.run.native_library import CPU, CUDA, why_none_for
from onnxpool.run.session import load
from onnxpool.window import Window


@dataclass(frozen=True)
class Method:
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

    methods: tuple[Method, ...]
    no_kernels: str | None
    no_cuda: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def catalog() -> Catalog:
    """Every method of :mod:`onnxpool.pools`, with each of its kernels tried."""
    from onnxpool.pools import POOLS

    reasons = {provider: why_none_for(provider) for provider in (CPU, CUDA)}
    if reasons[CUDA] is None and CUDA not in _providers():
        reasons[CUDA] = "this onnxruntime has no CUDA provider; install onnxruntime-gpu in its place"
    tried = [provider for provider, reason in reasons.items() if reason is None]
    return Catalog(tuple(_method(pool, tried) for pool in POOLS.values()), reasons[CPU], reasons[CUDA])


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _method(pool: Pool, tried: list[str]) -> Method:
    def right(provider: str) -> tuple[str, ...]:
        node = pool.node if provider in tried else None
        return tuple(
            element.name for element in POOLED if node and why_not_native(node, element.name, provider) is None
        )

    modules = sorted({spelling.partition("(")[0] for spelling in pool.modules})
    return Method(
        name=pool.name,
        summary=pool.summary,
        formula=pool.formula,
        source=pool.source,
        modules=tuple(modules),
        ranks=tuple(int(name[-2]) for name in modules),  # names end in 1d, 2d or 3d
        operator=pool.node.op_type if pool.node else None,
        dtypes=tuple(element.name for element in POOLED),
        native=right(CPU),
        cuda=right(CUDA),
    )


def why_not_native(node: Node, dtype: str = "float32", provider: str = CPU) -> str | None:
    """Why the native kernel for this type does not work here; None where it pools ``[[1, 2], [3, 4]]`` rightly."""
    window = Window.of(2, 2)
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    answer = node.reference(window, *[x] * len(node.inputs))
    try:
        session = load(_bare(node, window, dtype), providers=[provider], kernels="require")
        (y,) = session.run({name: x.astype(BY_NAME[dtype].dtype) for name in node.inputs}).values()
    except OnnxpoolError as error:
        return str(error)
    bound = bounds.pooling(window, x, answer, BY_NAME[dtype].dtype, native=True)
    if bounds.measure(y, answer, bound.allowed).within:
        return None
    return f"{node.op_type} of [[1, 2], [3, 4]] in {dtype} gave {y.item()}, not {answer.item():.8}"


def _bare(node: Node, window: Window, dtype: str) -> ir.Model:
    """A model of one bare pooling node, from the method's inputs to ``y``."""
    code = ir.DataType(BY_NAME[dtype].code)
    shape = ir.Shape([None] * (window.rank + 2))
    taken = [ir.Value(name=name, shape=shape, type=ir.TensorType(code)) for name in node.inputs]
    given = ir.Value(name="y", shape=shape, type=ir.TensorType(code))
    call = ir.node(node.op_type, taken, window.attributes(), domain=DOMAIN, outputs=[given], name=node.op_type)
    opsets = {"": OPSETS[0], DOMAIN: VERSION}
    return ir.Model(
        ir.Graph(taken, [given], nodes=[call], opset_imports=opsets, name=node.op_type), ir_version=IR_VERSION
    )
