"""Files that are not ours, or not models at all: right, or one sentence and the exit status that docs/ names."""

import numpy as np
import onnx
import pytest
from models import model, pooled
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.errors import FormError
from onnxpool.graph import forms, shapes
from onnxpool.window import Window

X = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype("float32")
RELU = [helper.make_node("Relu", ["x"], ["y"], "relu")]


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def unsized(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With -1 for axes that may change, as PaddlePaddle writes them."""
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_value = 3 if axis == 1 else -1
    return proto


@pytest.mark.parametrize("bare", [model(RELU, 2), pooled(Window.of(2, 2))], ids=["relu", "pool"])
def test_axes_of_size_minus_one_may_change(bare, tmp_path):
    onnx.save(unsized(onnx.ModelProto.FromString(bare.SerializeToString())), tmp_path / "m.onnx")
    read = forms.read(tmp_path / "m.onnx")
    assert [str(axis.value) if not isinstance(axis, int) else axis for axis in read.graph.inputs[0].shape] == [
        "None",
        3,
        "None",
        "None",
    ]
    function = onnxpool.to_form(tmp_path / "m.onnx", "function")
    for given in (function, tmp_path / "m.onnx" if bare.graph.node[0].op_type == "Relu" else function):
        session = onnxpool.load(given, kernels="off")
        assert session.inputs[0].shape == (None, 3, None, None)
        assert session.run({"x": X})["y"].shape[1] == 3
    report = onnxpool.validate(tmp_path / "m.onnx", forms=["function"], threads=1)
    assert report.exit_status == 0, report.summary


def test_axes_that_are_called_by_a_question_mark_are_no_name():
    """rapidocr's networks, converted from PaddlePaddle, call height and width so: two sizes, one name."""
    proto = model(RELU, 2)
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = "?"
    read = forms.read(proto)
    assert [axis.value for axis in read.graph.outputs[0].shape] == [None] * 4
    assert onnxpool.load(proto).inputs[0].shape == (None,) * 4
    sizes = shapes.sizes_of(read.graph.inputs, {"x": X.shape})
    assert not shapes.contradiction("output 'y'", read.graph.outputs[0], (2, 3, 6, 5), sizes)


def quantised() -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear around a pool, as quantisers write them."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node("SoftPool", ["d"], ["y"], "pool", domain="onnxpool", **Window.of(2, 2).attributes()),
    ]
    proto = model(nodes, 2)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "scale"))
    proto.graph.initializer.append(numpy_helper.from_array(np.uint8(128), "zero"))
    return proto


def test_quantised_models_move_between_forms_and_run():
    x = (np.arange(16, dtype="float32").reshape(1, 1, 4, 4) - 8) / 4
    rounded = np.round(x / np.float32(0.05)) * 0.05
    answer = onnxpool.pools.soft.reference(Window.of(2, 2), rounded.astype(float))
    for form in ("function", "standard"):
        y = onnxpool.load(onnxpool.to_form(quantised(), form), kernels="off").run({"x": x})["y"]
        np.testing.assert_allclose(y, answer, atol=1e-6)
    back = onnxpool.to_form(onnxpool.to_form(quantised(), "standard"), "custom")
    assert [node.op_type for node in back.graph] == ["QuantizeLinear", "DequantizeLinear", "SoftPool"]


@pytest.fixture
def files(tmp_path):
    whole = pooled(Window.of(2, 2)).SerializeToString()
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "random.onnx").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "folder.onnx").mkdir()
    dangling = model([helper.make_node("Relu", ["nowhere"], ["y"], "relu")], 2)
    onnx.save(dangling, tmp_path / "dangling.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("empty", 3, "it holds no graph"),
        ("truncated", 3, "cannot read"),
        ("text", 3, "cannot read"),
        ("random", 3, "cannot read"),
        ("dangling", 3, "node 'relu' (Relu) takes 'nowhere', which nothing gives"),
        ("folder", 2, "it is a folder"),
        ("absent", 2, "there is no model file"),
    ],
)
def test_what_is_not_a_model_is_told_in_one_line(files, name, status, words):
    """The exit status of validate is 3 where a file cannot be loaded; all else is a usage error, 2."""
    path = files / f"{name}.onnx"
    output = files / "o.onnx"
    for command in (("inspect", path), ("form", path, output, "--to", "standard"), ("lift", path, output)):
        done = invoke(*command)
        assert (done.exit_code, done.stdout) == (2, ""), command
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    done = invoke("validate", path)
    assert done.exit_code == status
    assert words in done.stderr
    assert not output.exists()
    with pytest.raises(FormError, match="onnx"):
        onnxpool.load(path)


@pytest.mark.parametrize(
    "bare",
    [
        model([helper.make_node("NoSuchOperator", ["x"], ["y"], "theirs")], 2),
        model([helper.make_node("Foo", ["x"], ["y"], "theirs", domain="their.domain")], 2),
        pooled(Window.of(2, 2), op_type="HardPool"),
    ],
    ids=["standard domain", "another domain", "our domain"],
)
def test_an_operator_that_is_missing_makes_validation_fail_with_3(bare, tmp_path):
    onnx.save(bare, tmp_path / "m.onnx")
    done = invoke("validate", tmp_path / "m.onnx", "--threads", 1)
    assert done.exit_code == 3, done.output
    assert "unloadable" in done.stdout


def test_a_model_that_loads_and_cannot_be_judged_is_a_usage_error(tmp_path):
    """ONNX Runtime has this operator, and onnx's evaluator does not: what is missing is a reference."""
    proto = model([helper.make_node("FusedMatMul", ["x", "x"], ["y"], "theirs", domain="com.microsoft", transB=1)], 2)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, tmp_path / "m.onnx")
    done = invoke("validate", tmp_path / "m.onnx", "--threads", 1)
    assert done.exit_code == 2
    assert "give reference=" in done.stderr


def test_weights_of_several_types_are_described(tmp_path):
    proto = model(RELU, 2)
    proto.graph.initializer.append(helper.make_tensor("bits", TensorProto.INT4, [4], [1, 2, 3, 4]))
    onnx.save(proto, tmp_path / "m.onnx")
    assert invoke("inspect", tmp_path / "m.onnx").exit_code == 0
