"""How poolings are spelled in ONNX: nothing in a body or standard form that a runtime may take for something else."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from cases import WINDOWS, inputs
from models import pooled
from onnx import inliner, numpy_helper, shape_inference
from test_modules import Together

import onnxpool
from onnxpool.graph import forms
from onnxpool.pools import METHODS, OPERATORS
from onnxpool.window import Window

FORMS = ("function", "standard")
DTYPES = ("float32", "float64", "float16", "bfloat16")
EXPORTED = ("float32", "float64", "float16")
"""The types in which every method exports."""


def exported(method: str, dtype: str) -> onnx.ModelProto:
    """All modules of a method as one network, as it is exported for this type."""
    network = Together(method).eval().to(getattr(torch, dtype))
    xs = tuple(torch.ones_like(x, dtype=getattr(torch, dtype)) for x in network.examples())
    model = onnxpool.export(network, xs, golden=False, check=False)
    return ir.to_proto(forms.to_form(model, "standard"))


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """This graph and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def numbers(model: onnx.ModelProto) -> Iterator[np.ndarray]:
    """Every tensor and number that is written in the model."""
    for graph in graphs(model.graph):
        yield from map(numpy_helper.to_array, graph.initializer)
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.HasField("t"):
                yield numpy_helper.to_array(attribute.t)
            yield np.array([attribute.f, *attribute.floats], np.float32)


def faults(model: onnx.ModelProto) -> list[str]:
    """Denormal numbers, and casts that change nothing."""
    found = []
    for array in numbers(model):
        if array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16:
            size = np.abs(array.astype(np.float64))
            smallest = float(ml_dtypes.finfo(array.dtype).smallest_normal)
            found += [f"the denormal number {number}" for number in size[(size > 0) & (size < smallest)]]
    inferred = shape_inference.infer_shapes(inliner.inline_local_functions(model), strict_mode=True, data_prop=True)
    types: dict[str, int] = {}
    for graph in graphs(inferred.graph):  # those inside of a node take what those around it have
        types |= {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        casts = [node for node in graph.node if node.op_type == "Cast"]
        assert all(node.input[0] in types for node in casts), "inference tells the type of what is cast"
        found += [f"{node.name} casts to the same" for node in casts if types[node.input[0]] == node.attribute[0].i]
        found += [f"{node.name} casts as another" for node in graph.node if node.op_type == "CastLike"][: not casts]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_operators_hold_no_denormal_number_and_no_cast_to_the_same_type(op_type, dtype):
    for window in WINDOWS:
        for form in FORMS:
            bare = pooled(window, dtype, op_type, OPERATORS[op_type].inputs)
            assert not faults(ir.to_proto(forms.to_form(bare, form))), (str(window), form)


@pytest.mark.parametrize("dtype", EXPORTED)
@pytest.mark.parametrize("name", METHODS)
def test_methods_hold_no_denormal_number_and_no_cast_to_the_same_type(name, dtype):
    assert not faults(exported(name, dtype))


def test_faults_are_found():
    constant = onnx.helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(1e-40, np.float32)))
    cast = onnx.helper.make_node("Cast", ["x"], ["d"], "same", to=onnx.TensorProto.FLOAT)
    from models import model

    assert len(faults(model([constant, cast, onnx.helper.make_node("Add", ["c", "d"], ["y"])], 1))) == 2


# --- denormal numbers taken for 0


def flushed(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """ONNX Runtime's answer where it takes denormal numbers for 0."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(None, feeds)[0]
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_window_without_a_positive_cell_is_0_where_denormal_numbers_are(form, dtype):
    x = np.array([[[0, -1, 3, 0, -3, 0, 1, -0.5]]], dtype)
    model = forms.to_form(pooled(Window.of(1, 2), dtype, "StochasticPool"), form)
    assert flushed(model, {"x": x}).tolist() == [[[0, 3, 0, 1]]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_only_denormal_answers_change_where_denormal_numbers_are_0(op_type, form):
    node = OPERATORS[op_type]
    for window in WINDOWS:
        model = forms.to_form(pooled(window, "float32", op_type, node.inputs), form)
        for name, wide in inputs(window, 3.4e38).items():
            x = wide.astype(np.float32)
            x[np.abs(x) < np.finfo(np.float32).tiny] = 0
            feeds = {given: np.roll(x, shift, axis=-1) for shift, given in enumerate(node.inputs)}
            answer = node.reference(window, *(array.astype(np.float64) for array in feeds.values()))
            bound = onnxpool.golden.bounds.pooling(window, x.astype(np.float64), answer, x.dtype, native=False)
            slack = bound.allowed + np.finfo(np.float32).tiny
            error = onnxpool.golden.bounds.measure(flushed(model, feeds), answer, slack)
            assert error.within, f"{window}, {name}: {error}"
