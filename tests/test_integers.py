"""Pooling in 8 bits: the library's kernels for stored numbers, and where a session has them in place of DQ, pooling, Q.

Right is ``round(formula(scale * (q - zero)) / y_scale) + zero``, saturated, with the formula in float64. A result may
be one step off where that quotient is within ``onnxpool.golden.bounds.quantized_steps`` of the middle of two numbers.
"""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_native import INSTRUCTION_SETS, cells, local_importance_pool, soft_pool, stochastic_pool

import onnxpool
from onnxpool.about.model import describe
from onnxpool.golden import bounds, from_quantized
from onnxpool.graph import forms
from onnxpool.graph.integers import folded
from onnxpool.run import native_library
from onnxpool.run.native_library import library_path
from onnxpool.validation.matrix import Files
from onnxpool.validation.model import HeldModel
from onnxpool.window import Window

FORMULAS = {
    "SoftPool": soft_pool,
    "LocalImportancePool": local_importance_pool,
    "StochasticPool": stochastic_pool,
}
EACH = pytest.mark.parametrize("op_type", FORMULAS)
TYPES = pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
POOL = Window.of(2, 3, 2, 1)


@pytest.fixture(scope="session", autouse=True)
def library():
    return library_path()


def model(op_type, window=POOL, dtype=np.uint8, counts=None, opset=18, channels=None, **changed):
    """DQ, a pooling node, Q; ``counts`` are scale and zero point of x, logit and y. A keyword replaces a constant."""
    counts = counts or {"x": (0.05, 3), "l": (0.03, 9), "y": (0.04, 5)}
    code, shape = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None, channels, *[None] * window.rank]
    taken = ["x", "l"] if op_type == "LocalImportancePool" else ["x"]
    constants = {}
    for name, (scale, zero) in counts.items():
        constants |= {f"{name}_scale": np.float32(scale), f"{name}_zero": np.dtype(dtype).type(zero)}
    constants |= changed
    pool = helper.make_node(op_type, [f"{name}_real" for name in taken], ["pooled"], "pool", domain="onnxpool")
    pool.attribute.extend(helper.make_attribute(name, value) for name, value in window.attributes().items())

    def steps(name):
        return [f"{name}_scale", f"{name}_zero" if constants[f"{name}_zero"] is not None else ""]

    nodes = [
        *(
            helper.make_node("DequantizeLinear", [name, *steps(name)], [f"{name}_real"], f"dq of {name}")
            for name in taken
        ),
        pool,
        helper.make_node("QuantizeLinear", ["pooled", *steps("y")], ["y"], "q"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, code, shape) for name in taken],
        [helper.make_tensor_value_info("y", code, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if value is not None],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("onnxpool", 1)]
    return onnxpool.to_form(helper.make_model(graph, opset_imports=imports, ir_version=10), "function")


def operators(session):
    """Of the nodes that ONNX Runtime has assigned."""
    parts = session.inner.get_provider_graph_assignment_info()
    return [node.op_type for part in parts for node in part.get_nodes()]


def exact(op_type, window, feeds, counts):
    """In steps of y from its zero point, in float64, not rounded."""
    real = [np.float64(np.float32(counts[n][0])) * (q.astype(np.float64) - counts[n][1]) for n, q in feeds.items()]
    with np.errstate(invalid="ignore"):
        mean = FORMULAS[op_type](*(cells(window, x) for x in real))
    return mean / np.float64(np.float32(counts["y"][0]))


def check(op_type, window, feeds, counts, **options):
    """One node against the formula; the answers."""
    dtype = feeds["x"].dtype
    session = onnxpool.load(model(op_type, window, dtype, counts), kernels="require", **options)
    assert f"QLinear{op_type}" in operators(session)
    y = session.run(feeds)["y"]
    steps = exact(op_type, window, feeds, counts)
    limits = np.iinfo(dtype)
    off = np.abs(y - np.clip(np.rint(steps) + counts["y"][1], limits.min, limits.max))
    edge = np.abs(steps - np.floor(steps) - 0.5)
    ratio = np.float32(counts["x"][0]) / np.float32(counts["y"][0])
    allowed = bounds.quantized_steps(window.kernel, ratio)
    assert y.dtype == dtype
    assert y.shape == steps.shape
    assert off.max(initial=0) <= 1
    assert edge[off > 0].max(initial=0) <= allowed, (window, counts, edge[off > 0].max(), allowed)
    return y


