"""Precision advice: which nodes are safe in float16 or 8 bits, what is written of that, and that it holds."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli import commands
from onnxpool.errors import ArgumentError, FormError
from onnxpool.golden import from_model
from onnxpool.graph import forms, mixed
from onnxpool.quantizing import ranges
from onnxpool.quantizing.inside import largest_inside
from onnxpool.quantizing.saturation import saturates
from onnxpool.quantizing.switched import Switched, apart
from onnxpool.window import Window

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import fuzz_precision

WINDOW = Window.of(2, 2)


def model_of(*nodes, weights=(), shape=("batch", 3, 8, 8), outputs=("y",), opset=18):
    """A model from x to y, of these nodes and arrays by name."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("onnxpool", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs, [output], f"the {output}", **attributes)


def network():
    """Convolution, SoftPool, an exponential of 12 x, a mean, a logarithm, a masked softmax."""
    return model_of(
        node("Conv", ["x", "w"], "h", pads=[1, 1, 1, 1]),
        helper.make_node("SoftPool", ["h"], ["p"], "the p", domain="onnxpool", **WINDOW.attributes()),
        node("Mul", ["p", "twelve"], "scaled"),
        node("Exp", ["scaled"], "power"),
        node("GlobalAveragePool", ["power"], "mean"),
        node("Log", ["mean"], "log"),
        node("Greater", ["log", "limit"], "large"),
        node("Where", ["large", "lowest", "log"], "masked"),
        node("Softmax", ["masked"], "y", axis=1),
        weights=[
            ("w", 0.07 * np.random.default_rng(0).normal(size=(4, 3, 3, 3))),
            ("twelve", 12.0),
            ("limit", 6.0),
            ("lowest", -1e9),
        ],
    )


