"""Answers from the model itself, where it came without any: the float64 reference.

The model becomes a float64 model (weights, constants, casts) and runs in onnx's reference evaluator: pooling nodes by
``Operator.reference``, all others by NumPy in the onnx package. The yardstick is the error of the same evaluator in the
model's own type. That tells how a model is run, not whether the model is the right one; and it is slow, so whole cases
are for small models only.

    record, record_bare    every case of a small model        one_node    one node, as a function
    exact                  these inputs, of any model         in_dtype    the same model in another type
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxpool.domain import DOMAIN, is_foreign
from onnxpool.dtypes import Array
from onnxpool.errors import GoldenError
from onnxpool.golden import bounds, collect, perturbed
from onnxpool.golden.file import Answers, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.golden.poolings import POOLINGS
from onnxpool.golden.rounding import Rounding
from onnxpool.graph.forms import Model, to_form
from onnxpool.graph.quantized import is_quantized
from onnxpool.pools._method import Operator
from onnxpool.window import Window

MOST_WEIGHTS = 4_000_000
"""A model with more weights than this would take minutes."""

FURTHER: ContextVar[tuple[type[OpRun], ...]] = ContextVar("FURTHER", default=())
"""Operators of other libraries that the evaluator is to know, too (:mod:`onnxpool.validation.foreign`)."""

_FLOATING = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def record(model: Model, *, only: str | None = None, roundings: int | None = None) -> Golden:
    """The answers of the model itself, evaluated in float64; the yardstick is its evaluation in its own type.

    ``only`` as in :func:`onnxpool.golden.collect.collect`. ``roundings`` is how often, at most, it is evaluated with
    other roundings for that; a few times if not given.
    Raises :class:`GoldenError` for a model that is too large, or that the reference evaluator cannot run in float64.
    """
    return record_bare(to_form(model, "custom"), only=only, roundings=roundings)


def record_bare(bare: ir.Model, *, only: str | None = None, roundings: int | None = None) -> Golden:
    """:func:`record` for a model that is in custom form already."""
    weights = sum(value.const_value.size for value in bare.graph.initializers.values() if value.const_value)
    if weights > MOST_WEIGHTS:
        raise GoldenError(
            f"the model has {weights:,} weights and no golden file; onnx's reference evaluator takes up to "
            f"{MOST_WEIGHTS:,}: give reference= (the PyTorch module, a golden file, or a function)"
        )
    double = evaluator(in_dtype(bare, ir.DataType.DOUBLE))
    narrow = in_dtype(bare, ir.DataType.FLOAT) if collect.is_double(bare) else bare
    own, draws = evaluator(narrow), Draws()
    shaky = evaluator(narrow, draws=draws)

    def answer(feeds: Feeds) -> Answers:
        return {name: np.asarray(array, np.float64) for name, array in double(feeds).items()}

    def otherwise(feeds: Feeds, seed: int, ulps: float) -> dict[str, NDArray[Any]]:
        draws.rng, draws.ulps = np.random.default_rng(seed), ulps
        return shaky(feeds)

    return collect.collect(
        bare,
        answer,
        collect.own_error(own, bare, otherwise, most=roundings),
        source=f"the model itself in float64, onnx {onnx.__version__}",
        yardstick_source="the reference evaluator's own errors",
        only=only,
    )


def one_node(node: ir.Node, opsets: Mapping[str, int]) -> Callable[[Feeds], Feeds]:
    """A function from what a node takes, by name, to what it gives; pooling nodes by their reference.

    Raises :class:`GoldenError` for a node that the reference evaluator does not know.
    """
    names = [value.name for value in node.outputs if value.name]
    evaluator = _start(ir.to_proto(node), opsets=dict(opsets))

    def run(feeds: Feeds) -> Feeds:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # NaN and infinity are part of some cases
            warnings.simplefilter("ignore", RuntimeWarning)
            return dict(zip(names, evaluator.run(names, feeds), strict=True))

    return run


def exact(bare: ir.Model, feeds: Feeds) -> Answers:
    """What a model in custom form gives for these inputs in float64, however many weights it has.

    Raises :class:`GoldenError` where the reference evaluator cannot run it in float64.
    """
    operators = Rounding().operators() if is_quantized(bare) else ()
    double = evaluator(in_dtype(bare, ir.DataType.DOUBLE), operators)
    try:
        return {name: np.asarray(array, np.float64) for name, array in double(collect.widen(feeds)).items()}
    except Exception as error:  # whatever an operator raises
        raise GoldenError(f"onnx's reference evaluator cannot run this model in float64: {error}") from error


@dataclass
class Draws:
    """Where the other roundings of a run come from."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    ulps: float = 1.0


def evaluator(
    model: ir.Model, operators: Sequence[type[OpRun]] = (), draws: Draws | None = None
) -> Callable[[Feeds], dict[str, NDArray[Any]]]:
    """A function from the inputs of a model in custom form to its outputs, by name; ``operators`` are further ones.

    With ``draws``, every operator rounds a little otherwise (:mod:`onnxpool.golden.perturbed`).

    Raises :class:`GoldenError` where the reference evaluator does not know an operator.
    """
    names = [str(value.name) for value in model.graph.outputs]
    started = _start(ir.to_proto(model), operators)
    for node in started.rt_nodes_ if draws is not None else ():
        _shake(node, draws)  # type: ignore[arg-type]

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        with np.errstate(all="ignore"), warnings.catch_warnings():  # NaN, infinity and empty batches are cases
            warnings.simplefilter("ignore", RuntimeWarning)
            return dict(zip(names, started.run(None, feeds), strict=True))

    return run