def numbers(op_type, shape, dtype=np.uint8, seed=0, near=False):
    """Inputs by name: numbers of the whole range, or of a few steps (``near``)."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    names = ["x", "l"] if op_type == "LocalImportancePool" else ["x"]
    least, most = (100, 104) if near else (limits.min, limits.max + 1)
    return {name: rng.integers(least, most, shape).astype(dtype) for name in names}


# --- the arithmetic

WINDOWS = [
    (Window.of(2, 2), (2, 64, 8, 10)),
    (Window.of(2, 2), (1, 40, 7, 9)),
    (Window.of(2, 3, 2, 1), (2, 32, 11, 14)),
    (Window.of(2, 3, 2, 1, ceil_mode=True), (1, 17, 10, 12)),
    (Window.of(2, 3, 1, 1), (1, 72, 7, 9)),
    (Window.of(2, 3, 2), (1, 3, 9, 9)),
    (Window.of(2, (3, 2), (2, 1), (1, 0), (2, 3)), (1, 20, 9, 11)),
    (Window.of(2, 7), (2, 130, 7, 7)),
    (Window.of(2, 5, 3, 2), (1, 16, 8, 8)),
    (Window.of(1, 4, 4), (1, 5, 400)),
    (Window.of(1, 3000), (1, 18, 3000)),
    (Window.of(3, 3, 2, 1), (1, 16, 5, 6, 7)),
    (Window.of(3, 2, 2, ceil_mode=True), (2, 33, 3, 5, 4)),
    (Window.of(2, 3, 2, 1), (1, 16, 3, 9000)),
]


@EACH
@TYPES
@pytest.mark.parametrize(("window", "shape"), WINDOWS, ids=str)
def test_windows(op_type, dtype, window, shape):
    counts = {"x": (0.031, -7 if dtype == np.int8 else 100), "l": (0.04, 90), "y": (0.027, 11)}
    check(op_type, window, numbers(op_type, shape, dtype), counts)


@EACH
@TYPES
@pytest.mark.parametrize("scale", [1e-30, 0.02, 0.5001, 3.0, 1e30])
def test_scales_of_all_sizes_and_zero_points_at_the_ends(op_type, dtype, scale):
    """Beyond 0.5 weights are taken relative to the window's largest logit."""
    limits = np.iinfo(dtype)
    counts = {"x": (scale, limits.min), "l": (scale, limits.max), "y": (scale * 1.3, limits.min)}
    check(op_type, POOL, numbers(op_type, (1, 48, 9, 9), dtype), counts)
    counts = {"x": (scale, limits.max), "l": (scale, limits.min), "y": (scale * 0.25, limits.max)}
    check(op_type, Window.of(2, 5, 3, 2), numbers(op_type, (1, 48, 9, 9), dtype, near=True), counts)


def test_by_hand():
    """Values 0 and 2 ln 3: weights 1 and 9, so that the mean is 0.9 times 2 ln 3, which 180 steps of 0.01 ln 3 are."""
    step = np.log(3) / 100
    counts = {"x": (step, 10), "l": (step, 0), "y": (step, 20)}
    x = np.array([10, 210], np.uint8).reshape(1, 1, 2)
    assert check("SoftPool", Window.of(1, 2), {"x": x}, counts).item() == 180 + 20
    logit = np.array([200, 0], np.uint8).reshape(1, 1, 2)
    assert check("LocalImportancePool", Window.of(1, 2), {"x": x, "l": logit}, counts).item() == 20 + 20
    x = np.array([0, 40, 70], np.uint8).reshape(1, 1, 3)  # -10, 30 and 60 from zero: (900 + 3600) / 90
    assert check("StochasticPool", Window.of(1, 3), {"x": x}, counts).item() == 50 + 20


