"""Kinds of mutation for tools/mutants: each changes one thing in a model, if the model has a place for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.domain import DOMAIN

Random: TypeAlias = np.random.Generator
Change: TypeAlias = Callable[[ir.Model, Random], bool]
Array: TypeAlias = NDArray[Any]

FLOATING = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}


@dataclass(frozen=True)
class Kind:
    """``change`` alters a model and says whether it could; ``interface`` is what a caller sees, ``body`` a function."""

    change: Change
    interface: bool = False
    body: bool = False


KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


def kind(name: str, *, interface: bool = False, body: bool = False) -> Callable[[Change], Change]:
    """Register a change."""

    def registered(change: Change) -> Change:
        KINDS[name] = Kind(change, interface, body)
        return change

    return registered


# --- weights


def weights(model: ir.Model, least: int = 2) -> list[ir.Value]:
    """Floating point initializers of so many elements."""
    return [
        value
        for value in model.graph.initializers.values()
        if value.dtype in FLOATING and value.const_value is not None and value.const_value.size >= least
    ]


def set_value(value: ir.Value, array: Array) -> bool:
    """Give an initializer other contents; False where they are the same."""
    assert value.const_value is not None
    before = value.const_value.numpy()
    array = np.ascontiguousarray(array).astype(before.dtype)
    if array.shape == before.shape and np.array_equal(array, before):
        return False
    value.const_value = ir.tensor(array, name=value.name)
    return True


def _array(value: ir.Value) -> Array:
    """The contents of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy().copy()


def one_weight(function: Callable[[Array, Random], Array], least: int = 2) -> Change:
    """Alter the contents of one initializer."""

    def change(model: ir.Model, rng: Random) -> bool:
        found = weights(model, least)
        rng.shuffle(found)  # type: ignore[arg-type]
        return any(set_value(value, function(_array(value), rng)) for value in found)

    return change


def _element(array: Array, rng: Random, function: Callable[[Any], Any]) -> Array:
    place = int(rng.integers(array.size))
    array.flat[place] = function(array.flat[place])
    return array


def _bfloat16(array: Array, _: Random) -> Array:
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _swapped_channels(array: Array, _: Random) -> Array:
    return array[::-1] if array.ndim else array


def _turned(array: Array, _: Random) -> Array:
    return np.swapaxes(array, -1, -2) if array.ndim > 1 and array.shape[-1] == array.shape[-2] else array


for _factor in (1 + 1e-3, 1 + 1e-4, 1 + 1e-5):
    kind(f"weight x {_factor:g}")(one_weight(lambda array, _, factor=_factor: array * factor))  # type: ignore[misc]
kind("one element x 1.01")(one_weight(lambda array, rng: _element(array, rng, lambda one: one * 1.01)))
kind("one element is 0")(one_weight(lambda array, rng: _element(array, rng, lambda _: 0)))
kind("one element + 1e-3")(one_weight(lambda array, rng: _element(array, rng, lambda one: one + 1e-3)))
kind("weight negated")(one_weight(lambda array, _: -array))
kind("weight in float16")(one_weight(lambda array, _: array.astype(np.float16)))
kind("weight in bfloat16")(one_weight(_bfloat16))
kind("weight in 8 bits")(
    one_weight(lambda array, _: np.rint(array / (np.abs(array).max() / 127)) * (np.abs(array).max() / 127))
)
kind("channels of a weight reversed")(one_weight(_swapped_channels))
kind("weight transposed")(one_weight(_turned, 4))
kind("weight rolled")(one_weight(lambda array, _: np.roll(array, 1)))
kind("weight is 0")(one_weight(lambda array, _: np.zeros_like(array)))
kind("weight + 1e-4")(one_weight(lambda array, _: array + 1e-4))
kind("bias is 0")(one_weight(lambda array, _: np.zeros_like(array) if array.ndim == 1 else array))


@kind("another checkpoint")
def another_checkpoint(model: ir.Model, rng: Random) -> bool:
    """Every weight drawn anew, as large as it was."""
    changed = [set_value(value, rng.permuted(_array(value)) + 1e-3) for value in weights(model)]
    return any(changed)


