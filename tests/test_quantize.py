"""Quantising: what is written, what it is judged by, and that planted faults are found."""

import json
import re
from types import SimpleNamespace

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxpool
from onnxpool.errors import ArgumentError, FormError
from onnxpool.golden import bounds, from_quantized
from onnxpool.golden import file as golden_file
from onnxpool.golden.rounding import Rounding
from onnxpool.graph import quantized
from onnxpool.quantizing.saturation import saturates
from onnxpool.run.native_library import why_missing
from onnxpool.validation.compare import Judge
from onnxpool.validation.model import HeldModel
from onnxpool.validation.quantized import distances, judge
from onnxpool.window import Window

POOL = Window.of(2, 2)


def made_of(*nodes, weights=(), opset=18, channels=(None, None)):
    """A model from x to y, of these nodes and arrays by name; ``channels`` of x and y are fixed where given."""
    model = models.model(list(nodes), 2, opset=opset)
    for value, number in zip((model.graph.input[0], model.graph.output[0]), channels, strict=True):
        if number:
            value.type.tensor_type.shape.dim[1].dim_value = number
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights)
    return model


def pool(op_type, inputs, output):
    node = helper.make_node(op_type, inputs, [output], f"pool of {output}", domain="onnxpool")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in POOL.attributes().items())
    return node


def network():
    """Convolution, SoftPool, max-pool, local importance pooling by a logit, convolution."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = [
        ("w", array(4, 3, 3, 3)),
        ("b", array(4)),
        ("v", array(4, 4, 1, 1)),
        ("c", array(4)),
        ("u", array(2, 4, 1, 1)),
    ]
    return made_of(
        helper.make_node("Conv", ["x", "w", "b"], ["h"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        pool("SoftPool", ["r"], "s"),
        helper.make_node("MaxPool", ["s"], ["m"], "max", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["m", "v", "c"], ["l"], "logit"),
        pool("LocalImportancePool", ["m", "l"], "i"),
        helper.make_node("Conv", ["i", "u"], ["y"], "last"),
        weights=weights,
        channels=(3, 2),
    )


def data(samples=4, seed=1, size=16):
    return np.random.default_rng(seed).normal(size=(samples, 3, size, size)).astype(np.float32)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of a float model and the quantised one, with what was said of it."""
    folder = tmp_path_factory.mktemp("quantised")
    onnxpool_model = onnxpool.to_form(network(), "function")
    ir.save(onnxpool_model, folder / "float.onnx")
    np.savez(folder / "data.npz", x=data())
    found = onnxpool.quantize(folder / "float.onnx", folder / "int8.onnx", folder / "data.npz")
    return folder, found


# --- what is written


def test_pooling_nodes_stand_in_float_between_integers(written):
    folder, found = written
    model = onnx.load(folder / "int8.onnx")
    assert onnxpool.form_of(model) == "function"
    assert model.ir_version <= 10
    makers = {name: node for node in model.graph.node for name in node.output}
    users = {name: node for node in model.graph.node for name in node.input}
    pools = [node for node in model.graph.node if node.domain == "onnxpool"]
    assert [node.op_type for node in pools] == ["SoftPool", "LocalImportancePool"]
    for node in pools:
        assert {makers[name].op_type for name in node.input} == {"DequantizeLinear"}
        assert users[node.output[0]].op_type == "QuantizeLinear"
    stored = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert stored["w_quantized"] == (TensorProto.UINT8 if saturates() else TensorProto.INT8)
    assert stored["r_zero_point"] == TensorProto.UINT8
    assert "w" not in stored
    if why_missing() is None:
        assert found.native == ("pool of s", "pool of i")


