"""A model that is read without its weights is the model: what is in it, what is written of it, and what is refused."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxpool.errors import FormError
from onnxpool.graph import forms
from onnxpool.graph import glance as glances
from onnxpool.run.session import load

WEIGHT = np.random.default_rng(0).normal(size=(40, 41)).astype(np.float32)
WEIGHT[0, :4] = np.nan, np.inf, 1e-45, -0.0


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A model of a large weight, a small one, one of another type and one in a Constant."""
    monkeypatch.setattr(forms, "_LARGE_BYTES", 0)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Mul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "small"], ["y"]),
        helper.make_node("Mul", ["y", "c"], ["z"]),
    ]
    listed = helper.make_tensor("listed", TensorProto.FLOAT, [3000], [float(i) for i in range(3000)])
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.ones(1, np.float32), "small"), listed]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [40, 41]) for name in ("x", "y", "z")]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], weights, doc_string="d" * 5000)
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)
    return file


def test_the_same_model(path):
    whole, glanced = forms.read(path), forms.read(path, in_place=True)
    assert type(glanced.graph.initializers["w"].const_value).__name__ == "ExternalTensor"
    for name, value in whole.graph.initializers.items():
        assert glanced.graph.initializers[name].const_value.numpy().tobytes() == value.const_value.numpy().tobytes()
    assert [node.op_type for node in glanced.graph] == [node.op_type for node in whole.graph]
    assert glanced.graph.doc_string == whole.graph.doc_string


def test_a_weight_that_says_where_it_is(path):
    """As those do that were read from a file of their own."""
    model = onnx.load(path)
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    onnx.save(model, path)
    glanced = forms.read(path, in_place=True)
    assert glanced.graph.initializers["w"].const_value.numpy().tobytes() == WEIGHT.tobytes()


def test_what_is_written_of_it_is_whole(path, tmp_path):
    other = tmp_path / "other" / "copy.onnx"
    forms.write(forms.read(path, in_place=True), other)
    path.unlink()
    assert [file.name for file in other.parent.iterdir()] == ["copy.onnx"]
    x = np.ones((40, 41), np.float32)
    np.testing.assert_array_equal(load(other).run({"x": x})["y"], WEIGHT + 1)


@pytest.mark.parametrize("cut", [0, 1, 7, 5000, 9000, -1])
def test_a_file_that_is_cut_off_is_refused_either_way(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    for in_place in (False, True):
        with pytest.raises(FormError, match="as an ONNX model"):
            forms.read(path, in_place=in_place)


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(path, monkeypatch):
    """Where it was mapped, that ended the process."""
    shortened = glances._shortened

    def after_a_cut(*given):
        os.truncate(path, 6000)
        return shortened(*given)

    monkeypatch.setattr(glances, "_shortened", after_a_cut)
    with pytest.raises(FormError, match="as an ONNX model"):
        forms.read(path, in_place=True)


def test_bytes_that_are_no_model(path):
    rng = np.random.default_rng(0)
    for size in (1, 9, 5000):
        for _ in range(20):
            path.write_bytes(b"\x3a" + rng.bytes(size))
            try:
                forms.read(path, in_place=True)
            except FormError:
                continue
            assert forms.read(path)  # whatever it is, both read it