@EACH
def test_ties_by_hand_go_to_the_even_number_and_far_numbers_are_saturated(op_type):
    """Windows of one cell are that cell: 1, 2, 3, 5 halves from zero; twice as many; then beyond both ends."""
    window = Window.of(1, 1)
    x = np.array([1, 2, 3, 5, 60, 255], np.uint8).reshape(1, 1, 6)
    feeds = dict.fromkeys(numbers(op_type, (1,)), x)
    counts = {"x": (0.5, 0), "l": (0.5, 0), "y": (1.0, 7)}
    np.testing.assert_array_equal(check(op_type, window, feeds, counts).ravel(), [7, 8, 9, 9, 37, 135])
    counts["y"] = (0.25, 10)
    np.testing.assert_array_equal(check(op_type, window, feeds, counts).ravel(), [12, 14, 16, 20, 130, 255])
    counts = {"x": (1.0, 60), "l": (1.0, 60), "y": (1.0, 3)}
    below = 3 if op_type == "StochasticPool" else 0
    np.testing.assert_array_equal(check(op_type, window, feeds, counts).ravel(), [below] * 4 + [3, 198])


@EACH
def test_an_empty_batch(op_type):
    y = onnxpool.load(model(op_type), kernels="require").run(numbers(op_type, (0, 16, 9, 9)))["y"]
    assert y.shape == (0, 16, 5, 5)


@EACH
def test_threads_and_the_batch_do_not_show(op_type):
    counts = {"x": (0.03, 100), "l": (0.04, 90), "y": (0.03, 110)}
    for window, shape in ((POOL, (3, 80, 40, 90)), (Window.of(2, 7), (3, 300, 7, 7))):
        feeds = numbers(op_type, shape)
        session = onnxpool.load(model(op_type, window, np.uint8, counts), threads=1)
        whole = session.run(feeds)["y"]
        many = onnxpool.load(model(op_type, window, np.uint8, counts), threads=3).run(feeds)["y"]
        np.testing.assert_array_equal(many, whole)
        part = session.run({name: x[1:2].copy() for name, x in feeds.items()})["y"]
        np.testing.assert_array_equal(part, whole[1:2])


@pytest.mark.parametrize("name", INSTRUCTION_SETS[:2])
def test_other_instruction_sets(name):
    """The tests above, in a process of their own; this one has the best that there is."""
    environment = {**os.environ, "ONNXPOOL_CPU": name, native_library.OVERRIDE: str(library_path())}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    opened = "import onnxruntime, onnxpool; onnxpool.run.native_library.register(onnxruntime.SessionOptions())"
    if "does not have" in run([sys.executable, "-c", opened]).stderr:
        pytest.skip(f"this build or processor has no {name}")
    chosen = "(windows and s8) or (all_sizes and u8) or by_hand"
    tests = run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen])
    assert tests.returncode == 0, tests.stdout[-3000:]


# --- what is folded


def convolution(taken, given, channels, name):
    """Between DQ and Q, with its weights; all tensors count alike."""
    weights = np.random.default_rng(0).integers(-50, 50, (channels, channels, 3, 3)).astype(np.int8)
    constants = {f"{name}_w": weights, f"{name}_scale": np.float32(0.01), f"{name}_zero": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", [taken, "s", "z"], [f"{name}_x"]),
        helper.make_node("DequantizeLinear", [f"{name}_w", f"{name}_scale", f"{name}_zero"], [f"{name}_r"]),
        helper.make_node("Conv", [f"{name}_x", f"{name}_r"], [f"{name}_y"], name, pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", [f"{name}_y", "s", "z"], [given]),
    ]
    return nodes, [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]


def between_convolutions():
    """Float in and out, 16 channels."""
    (first, weights), (second, more) = convolution("q", "a", 16, "one"), convolution("b", "e", 16, "two")
    pool = helper.make_node("SoftPool", ["ar"], ["p"], "pool", domain="onnxpool")
    pool.attribute.extend(helper.make_attribute(name, value) for name, value in POOL.attributes().items())
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        *first,
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["ar"]),
        pool,
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["b"]),
        *second,
        helper.make_node("DequantizeLinear", ["e", "s", "z"], ["y"]),
    ]
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    constants = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(10), "z")]
    graph = helper.make_graph(
        nodes, "graph", [value("x", shape=["N", 16, "H", "W"])], [value("y", shape=None)], [*constants, *weights, *more]
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)]
    return onnxpool.to_form(helper.make_model(graph, opset_imports=imports, ir_version=10), "function")


