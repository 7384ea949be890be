"""Our own standard form without its tags and under other names: the nodes come back, native, and give the same."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import pooled

import onnxpool
from onnxpool import lift
from onnxpool.graph.forms import TAG
from onnxpool.pools import OPERATORS
from onnxpool.run.native_library import why_missing
from onnxpool.window import Window

pytest.importorskip("onnxruntime")

KERNELS = "require" if why_missing() is None else "off"
WINDOWS = [Window.of(1, 3, 2, 1, 2), Window.of(2, 3, 2, 1), Window.of(2, (2, 3), ceil_mode=True), Window.of(3, 2)]


def standard(op_type, window, dtype="float32"):
    return onnxpool.to_form(pooled(window, dtype, op_type, OPERATORS[op_type].inputs), "standard")


def renamed(model, *, tags=False):
    """The same under other names: nodes, values and constants."""
    other = ir.from_proto(onnx.load_from_string(ir.to_proto(model).SerializeToString()))
    kept = {value.name for value in (*other.graph.inputs, *other.graph.outputs)}
    for i, node in enumerate(other.graph):
        node.name = f"node_{i}"
        if not tags:
            node.metadata_props.clear()
        for k, value in enumerate(node.outputs):
            value.name = value.name if value.name in kept else f"value_{i}_{k}"
    for i, value in enumerate(list(other.graph.initializers.values())):
        other.graph.initializers.pop(value.name)
        value.name = f"constant_{i}"
        other.graph.initializers[value.name] = value
    return other


def compared(model, op_type, window, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shape = (2, 3, *(11, 10, 9)[: window.rank])
    names = OPERATORS[op_type].inputs
    feeds = {name: (3 * rng.normal(size=shape)).astype(dtype) for name in names}
    y = onnxpool.load(model, kernels=KERNELS, threads=1).run(feeds)["y"]
    answer = OPERATORS[op_type].reference(window, *(feeds[name].astype(np.float64) for name in names))
    tolerance = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(y, answer, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_every_operator_comes_back(op_type, window):
    lifted = lift(renamed(standard(op_type, window)))
    assert [(fold.op_type, fold.window, fold.inputs) for fold in lifted.folds] == [
        (op_type, str(window), OPERATORS[op_type].inputs)
    ]
    assert not lifted.refused
    assert [node.op_type for node in lifted.model.graph] == [op_type]
    compared(lifted.model, op_type, window)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_other_types(op_type, dtype):
    window = Window.of(2, 3, 2, 1)
    lifted = lift(renamed(standard(op_type, window, dtype)))
    assert [(fold.op_type, fold.inputs) for fold in lifted.folds] == [(op_type, OPERATORS[op_type].inputs)]
    compared(lifted.model, op_type, window, dtype)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_tags_of_inputs_that_were_renamed(op_type):
    """Tags still hold where there is one input, which can be no other; else they count for nothing."""
    window = Window.of(2, 3, 2, 1)
    model = renamed(standard(op_type, window), tags=True)
    model.graph.inputs[0].name = "other"
    found = [node.op_type for node in onnxpool.to_form(model, "custom").graph]
    assert (found == [op_type]) == (len(OPERATORS[op_type].inputs) == 1)
    if found != [op_type]:
        assert [fold.op_type for fold in lift(model).folds] == [op_type]
    assert all(TAG in node.metadata_props for node in model.graph)


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_what_onnx_runtime_has_optimised(op_type, level, tmp_path):
    import onnxruntime

    window = Window.of(2, 3, 2, 1)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.log_severity_level = 3
    source = ir.to_proto(renamed(standard(op_type, window))).SerializeToString()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    lifted = lift(tmp_path / "m.onnx")
    assert [(fold.op_type, fold.window) for fold in lifted.folds] == [(op_type, str(window))]
    compared(lifted.model, op_type, window)


# --- what is nearly our form


def altered(op_type, change):
    """Our standard form with one constant or node changed; the opset stays."""
    model = renamed(standard(op_type, Window.of(2, 2)))
    assert change(model)
    return model


def constants(model, old, new):
    """Exchanges the constants that hold this number; how many there were."""
    found = [v for v in model.graph.initializers.values() if v.const_value.size == 1 and old(v.const_value.numpy())]
    for value in found:
        array = np.array(new, value.const_value.numpy().dtype).reshape(value.const_value.shape)
        value.const_value = ir.tensor(array, name=value.name)
    return len(found)


@pytest.mark.parametrize(
    ("op_type", "old", "new"),
    [
        ("LocalImportancePool", lambda x: 0 < x < 1e-20, 0.5),  # weights below a half count as a half
        ("LocalImportancePool", lambda x: x < -1e30, -1.0),  # cells whose logit is below -1 count as 0
        ("StochasticPool", lambda x: x == 2.0**-126, 0.5),  # maxima below a half count as a half
    ],
)
def test_another_constant_makes_another_function(op_type, old, new):
    lifted = lift(altered(op_type, lambda model: constants(model, old, new)))
    assert not lifted.folds


def test_values_that_are_not_rectified_are_not_stochastic_pooling():
    def unrectified(model):
        (where,) = [node for node in model.graph if node.op_type == "Where"]
        where.replace_input_with(1, where.inputs[2])
        return True

    assert not lift(altered("StochasticPool", unrectified)).folds


def test_methods_that_are_standard_operators_are_left_and_not_spoken_of():
    torch = pytest.importorskip("torch")
    x = torch.zeros(1, 3, 9, 8)
    for module in (onnxpool.nn.GeM2d(), onnxpool.nn.GeM2d(learn_p=False), onnxpool.nn.PowerAvgPool2d(2, p=3.0)):
        model = onnxpool.export(module, (x,), golden=False, check=False, form="standard")
        lifted = lift(renamed(model))
        assert not lifted.folds
        assert not lifted.refused
