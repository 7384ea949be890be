"""The three forms: what each holds, the moves between them, and what is refused."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models import CODES, model, pooled
from onnx import TensorProto, helper

import onnxpool
from onnxpool.errors import ArgumentError, FormError
from onnxpool.graph import forms
from onnxpool.window import Window

WINDOW = Window.of(2, 3, 2, 1)
FORMS = ("function", "standard", "custom")


def soft(x: str, y: str, window: Window = WINDOW, name: str = "") -> onnx.NodeProto:
    return helper.make_node("SoftPool", [x], [y], name, domain="onnxpool", **window.attributes())


def two_pools() -> onnx.ModelProto:
    """Two pools of different windows with something between, the first used twice."""
    nodes = [
        soft("x", "a", name="first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Add", ["a", "b"], ["c"], "add"),
        soft("c", "y", Window.of(2, 2, 1, 0, 2), name="second"),
    ]
    return model(nodes, 2)


def text(converted: ir.Model) -> str:
    return onnx.printer.to_text(ir.to_proto(converted))


def run(converted: ir.Model, x: np.ndarray) -> np.ndarray:
    return onnxpool.load(converted, kernels="off").run({"x": x})["y"]


def test_what_each_form_holds():
    bare = two_pools()
    function, standard, custom = (onnxpool.to_form(bare, form) for form in FORMS)
    assert [onnxpool.form_of(m) for m in (function, standard, custom)] == list(FORMS)
    assert [node.op_type for node in function.graph] == ["SoftPool", "Relu", "Add", "SoftPool"]
    assert list(function.functions) == [("onnxpool", "SoftPool", "")]
    assert not custom.functions
    assert not standard.functions
    assert dict(standard.opset_imports) == {"": 18}
    assert {node.domain for node in standard.graph} == {""}
    assert not {"If", "Loop", "CastLike", "Constant", "Identity"} & {node.op_type for node in standard.graph}


@pytest.mark.parametrize("form", FORMS)
def test_the_nodes_are_known_in_every_form(form):
    nodes = onnxpool.pool_nodes(onnxpool.to_form(two_pools(), form))
    assert [(n.name, n.op_type, str(n.window), n.inputs, n.outputs) for n in nodes] == [
        ("first", "SoftPool", "3x3 s2 p1", ("x",), ("a",)),
        ("second", "SoftPool", "2x2 s1 d2", ("c",), ("y",)),
    ]


@pytest.mark.parametrize(("start", "end"), list(itertools.product(FORMS, FORMS)))
def test_every_move_gives_the_same_model(start, end, tmp_path):
    forms.write(onnxpool.to_form(two_pools(), start), tmp_path / "start.onnx")
    moved = onnxpool.to_form(tmp_path / "start.onnx", end)
    assert text(moved) == text(onnxpool.to_form(two_pools(), end))


def test_the_argument_is_left_alone():
    before = onnxpool.to_form(two_pools(), "custom")
    printed = text(before)
    for form in FORMS:
        onnxpool.to_form(before, form)
    assert text(before) == printed


@pytest.mark.parametrize("form", ["function", "standard"])
def test_plain_onnxruntime_and_checker_take_it(form, tmp_path):
    forms.write(onnxpool.to_form(two_pools(), form), tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 10)).astype(np.float32)
    y = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x})[0]
    np.testing.assert_allclose(y, run(onnxpool.to_form(two_pools(), "function"), x), atol=1e-6)


def test_one_pool_of_the_same_input_twice_stays_two():
    bare = model([soft("x", "a", name="p"), soft("x", "b", name="q"), helper.make_node("Add", ["a", "b"], ["y"])], 2)
    back = onnxpool.to_form(onnxpool.to_form(bare, "standard"), "custom")
    assert [node.op_type for node in back.graph] == ["SoftPool", "SoftPool", "Add"]


def test_nodes_without_a_name_get_one():
    bare = model([soft("x", "a"), soft("a", "y", Window.of(2, 1))], 2)
    assert [node.name for node in onnxpool.pool_nodes(onnxpool.to_form(bare, "standard"))] == [
        "SoftPool_0",
        "SoftPool_1",
    ]


def test_a_pool_inside_of_if():
    branches = {
        f"{name}_branch": helper.make_graph(
            [soft("x", name, window)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )
        for name, window in (("then", WINDOW), ("else", Window.of(2, 5, 2, 2)))
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], "max", keepdims=0),
        helper.make_node("CastLike", ["top", "flag"], ["large"], "cast"),
        helper.make_node("If", ["large"], ["y"], "if", **branches),
    ]
    bare = model(nodes, 2)
    bare.graph.initializer.append(helper.make_tensor("flag", TensorProto.BOOL, [], [True]))
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 9)).astype(np.float32)
    for sample, window in ((x, WINDOW), (x * 0, Window.of(2, 5, 2, 2))):
        answer = onnxpool.pools.soft.reference(window, sample.astype(float))
        for form in ("function", "standard"):
            np.testing.assert_allclose(run(onnxpool.to_form(bare, form), sample), answer, atol=1e-6)
    assert text(onnxpool.to_form(onnxpool.to_form(bare, "standard"), "custom")) == text(
        onnxpool.to_form(bare, "custom")
    )


def test_a_pool_inside_of_somebody_elses_function():
    function = helper.make_function(
        "theirs",
        "Block",
        ["u"],
        ["v"],
        [soft("u", "v")],
        [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)],
    )
    bare = model([helper.make_node("Block", ["x"], ["y"], domain="theirs")], 2)
    bare.opset_import.append(helper.make_opsetid("theirs", 1))
    bare.functions.append(function)
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 9)).astype(np.float32)
    answer = onnxpool.pools.soft.reference(WINDOW, x.astype(float))
    for form in ("function", "standard"):
        np.testing.assert_allclose(run(onnxpool.to_form(bare, form), x), answer, atol=1e-6)


def test_float64_and_float32_in_one_model_keep_float64():
    nodes = [
        soft("x", "a", name="narrow"),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.DOUBLE),
        soft("b", "c", Window.of(2, 2), name="wide"),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    bare = model(nodes, 2)
    bare.graph.output[0].type.tensor_type.elem_type = CODES["float64"]
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 9)).astype(np.float32)
    reference = onnxpool.pools.soft.reference
    answer = reference(Window.of(2, 2), reference(WINDOW, x.astype(float)).astype(np.float32).astype(float))
    y = run(onnxpool.to_form(bare, "function"), x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, answer, atol=1e-6)
    assert "double" in text(onnxpool.to_form(bare, "function"))


def test_large_weights_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "_EXTERNAL_FROM_BYTES", 1000)
    bare = model([helper.make_node("Add", ["x", "w"], ["a"]), soft("a", "y", name="pool")], 2)
    weights = np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)
    bare.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    forms.write(onnxpool.to_form(bare, "function"), tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    forms.write(onnxpool.to_form(tmp_path / "m.onnx", "standard"), tmp_path / "m.onnx")  # onto itself
    x = np.zeros((1, 8, 9, 9), np.float32)
    answer = onnxpool.pools.soft.reference(WINDOW, weights.astype(float))
    np.testing.assert_allclose(onnxpool.load(tmp_path / "m.onnx").run({"x": x})["y"], answer, atol=1e-6)
    monkeypatch.undo()
    forms.write(forms.read(tmp_path / "m.onnx"), tmp_path / "elsewhere" / "m.onnx")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["m.onnx"], "small weights come along"
    np.testing.assert_allclose(onnxpool.load(tmp_path / "elsewhere/m.onnx").run({"x": x})["y"], answer, atol=1e-6)


def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"old")
    broken = onnxpool.to_form(two_pools(), "custom")
    broken.graph.initializers["w"] = ir.Value(
        name="w", const_value=ir.ExternalTensor("gone", 0, 4, ir.DataType.FLOAT, shape=ir.Shape([1]), name="w")
    )
    with pytest.raises(FileNotFoundError):
        forms.write(broken, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_a_standard_form_that_another_program_rewrote_is_not_folded():
    standard = onnxpool.to_form(two_pools(), "standard")
    node = next(node for node in standard.graph if node.op_type == "Exp")
    standard.graph.outputs.append(node.outputs[0])
    with pytest.raises(FormError, match="rewritten by another program"):
        onnxpool.to_form(standard, "function")


@pytest.mark.parametrize(
    ("bare", "words"),
    [
        (pooled(WINDOW, strides=None), "node 'pool' (onnxpool::SoftPool): attributes ['strides'] are missing"),
        (pooled(WINDOW, pads=[0, 0, 1, 1]), "differ at begin and end"),
        (pooled(WINDOW, kernel_shape=[0, 3]), "kernel_size=(0, 3)"),
        (pooled(WINDOW, op_type="HardPool"), "onnxpool::HardPool, which this version does not know; it has"),
        (pooled(WINDOW, opset=17), "opset 17; pooling nodes need 18 to 26"),
        (
            model([helper.make_node("SoftPool", ["x", "x"], ["y"], "p", domain="onnxpool", **WINDOW.attributes())], 2),
            "2 inputs",
        ),
    ],
)
def test_malformed_nodes_are_refused(bare, words):
    with pytest.raises(FormError) as caught:
        onnxpool.to_form(bare, "function")
    assert words in str(caught.value)


def test_integers_are_refused():
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
        soft("i", "j", name="p"),
        helper.make_node("CastLike", ["j", "x"], ["y"]),
    ]
    with pytest.raises(FormError, match="node 'p' pools INT32; pooling takes float, double, float16, bfloat16"):
        onnxpool.to_form(model(nodes, 2), "standard")


def test_wrong_arguments(tmp_path):
    with pytest.raises(ArgumentError, match="form='fast' is unknown; use one of function, standard, custom"):
        onnxpool.to_form(two_pools(), "fast")
    with pytest.raises(FormError, match="no model file"):
        onnxpool.to_form(tmp_path / "absent.onnx", "custom")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(FormError, match="cannot read"):
        onnxpool.to_form(tmp_path / "text.onnx", "custom")
    with pytest.raises(FormError, match="cannot read these bytes"):
        onnxpool.to_form(b"hello", "custom")


def test_initializers_among_the_inputs_are_weights():
    """As every exporter wrote them before IR version 4."""
    proto = model([helper.make_node("Add", ["x", "w"], ["y"], "add")], 2)
    proto.ir_version = 3
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), "float32"), "w"))
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1, 1, 1, 1]))
    read = forms.read(proto)
    assert [value.name for value in read.graph.inputs] == ["x"]
    assert read.ir_version == 4
    assert (onnxpool.load(read).run({"x": np.ones((1, 1, 2, 2), "float32")})["y"] == 2).all()


def test_local_importance_of_two_types_by_its_own_values_says_nothing(capfd):
    """ONNX Runtime warns where a branch takes both a cast that does nothing and what that casts."""
    window, nodes = Window.of(2, 3, 2, 1), []
    for x, y, name in (("x", "a", "wide"), ("b", "c", "narrow")):
        pool = helper.make_node("LocalImportancePool", [x, x], [y], name, domain="onnxpool")
        pool.attribute.extend(helper.make_attribute(key, value) for key, value in window.attributes().items())
        nodes.append(pool)
    nodes.insert(1, helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16))
    nodes.append(helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT))
    made = ir.to_proto(forms.to_form(model(nodes, 2), "function")).SerializeToString()
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""
    ones = np.ones((1, 2, 8, 8), np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": ones})[0], np.ones((1, 2, 2, 2)))
