"""Models that the validator must catch: each planted fault beside its untouched twin, exit status and sentence checked.

Where the model was exported here, fingerprints name the fault. Where another exporter made it, the pattern of wrong
elements and the comparison node by node tell.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from models import model, pooled
from onnx import helper, numpy_helper

import onnxpool
from onnxpool import nn
from onnxpool.diagnosis.per_node import compare_nodes
from onnxpool.golden import from_function, from_torch
from onnxpool.pools import OPERATORS
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate
from onnxpool.window import Window

FORMS = ("function",)


class Network(torch.nn.Module):
    """Each layer in which a fault is planted, on images that are not square."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.largest = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.MaxPool2d(3, 2, ceil_mode=True)
        self.average, self.soft = torch.nn.AvgPool2d(3, 1, 1), nn.SoftPool2d(3, 1, 1)
        self.important = nn.LocalImportancePool2d(torch.nn.Conv2d(4, 4, 1))
        self.last = torch.nn.Conv2d(4, 3, (1, 2))

    def forward(self, x):
        y = self.largest(torch.relu(self.conv(x)))
        y = self.soft(self.average(y))
        return self.last(self.important(y))


@pytest.fixture(scope="module")
def exported():
    """The module, its model, and its answers."""
    module, args = Network().eval(), (torch.randn(2, 2, 12, 18),)
    made = onnxpool.export(module, args, dynamic_shapes=({0: "batch", 2: "height", 3: "width"},), golden=False)
    return module, made, from_torch.record(module, made, args)


def node(made, op_type):
    return next(one for one in made.graph if one.op_type == op_type)


def attribute(op_type, name, value):
    return lambda made: node(made, op_type).attributes.add(ir.convenience.convert_attribute(name, value))


def swapped_logits(made):
    lip = node(made, "LocalImportancePool")
    x, logits = lip.inputs
    lip.replace_input_with(0, logits)
    lip.replace_input_with(1, x)


def static_batch(made):
    made.graph.inputs[0].shape = ir.Shape([2, *made.graph.inputs[0].shape[1:]])


def another_checkpoint(made):
    for value in made.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT:
            array = np.random.default_rng(0).permuted(value.const_value.numpy().ravel()) + np.float32(0.1)
            value.const_value = ir.tensor(array.reshape(tuple(value.shape)), name=value.name)


def turned(value, name):
    turn = ir.node("Transpose", [value], {"perm": [0, 1, 3, 2]}, name=name)
    turn.outputs[0].type = value.type
    return turn


def transposed_inside(made):
    conv, relu = node(made, "Conv"), node(made, "Relu")
    before, after = turned(conv.inputs[0], "turn"), turned(conv.outputs[0], "turn_back")
    conv.replace_input_with(0, before.outputs[0])
    relu.replace_input_with(0, after.outputs[0])
    made.graph.insert_before(conv, before)
    made.graph.insert_before(relu, after)


def transposed_at_the_end(made):
    y = made.graph.outputs[0]
    turn = turned(y, "turn")
    turn.outputs[0].name, y.name = y.name, "not turned"
    made.graph.outputs[0] = turn.outputs[0]
    made.graph.append(turn)


PLANTED = {
    "wrong count_include_pad": (
        attribute("AveragePool", "count_include_pad", 0),
        1,
        "attributes of node 'node_average_pool' (AveragePool) changed since export: count_include_pad was 1, is 0",
    ),
    "ceil_mode dropped": (
        attribute("MaxPool", "pads", [0, 0, 0, 0]),  # it is spelled as padding
        4,
        "(MaxPool) changed since export: pads was [0, 0, 1, 1], is [0, 0, 0, 0]",
    ),
    "LIP logits swapped": (
        swapped_logits,
        1,
        "(onnxpool::LocalImportancePool) takes its inputs in another order: they are swapped",
    ),
    "a dynamic dim made static": (static_batch, 4, "axis 0 of input 'x' was of any size and is fixed at 2 now"),
    "weights of another checkpoint": (another_checkpoint, 1, "weights of 3 nodes differ: another checkpoint?"),
    "transposed inside": (transposed_inside, 1, "node 'turn' (Transpose) was not in the exported model"),
    "transposed at the end": (transposed_at_the_end, 4, "height and width are transposed"),
}


def test_the_twin_passes(exported):
    _, made, golden = exported
    report = validate(made, golden, forms=FORMS)
    assert (report.exit_status, report.causes) == (0, ()), sentences(report)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught_and_named(exported, fault):
    plant, status, sentence = PLANTED[fault]
    _, made, golden = exported
    copy = made.clone()
    plant(copy)
    report = validate(copy, golden, forms=FORMS)
    assert any(sentence in told for told in sentences(report)), sentences(report)
    assert report.exit_status == status, sentences(report)


