"""Node by node: a right network agrees everywhere; each planted fault is found at its node, with its line of code."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models import model, pooled
from onnx import helper

import onnxpool
from onnxpool import nn
from onnxpool.diagnosis import bisect_model, per_node
from onnxpool.diagnosis import runs as node_runs
from onnxpool.diagnosis.per_node import compare_nodes
from onnxpool.errors import ArgumentError, SessionError
from onnxpool.golden import from_function, from_torch
from onnxpool.graph import subgraph
from onnxpool.network.lines import line_of
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.run.session import load
from onnxpool.window import Window

native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")


class Network(torch.nn.Module):
    """Every kind of layer that a comparison has to see through."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.soft, self.average = nn.SoftPool2d(3, 2, 1), torch.nn.AvgPool2d(3, 2, 1)
        self.last = torch.nn.Linear(4, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        y = self.soft(y)
        y = self.average(y)
        return self.last(y.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    module = Network().eval()
    module.norm.running_mean += 0.5  # so that batch norm does something
    made = onnxpool.export(
        module, (torch.randn(2, 2, 12, 14),), dynamic_shapes=({0: "batch", 2: "h", 3: "w"},), golden=False
    )
    return module, made


def changed(made, op_type, change):
    copy = made.clone()
    change(next(node for node in copy.graph if node.op_type == op_type), copy)
    return copy


def setting(name, value):
    return lambda node, _: node.attributes.add(ir.convenience.convert_attribute(name, value))


def parts(nodes):
    return {one.op_type: one.part for one in nodes.results}


@pytest.mark.parametrize("mode", ["off", pytest.param("require", marks=native)])
def test_a_right_network_agrees_at_every_node(network, mode):
    module, made = network
    nodes = compare_nodes(made, module, kernels=mode)
    assert set(parts(nodes).values()) == {"agrees"}
    assert {"Conv", "Relu", "SoftPool", "AveragePool", "ReduceMean", "Gemm"} <= set(parts(nodes))
    assert nodes.first is None
    assert nodes.notes == ()
    assert all(0 <= one.share < 0.7 and one.total < 0.7 for one in nodes.results)
    assert sum(one.share for one in nodes.results) > 0
    assert "7 of 7 values" in nodes.source or "6 of 6 values" in nodes.source


def test_every_node_knows_its_line(network):
    module, made = network
    lines = {one.op_type: one for one in compare_nodes(made, module, "ordinary").results}
    assert lines["SoftPool"].code == "y = self.soft(y)"
    assert lines["AveragePool"].code == "y = self.average(y)"
    assert lines["Conv"].line.rpartition(":")[0].endswith("test_per_node.py")
    assert line_of(ir.node("Relu", [])) == ("", "")


def test_a_wrong_attribute_is_found_at_its_node_with_the_remedy(network):
    module, made = network
    nodes = compare_nodes(changed(made, "AveragePool", setting("count_include_pad", 0)), module)
    assert nodes.first.op_type == "AveragePool"
    assert (nodes.first.part, nodes.first.by) == ("introduces", "model")
    assert "it is right with count_include_pad=1" in nodes.first.sentence
    assert "y = self.average(y)" in nodes.first.sentence
    assert nodes.first.share > 100
    assert parts(nodes)["Conv"] == parts(nodes)["SoftPool"] == "agrees"
    assert parts(nodes)["Gemm"] == "propagates"


def test_a_wrong_shape_is_found_at_its_node(network):
    module, made = network
    nodes = compare_nodes(changed(made, "SoftPool", setting("pads", [0, 0, 0, 0])), module)
    assert nodes.first.op_type == "SoftPool"
    assert "its last row or column is missing" in nodes.first.sentence
    assert nodes.first.share == np.inf
    assert json.loads(json.dumps(nodes.to_json(), allow_nan=False))["results"][0]["part"] == "agrees"


def test_a_model_that_stops_half_way_is_still_compared():
    """The last layer does not take what comes of the wrong pooling: only nodes alone can run."""
    module = torch.nn.Sequential(nn.SoftPool2d(2, ceil_mode=True), torch.nn.Flatten(), torch.nn.Linear(18, 2)).eval()
    made = onnxpool.export(module, (torch.randn(1, 2, 5, 5),), golden=False)
    nodes = compare_nodes(changed(made, "SoftPool", setting("ceil_mode", 0)), module)
    assert "the model as a whole does not run" in nodes.notes[0]
    assert "it is right with ceil_mode=1" in nodes.first.sentence
    assert parts(nodes)["Gemm"] == "agrees"


def test_a_node_that_cannot_be_is_named(network):
    nodes = compare_nodes(changed(network[1], "SoftPool", setting("kernel_shape", [1, 1])), network[0])
    assert nodes.first.op_type == "SoftPool"
    assert "padding=(1, 1) is more than half the extent of the window" in nodes.first.reason
    assert parts(nodes)["Conv"] == "agrees"


def test_a_refused_model_is_the_fault_of_the_node_that_is_named_as_one():
    """What ONNX Runtime says has words in it that are names of other nodes."""
    nodes = [
        helper.make_node("Abs", ["x"], ["m"], name="model"),
        helper.make_node("Abs", ["m"], ["a"], name="a"),
        helper.make_node("Add", ["a", "one"], ["y"], name="a.sum"),
    ]
    one = onnx.numpy_helper.from_array(np.ones(2, np.int64), "one")
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]

    def told(nodes):
        made = helper.make_model(
            helper.make_graph(nodes, "graph", info[:1], info[1:], [one]),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=10,
        )
        with pytest.raises(SessionError) as refused:
            load(made)
        made = ir.from_proto(made).graph
        return [found.name for found in per_node._stopped((), list(made), str(refused.value))]

    assert told(nodes) == ["a.sum"]
    assert told(nodes[:2]) == []


def test_a_tampered_body_is_the_bodys_fault(network):
    def negate(_, copy):
        body = copy.functions[("onnxpool", "SoftPool", "")]
        (x,) = body.graph.inputs
        negated = ir.node("Neg", [x])
        for node, place in list(x.uses()):
            if node is not negated:
                node.replace_input_with(place, negated.outputs[0])
        body.insert_before(body.graph[0], negated)

    module, made = network
    nodes = compare_nodes(changed(made, "SoftPool", negate), module)
    assert (nodes.first.op_type, nodes.first.by) == ("SoftPool", "body")
    assert "by its function body" in nodes.first.sentence


def test_a_wrong_runtime_is_the_runtimes_fault(network, monkeypatch):
    real = node_runs.load

    def load(given, **options):
        session = real(given, **options)
        run = session.run
        session.run = lambda feeds: {
            name: array * np.float32(1.01) if name.startswith("relu") else array for name, array in run(feeds).items()
        }
        return session

    monkeypatch.setattr(node_runs, "load", load)
    nodes = compare_nodes(network[1], network[0])
    assert (nodes.first.op_type, nodes.first.by) == ("Relu", "runtime")
    assert "every wrong element is 1.01 times its answer" in nodes.first.reason


def test_without_pytorch_the_answers_at_the_end_are_what_is_known(network):
    module, made = network
    golden = from_torch.record(module, made, (torch.randn(2, 2, 12, 14),))
    right = compare_nodes(made, golden)
    assert right.first is None
    assert "1 of" in right.source
    nodes = compare_nodes(changed(made, "AveragePool", setting("count_include_pad", 0)), golden)
    assert nodes.first.op_type == "Gemm"
    assert "or one of" in nodes.first.reason
    assert "node_average_pool" in nodes.first.reason


def test_overflow_is_found_where_it_starts():
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], "exp"),
        helper.make_node("Mul", ["x", "e"], ["xe"], "product"),
        helper.make_node("AveragePool", ["xe"], ["above"], "above", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AveragePool", ["e"], ["below"], "below", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Div", ["above", "below"], ["y"], "ratio"),
    ]
    naive = model(nodes, 2, "float16")
    soft = from_function.record(
        lambda feeds: {"y": OPERATORS["SoftPool"].reference(Window.of(2, 2, 2), feeds["x"])},
        pooled(Window.of(2, 2, 2), "float16"),
    )
    found = compare_nodes(naive, soft, "huge")
    assert found.first.name == "exp"
    assert "beyond the range of float16" in found.first.sentence
    assert compare_nodes(naive, soft, "image").first is None


