"""Declared shapes: expressions as the exporter writes them, names with two sizes, and where the validator says so."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from models import pooled

import onnxpool
from onnxpool import nn
from onnxpool.diagnosis.per_node import compare_nodes
from onnxpool.golden import from_torch
from onnxpool.graph import shapes
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate
from onnxpool.window import Window

SIZES = {"batch": 3, "h": 13, "w": 8, "dynamic-axis": 4}


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        (5, 5),
        ("batch", 3),
        ("2*h", 26),
        ("(((h - 1)//2)) + 1", 7),
        ("(((w - 1)//32)) + 1", 1),
        ("-(-h//2)", 7),
        ("h % 5", 3),
        ("Max(1, h - w)", 5),
        ("unknown", None),
        ("h + unknown", None),
        ("", None),
        ("not an expression", None),
        ("h // 0", None),
        ("h ** 2", 169),
        ("(h + 1)**2 - w", 188),
        ("Mod(h, 3)", 1),
        ("Mod(-h, 3)", 2),
        ("floor(h/2)", 6),
        ("floor((h - 1)/2) + 1", 7),
        ("h / 2", None),
        ("h % 0", None),
        ("Mod(unknown, 3)", None),
        ("ceiling(h/2)", None),
        ("9**9**9**9", None),
        ("h ** 99999999", None),
        ("h**w", None),
        ("(" * 5000 + "h" + ")" * 5000, None),
        ("dynamic-axis", 4),
        ("__import__('os')", None),
        ("h.real", None),
        ("1.5", None),
    ],
)
def test_sizes_of_axes(axis, size):
    assert shapes.size_of(axis, SIZES) == size


def test_a_size_of_0_is_no_positive_number():
    assert shapes.size_of("h", {"h": 0}) == 0
    assert shapes.size_of("2*h + 1", {"h": 0}) == 1
    assert shapes.size_of("Max(1, h)", {"h": 0}) is None  # onnx_ir says 0
    assert shapes.size_of("Max(1, h)", {"h": 3}) == 3


def test_expressions_without_a_size_are_told_and_names_are_not():
    values = [value("batch", "free", "h + unknown", 7), value("ceiling(h/2)", "Max(1, w)", "h + unknown")]
    assert shapes.unchecked(values, [{"batch": 1, "h": 2, "w": 0}, {"h": 2, "w": 1}]) == ["ceiling(h/2)", "h + unknown"]
    assert shapes.unchecked(values, [{"h": 2, "w": 0}]) == ["Max(1, w)", "ceiling(h/2)", "h + unknown"]


def value(*axes, name="y"):
    return ir.Value(name=name, shape=ir.Shape(axes))


def test_names_get_their_sizes_from_the_inputs():
    inputs = [value("batch", 3, "h", name="a"), value("batch", "w", "2*h", name="b")]
    sizes = shapes.sizes_of(inputs, {"a": (2, 3, 7), "b": (4, 5, 14)})
    assert sizes == {"batch": 2, "h": 7, "w": 5, "2*h": 14}
    assert shapes.contradiction("input 'a'", inputs[0], (2, 3, 7), sizes) == ""
    assert (
        shapes.contradiction("input 'b'", inputs[1], (4, 5, 14), sizes)
        == "axis 0 of input 'b' has size 4; the model declares batch, which is 2 here"
    )


def test_contradictions():
    assert shapes.contradiction("y", value("batch", 4), (3, 4), SIZES) == ""
    assert shapes.contradiction("y", value("free", "batch"), (9, 3), SIZES) == ""
    assert shapes.contradiction("y", value(4), (5,), SIZES) == "axis 0 of y has size 5; the model declares 4"
    assert shapes.contradiction("y", value(4), (4, 1), SIZES) == "y has 2 axes; the model declares 1"
    assert shapes.contradiction("y", ir.Value(name="y"), (4, 1), SIZES) == ""


@pytest.fixture(scope="module")
def exported():
    module = torch.nn.Sequential(nn.SoftPool2d(3, 2, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval()
    args = (torch.randn(2, 3, 13, 8),)
    made = onnxpool.export(module, args, dynamic_shapes=({0: "batch", 2: "h", 3: "w"},), golden=False)
    return module, made, from_torch.record(module, made, args)


def test_what_an_export_declares_is_so(exported):
    module, made, golden = exported
    assert validate(made, golden, forms=["standard"]).passed
    assert compare_nodes(made, module).notes == ()


def test_an_output_that_is_not_as_declared_is_a_fault_of_structure(exported):
    _, made, golden = exported
    copy = made.clone()
    copy.graph.outputs[0].shape = ir.Shape(["batch", 3, "h", ir.SymbolicDim("w")])
    report = validate(copy, golden, forms=["standard"])
    assert report.exit_status == 4
    assert "axis 2 of output 'max_pool' has size 3; the model declares h, which is 13 here" in sentences(report)[0]


def test_a_declared_size_that_cannot_be_evaluated_is_noted_once(exported):
    module, made, golden = exported
    copy = made.clone()
    copy.graph.outputs[0].shape = ir.Shape(["batch", 3, "ceiling(h/4)", ir.SymbolicDim("ceiling(w/4)")])
    note = "declared sizes were not checked, since they cannot be evaluated: ceiling(h/4), ceiling(w/4)"
    report = validate(copy, golden, forms=["standard"])
    assert report.passed
    assert report.notes.count(note) == 1
    assert compare_nodes(copy, module).notes.count(note) == 1


def test_a_value_inside_that_is_not_as_declared_is_noted(exported):
    module, made, _ = exported
    copy = made.clone()
    relu = next(node for node in copy.graph if node.op_type == "Relu")
    relu.outputs[0].shape = ir.Shape(["batch", 3, "h", "w"])
    nodes = compare_nodes(copy, module)
    assert any("axis 2 of value 'relu' has size 16; the model declares h, which is 32" in note for note in nodes.notes)


def test_names_that_are_free_may_have_any_size():
    assert validate(pooled(Window.of(2, 2)), forms=["standard"]).passed
    x = np.zeros((1, 1, 2, 2), "float32")
    assert shapes.sizes_of([], {"x": x.shape}) == {}