@kind("all weights x -3, nodes renamed")
def other_weights_and_names(model: ir.Model, _: Random) -> bool:
    """As by somebody who hides what he did."""
    for i, node in enumerate(model.graph):
        node.name = f"renamed_{i}"
    changed = [set_value(value, _array(value) * -3) for value in weights(model)]
    return any(changed)


@kind("two weights exchanged")
def exchanged(model: ir.Model, _: Random) -> bool:
    """Two initializers of one shape."""
    found = weights(model)
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            assert one.const_value is not None
            assert other.const_value is not None
            if one.const_value.shape == other.const_value.shape:
                a, b = one.const_value.numpy().copy(), other.const_value.numpy().copy()
                return set_value(one, b) and set_value(other, a)
    return False


# --- constants


def constants(model: ir.Model) -> Iterator[tuple[ir.Node | None, ir.Value, Array]]:
    """Single floating point numbers that the graph computes with."""
    for value in model.graph.initializers.values():
        if value.dtype in FLOATING and value.const_value is not None and value.const_value.size == 1:
            yield None, value, value.const_value.numpy()


def one_constant(function: Callable[[Array], Array]) -> Change:
    """Alter one single number."""

    def change(model: ir.Model, rng: Random) -> bool:
        found = [value for _, value, _ in constants(model)]
        rng.shuffle(found)  # type: ignore[arg-type]
        return any(set_value(value, function(_array(value))) for value in found)

    return change


kind("constant x 1.001")(one_constant(lambda array: array * 1.001))
kind("constant + 1e-3")(one_constant(lambda array: array + np.float32(1e-3)))
kind("constant is 0")(one_constant(np.zeros_like))
kind("constant negated")(one_constant(lambda array: -array))
kind("constant doubled")(one_constant(lambda array: array * 2))


# --- attributes


def nodes(model: ir.Model, *names: str) -> list[ir.Node]:
    """The nodes of these operators, or all."""
    return [node for node in model.graph if not names or node.op_type in names]


def attribute(name: str, function: Callable[[Any], Any], *ops: str, default: Any = None) -> Change:
    """Alter one attribute of the first node that has it."""

    def change(model: ir.Model, rng: Random) -> bool:
        found = nodes(model, *ops)
        rng.shuffle(found)  # type: ignore[arg-type]
        for node in found:
            known = node.attributes.get(name)
            if known is None and (default is None or not ops):
                continue
            before = known.value if known is not None else default
            after = function(list(before) if isinstance(before, list | tuple) else before)
            if after is not None and after != (list(before) if isinstance(before, list | tuple) else before):
                node.attributes[name] = ir.convenience.convert_attribute(name, after)
                return True
        return False

    return change


def _shifted(pads: list[int]) -> list[int] | None:
    half = len(pads) // 2
    if not any(pads[:half]):
        return None
    return [*(max(0, n - 1) for n in pads[:half]), *(n + min(1, m) for n, m in zip(pads[half:], pads, strict=False))]


_POOLS = ("MaxPool", "AveragePool", "LpPool", "SoftPool", "LocalImportancePool")
kind("pads shifted")(attribute("pads", _shifted))
kind("pads off")(attribute("pads", lambda pads: [0] * len(pads) if any(pads) else None))
kind("strides are 1")(attribute("strides", lambda strides: [1] * len(strides)))
kind("dilations are 2")(attribute("dilations", lambda found: [2] * len(found)))
kind("kernel larger")(attribute("kernel_shape", lambda shape: [n + 1 for n in shape], *_POOLS))
kind("count_include_pad")(attribute("count_include_pad", lambda one: 1 - one, "AveragePool", default=0))
kind("epsilon x 10")(attribute("epsilon", lambda one: one * 10))
kind("alpha x 1.01")(attribute("alpha", lambda one: one * 1.01))
kind("axis")(attribute("axis", lambda axis: -2 if axis in (1, -1) else 1))
kind("keepdims")(attribute("keepdims", lambda keep: 1 - keep))
kind("perm")(attribute("perm", lambda perm: [*perm[:-2], perm[-1], perm[-2]] if len(perm) > 2 else None))
kind("largest")(attribute("largest", lambda one: 1 - one, "TopK", default=1))
kind("approximate")(attribute("approximate", lambda one: "tanh" if one == "none" else "none", "Gelu", default="none"))
kind("direction")(attribute("direction", lambda _: "reverse", "LSTM", "GRU", default="forward"))
kind("linear_before_reset")(attribute("linear_before_reset", lambda one: 1 - one, "GRU", default=0))
kind("equation")(attribute("equation", lambda text: text[:-2] + text[:-3:-1] if text else None, "Einsum"))
kind("group norm groups")(attribute("num_groups", lambda n: n * 2, "GroupNormalization"))