def test_height_and_width_exchanged_in_a_window():
    def right(feeds):
        return {"y": OPERATORS["SoftPool"].reference(Window.of(2, (3, 1), 1, (1, 0)), feeds["x"])}

    nodes = compare_nodes(pooled(Window.of(2, (1, 3), 1, (0, 1))), right)
    assert "it is right with height and width of its window exchanged" in nodes.first.sentence
    assert compare_nodes(pooled(Window.of(2, (3, 1), 1, (1, 0))), right).first is None


def test_an_operator_that_nobody_knows_is_left_out():
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["t"], "quick", domain="com.microsoft", alpha=1.0),
        helper.make_node("Neg", ["t"], ["u"], "negate"),
        helper.make_node("Neg", ["u"], ["y"], "negate again"),
    ]
    given = model(nodes, 2)
    given.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = compare_nodes(given, lambda feeds: {"y": feeds["x"] / (1 + np.exp(-feeds["x"]))}, "ordinary")
    assert [(one.name, one.part) for one in found.results] == [("negate again", "agrees")]
    assert found.notes == ("2 nodes have no reference: onnx's evaluator does not know them",)


def test_branches_and_functions_are_looked_through():
    condition = helper.make_node("Constant", [], ["yes"], value_int=1)
    cast = helper.make_node("Cast", ["yes"], ["true"], to=onnx.TensorProto.BOOL)
    branch = helper.make_graph(
        [helper.make_node("Neg", ["t"], ["n"], "negate")],
        "branch",
        [],
        [helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, None)],
    )
    chosen = helper.make_node("If", ["true"], ["y"], "choose", then_branch=branch, else_branch=branch)
    twice = helper.make_node("Twice", ["x"], ["t"], "twice", domain="mine")
    given = model([condition, cast, twice, chosen], 2)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    given.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    given.opset_import.append(helper.make_opsetid("mine", 1))
    nodes = compare_nodes(given, lambda feeds: {"y": -2 * feeds["x"]})
    assert [(one.op_type, one.part) for one in nodes.results] == [
        ("Cast", "agrees"),
        ("Add", "agrees"),
        ("If", "agrees"),
    ]
    wrong = compare_nodes(given, lambda feeds: {"y": 2 * feeds["x"]})
    assert wrong.first.name == "choose"
    assert "every wrong element is -1 times its answer" in wrong.first.sentence


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_types(dtype):
    nodes = compare_nodes(pooled(Window.of(2, 3, 2, 1), dtype))
    assert [one.part for one in nodes.results] == ["agrees"]