def test_between_convolutions_nothing_is_left_but_integers(tmp_path):
    """Our transpositions and those of ONNX Runtime's convolutions with channels last cancel each other."""
    made = between_convolutions()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    native_library.register(options)
    forms.write(folded(made), tmp_path / "folded.onnx")
    ort.InferenceSession(str(tmp_path / "folded.onnx"), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node]
    assert left[left.index("QLinearConv") :][:3] == ["QLinearConv", "QLinearSoftPool", "QLinearConv"], left
    x = np.random.default_rng(0).normal(size=(2, 16, 12, 12)).astype(np.float32)
    mine, body = (onnxpool.load(made, kernels=kernels).run({"x": x})["y"] for kernels in ("require", "off"))
    assert np.abs(mine - body).max() < 0.101


def test_validate_runs_it_natively(tmp_path):
    made = between_convolutions()
    golden = from_quantized.record(made, only="ordinary")
    report = onnxpool.validate(forms.ir.to_proto(made), golden, forms=("function",), require=("native",))
    assert report.passed, report.summary
    assert [run.native for run in report.runs if run.kernels] == [("pool",)]
    files = Files(HeldModel(made), None, tmp_path)
    natively, bare = (onnx.load(files.path("function", native=native)) for native in (True, False))
    assert "QLinearSoftPool" in [node.op_type for node in natively.graph.node]
    assert "QLinearSoftPool" not in [node.op_type for node in bare.graph.node]


@EACH
def test_it_is_native_for_all_who_ask(op_type, tmp_path):
    made = model(op_type)
    path = tmp_path / "int8.onnx"
    onnx.save(forms.ir.to_proto(made), path)
    before = path.read_bytes()
    (placement,) = onnxpool.load(path, kernels="require").placements
    assert (placement.node, placement.op_type, placement.native) == ("pool", op_type, True)
    (placement,) = describe(path).pooling
    assert placement.native
    assert path.read_bytes() == before
    assert [node.op_type for node in made.graph] == [
        *["DequantizeLinear"] * len(made.graph.inputs),
        op_type,
        "QuantizeLinear",
    ]
    assert (
        op_type in operators(onnxpool.load(path, kernels="off"))
        or not onnxpool.load(path, kernels="off").placements[0].native
    )


def test_logits_that_are_the_values_share_a_dequantizelinear():
    made = model("LocalImportancePool")
    pool = next(node for node in made.graph if node.name == "pool")
    pool.replace_input_with(1, pool.inputs[0])
    made.graph.remove(next(node for node in made.graph if node.name == "dq of l"), safe=True)
    made.graph.inputs.pop()
    session = onnxpool.load(made, kernels="require")
    assert operators(session).count("Transpose") == 2
    x = numbers("SoftPool", (1, 16, 9, 9))
    counts = {"x": (0.05, 3), "y": (0.04, 5)}
    steps = exact("LocalImportancePool", POOL, {"x": x["x"], "x ": x["x"]}, {**counts, "x ": counts["x"]})
    np.testing.assert_array_equal(session.run(x)["y"], np.clip(np.rint(steps) + 5, 0, 255))