# --- operators and wiring


def operator(before: str, after: str) -> Change:
    """Another operator of the same inputs."""

    def change(model: ir.Model, rng: Random) -> bool:
        found = nodes(model, before)
        if not found:
            return False
        node = found[int(rng.integers(len(found)))]
        node.op_type = after
        for name in [*node.attributes]:
            if name not in _KNOWN.get(after, (name,)):
                node.attributes.pop(name)
        return True

    return change


_KNOWN = {"AveragePool": ("kernel_shape", "strides", "pads", "ceil_mode"), "GlobalMaxPool": (), "LogSoftmax": ("axis",)}

for _before, _after in (
    *(("Relu", "Abs"), ("MaxPool", "AveragePool"), ("Add", "Sub"), ("Sub", "Add"), ("Mul", "Add"), ("Div", "Mul")),
    *(("Sigmoid", "HardSigmoid"), ("Tanh", "Softsign"), ("Erf", "Tanh"), ("Softmax", "LogSoftmax"), ("Round", "Floor")),
    *(("ReduceMean", "ReduceMax"), ("ReduceMean", "ReduceSum"), ("Sqrt", "Abs"), ("Greater", "GreaterOrEqual")),
    *(("GlobalAveragePool", "GlobalMaxPool"), ("ArgMax", "ArgMin"), ("Exp", "Softplus"), ("Max", "Min")),
):
    kind(f"{_before} is {_after}")(operator(_before, _after))


@kind("a node left out")
def left_out(model: ir.Model, rng: Random) -> bool:
    """A node of one input and one output."""
    alike = (
        "Relu",
        "Sigmoid",
        "Tanh",
        "Erf",
        "LeakyRelu",
        "HardSwish",
        "HardSigmoid",
        "Softmax",
        "Sqrt",
        "Abs",
        "Clip",
    )
    found = nodes(model, *alike)
    if not found:
        return False
    node = found[int(rng.integers(len(found)))]
    (given,) = (node.inputs[0],)
    return _replace(model, node.outputs[0], "Identity", [given])


def _replace(model: ir.Model, value: ir.Value, op: str, inputs: list[Any], **attributes: Any) -> bool:
    """Put another node's output in the place of a value."""
    made = ir.node(op, inputs, attributes)
    made.outputs[0].type, made.outputs[0].shape = value.type, value.shape
    maker = value.producer()
    if maker is None:
        return False
    model.graph.insert_after(maker, made)
    _take(model, value, made)
    return True


def _take(model: ir.Model, value: ir.Value, made: ir.Node) -> None:
    """Let all users of ``value``, but for ``made`` and what stands before it, take what ``made`` gives."""
    new = made.outputs[0]
    for user, place in list(value.uses()):
        if user is not made:
            user.replace_input_with(place, new)
    for i, output in enumerate(model.graph.outputs):
        if output is value:
            new.name, value.name = value.name, f"{value.name}_before"
            model.graph.outputs[i] = new