def test_a_case_that_there_is_none_of(network):
    with pytest.raises(ArgumentError, match="case='none' is not one of ordinary, "):
        compare_nodes(network[1], network[0], "none")


def test_a_segment_keeps_what_it_needs(network):
    made = network[1]
    arrays = {str(value.name): np.zeros((1,) * value.shape.rank(), np.float32) for value in subgraph.made(made)}
    names = [node.name for node in made.graph if node.op_type in ("Relu", "SoftPool")]
    part = subgraph.segment(made, names, arrays)
    assert [node.op_type for node in part.graph] == ["Relu", "SoftPool"]
    assert list(part.functions) == [("onnxpool", "SoftPool", "")]
    assert not part.graph.initializers
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype("float32")
    (y,) = onnxpool.load(part).run({part.graph.inputs[0].name: x}).values()
    assert y.shape == (1, 4, 3, 3)
    assert len(made.graph) > 2, "the model itself stays"


def cast_and_back(copy, after):
    """A value goes through float16."""
    value = next(node for node in copy.graph if node.op_type == after).outputs[0]
    narrow = ir.node("Cast", [value], {"to": 10}, name="narrow")
    wide = ir.node("Cast", [narrow.outputs[0]], {"to": 1}, name="wide")
    narrow.outputs[0].type, narrow.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT16), value.shape
    wide.outputs[0].type, wide.outputs[0].shape = value.type, value.shape
    for user, place in list(value.uses()):
        if user is not narrow:
            user.replace_input_with(place, wide.outputs[0])
    copy.graph.insert_after(value.producer(), [narrow, wide])


@pytest.mark.parametrize("answers", ["module", "golden", "golden without fingerprints"])
def test_an_inserted_cast_is_found(network, answers, tmp_path):
    module, made = network
    golden = from_torch.record(module, made, (torch.randn(2, 2, 12, 14),))
    reference = module if answers == "module" else golden
    if "without" in answers:
        reference = replace(golden, fingerprints=None)
    copy = made.clone()
    cast_and_back(copy, "Relu")
    nodes = compare_nodes(copy, reference)
    assert (nodes.first.name, nodes.first.part, nodes.first.by) == ("narrow", "introduces", "model")
    assert "it rounds to float16, which the network does not" in nodes.first.sentence
    changed_since = "since the export: node 'narrow' (Cast) was not in the exported model"
    assert (changed_since in nodes.notes) == (answers == "golden")
    found = bisect_model(copy, tmp_path / "part", reference)
    assert found.nodes == ("narrow", "wide")
    assert subprocess.run([sys.executable, "reproduce.py"], cwd=tmp_path / "part", check=False).returncode == 1
    assert compare_nodes(made, reference).first is None