@pytest.mark.parametrize(
    ("fault", "op_type", "sentence"),
    [
        ("wrong count_include_pad", "AveragePool", "it is right with count_include_pad=1"),
        ("ceil_mode dropped", "MaxPool", "it is right with ceil_mode=1"),
        ("LIP logits swapped", "LocalImportancePool", "it is right with its first two inputs exchanged"),
        ("weights of another checkpoint", "Conv", "introduces an error by the model itself"),
    ],
)
def test_against_the_module_alone_the_node_is_named(exported, fault, op_type, sentence):
    """As with a model of another exporter: no fingerprints."""
    module, made, _ = exported
    copy = made.clone()
    PLANTED[fault][0](copy)
    nodes = compare_nodes(copy, module)
    assert nodes.first.op_type == op_type
    assert sentence in nodes.first.sentence
    assert "test_faults.py" in nodes.first.line


def test_another_checkpoint_is_named_against_the_module_alone(exported):
    module, made, _ = exported
    copy = made.clone()
    another_checkpoint(copy)
    report = validate(copy, module, forms=FORMS)
    assert report.exit_status == 1
    assert "6 parameters differ from the module's, such as 'conv.weight'" in report.causes[0]
    assert validate(made, module, forms=FORMS).causes == ()


# --- models of other exporters


def naive(dtype="float32", *, padded_first=False):
    """SoftPool as it is often written out, over 3x3 windows; ``padded_first``: the border of zeros is pooled too."""
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0 if padded_first else 1] * 4}
    x = "bordered" if padded_first else "x"
    nodes = [
        helper.make_node("Exp", [x], ["e"], "exp"),
        helper.make_node("Mul", [x, "e"], ["xe"], "product"),
        helper.make_node("AveragePool", ["xe"], ["above"], "above", **window),
        helper.make_node("AveragePool", ["e"], ["below"], "below", **window),
        helper.make_node("Div", ["above", "below"], ["y"], "ratio"),
    ]
    made = model(
        [helper.make_node("Pad", ["x", "pads"], ["bordered"], "pad"), *nodes] if padded_first else nodes, 2, dtype
    )
    made.graph.initializer.extend([pads] if padded_first else [])
    return made


WINDOW = Window.of(2, 3, 2, 1)


def answers_to(made, *cases):
    """What SoftPool should give in these cases."""
    golden = from_function.record(lambda feeds: {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}, made)
    return replace(golden, cases=tuple(case for case in golden.cases if case.name in cases))


def test_padding_counted_in_soft_pool_is_caught_at_the_border():
    twin = validate(naive(), answers_to(naive(), "ordinary", "image"))
    assert twin.exit_status == 0, sentences(twin)
    report = validate(naive(padded_first=True), answers_to(naive(), "ordinary", "image"))
    assert report.exit_status == 1
    assert "only elements along the border are wrong: look at the padding and whether it counts" in sentences(report)[0]
    nodes = compare_nodes(naive(padded_first=True), answers_to(naive(), "ordinary", "image"))
    assert "look at the padding and whether it counts; or one of 5 nodes in front of it" in nodes.first.sentence


def test_overflow_of_a_naive_decomposition_in_float16_is_caught_and_explained():
    twin = validate(pooled(WINDOW, "float16"), answers_to(pooled(WINDOW, "float16"), "huge"), forms=["standard"])
    assert twin.exit_status == 0, sentences(twin)
    report = validate(naive("float16"), answers_to(naive("float16"), "huge"))
    assert report.exit_status == 1
    assert "an intermediate result overflows float16" in sentences(report)[0]
    assert "onnxpool lift replaces them" in sentences(report)[0]
    nodes = compare_nodes(naive("float16"), answers_to(naive("float16"), "huge"))
    assert "node 'exp' (Exp) introduces an error by the model itself: its values reach" in nodes.first.sentence


def norm(training):
    """Batch norm as another exporter writes it, and what it should give."""
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 1.5, 3).astype("float32") for name in ("scale", "shift", "mean", "variance")}
    outputs = ["y", "new_mean", "new_variance"] if training else ["y"]
    mode = {"training_mode": 1} if training else {}
    made = model([helper.make_node("BatchNormalization", ["x", *weights], outputs, "norm", **mode)], 2)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3

    def right(feeds):
        scale, shift, mean, variance = (array.astype(float)[:, None, None] for array in weights.values())
        return {"y": (feeds["x"] - mean) / np.sqrt(variance + np.float64(np.float32(1e-5))) * scale + shift}

    return made, right


def test_batch_norm_in_training_mode_is_caught_and_named():
    made, right = norm(training=False)
    twin = validate(made, right)
    assert (twin.exit_status, twin.causes) == (0, ()), sentences(twin)
    made, right = norm(training=True)
    report = validate(made, right)
    assert report.exit_status == 1
    assert report.causes == (
        "node 'norm' (BatchNormalization) is in training mode, so that it takes statistics of each batch: export in "
        "evaluation mode",
    )
    assert "it is right with training_mode=0" in compare_nodes(made, right).first.sentence