@kind("inputs exchanged")
def inputs_exchanged(model: ir.Model, rng: Random) -> bool:
    """Of an operator that is not symmetric."""
    found = nodes(model, "Sub", "Div", "MatMul", "Where", "LocalImportancePool")
    if not found:
        return False
    node = found[int(rng.integers(len(found)))]
    i, j = (1, 2) if node.op_type == "Where" else (0, 1)
    one, other = node.inputs[i], node.inputs[j]
    node.replace_input_with(i, other)
    node.replace_input_with(j, one)
    return one is not other


def through(*steps: tuple[str, dict[str, Any]]) -> Change:
    """Let one floating point value go through further nodes."""

    def change(model: ir.Model, rng: Random) -> bool:
        found = [
            node.outputs[0]
            for node in nodes(model)
            if node.op_type not in ("Constant", "Shape") and node.outputs[0].dtype == ir.DataType.FLOAT
        ]
        if not found:
            return False
        value = found[int(rng.integers(len(found)))]
        made: list[ir.Node] = []
        for op, told in steps:
            given: list[Any] = [made[-1].outputs[0] if made else value]
            extra, attributes = dict(told), {}
            for name, one in extra.items():
                if isinstance(one, np.ndarray):
                    constant = ir.Value(name=f"mutant_{name}", const_value=ir.tensor(one, name=f"mutant_{name}"))
                    constant.type, constant.shape = ir.TensorType(constant.const_value.dtype), ir.Shape(one.shape)  # type: ignore[union-attr]
                    model.graph.register_initializer(constant)
                    given.append(constant)
                else:
                    attributes[name] = one
            made.append(ir.node(op, given, attributes))
        after = value.producer()
        assert after is not None
        for node in made:
            model.graph.insert_after(after, node)
            after = node
        made[-1].outputs[0].type, made[-1].outputs[0].shape = value.type, value.shape
        new = made[-1].outputs[0]
        for user, place in list(value.uses()):
            if user is not made[0]:
                user.replace_input_with(place, new)
        for i, output in enumerate(model.graph.outputs):
            if output is value:
                new.name, value.name = value.name, f"{value.name}_before"
                model.graph.outputs[i] = new
        return True

    return change


_FLOAT, _FLOAT16, _BFLOAT16, _INT32 = 1, 10, 16, 6
kind("cast to float16 and back")(through(("Cast", {"to": _FLOAT16}), ("Cast", {"to": _FLOAT})))
kind("cast to bfloat16 and back")(through(("Cast", {"to": _BFLOAT16}), ("Cast", {"to": _FLOAT})))
kind("cast to int32 and back")(through(("Cast", {"to": _INT32}), ("Cast", {"to": _FLOAT})))
kind("a value x 1.0001")(through(("Mul", {"factor": np.array(1.0001, np.float32)})))
kind("a value + 1e-4")(through(("Add", {"more": np.array(1e-4, np.float32)})))
kind("a value clipped at 1")(through(("Clip", {"least": np.array(-1e30, np.float32), "most": np.array(1, np.float32)})))
kind("a value negated")(through(("Neg", {})))
kind("a Relu more")(through(("Relu", {})))


@kind("batch reversed")
def reversed_batch(model: ir.Model, _: Random) -> bool:
    """Rows of one request answer another one."""
    last = model.graph.outputs[0]
    for name, number in (("start", -1), ("end", -(2**31)), ("axis", 0), ("step", -1)):
        constant = ir.Value(name=f"mutant_{name}", const_value=ir.tensor(np.array([number]), name=f"mutant_{name}"))
        constant.type, constant.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
        model.graph.register_initializer(constant)
    held = model.graph.initializers
    return _replace(model, last, "Slice", [last, *(held[f"mutant_{n}"] for n in ("start", "end", "axis", "step"))])


# --- function bodies


def _bodies(model: ir.Model) -> list[ir.Function]:
    return [function for function in model.functions.values() if function.domain == DOMAIN]


def body(before: str, after: str) -> Change:
    """Another operator in a function body."""

    def change(model: ir.Model, _: Random) -> bool:
        for function in _bodies(model):
            for node in function.all_nodes():
                if node.op_type == before:
                    node.op_type = after
                    return True
        return False

    return change