def test_it_is_close_to_the_float_model(written):
    folder, found = written
    (y,) = found.outputs
    assert (y.output, found.samples, found.compared, found.weights) == ("y", 4, 4, 5)
    x = data(1, seed=1)
    mine, right = (onnxpool.load(folder / name).run({"x": x})["y"] for name in ("int8.onnx", "float.onnx"))
    step = quantized.output_steps(ir.load(folder / "int8.onnx"))["y"]
    assert y.step == step
    assert np.abs(mine - right).max() <= y.max_abs * 1.001
    assert 0 < y.max_steps < 8
    assert y.snr_db > 25
    assert np.abs(mine / step - np.rint(mine / step)).max() < 1e-3  # whole steps


def test_the_golden_file_beside_it_holds_the_exact_answers(written):
    folder, _ = written
    golden = golden_file.load(folder / "int8.golden.npz")
    session = onnxpool.load(folder / "int8.onnx", kernels="off")
    step = quantized.output_steps(ir.load(folder / "int8.onnx"))["y"]
    case = golden.case("example")
    assert bounds.YARDSTICK_FACTOR * case.yardstick["y"] >= step
    assert np.abs(session.run(case.inputs)["y"] - case.answers["y"]).max() < 1e-4 * step
    assert not {"nan", "inf"} & {one.name for one in golden.cases}


@pytest.mark.slow
def test_other_forms_and_settings_give_models_that_pass(tmp_path):
    whole = {}
    for form in ("standard", "custom"):
        model = onnxpool.to_form(network(), form)
        path = tmp_path / f"{form}.onnx"
        found = onnxpool.quantize(model, path, [{"x": data()}], method="percentile", per_channel=False)
        assert f"the model was in {form} form" in found.notes[0]
        whole[form] = onnxpool.load(path).run({"x": data()})["y"]
        assert found.outputs[0].snr_db > 20
    np.testing.assert_array_equal(whole["standard"], whole["custom"])
    if saturates():  # no weights go with them there
        return
    found = onnxpool.quantize(network(), path, [{"x": data()}], activations="int8", method="entropy")
    assert {entry.data_type for entry in onnx.load(path).graph.initializer if entry.name == "r_zero_point"} == {
        TensorProto.INT8
    }


# --- what cannot be quantised


def masked():
    """Local importance pooling in which cells that are not positive take no part: their logit is -inf."""
    weights = [("zero", np.float32(0)), ("none", np.float32(-np.inf)), ("w", np.full((1, 3, 1, 1), 0.3, np.float32))]
    return made_of(
        helper.make_node("Greater", ["x", "zero"], ["seen"], "greater"),
        helper.make_node("Where", ["seen", "x", "none"], ["l"], "mask"),
        pool("LocalImportancePool", ["x", "l"], "i"),
        helper.make_node("Conv", ["i", "w"], ["y"], "last"),
        weights=weights,
        channels=(3, 1),
    )


def test_an_infinite_range_is_an_error_that_names_the_node_and_leaves_nothing(tmp_path):
    with pytest.raises(FormError, match=r"'mask' \(Where\)") as refused:
        onnxpool.quantize(masked(), tmp_path / "int8.onnx", [{"x": data()}])
    assert "a scale must be a positive number" in str(refused.value)
    assert "exclude=['mask', 'pool of i']" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    found = onnxpool.quantize(masked(), tmp_path / "int8.onnx", [{"x": np.abs(data())}], exclude=["mask", "pool of i"])
    assert found.outputs[0].snr_db > 25


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: models.pooled(POOL, "float16"), "the model computes in float16 .*'x'.*takes float32"),
        (
            lambda: made_of(helper.make_node("Relu", ["x"], ["y"]), opset=12),
            "the model has opset 12; quantising needs 13",
        ),
        (lambda: made_of(helper.make_node("Exp", ["x"], ["y"])), "no operator that ONNX Runtime quantises"),
        (lambda: pair(0.5, 3), "quantised already"),
    ],
)
def test_a_model_that_cannot_be_quantised_is_refused(tmp_path, model, said):
    with pytest.raises(FormError, match=said):
        onnxpool.quantize(model(), tmp_path / "int8.onnx", [{"x": data()}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "max"}, "method='max' is unknown; use one of minmax, percentile, entropy"),
        ({"activations": "int8", "weights": "uint8"}, "weights='uint8' with activations='int8'"),
        ({"exclude": ["cnv"]}, r"exclude='cnv'.*did you mean 'conv'"),
        ({"size": (8, 8)}, r"size=\(8, 8\) is for pictures"),
        ({"calibration": None}, "calibration=None takes the golden inputs"),
        ({"calibration": "nowhere"}, "calibration='nowhere' is neither a folder nor an npz file"),
        ({"calibration": []}, "holds no sample"),
        ({"calibration": [{"z": data()}]}, r"holds \['z'\]; the model takes \['x'\]"),
        ({"calibration": [{"x": data()[0, 0]}]}, r"gives 'x' of shape \(16, 16\)"),
        ({"calibration": [{"x": data() * np.nan}]}, "NaN or infinity"),
        ({"calibration": [{"x": data().astype(int)}]}, "gives 'x' as int64; the model takes float32"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path, arguments, said):
    given = {"calibration": [{"x": data()}], **arguments}
    with pytest.raises(ArgumentError, match=said):
        onnxpool.quantize(network(), tmp_path / "int8.onnx", given.pop("calibration"), **given)
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_is_not_written_over(written):
    folder, _ = written
    with pytest.raises(ArgumentError, match="is the model itself"):
        onnxpool.quantize(folder / "float.onnx", folder / "float.onnx")