CHANNELS = {"x_scale": np.linspace(0.02, 0.05, 16).astype(np.float32), "x_zero": np.arange(16, dtype=np.uint8)}
LEFT = {
    "a scale for each channel": CHANNELS,
    "a scale that is not a normal number": {"counts": {"x": (1e-39, 3), "l": (0.03, 9), "y": (1e-39, 5)}},
    "a step whose largest number is infinite": {"counts": {"x": (3e38, 3), "l": (0.03, 9), "y": (3e38, 5)}},
    "steps of y that are far smaller": {"counts": {"x": (0.5, 3), "l": (0.03, 9), "y": (0.0019, 5)}},
    "steps of y that are far larger": {"counts": {"x": (1e-6, 3), "l": (0.03, 9), "y": (30.0, 5)}},
    "fewer channels than lanes": {"channels": 3},
    "windows that share their numbers": {"window": Window.of(2, 5, 1, 2)},
    "windows that share numbers of far weights": {
        "window": Window.of(2, 3, 1, 1),
        "counts": {"x": (0.6, 3), "l": (0.6, 9), "y": (0.6, 5)},
    },
    "int16": {"dtype": np.int16, "opset": 21},
    "another type of y": {"y_zero": np.int8(5)},
    "no scale of float32": {"x_scale": np.float16(0.05), "y_scale": np.float16(0.04), "opset": 19},
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_in_float(name):
    """Each differs from a model that is not left by this alone."""
    made = model("SoftPool", **LEFT[name])
    assert folded(made) is None


def test_missing_zero_points_are_zero_of_a_known_type():
    made = model("SoftPool", x_zero=None, y_zero=None)
    session = onnxpool.load(made, kernels="require")
    assert "QLinearSoftPool" in operators(session)
    feeds = numbers("SoftPool", (1, 16, 9, 9))
    steps = exact("SoftPool", POOL, feeds, {"x": (0.05, 0), "y": (0.04, 0)})
    np.testing.assert_array_equal(session.run(feeds)["y"], np.clip(np.rint(steps), 0, 255))


def test_values_that_others_take_stay():
    """The pooled values are an output in float, too; then a second DQ of x is needed for another node."""
    made = model("SoftPool")
    made.graph.outputs.append(made.graph.node("pool").outputs[0])
    made.graph.outputs[-1].shape = made.graph.outputs[0].shape
    assert folded(made) is None
    made = model("SoftPool")
    made.graph.outputs.append(made.graph.node("dq of x").outputs[0])
    made.graph.outputs[-1].dtype = forms.ir.DataType.FLOAT
    session = onnxpool.load(made, kernels="require")
    feeds = numbers("SoftPool", (1, 16, 9, 9))
    found = session.run(feeds)
    np.testing.assert_array_equal(found["x_real"], np.float32(0.05) * (feeds["x"].astype(np.float32) - 3))
    assert "QLinearSoftPool" in operators(session)


# --- at the door


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x_scale": None}, "attribute x_scale is missing or is not a positive number"),
        ({"y_scale": -1.0}, "attribute y_scale is missing or is not a positive number"),
        ({"x_scale": float("nan")}, "attribute x_scale is missing"),
        ({"y_zero_point": 256}, "attribute y_zero_point is missing or is not an integer of the tensor's element type"),
        ({"x_zero_point": None}, "attribute x_zero_point is missing"),
        ({"y_scale": 1e-6}, "x_scale is 50000 times y_scale; expected 2.-24 to 2.8 times"),
        ({"strides": [0, 1]}, "each number must be from 1"),
    ],
)
def test_a_wrong_attribute_is_refused(changed, sentence):
    with pytest.raises(Exception, match=sentence):
        bare(**changed)


def test_a_wrong_shape_is_refused():
    with pytest.raises(Exception, match=r"expected \(N, C, \*spatial\), 4 axes"):
        bare(rank=3).run(None, {"x": np.zeros((1, 9, 16), np.uint8)})
    with pytest.raises(Exception, match="too small on spatial axis 1"):
        bare(kernel_shape=[2, 4], pads=[0, 0, 0, 0]).run(None, {"x": np.zeros((1, 9, 3, 16), np.uint8)})


def bare(rank=4, **changed):
    """A session of a node that no file holds."""
    told = {**POOL.attributes(), "x_scale": 0.05, "y_scale": 0.04, "x_zero_point": 3, "y_zero_point": 5, **changed}
    told = {name: value for name, value in told.items() if value is not None}
    node = helper.make_node("QLinearSoftPool", ["x"], ["y"], "pool", domain="onnxpool", **told)
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.UINT8, shape=[None] * rank)
    graph = helper.make_graph([node], "graph", [value("x")], [value("y")])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("onnxpool", 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    native_library.register(options)
    made = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    return ort.InferenceSession(made, options, providers=["CPUExecutionProvider"])