for _before, _after in (("Add", "Sub"), ("Exp", "Abs"), ("Mul", "Add"), ("Sub", "Add"), ("Div", "Mul"), ("Max", "Min")):
    kind(f"body: {_before} is {_after}", body=True)(body(_before, _after))


@kind("body: a constant x 1.01", body=True)
def body_constant(model: ir.Model, _: Random) -> bool:
    """The first single floating point number that is not 0."""
    for function in _bodies(model):
        for node in function.all_nodes():
            value = node.attributes.get("value") if node.op_type == "Constant" else None
            if value is not None and value.type == ir.AttributeType.TENSOR:
                array = value.as_tensor().numpy()
                if array.dtype.kind == "f" and array.size == 1 and array.item() and np.isfinite(array).all():
                    node.attributes["value"] = ir.AttrTensor("value", ir.tensor((array * 1.01).astype(array.dtype)))
                    return True
    return False


# --- branches and loops


@kind("branch: Tanh is Sigmoid")
def within_a_branch(model: ir.Model, _: Random) -> bool:
    """An operator in the branch of an If, or in what a Loop or Scan repeats."""
    for node in model.graph.all_nodes():
        if node.op_type == "Tanh" and node.graph is not model.graph:
            node.op_type = "Sigmoid"
            return True
    return False


# --- what a caller sees


@kind("an input renamed", interface=True)
def renamed_input(model: ir.Model, _: Random) -> bool:
    """The first."""
    model.graph.inputs[0].name = "another"
    return True


@kind("an output renamed", interface=True)
def renamed_output(model: ir.Model, _: Random) -> bool:
    """The first."""
    model.graph.outputs[0].name = "another"
    return True


@kind("outputs in another order", interface=True)
def reordered_outputs(model: ir.Model, _: Random) -> bool:
    """Names stay."""
    if len(model.graph.outputs) < 2:
        return False
    model.graph.outputs.reverse()
    return True


@kind("inputs in another order", interface=True)
def reordered_inputs(model: ir.Model, _: Random) -> bool:
    """Names stay."""
    if len(model.graph.inputs) < 2:
        return False
    model.graph.inputs.reverse()
    return True


@kind("an output less", interface=True)
def fewer_outputs(model: ir.Model, _: Random) -> bool:
    """The last."""
    if len(model.graph.outputs) < 2:
        return False
    model.graph.outputs.pop()
    return True


@kind("an output more", interface=True)
def more_outputs(model: ir.Model, _: Random) -> bool:
    """A value from within."""
    known = set(model.graph.outputs)
    found = [v for node in nodes(model) for v in node.outputs if v not in known and v.type is not None and v.name]
    model.graph.outputs.extend(found[:1])
    return bool(found)


@kind("an input more", interface=True)
def more_inputs(model: ir.Model, _: Random) -> bool:
    """That nobody uses."""
    extra = ir.Value(name="further", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    model.graph.inputs.append(extra)
    return True


@kind("batch fixed", interface=True)
def fixed_batch(model: ir.Model, _: Random) -> bool:
    """At that of the example."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    model.graph.inputs[0].shape = ir.Shape([2, *shape[1:]])
    return True


@kind("output in float64", interface=True)
def wide_output(model: ir.Model, _: Random) -> bool:
    """The first of float32."""
    for value in list(model.graph.outputs):
        if value.dtype == ir.DataType.FLOAT and _replace(model, value, "Cast", [value], to=11):
            new = next(one for one in model.graph.outputs if one.producer().op_type == "Cast")  # type: ignore[union-attr]
            new.type = ir.TensorType(ir.DataType.DOUBLE)
            return True
    return False


@kind("an axis more in an output", interface=True)
def another_rank(model: ir.Model, _: Random) -> bool:
    """In front."""
    axes = ir.Value(name="mutant_axes", const_value=ir.tensor(np.array([0]), name="mutant_axes"))
    axes.type, axes.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    model.graph.register_initializer(axes)
    last = model.graph.outputs[0]
    if not _replace(model, last, "Unsqueeze", [last, axes]):
        return False
    model.graph.outputs[0].shape = None
    return True