def test_nothing_is_printed_and_a_float_output_has_a_measured_step(tmp_path, capsys):
    """The last operator is not one that is quantised: exp of about 0 moves as far as what it takes."""
    model = made_of(
        helper.make_node("Conv", ["x", "w"], ["h"], "conv"),
        helper.make_node("Exp", ["h"], ["y"], "exp"),
        weights=[("w", np.full((1, 3, 1, 1), 1e-3, np.float32))],
        channels=(3, 1),
    )
    (y,) = onnxpool.quantize(model, tmp_path / "int8.onnx", [{"x": data()}], method="entropy").outputs
    stored = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert y.step == pytest.approx(stored["h_scale"], rel=0.02)
    assert y.max_steps == pytest.approx(y.max_abs / y.step)
    assert capsys.readouterr() == ("", "")


# --- calibration


def test_a_folder_of_arrays_and_pictures(tmp_path):
    from onnxpool.quantizing.calibration import samples
    from onnxpool.run.session import TensorInfo

    pillow = pytest.importorskip("PIL.Image")
    inputs = (TensorInfo("x", np.dtype(np.float32), ("N", 3, "H", "W")),)
    np.save(tmp_path / "a.npy", data(2))
    np.savez(tmp_path / "b.npz", x=data(3)[:, None])
    pillow.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("no sample")
    found = samples(tmp_path, None, inputs, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.25]})
    feeds = [one["x"] for one in found]
    assert [array.shape for array in feeds] == [(1, 3, 16, 16)] * 5 + [(1, 3, 4, 6)]
    np.testing.assert_array_equal(feeds[1], data(2)[1:])
    np.testing.assert_array_equal(feeds[4], data(3)[2:])
    np.testing.assert_allclose(feeds[5][0, :, 0, 0], [1, -1, -2])


def test_the_golden_inputs_are_taken_by_default(tmp_path):
    path = tmp_path / "float.onnx"
    ir.save(onnxpool.to_form(network(), "function"), path)
    inputs, answers = {"x": data(2)}, {"y": np.zeros((2, 2, 2, 2))}
    cases = tuple(golden_file.Case(name, inputs, answers, {"y": 0.0}) for name in ("ordinary", "huge", "nan"))
    golden = golden_file.Golden("hand", "hand", {"y": "float32"}, cases, (), None)
    golden_file.save(golden, golden_file.path_for(path))
    found = onnxpool.quantize(path, tmp_path / "int8.onnx")
    assert found.samples == 1
    assert found.source == f"the golden inputs, {tmp_path / 'float.golden.npz'}"
    assert "real data are better" in found.notes[0]


# --- exact answers


