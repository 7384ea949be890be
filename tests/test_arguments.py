"""What people give to export: arranged as they mean it, or refused with one sentence."""

import re

import numpy as np
import pytest
import torch

import onnxpool
from onnxpool import nn
from onnxpool.errors import ArgumentError, ExportError, nearest

X = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0))


class Add(torch.nn.Module):
    def forward(self, left, right):
        return left * 2 + right


def shapes(model):
    return {value.name: [str(dim) for dim in value.shape] for value in model.graph.inputs}


def run(model, **feeds):
    return onnxpool.load(model, kernels="off").run(feeds)


def test_a_bare_tensor_is_the_argument():
    """PyTorch's exporter iterates over it: the batch axis is lost."""
    model = onnxpool.export(torch.nn.ReLU(), X, dynamic_shapes={0: "batch"}, input_names=["x"])
    assert shapes(model) == {"x": ["batch", "3", "8", "8"]}


def test_a_dict_as_last_argument_is_an_argument():
    """PyTorch's exporter takes it for keyword arguments."""

    class Dict(torch.nn.Module):
        def forward(self, x, more):
            return x + more["scale"] * more["shift"]

    more = {"scale": torch.full((2, 1, 1, 1), 3.0), "shift": torch.ones(2, 1, 1, 1)}
    sizes = ({0: "batch"}, {"scale": {0: "batch"}, "shift": {0: "batch"}})
    model = onnxpool.export(Dict(), (X, more), dynamic_shapes=sizes)
    assert len(model.graph.inputs) == 3
    assert all(dims[0] == "batch" for dims in shapes(model).values())
    names = [value.name for value in model.graph.inputs]
    feeds = dict(zip(names, (X.numpy(), *(one.numpy() for one in more.values())), strict=True))
    (y,) = run(model, **feeds).values()
    np.testing.assert_array_equal(y, (X + 3).numpy())


def test_keyword_arguments_in_any_order():
    right = torch.full((2, 3, 8, 8), 5.0)
    model = onnxpool.export(Add(), (), kwargs={"right": right, "left": X})
    (y,) = run(model, left=X.numpy(), right=right.numpy()).values()
    np.testing.assert_array_equal(y, (X * 2 + 5).numpy())


def test_the_older_words():
    model = onnxpool.export(
        Add(), (X, X), opset_version=20, dynamic_axes={"a": {0: "batch"}, "b": [0, 2], "y": {0: "batch"}},
        input_names=["a", "b"], output_names=["y"], check=False,
    )  # fmt: skip
    assert model.opset_imports[""] == 20
    assert [dims[0] for dims in shapes(model).values()] in (["batch", "batch"], ["b_0", "b_0"], ["batch", "b_0"])
    assert shapes(model)["a"][2] == shapes(model)["b"][2] != "8"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"opset": 18, "opset_version": 18}, "opset and opset_version say the same; give opset"),
        ({"opset_version": 30}, "opset_version=30 is out of range; use 18 to 26"),
        ({"dynamic_axes": {"lefd": [0]}}, "dynamic_axes='lefd' is not an input (did you mean 'left'?); the inputs are"),
        ({"dynamic_axes": {"left": [0]}, "dynamic_shapes": ({}, {})}, "say the same in two ways; give dynamic_shapes"),
        ({"input_names": ["a"]}, "input_names=['a'] names 1 inputs; the example has 2"),
        ({"output_names": ["a", "b"]}, "output_names=['a', 'b'] names 2 outputs; Add gives 1"),
        ({"args": {"left": X}}, "args is a dict; give a tuple of what the module is called with"),
        ({"args": (X.numpy(), X)}, "args[0] is a NumPy array; a module takes torch.from_numpy(array)"),
        ({"kwargs": {"right": X.numpy()}, "args": (X,)}, "kwargs['right'] is a NumPy array"),
        ({"args": (X, X.cfloat())}, "tensor 1 of args is complex, which ONNX Runtime does not have; use real and"),
        ({"args": (X.to_sparse(), X)}, "tensor 0 of args is sparse, which ONNX models do not take; use .to_dense()"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant(given, told):
    with pytest.raises(ArgumentError, match=re.escape(told)):
        onnxpool.export(**{"module": Add(), "args": (X, X), **given})


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torch_script_is_refused():
    with pytest.raises(ArgumentError, match=r"module is TorchScript; export the Python module that torch\.jit made it"):
        onnxpool.export(torch.jit.trace(Add(), (X, X)), (X, X))


def test_a_complex_output_is_refused():
    class Spectrum(torch.nn.Module):
        def forward(self, x):
            return x, torch.fft.rfft2(x)

    with pytest.raises(ExportError, match="output 1 of Spectrum is complex"):
        onnxpool.export(Spectrum(), (X,))


def test_an_example_that_the_module_refuses_is_told_with_its_line():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ExportError) as told:
        onnxpool.export(Network(), (X,))
    assert str(told.value).startswith(
        "could not export Network: it does not run on the example, float32 2x3x8x8: Given"
    )
    assert re.search(r"\(\S+test_arguments\.py:\d+\)", str(told.value))
    assert "\n" not in str(told.value)
    assert isinstance(told.value.__cause__, RuntimeError)


def test_what_pytorch_cannot_trace_is_one_sentence_with_a_line(capfd):
    class Network(torch.nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x * 2
            return x

    with pytest.raises(ExportError) as told:
        onnxpool.export(Network(), (X,))
    sentence = str(told.value)
    assert sentence.startswith("PyTorch could not export Network: Could not guard on data-dependent expression")
    assert re.search(r"\(\S+test_arguments\.py:\d+\)", sentence)
    assert "use torch.where" in sentence
    assert "\n" not in sentence
    assert told.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_official_layers_that_do_not_export_have_a_remedy():
    class SoftPool2d(torch.nn.Module):
        kernel_size, stride = 2, 2

        def forward(self, x):
            raise RuntimeError(f"needs CUDA, not {x.device}")

    with pytest.raises(ExportError, match=r"it has SoftPool2d: onnxpool\.swap\(module, \{'official': 'same'\}\)"):
        onnxpool.export(torch.nn.Sequential(SoftPool2d()), (X,))


def test_the_module_s_statistics_and_the_generator_stay_as_they_were():
    norm = torch.nn.BatchNorm2d(3)
    before = torch.get_rng_state()
    onnxpool.export(norm, (X,))
    assert norm.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_nearest():
    assert nearest("SoftPol2d", nn.__all__) == " (did you mean 'SoftPool2d'?)"
    assert nearest("Convolution", nn.__all__) == ""