def _shake(node: OpRun, draws: Draws) -> None:
    """Let a node give what it gives, rounded a little otherwise."""
    kind, given = node.onnx_node.op_type.lower(), node.run
    if kind in perturbed.MOVING:
        return

    def run(*inputs: Any, **told: Any) -> tuple[Any, ...]:
        found = given(*inputs, **told)  # type: ignore[no-untyped-call]
        absolute: float | Array = perturbed.SATURATING.get(kind, 0.0)
        if kind in perturbed.SUMMING and bounds.is_floating(inputs[0].dtype):
            magnitudes = given(np.abs(inputs[0]), *inputs[1:], **told)[0]  # type: ignore[no-untyped-call]
            step = draws.ulps * float(ml_dtypes.finfo(inputs[0].dtype).eps) / 2  # type: ignore[no-untyped-call]
            absolute = np.nan_to_num(magnitudes.astype(np.float64), nan=0, posinf=0) * step
        return tuple(
            perturbed.shaken(one, draws.rng, absolute, draws.ulps)
            if isinstance(one, np.ndarray) and bounds.is_floating(one.dtype) and one.size
            else one
            for one in found
        )

    node.run = run  # type: ignore[method-assign]


def _start(proto: Any, operators: Sequence[type[OpRun]] = (), **arguments: Any) -> ReferenceEvaluator:
    from onnxpool.pools import OPERATORS

    imports = arguments.get("opsets") or {one.domain: one.version for one in proto.opset_import}
    old = _OLD if imports.get("", NEW_SOFTMAX) < NEW_SOFTMAX else ()
    known = [*POOLINGS, *map(_evaluated, OPERATORS.values()), *old, *operators, *FURTHER.get()]
    try:
        return ReferenceEvaluator(proto, new_ops=known, **arguments)
    except Exception as error:
        raise GoldenError(f"onnx's reference evaluator cannot run this model ({error}); give reference=") from error


NEW_SOFTMAX = 13
"""The opset from which Softmax works along one axis; before, along all from ``axis`` on together, which is 1."""


def _flat(name: str, function: Callable[[Array], Array]) -> type[OpRun]:
    """The operator as it was; onnx's evaluator computes it by the newer rule at every opset."""

    def run(node: OpRun, x: NDArray[Any], **_: Any) -> tuple[NDArray[Any]]:
        told = (one.i for one in node.onnx_node.attribute if one.name == "axis")  # the evaluator's default is newer
        axis = next(told, 1) % max(x.ndim, 1)
        rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
        return (function(rows).reshape(x.shape).astype(x.dtype),)

    return type(name, (OpRun,), {"op_domain": "", "_run": run})


def _softmax(rows: Array) -> Array:
    powers = np.exp(rows - rows.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _log_softmax(rows: Array) -> Array:
    shifted = rows - rows.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


_OLD = (_flat("Softmax", _softmax), _flat("LogSoftmax", _log_softmax))


def _evaluated(operator: Operator) -> type[OpRun]:
    """The operator for the reference evaluator: computed in float64, rounded to the type of its input."""

    def run(_: OpRun, x: NDArray[Any], *others: NDArray[Any], **attributes: Any) -> tuple[NDArray[Any]]:
        inputs = (array.astype(np.float64) for array in (x, *others))
        return (operator.reference(Window.from_attributes(attributes), *inputs).astype(x.dtype),)

    return type(operator.op_type, (OpRun,), {"op_domain": DOMAIN, "_run": run})


# --- a model in another floating point type


def in_dtype(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """The same model, computing in ``dtype`` wherever it computed in a floating point type."""
    model = model.clone()
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            if value.dtype in _FLOATING:
                value.type = ir.TensorType(dtype)  # a new one: clones share theirs with the original
            if value.const_value is not None:
                value.const_value = _tensor(value.const_value, dtype)
        for node in graph:
            if is_foreign(node.domain) and node.op_identifier() not in model.functions:
                continue  # what its attributes mean is for its library to say
            for attribute in list(node.attributes.values()):
                for changed in _attribute(attribute, dtype):
                    node.attributes[changed.name] = changed
    return model


def in_float64(node: ir.Node) -> ir.Node:
    """A copy of one node without branches, apart from its graph, that computes in float64."""
    inputs = [None if value is None else ir.Value(name=value.name) for value in node.inputs]
    told = dict(node.attributes.items())
    for attribute in node.attributes.values():
        told |= {changed.name: changed for changed in _attribute(attribute, ir.DataType.DOUBLE)}
    outputs = [ir.Value(name=value.name) for value in node.outputs]
    return ir.Node(node.domain, node.op_type, inputs, told.values(), outputs=outputs)


def _attribute(attribute: ir.Attr, dtype: ir.DataType) -> Iterator[ir.Attr]:
    if attribute.type == ir.AttributeType.TENSOR:
        yield ir.AttrTensor(attribute.name, _tensor(attribute.as_tensor(), dtype))
    elif attribute.name in ("to", "dtype", "output_dtype") and attribute.value in _FLOATING:
        yield ir.AttrInt64(attribute.name, int(dtype))


def _tensor(tensor: Any, dtype: ir.DataType) -> Any:
    if tensor.dtype not in _FLOATING:
        return tensor
    with np.errstate(over="ignore"):  # float64's lowest number is float32's -inf
        return ir.tensor(tensor.numpy().astype(dtype.numpy()), name=tensor.name)