def pair(scale, zero_point, *after):
    """Q, DQ, and these nodes on what they give, d."""
    weights = [("s", np.float32(scale)), ("z", np.uint8(zero_point)), ("two", np.float32(2))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d" if after else "y"], "dq"),
        *after,
    ]
    return made_of(*nodes, weights=weights)


def test_rounding_by_hand():
    """Quotients -2, 0.5, 1.5, 2000 are rounded to even, 3 is added, and 258 is too much."""
    evaluated = from_quantized.Evaluated(onnxpool.to_form(pair(0.5, 3), "custom"))
    x = np.array([-1, 0.25, 0.75, 1000, -9], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(evaluated.exact({"x": x})["y"].ravel(), [-1, 0, 1, 126, -1.5])


def test_a_moved_rounding_goes_to_the_other_step_in_the_middle_alone():
    model = onnxpool.to_form(pair(0.5, 3), "custom")
    evaluated = from_quantized.Evaluated(model)
    for value, moves in ((0.25, True), (0.2, False)):
        feeds = {"x": np.full((1, 1, 1, 64), value, np.float32)}
        allowed = evaluated.allowed(feeds, evaluated.exact(feeds))["y"] * bounds.YARDSTICK_FACTOR
        assert allowed == (1.0 if moves else 0.5)  # one step, and one more


@pytest.mark.parametrize(("steps", "verdict"), [(0, "passed"), (1, "passed"), (1.5, "mismatch"), (-2, "mismatch")])
def test_a_runtime_may_be_off_by_one_step(steps, verdict):
    """No quotient is near the middle of two, so that nothing else is allowed."""
    x = np.array([-1, 0.2, 0.7, 50], np.float32).reshape(1, 1, 1, 4)
    evaluated = from_quantized.Evaluated(onnxpool.to_form(pair(0.5, 3), "custom"))
    answers = evaluated.exact({"x": x})
    case = golden_file.Case("hand", {"x": x}, answers, evaluated.allowed({"x": x}, answers))
    golden = golden_file.Golden("hand", "a quarter of a step", {"y": "float32"}, (case,), (), None)
    given = answers["y"].astype(np.float32)
    given[0, 0, 0, 1] += np.float32(steps * 0.5)
    (result,) = Judge(golden, HeldModel(pair(0.5, 3))).results(case, {"y": given}, native=False, loses=())
    assert result.verdict == verdict
    assert result.share == pytest.approx(abs(steps), rel=1e-3)  # 16 ULP of 50 are allowed, too


def test_the_step_of_an_output_that_is_computed_in_float_is_measured():
    model = onnxpool.to_form(pair(0.5, 3, helper.make_node("Mul", ["d", "two"], ["y"], "mul")), "custom")
    evaluated = from_quantized.Evaluated(model)
    feeds = {"x": np.ones((1, 1, 2, 2), np.float32)}
    assert quantized.output_steps(model) == {"y": None}
    assert evaluated.steps(feeds, evaluated.exact(feeds)) == {"y": 1.0}


def test_channels_have_their_own_steps():
    q, dq = Rounding().operators()[0], Rounding().operators()[2]
    scale, zero = np.array([0.5, 2.0], np.float32), np.array([0, 1], np.uint8)
    x = np.array([[1.0, 4.0], [8.0, 8.0]])
    stored = q._run(None, x, scale, zero, axis=1)[0]
    np.testing.assert_array_equal(stored, [[2, 3], [16, 5]])

    node = SimpleNamespace(onnx_node=SimpleNamespace(output=["y"]))
    np.testing.assert_array_equal(dq._run(node, stored, scale, zero, axis=1)[0], x)


# --- planted faults


def change(model, name, how):
    """Another value of an initializer."""
    entry = next(entry for entry in model.graph.initializer if entry.name == name)
    entry.CopyFrom(numpy_helper.from_array(how(numpy_helper.to_array(entry).copy()), name))


def change_for(model, node, i, how):
    """Another value of what one node alone takes."""
    taker = next(one for one in model.graph.node if one.name == node)
    entry = next(entry for entry in model.graph.initializer if entry.name == taker.input[i])
    model.graph.initializer.append(numpy_helper.from_array(how(numpy_helper.to_array(entry)), "planted"))
    taker.input[i] = "planted"


def bump(array):
    array.flat[5] = int(array.flat[5]) + (3 if array.flat[5] < 100 else -3)
    return array


FAULTS = {
    "scale of a DQ doubled": (
        lambda m: change_for(m, "r_DequantizeLinear", 1, lambda s: 2 * s),
        "'r_DequantizeLinear'",
    ),
    "zero point of a DQ moved": (
        lambda m: change_for(m, "s_DequantizeLinear", 2, lambda z: z + np.uint8(9)),
        "'s_DequantizeLinear'",
    ),
    "scale of a Q doubled": (lambda m: change_for(m, "l_QuantizeLinear", 1, lambda s: 2 * s), "'l_QuantizeLinear'"),
    "scale of Q and DQ doubled": (lambda m: change(m, "x_scale", lambda s: 2 * s), "'conv' .* products|'conv' .*bias"),
    "scale of a weight doubled": (lambda m: change(m, "u_scale", lambda s: 2 * s), "input 1 of node 'last'"),
    "a weight changed": (lambda m: change(m, "v_quantized", bump), r"input 1 of node 'logit' \(Conv\) is .* in float"),
    "a bias changed": (lambda m: change(m, "b_quantized", lambda b: b + np.int32(9)), "input 2 of node 'conv'"),
    "a scale of 0": (lambda m: change(m, "y_scale", lambda s: 0 * s), "a scale must be a positive number"),
    "a scale of NaN": (lambda m: change(m, "s_scale", lambda s: s * np.float32(np.nan)), "a scale must be a positive"),
    "another window": (
        lambda m: next(n for n in m.graph.node if n.name == "max").attribute[0].ints.__setitem__(0, 1),
        r"'max' \(MaxPool\) is not what it was",
    ),
}


@pytest.fixture(scope="module")
def one_case(written):
    """What the quantised model is judged by, of one case."""
    return from_quantized.record(ir.load(written[0] / "int8.onnx"), only="ordinary")


def judged(folder, golden, plant=None, max_steps=None):
    model = onnx.load(folder / "int8.onnx")
    if plant:
        plant(model)
    return judge(HeldModel(model), golden, HeldModel(folder / "float.onnx"), max_steps)


def test_a_right_model_has_no_fault_and_says_what_was_judged(written, one_case):
    faults, notes = judged(written[0], one_case)
    assert faults == []
    told = "\n".join(notes)
    assert "judged: 5 weights, each within its rounding" in told
    assert "not judged: the steps of activations" in told
    assert "reported, not judged without max_steps: output 'y' differs by at most" in told
    assert "'relu' (Relu)" in told


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(written, one_case, name):
    plant, said = FAULTS[name]
    folder = written[0]
    if "scale of" in name and ("0" in name or "NaN" in name):
        found = quantized.faults(HeldModel(planted(folder, plant)).original)
    else:
        found, _ = judged(folder, one_case, plant)
    assert any(re.search(said, fault) for fault in found), found


def planted(folder, plant):
    model = onnx.load(folder / "int8.onnx")
    plant(model)
    return model


@pytest.mark.parametrize("name", ["r_zero_point", "y_scale", "m_scale"])
def test_steps_that_were_not_calibrated_are_found_by_the_golden_file(written, tmp_path, name):
    """Where Q and DQ agree, only what was calibrated tells."""
    model = onnx.load(written[0] / "int8.onnx")
    if name not in {entry.name for entry in model.graph.initializer}:
        name = "s_scale"
    change(model, name, lambda number: number + number.dtype.type(7) if number.dtype == np.uint8 else 2 * number)
    onnx.save(model, tmp_path / "int8.onnx")
    (tmp_path / "int8.golden.npz").write_bytes((written[0] / "int8.golden.npz").read_bytes())
    report = onnxpool.validate(tmp_path / "int8.onnx", case="ordinary", forms=("function",))
    assert not report.passed
    assert any(f"initializer {name!r}" in cause for cause in report.causes), report.causes


def test_the_distance_to_the_float_model_is_judged_when_asked(written, one_case):
    faults, _ = judged(written[0], one_case, max_steps=1e-3)
    assert any("more than max_steps=0.001" in fault for fault in faults)
    faults, notes = judged(written[0], one_case, max_steps=500)
    assert faults == []
    assert any("judged by max_steps=500" in note for note in notes)


def test_distance_by_hand():
    """1.1 becomes 1.0 and 3.4 becomes 3.5, in steps of 0.5."""
    float_model = onnxpool.to_form(made_of(helper.make_node("Identity", ["x"], ["y"], "same")), "custom")
    x = np.array([1.1, 3.4], np.float32).reshape(1, 1, 1, 2)
    case = golden_file.Case("hand", {"x": x}, {}, {})
    (far,) = distances(onnxpool.to_form(pair(0.5, 3), "custom"), float_model, [case])
    assert (far.output, far.step, far.case) == ("y", 0.5, "hand")
    assert far.max_abs == pytest.approx(0.1, rel=1e-5)
    assert far.max_steps == pytest.approx(0.2, rel=1e-5)
    assert far.snr_db == pytest.approx(20 * np.log10(np.hypot(1.1, 3.4) / np.hypot(0.1, 0.1)), abs=0.01)


def test_max_steps_needs_a_quantised_model_and_its_original(written):
    folder = written[0]
    with pytest.raises(ArgumentError, match="max_steps=1 is for a quantised model"):
        onnxpool.validate(folder / "float.onnx", max_steps=1)
    with pytest.raises(ArgumentError, match="max_steps=1 needs the float original"):
        onnxpool.validate(folder / "int8.onnx", max_steps=1)
    with pytest.raises(ArgumentError, match=r"reference='nowhere\.onnx': there is no model file nowhere\.onnx"):
        onnxpool.validate(folder / "int8.onnx", "nowhere.onnx")
    with pytest.raises(ArgumentError, match="is quantised, as the model is"):
        onnxpool.validate(folder / "int8.onnx", folder / "int8.onnx")
    with pytest.raises(ArgumentError, match="max_steps=0 must be a positive number"):
        onnxpool.validate(folder / "int8.onnx", max_steps=0)


# --- the command line


def test_the_commands(written, tmp_path):
    folder = written[0]
    run = CliRunner().invoke
    from onnxpool.cli.commands import app

    output = tmp_path / "out" / "int8.onnx"
    command = ["quantize", str(folder / "float.onnx"), "--calibration", str(folder / "data.npz"), "-o", str(output)]
    done = run(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["samples"], told["outputs"][0]["output"], told["weights"]) == (4, "y", 5)
    assert told["size_after_bytes"] > 0
    validate = ["validate", str(output), "--reference", str(folder / "float.onnx"), "--case", "ordinary"]
    done = run(app, validate)
    assert done.exit_code == 0, done.output
    assert "reported, not judged" in done.output
    done = run(app, [*validate, "--max-steps", "0.001"])
    assert done.exit_code == 1, done.output
    done = run(app, [*command, "--method", "minmax", "--exclude", "nobody"])
    assert done.exit_code == 2
    assert "exclude='nobody'" in done.output


def test_another_model_is_a_reference_for_a_float_model(written, tmp_path):
    folder = written[0]
    report = onnxpool.validate(folder / "float.onnx", folder / "float.onnx", case="ordinary", forms=("function",))
    assert report.passed
    other = network()
    change(other, "b", lambda array: array + 1)
    onnx.save(other, tmp_path / "other.onnx")
    report = onnxpool.validate(folder / "float.onnx", tmp_path / "other.onnx", case="ordinary", forms=("function",))
    assert report.exit_status == 1
