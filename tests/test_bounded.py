"""The bounded standard form: right within its range, which is refused where too large and heeded by validation."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from cases import WINDOWS, inputs, shape
from models import model, pooled
from onnx import helper
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.errors import ArgumentError, FormError
from onnxpool.golden import bounds, from_function
from onnxpool.golden.file import path_for, save
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.pools._bounded import largest_range
from onnxpool.runtimes import RUNTIMES
from onnxpool.validation.as_text import sentences
from onnxpool.validation.certificate import check_certificate, issue_certificate
from onnxpool.validation.validate import validate
from onnxpool.window import Window

WINDOW = Window.of(2, 3, 2, 1)
BOUNDED = ("LocalImportancePool", "SoftPool")
DTYPES = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE, "float16": ir.DataType.FLOAT16}


def made(op_type="SoftPool", window=WINDOW, dtype="float32", within=60.0):
    return forms.to_form(pooled(window, dtype, op_type, OPERATORS[op_type].inputs), "standard", within=within)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("op_type", BOUNDED)
def test_right_up_to_the_largest_range(op_type, window, dtype):
    node, limit = OPERATORS[op_type], largest_range(window, DTYPES[dtype])
    session = onnxpool.load(made(op_type, window, dtype, limit), kernels="off", threads=1)
    rng = np.random.default_rng(3)
    for name, wide in {
        "ordinary": inputs(window, 1e4)["ordinary"],
        "ends": np.where(rng.random(shape(window)) < 0.5, limit, -limit),
        "all high": np.full(shape(window), limit),
        "all low": np.full(shape(window), -limit),
        "nan": inputs(window, 1e4)["nan"],
    }.items():
        x = np.nextafter(wide, 0).astype(dtype) if dtype == "float16" else wide.astype(dtype)
        feeds = {given: np.roll(x, shift, axis=-1) for shift, given in enumerate(node.inputs)}
        answer = node.reference(window, *(array.astype(np.float64) for array in feeds.values()))
        bound = bounds.pooling(window, x.astype(np.float64), answer, x.dtype, native=False)
        error = bounds.measure(session.run(feeds)["y"], answer, bound.allowed)
        assert error.within, f"{name}: {error}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [1, 2, 3, 7, 30, 200])
def test_the_largest_range_is_one_that_no_sum_leaves(kernel, dtype):
    window, wide = Window.of(2, kernel), np.float64 if dtype == "float64" else np.float32
    limit, cells = largest_range(window, DTYPES[dtype]), kernel**2
    info = np.finfo(wide)
    assert math.log(cells) + math.log(limit) + limit < math.log(float(info.max)) - 0.5, "products may be summed"
    assert -limit - math.log(cells) > math.log(float(info.smallest_normal)) + 0.5, "means of weights are normal numbers"
    assert limit > 0.8 * math.log(float(info.max)) - math.log(cells), "and it is not much less than that"
    with pytest.raises(ArgumentError, match=f"node 'pool' pools .* in {np.dtype(wide)}, where .* up to {limit:g} only"):
        made(window=window, dtype=dtype, within=limit + 0.1)


def test_what_it_holds():
    bounded = made()
    assert [node.op_type for node in bounded.graph] == ["Exp", "Mul", "AveragePool", "AveragePool", "Div"]
    assert forms.range_of(bounded) == 60
    assert forms.range_of(forms.to_form(bounded, "standard")) is None, "asked for without a range it is the exact form"
    for form in ("function", "custom"):
        again = forms.to_form(bounded, form)
        assert [node.op_type for node in again.graph] == ["SoftPool"]
        assert forms.range_of(again) is None
    assert forms.range_of(forms.to_form(forms.to_form(bounded, "custom"), "standard", within=5)) == 5


def test_other_poolings_stay_exact():
    nodes = [
        helper.make_node(name, [x], [y], name, domain="onnxpool", **WINDOW.attributes())
        for name, x, y in (("SoftPool", "x", "a"), ("StochasticPool", "a", "y"))
    ]
    both = forms.to_form(model(nodes, 2), "standard", within=60)
    alone = forms.to_form(pooled(WINDOW, op_type="StochasticPool"), "standard")
    assert [node.op_type for node in both.graph][5:] == [node.op_type for node in alone.graph]


@pytest.mark.parametrize(
    ("op_type", "form", "within", "words"),
    [
        ("SoftPool", "function", 60, "within=60 must be a positive number, and is for form='standard' alone"),
        ("SoftPool", "standard", -1, "within=-1 must be a positive number"),
        ("SoftPool", "standard", math.nan, "within=nan must be a positive number"),
        (
            "StochasticPool",
            "standard",
            60,
            "within=60 is for LocalImportancePool, SoftPool, of which the model has none",
        ),
    ],
)
def test_refusals(op_type, form, within, words):
    with pytest.raises(ArgumentError) as caught:
        forms.to_form(pooled(WINDOW, op_type=op_type), form, within=within)
    assert words in str(caught.value)


def test_a_range_that_is_no_number():
    broken = made()
    broken.metadata_props[forms.RANGE] = "wide"
    with pytest.raises(FormError, match="is 'wide', not a number; convert it again"):
        forms.range_of(broken)


# --- validation


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


def test_validation_says_what_the_range_leaves_out(tmp_path):
    path = tmp_path / "bounded.onnx"
    forms.write(made(), path)
    golden = from_function.record(soft, forms.read(path))
    report = validate(path, golden, threads=1)
    assert report.passed, sentences(report)
    (note,) = [note for note in report.notes if "magnitude above 60" in note]
    assert "not judged beyond it: huge, inf, -inf" in note
    (standard,) = [run for run in report.runs if run.form == "standard"]
    skipped = {result.case: result.reason for result in standard.results if result.verdict == "skipped"}
    assert set(skipped) == {"huge", "inf", "-inf"}
    assert skipped["inf"] == "beyond the range of this model, 60: 'x', which node 'pool' pools, reaches inf"
    for run in report.runs:
        assert run.form == "standard" or all(result.verdict == "passed" for result in run.results), "others are exact"
    issue_certificate(report, path)
    content = check_certificate(path).content
    assert content["range"] == 60
    assert note in content["report"]["notes"]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference", "onnxruntime_web"])
@pytest.mark.parametrize("op_type", BOUNDED)
def test_every_runtime_takes_it(op_type, name):
    if reason := RUNTIMES[name].why_not({"dtypes": ["float32"]}):
        pytest.skip(reason)
    node = OPERATORS[op_type]
    windows = (WINDOW, Window.of(2, 3, 2, 1, 1, True), Window.of(1, 3, 2, 1, 2), Window.of(3, 2))
    for window in windows[: 2 if name == "reference" else 4]:  # that one takes 5 s for each
        golden = from_function.record(
            lambda feeds, window=window: {"y": node.reference(window, *(feeds[given] for given in node.inputs))},
            pooled(window, op_type=op_type, inputs=node.inputs),
        )
        report = validate(made(op_type, window), golden, on=[name], forms=["standard"], threads=1)
        assert report.passed, (str(window), sentences(report))


def test_a_range_from_golden_answers(tmp_path):
    """Twice what the network pools in its ordinary cases, so that only huge numbers and infinities go beyond."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"], "double"),
        helper.make_node("SoftPool", ["doubled"], ["y"], "pool", domain="onnxpool", **WINDOW.attributes()),
    ]
    path, bounded = tmp_path / "m.onnx", tmp_path / "bounded.onnx"
    forms.write(forms.to_form(model(nodes, 2), "function"), path)
    golden = from_function.record(lambda feeds: soft({"x": 2 * feeds["x"]}), forms.read(path))
    save(golden, path_for(path))
    largest = max(
        np.nanmax(np.abs(case.inputs["x"]), initial=0)
        for case in golden.cases
        if case.name not in ("huge", "inf", "-inf")
    )
    command = ["form", str(path), str(bounded), "--to", "standard", "--range", "golden"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert forms.range_of(forms.read(bounded)) == 4 * largest
    report = validate(bounded, golden, forms=["standard"], threads=1)
    assert report.passed, sentences(report)
    assert {result.case for result in report.runs[0].results if result.verdict == "skipped"} == {"huge", "inf", "-inf"}


def test_a_range_that_cannot_be_measured(tmp_path):
    def said(text):
        result = CliRunner().invoke(app, [*command, text])
        assert result.exit_code == 2
        return " ".join(result.output.replace("│", "").split())

    path = tmp_path / "m.onnx"
    forms.write(forms.read(pooled(WINDOW, op_type="StochasticPool")), path)
    command = ["form", str(path), str(tmp_path / "bounded.onnx"), "--to", "standard", "--range"]
    assert "m.golden.npz" in said("golden")
    save(from_function.record(soft, forms.read(path)), path_for(path))
    assert "no pooling node has a bounded form" in said("golden")
    assert "--range 'wide' is neither a number nor 'golden'" in said("wide")
    assert not (tmp_path / "bounded.onnx").exists()


def test_a_wrong_answer_within_the_range_is_a_mismatch():
    bounded = made()
    next(node for node in bounded.graph if node.op_type == "AveragePool").attributes["pads"] = ir.AttrInt64s(
        "pads", [0, 0, 2, 2]
    )
    report = validate(bounded, from_function.record(soft, made()), forms=["standard"], threads=1)
    assert report.exit_status == 1
    assert "mismatch" in {result.verdict for result in report.runs[0].results if result.case == "ordinary"}


def test_a_network_is_watched_inside():
    """The range is that of what is pooled, not of the network's inputs."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], "double"),
        helper.make_node("SoftPool", ["twice"], ["y"], "pool", domain="onnxpool", **WINDOW.attributes()),
    ]
    bounded = forms.to_form(model(nodes, 2), "standard", within=3)
    golden = from_function.record(lambda feeds: soft({"x": 2 * feeds["x"]}), bounded)
    report = validate(bounded, golden, forms=["standard"], threads=1)
    reasons = {result.case: result.reason for result in report.runs[0].results if result.verdict == "skipped"}
    assert "'twice', which node 'pool' pools, reaches" in reasons["ordinary"]
    assert "constant" not in reasons
    assert report.passed
