"""Rewritings of the exported graph: small terms survive, sizes floor, and what is folded computes the same."""

import collections

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import onnxpool
from onnxpool.network import passes

X = torch.randn(2, 3, 10, 11, generator=torch.manual_seed(0))
SIZES = ({0: "batch", 2: "height", 3: "width"},)


class Computing(torch.nn.Module):
    def __init__(self, formula, *layers):
        super().__init__()
        self.formula, self.layers = formula, torch.nn.ModuleList(layers)

    def forward(self, x):
        return self.formula(x, *self.layers)


def exported(formula, *layers, x=X, **more):
    return onnxpool.export(Computing(formula, *layers), (x,), output_names=["y"], **more)


def run(model, x):
    return onnxpool.load(model, kernels="off").run({model.graph.inputs[0].name: x.numpy()})["y"]


def operators(model):
    return collections.Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize(
    ("formula", "x", "expected", "needed"),
    [
        (lambda x: x / (x.abs() + 1e-8), torch.zeros(1, 2), np.zeros((1, 2)), {"Add": 1, "Div": 1}),
        (lambda x: x + 1e-12, torch.zeros(1, 2), np.full((1, 2), 1e-12), {"Add": 1}),
        (lambda x: x - 1e-9, torch.zeros(1, 2), np.full((1, 2), -1e-9), {"Sub": 1}),
        (lambda x: x * 1.000001, torch.full((1, 2), 8.0), np.full((1, 2), 8.000008), {"Mul": 1}),
        (lambda x: x / 1.000001, torch.full((1, 2), 8.0), np.full((1, 2), 7.999992), {"Div": 1}),
    ],
    ids=["guarded division", "tiny sum", "tiny difference", "factor near 1", "divisor near 1"],
)
def test_numbers_near_0_and_1_survive(formula, x, expected, needed):
    """PyTorch's own optimizer deletes each of them: NaN in the first case."""
    model = exported(formula, x=x)
    assert needed.items() <= operators(model).items()
    np.testing.assert_allclose(run(model, x), expected, rtol=2e-7, atol=0)


