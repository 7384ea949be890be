"""How a module takes a model's inputs where only their names tell: by name, in dicts and tuples, or in order."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnxpool  # noqa: E402
from onnxpool.diagnosis import compare_nodes  # noqa: E402
from onnxpool.golden import from_torch  # noqa: E402
from onnxpool.golden.arrangement import arrangements, parameters  # noqa: E402

X = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0))
SCALE = torch.full((2, 3, 1, 1), 0.5)


class Dict(torch.nn.Module):
    def forward(self, batch):
        return torch.nn.functional.max_pool2d(batch["x"], 2) - batch["scale"].exp()


class DictOfOne(torch.nn.Module):
    def forward(self, batch):
        return batch["x"].exp()


class Mixed(torch.nn.Module):
    def forward(self, pyramid, shift=None, scale=None):
        fine, coarse = pyramid
        return fine - 3 * coarse if shift is None and scale is not None else fine + 7 * scale


@pytest.mark.parametrize(
    ("names", "words", "ways"),
    [
        (["x"], ["x"], [(("x",), {})]),
        (["image"], ["x"], [(("image",), {})]),
        (["x", "y"], ["x", "y", "z"], [(("x", "y"), {})]),
        (["x", "z"], ["x", "y", "z"], [((), {"x": "x", "z": "z"})]),
        (["batch_x", "batch_y"], ["batch"], [((), {"batch": {"x": "batch_x", "y": "batch_y"}})]),
        (["p_0", "p_1", "s"], ["p", "s"], [((), {"p": ("p_0", "p_1"), "s": "s"})]),
        (["batch_x"], ["batch"], [((), {"batch": {"x": "batch_x"}}), (("batch_x",), {})]),
        (["p_0", "p_1"], ["p", "s"], [((), {"p": ("p_0", "p_1")}), (("p_0", "p_1"), {})]),
        (["a_b_c", "a_b"], ["a", "a_b"], [(("a_b_c", "a_b"), {})]),
        (["args_0", "args_1"], [], [(("args_0", "args_1"), {})]),
    ],
)
def test_ways(names, words, ways):
    assert arrangements(names, words) == ways


def test_parameters_are_those_that_can_be_named():
    def forward(a, /, b, *more, c=1, **others):
        return a, b, more, c, others

    assert parameters(forward) == ["b", "c"]
    assert parameters(dict) == []


@pytest.mark.parametrize(
    ("module", "args", "kwargs"),
    [
        (Dict(), ({"x": X, "scale": SCALE},), {}),
        (DictOfOne(), ({"x": X},), {}),
        (Mixed(), ((X, X + 1),), {"scale": SCALE}),
    ],
    ids=["dict", "one", "tuple"],
)
def test_a_module_is_the_reference_as_it_was_exported(tmp_path, module, args, kwargs):
    model = onnxpool.export(module, args, tmp_path / "m.onnx", kwargs=kwargs)
    assert onnxpool.validate(tmp_path / "m.onnx", module).passed
    golden = from_torch.record(module, model, only="ordinary")
    (case,) = golden.cases
    right = onnxpool.load(model, kernels="off").run(case.inputs)
    for name, answer in case.answers.items():
        np.testing.assert_allclose(right[name], answer, rtol=1e-5, atol=1e-6)
    nodes = compare_nodes(tmp_path / "m.onnx", module)
    assert not [note for note in nodes.notes if "not known" in note]


def test_pytorch_runs_it_in_another_process(tmp_path):
    onnxpool.export(Dict(), ({"x": X, "scale": SCALE},), tmp_path / "m.onnx")
    told = onnxpool.validate(tmp_path / "m.onnx", Dict(), on=["pytorch"], case="ordinary")
    assert {run.options["mode"]: run.verdict for run in told.runs} == {"eager": "passed", "compile": "passed"}


def test_names_of_ones_own_are_taken_in_order(tmp_path):
    model = onnxpool.export(torch.nn.ReLU(), (X,), tmp_path / "m.onnx", input_names=["input_picture"], golden=False)
    assert from_torch.arrangement(torch.nn.ReLU(), model) == (("input_picture",), {})
    assert onnxpool.validate(tmp_path / "m.onnx", torch.nn.ReLU()).passed