def rows(count=6, scale=1.0, seed=1):
    rng = np.random.default_rng(seed)
    return [{"x": (scale * rng.normal(size=(1, 3, 8, 8))).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The float32 model, the mixed one, and the advice."""
    folder = tmp_path_factory.mktemp("mixed")
    onnx.save(network(), folder / "float.onnx")
    return folder, onnxpool.precision(folder / "float.onnx", folder / "mixed.onnx", rows(), budget=0.1)


# --- what is advised


def test_what_overflows_is_named_with_its_value(written):
    _, advice = written
    found = {one.name: one for one in advice.nodes}
    assert found["the power"].verdict == "overflows"
    assert "its value 'power' reaches" in found["the power"].sentence
    assert found["the masked"].verdict == found["the y"].verdict == "overflows"
    for name in ("the masked", "the y"):
        assert found[name].reason == "its value 'masked' reaches 1e+09, float16 ends at 65504"
    assert found["the large"].verdict == "has none"
    assert found["the h"].verdict == "safe"
    assert set(advice.safe) | set(advice.exclude) == set(found)


def test_a_node_that_loses_too_much_needs_float32():
    """Differences of numbers near 1000: float16 has steps of 0.5 there, and the square root of what is left."""
    model = model_of(
        node("Add", ["x", "thousand"], "a"), node("Sub", ["a", "thousand"], "y"), weights=[("thousand", 1000.0)]
    )
    advice = onnxpool.precision(model, None, rows())
    assert [one.verdict for one in advice.nodes] == ["needs float32", "needs float32"]
    assert all(one.effect > 0.01 for one in advice.nodes)
    assert onnxpool.precision(model, None, rows(), budget=0.99).safe == ()


def test_sums_inside_of_a_node_count_although_their_mean_is_small():
    model = model_of(node("Mul", ["x", "x"], "a"), node("GlobalAveragePool", ["a"], "y"), shape=(1, 3, 200, 200))
    x = np.full((1, 3, 200, 200), 2, np.float32)
    found = {one.name: one for one in onnxpool.precision(model, None, [{"x": x}]).nodes}
    assert found["the y"].verdict == "overflows"
    assert "its sums reach 1.6e+05" in found["the y"].reason
    assert found["the a"].verdict == "safe"


def test_sums_need_as_much_room_as_values():
    """Values of 15000 fit four times; their sum of 60000 fits once."""
    model = model_of(node("GlobalAveragePool", ["x"], "y"), shape=(1, 3, 2, 2))
    (found,) = onnxpool.precision(model, None, [{"x": np.full((1, 3, 2, 2), 15000, np.float32)}]).nodes
    assert found.sentence == "node 'the y' (GlobalAveragePool) overflows: its sums reach 6e+04, float16 ends at 65504"


@pytest.mark.parametrize(
    ("op_type", "attributes", "inputs", "right"),
    [
        ("Conv", {}, [np.full((1, 1, 4, 4), -3.0), np.full((2, 1, 2, 2), [[1, -1], [2, 0]])], 12.0),
        ("MatMul", {}, [np.full((2, 3), 5.0), np.array([[1.0, 0], [-1, 0], [1, 4]])], 20.0),
        ("Gemm", {"transB": 1}, [np.full((2, 3), 5.0), np.array([[1.0, -1, 1], [0, 0, 4]])], 20.0),
        ("ReduceSum", {}, [np.array([[3.0, -4], [1, 2]])], 10.0),
        ("GlobalAveragePool", {}, [np.full((1, 1, 5, 5), -2.0)], 50.0),
        ("ReduceL2", {"axes": [1]}, [np.array([[3.0, -4], [1, 2]])], 25.0),
        ("InstanceNormalization", {}, [np.array([[-300.0, 1]]), np.ones(2), np.ones(2)], 9e4),
        ("Relu", {}, [np.full((1, 1), 1e6)], 0.0),
    ],
)
def test_the_largest_sum_inside(op_type, attributes, inputs, right):
    values = [ir.Value(name=f"i{n}") for n in range(len(inputs))]
    made = ir.node(op_type, values, attributes)
    arrays = {f"i{n}": array for n, array in enumerate(inputs)}
    assert largest_inside(made, arrays) == pytest.approx(right)


def test_an_error_that_few_inputs_show_is_found_by_larger_roundings():
    """A threshold: rounding takes x nearer to it, but no further; 32 times the error takes x past it."""
    model = model_of(
        node("Mul", ["x", "one"], "a"), node("Sub", ["a", "one"], "b"), node("Relu", ["b"], "c"),
        node("Mul", ["c", "steep"], "d"), node("Add", ["d", "one"], "y"), weights=[("one", 1.0), ("steep", 1e3)],
    )  # fmt: skip
    base, step = mixed.prepared(model), 2.0**-11  # of float16 below 1
    places = {name: mixed.places(one, base.opset_imports) for one in base.graph if (name := one.name) == "the a"}
    switched = Switched(base, places, "float16", {})
    x = {"x": np.full((1, 3, 8, 8), 1 - 3.4 * step, np.float32)}  # rounded by 0.4 steps, to 1 - 3 steps
    exact = switched.run(x, ())
    assert exact["y"].tolist() == switched.run(x, (), 32.0)["y"].tolist() == np.ones((1, 3, 8, 8)).tolist()
    assert apart(switched.run(x, {"the a"}), exact) == 0
    assert switched.effect([x], [exact], {"the a"}) > 0.1
    (advice,) = (one for one in onnxpool.precision(model, None, [x]).nodes if one.name == "the a")
    assert advice.verdict == "needs float32"


def test_apart_is_by_the_answer_or_the_median():
    right = {"y": np.array([1.0, 2.0, 0.0, -1e9], np.float32)}
    assert apart({"y": np.array([1.0, 2.0, 0.02, -1e9], np.float32)}, right) == pytest.approx(0.01)
    assert apart({"y": np.array([1.0, 2.0, np.nan, -1e9], np.float32)}, right) == np.inf
    assert apart({"y": np.array([1, 2, 3, 5])}, {"y": np.array([1, 2, 3, 4])}) == 0.25
    assert apart({"y": np.array([np.inf, np.nan])}, {"y": np.array([np.inf, np.nan])}) == 0
    assert apart({"y": np.zeros((0, 2))}, {"y": np.zeros((0, 2))}) == 0


# --- what is written


def test_the_mixed_model_computes_in_both_types_with_casts_where_they_meet(written):
    folder, advice = written
    model = ir.load(folder / "mixed.onnx")
    assert onnxpool.form_of(model) == "function"
    types = {one.name: one.outputs[0].dtype for one in model.graph}
    assert types["the h"] == types["the p"] == ir.DataType.FLOAT16
    assert model.graph.initializers["w/float16"].dtype == ir.DataType.FLOAT16
    assert "w" not in model.graph.initializers
    assert [one.op_type for one in model.graph if one.domain == "onnxpool"] == ["SoftPool"]
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    assert "passed" in advice.checked
    assert advice.error <= advice.budget / 2


def test_what_is_written_validates_in_every_form_and_its_tampered_twin_does_not(written, tmp_path):
    folder, _ = written
    assert onnxpool.validate(folder / "mixed.onnx").passed
    model = ir.load(folder / "mixed.onnx")
    weight = model.graph.initializers["w/float16"]
    weight.const_value = ir.tensor((weight.const_value.numpy() * np.float16(1.05)), name=weight.name)
    ir.save(model, tmp_path / "wrong.onnx")
    assert not onnxpool.validate(tmp_path / "wrong.onnx", folder / "mixed.golden.npz", forms=("function",)).passed


def test_what_goes_between_two_nodes_in_float32_is_never_narrow():
    """Where ONNX Runtime's converter casts to float16 and back."""
    model = model_of(
        node("Relu", ["x"], "a"), node("Mul", ["a", "huge"], "b"), node("Div", ["b", "huge"], "c"),
        node("Neg", ["c"], "y"), weights=[("huge", 1e6)],
    )  # fmt: skip
    made = mixed.lowered(mixed.prepared(model), ["the a", "the y"])
    y = onnxpool.load(made).run({"x": rows(1)[0]["x"]})["y"]
    x = rows(1)[0]["x"]
    np.testing.assert_allclose(y, -np.maximum(x, 0), rtol=2e-3)
    assert np.isfinite(y).all()


def test_a_weight_of_both_types_and_a_value_that_a_branch_takes():
    inner = helper.make_graph(
        [helper.make_node("Mul", ["a", "w"], ["t"])],
        "t",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Add", ["a", "w"], ["e"])],
        "e",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    model = model_of(
        node("Mul", ["x", "w"], "a"),
        node("ReduceMax", ["a"], "top", keepdims=0),
        node("Greater", ["top", "w0"], "one"),
        helper.make_node("If", ["one"], ["y"], "branch", then_branch=inner, else_branch=other),
        weights=[("w", [1 / 3]), ("w0", 0.0)],
    )
    base = mixed.prepared(model)
    assert mixed.places(next(one for one in base.graph if one.name == "branch"), base.opset_imports) == ([], [])
    made = mixed.lowered(base, ["the a"])
    x = rows(1)[0]["x"]
    narrow = x.astype(np.float16) * np.float16(1 / 3)
    y = onnxpool.load(made).run({"x": x})["y"]
    wide = narrow.astype(np.float32) * np.float32(1 / 3)  # the weight of the branch is not rounded
    np.testing.assert_allclose(y, wide, rtol=2e-3)


def test_int8_goes_through_the_quantiser(tmp_path):
    model = model_of(
        node("Conv", ["x", "w"], "h", pads=[1, 1, 1, 1]),
        node("Relu", ["h"], "r"),
        node("Conv", ["r", "v"], "c"),
        node("Mul", ["c", "steep"], "s"),
        node("Tanh", ["s"], "y"),
        weights=[
            ("w", np.random.default_rng(0).normal(size=(4, 3, 3, 3))),
            ("v", np.random.default_rng(0).normal(size=(2, 4, 1, 1))),
            ("steep", 1e-3),
        ],
    )
    advice = onnxpool.precision(model, tmp_path / "int8.onnx", iter(rows()), to="int8")
    assert advice.error <= advice.budget / 2
    assert {"the r", "the c"} <= set(advice.safe)
    held = [one.op_type for one in ir.load(tmp_path / "int8.onnx").graph]
    assert "QuantizeLinear" in held
    assert onnxpool.validate(tmp_path / "int8.onnx").passed


def test_where_int8_weights_lead_to_cut_off_sums_it_says_so_and_takes_uint8(tmp_path):
    """Two products of 255 and 127 are more than 16 bits hold, and without VNNI that is where ONNX Runtime adds them."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx2" in flags:
        assert saturates() is ("vnni" not in flags)
    if not saturates():
        pytest.skip("this processor adds them rightly")
    large = np.random.default_rng(0).uniform(0.9, 1, size=(4, 3, 3, 3))
    model = model_of(
        node("Conv", ["x", "w"], "h", pads=[1, 1, 1, 1]),
        node("Relu", ["h"], "r"),
        node("Conv", ["r", "v"], "y"),
        weights=[("w", large), ("v", np.random.default_rng(0).uniform(0.9, 1, size=(2, 4, 1, 1)))],
    )
    feeds = [{name: np.abs(array) for name, array in row.items()} for row in rows()]
    with pytest.raises(FormError, match=r"no VNNI.* weights 'uint8'"):
        onnxpool.quantize(model, tmp_path / "int8.onnx", feeds, weights="int8")
    done = onnxpool.quantize(model, tmp_path / "int8.onnx", feeds)
    assert any("weights are uint8" in note for note in done.notes)
    advice = onnxpool.precision(model, tmp_path / "int8.onnx", feeds, to="int8")
    assert any("weights are uint8" in note for note in advice.notes)
    assert onnxpool.validate(tmp_path / "int8.onnx").passed


# --- what is refused


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"to": "float8"}, "to='float8' is unknown; use one of float16, int8"),
        ({"budget": 0}, "budget=0 must be a share above 0 and below 1"),
        ({"budget": float("nan")}, "budget=nan must be a share"),
        ({"calibration": None}, "calibration=None takes the golden inputs"),
        ({"calibration": []}, "holds no sample"),
    ],
)
def test_bad_arguments_are_refused(told, sentence):
    with pytest.raises(ArgumentError, match=sentence.replace("(", r"\(")):
        onnxpool.precision(network(), **{"calibration": rows(1), **told})


def test_the_model_itself_and_other_types_are_refused(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    with pytest.raises(ArgumentError, match="is the model itself"):
        onnxpool.precision(tmp_path / "m.onnx", tmp_path / "m.onnx", rows(1))
    half = mixed.lowered(mixed.prepared(network()), ["the h"])
    with pytest.raises(FormError, match="computes in float16"):
        onnxpool.precision(half, None, rows(1))


def test_a_bfloat16_convolution_is_refused_in_one_sentence(caplog):
    """Of which onnx infers no shape before opset 22, and onnx-ir logs a traceback."""
    short = model_of(node("Conv", ["x", "w"], "y"), weights=[("w", np.ones((2, 3, 1, 1)))])
    for value in (short.graph.input[0], short.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(FormError, match="computes in bfloat16"):
        onnxpool.precision(short, None, rows(1))
    assert not caplog.records


def test_what_stays_says_why():
    """Branches compute in float32, too, and are not looked into."""
    inner = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["t"])],
        "t",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    model = model_of(
        node("ReduceMax", ["x"], "top", keepdims=0),
        node("Greater", ["top", "w"], "one"),
        node("Not", ["one"], "other"),
        helper.make_node("If", ["other"], ["y"], "branch", then_branch=inner, else_branch=inner),
        weights=[("w", 0.0)],
    )
    advice = {one.name: one.reason for one in onnxpool.precision(model, None, rows(2)).nodes}
    assert "what branches and loops do is not looked into" in advice["branch"]
    assert "no form in float16" in advice["the one"]
    assert "takes no float32" in advice["the other"]


def test_the_mean_of_an_empty_batch_is_nan_without_a_warning():
    model = mixed.prepared(model_of(node("ReduceMean", ["x"], "y", keepdims=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = from_model.evaluator(from_model.in_dtype(model, ir.DataType.DOUBLE))({"x": np.zeros((0, 3, 8, 8))})
    assert np.isnan(answer["y"])


def test_nothing_is_written_where_nothing_is_safe(tmp_path):
    model = model_of(node("Mul", ["x", "huge"], "y"), weights=[("huge", 1e9)])
    with pytest.raises(FormError, match="no node is safe"):
        onnxpool.precision(model, tmp_path / "made.onnx", rows(2))
    assert list(tmp_path.iterdir()) == []


def test_the_command(written, tmp_path):
    folder, _ = written
    np.savez(tmp_path / "rows.npz", x=np.concatenate([one["x"] for one in rows(3)]))
    told = ["precision", str(folder / "float.onnx"), "--calibration", str(tmp_path / "rows.npz")]
    done = CliRunner().invoke(commands.app, [*told, "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.output)
    assert values["output"] == ""
    assert {one["verdict"] for one in values["nodes"]} >= {"safe", "overflows", "has none"}
    done = CliRunner().invoke(commands.app, [*told, "-o", str(tmp_path / "made.onnx")])
    assert done.exit_code == 0, done.output
    assert "nodes are safe in float16" in done.output
    assert (tmp_path / "made.golden.npz").exists()
    assert CliRunner().invoke(commands.app, [*told, "--budget", "2"]).exit_code == 2


# --- that it holds


UNSAFE = [2, 5]
"""Networks in which not every node is safe: one loses 2 %, one overflows."""


@pytest.mark.parametrize("seed", [*UNSAFE, 6])
def test_what_is_called_safe_is_so_on_inputs_not_seen(seed, tmp_path):
    found = fuzz_precision.tried(seed, tmp_path)
    assert found.wrong == ()
    assert 0 < found.verdicts["safe"] < found.verdicts.total()


@pytest.mark.parametrize("seed", UNSAFE)
def test_the_fuzzer_finds_what_is_called_safe_and_is_not(seed, tmp_path, monkeypatch):
    """With advice that calls every node safe."""
    base = mixed.prepared(fuzz_precision.network(seed))
    names = [one.name for one in base.graph if mixed.places(one, base.opset_imports)[1]]
    monkeypatch.setattr(fuzz_precision, "precision", lambda *_, **__: SimpleNamespace(safe=names, nodes=()))
    found = fuzz_precision.tried(seed, tmp_path)
    assert f"network {seed}: all that is safe is off by " in " ".join(found.wrong)


def test_a_few_large_numbers_need_more_room():
    rng = np.random.default_rng(0)
    tail = ranges._top(1 / np.abs(rng.normal(size=5000)))
    assert ranges._margin(np.sort(tail), 5000) > 100
    assert ranges._margin(np.sort(ranges._top(rng.normal(size=5000))), 5000) == ranges.MARGIN
    assert ranges._margin(np.ones(8), 8) == ranges.MARGIN


def test_forms_of_the_mixed_model_are_one(written):
    folder, _ = written
    x = {"x": rows(1, seed=9)[0]["x"]}
    answers = [
        onnxpool.load(forms.to_form(folder / "mixed.onnx", form)).run(x)["y"] for form in ("function", "standard")
    ]
    np.testing.assert_allclose(*answers, rtol=1e-2)


def test_whole_numbers_are_tried_once_each_and_progress_is_told_to_the_end(monkeypatch):
    """Such samples have no sizes: three runs of each would be alike, and push others out."""
    made = helper.make_model(
        helper.make_graph(
            [node("Gather", ["table", "ids"], "rows"), node("Tanh", ["rows"], "y")],
            "g",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), "table")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    tried, effect, told = [], Switched.effect, []
    monkeypatch.setattr(
        Switched,
        "effect",
        lambda self, samples, *rest: (
            tried.append([feeds["ids"].tobytes() for feeds in samples]) or effect(self, samples, *rest)
        ),
    )
    given = [{"ids": np.random.default_rng(seed).integers(0, 9, (1, 5))} for seed in range(4)]
    advice = onnxpool.precision(made, None, given, progress=lambda *step: told.append(step))
    assert {one.verdict for one in advice.nodes} == {"safe"}
    assert all(len(samples) == len(set(samples)) == 4 for samples in tried)
    assert [step[2] for step in told] == [
        "looking at values",
        "the rows",
        "the y",
        "all that are safe alone, together",
        "done",
    ]