def test_division_of_sizes_rounds_down():
    """PyTorch's exporter truncates: -(-10 // 3) would be 3."""
    model = exported(
        lambda x: torch.nn.functional.pad(x, (0, 3 * -(-x.shape[3] // 3) - x.shape[3])), dynamic_shapes=SIZES
    )
    for width, padded in ((11, 12), (12, 12), (7, 9), (1, 3)):
        y = run(model, torch.ones(1, 3, 2, width))
        assert y.shape == (1, 3, 2, padded)
        assert y.sum() == 6 * width


def test_division_of_what_cannot_be_negative_stays_one_node():
    model = exported(lambda x: torch.nn.functional.pad(x, (0, x.shape[3] // 2)), dynamic_shapes=SIZES)
    assert {"Mod", "Sub"}.isdisjoint(operators(model))
    assert run(model, torch.ones(1, 3, 2, 7)).shape == (1, 3, 2, 10)


def test_halves_of_an_odd_length_keep_their_sizes():
    """onnxscript's rule that makes a Split of two Slices gives 3 and 2 of 5 where these are 2 and 3."""
    x = torch.arange(5.0).reshape(1, 5)
    model = exported(lambda x: x[:, :2].sum(1) * 10 + x[:, 2:].sum(1), x=x)
    assert run(model, x) == 10 * 1 + 9


def norm(layer):
    layer.eval()
    generator = torch.manual_seed(1)
    for tensor, low, high in ((layer.weight, 0.5, 2), (layer.bias, -1, 1), (layer.running_mean, -1, 1)):
        tensor.data.uniform_(low, high, generator=generator)
    layer.running_var.uniform_(0.1, 3, generator=generator)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda bias: torch.nn.Conv2d(3, 4, 3, bias=bias), X),
        (lambda bias: torch.nn.ConvTranspose2d(3, 4, 3, stride=2, bias=bias), X),
        (lambda bias: torch.nn.Linear(3, 4, bias=bias), X[:, :, 0, 0]),
    ],
    ids=["Conv", "ConvTranspose", "Linear"],
)
def test_a_batch_normalization_becomes_part_of_the_layer_in_front(layer, x, bias):
    torch.manual_seed(2)
    network = Computing(
        lambda x, first, second: second(first(x)),
        layer(bias),
        norm(torch.nn.BatchNorm2d(4) if x.dim() == 4 else torch.nn.BatchNorm1d(4)),
    )
    model = onnxpool.export(network, (x,), output_names=["y"])
    assert "BatchNormalization" not in operators(model)
    with torch.no_grad():
        exact = network.double()(x.double())
    np.testing.assert_allclose(run(model, x), exact, rtol=0, atol=3e-6)


def test_a_convolution_in_three_dimensions_without_bias():
    """PyTorch's exporter gives it a bias of two axes, which ONNX Runtime refuses."""
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 2, bias=False), torch.nn.ReLU())
    x = torch.randn(1, 1, 3, 3, 3)
    model = onnxpool.export(network, (x,), output_names=["y"])
    np.testing.assert_allclose(run(model, x), network(x).detach(), atol=1e-6)


def test_a_batch_normalization_stays_where_the_value_before_it_is_used_too():
    torch.manual_seed(2)
    network = Computing(
        lambda x, first, second: second(y := first(x)) + y, torch.nn.Conv2d(3, 4, 3), norm(torch.nn.BatchNorm2d(4))
    )
    model = onnxpool.export(network, (X,), output_names=["y"])
    assert operators(model)["BatchNormalization"] == 1
    np.testing.assert_allclose(run(model, X), network(X).detach(), atol=1e-5)


def test_weights_that_would_overflow_are_not_folded():
    layer, after = torch.nn.Conv2d(1, 1, 1, bias=False).half(), torch.nn.BatchNorm2d(1).half()
    with torch.no_grad():
        layer.weight.fill_(1000)
        after.running_var.fill_(1e-4)
        after.running_mean.fill_(1000)
    network = Computing(lambda x, first, second: second(first(x)), layer, after.eval())
    model = onnxpool.export(network, (torch.ones(1, 1, 1, 1).half(),), output_names=["y"], check=False)
    assert operators(model)["BatchNormalization"] == 1


def test_a_weight_that_two_layers_share_is_not_changed():
    torch.manual_seed(2)
    shared = torch.nn.Conv2d(3, 3, 1)
    network = Computing(lambda x, first, second: second(first(x)) * first(x + 1), shared, norm(torch.nn.BatchNorm2d(3)))
    model = onnxpool.export(network, (X,), output_names=["y"])
    np.testing.assert_allclose(run(model, X), network(X).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_constants_are_evaluated_and_graphs_stay_small():
    """Nearly as few nodes as PyTorch's optimizer leaves: arithmetic of constants in floating point stays."""
    torch.manual_seed(0)
    block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    ours = onnxpool.export(block, (x,), dynamic_shapes=({0: "batch", 1: "time"},), opset=20)
    theirs = torch.onnx.export(
        block, (x,), dynamo=True, dynamic_shapes=({0: "batch", 1: "time"},), verbose=False, opset_version=20
    )
    assert len(list(ours.graph)) <= 1.15 * len(list(theirs.model.graph))
    assert "Constant" not in operators(ours)


def test_a_rewriting_by_hand():
    """(a - a mod b) / b with a from a Shape is a / b; with a given by the caller it is left alone."""
    text = """<ir_version: 10, opset_import: ["": 18]>
    main (float[n] x, int64[1] k) => (int64[1] known, int64[1] given) <int64[1] three = {3}> {
        n = Shape(x)
        m = Mod(n, three)
        d = Sub(n, m)
        known = Div(d, three)
        o = Mod(k, three)
        e = Sub(k, o)
        given = Div(e, three)
    }"""
    model = ir.from_onnx_text(text)
    passes.tidy(model)
    assert operators(model) == {"Shape": 1, "Div": 2, "Mod": 1, "Sub": 1}
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    known, given = session.run(None, {"x": np.zeros(8, np.float32), "k": np.array([-8])})
    assert (known.item(), given.item()) == (2, -3)
