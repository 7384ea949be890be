"""Validation: right models pass in every form, and each way of being wrong is found and named."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models import model, pooled
from onnx import helper

import onnxpool
from onnxpool import nn
from onnxpool.cli import layout, tables
from onnxpool.errors import ArgumentError, FormError, GoldenError
from onnxpool.golden import file as golden_file
from onnxpool.golden import from_function, from_torch
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.validation import as_html, as_junit
from onnxpool.validation.as_text import sentences
from onnxpool.validation.report import EXIT_STATUS, SCHEMA, Report, Result, Run, worst
from onnxpool.validation.report import failed as is_failed
from onnxpool.validation.validate import validate
from onnxpool.window import Window

WINDOW = Window.of(2, 3, 2, 1)
SKIPS = native_library.why_missing() is not None
native = pytest.mark.skipif(SKIPS, reason="without the native library")
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 1)
        self.down, self.smooth = nn.SoftPool2d(3, 2, 1), nn.SoftPool2d(3, 1, 1)

    def forward(self, x):
        return self.last(self.smooth(self.down(torch.relu(self.first(x)))))


@pytest.fixture(scope="module")
def exported():
    """A network of two poolings beside two convolutions, and its golden answers."""
    module, args = Small(), (torch.randn(2, 2, 12, 12),)
    made = onnxpool.export(module, args, dynamic_shapes=({0: "batch", 2: "height", 3: "width"},))
    return made, from_torch.record(module, made, args)


def failures(report: Report) -> str:
    return "\n".join(sentences(report))


# --- right models


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reference", [None, soft], ids=["itself", "function"])
def test_one_pooling_node_passes_in_every_form(dtype, reference):
    report = validate(pooled(WINDOW, dtype), reference)
    assert report.passed, failures(report)
    assert [(run.form, run.kernels) for run in report.runs] == [
        ("function", False),
        ("function", True),
        ("standard", False),
        ("custom", True),
    ]
    for run in report.runs:
        assert run.verdict == ("skipped" if run.kernels and SKIPS else "passed")
        assert all(result.verdict == "passed" for result in run.results)
        assert all("promise" in result.origin or "analysis" in result.origin for result in run.results)


@native
def test_the_native_promise_is_tighter_than_the_analysis():
    off, on = validate(pooled(WINDOW), soft, forms=["function"]).runs
    assert "promise of the native kernel, 9 cells: 13.5 ULP" in on.results[0].origin
    assert "rounding analysis, 9 cells: 28.2 ULP" in off.results[0].origin
    assert on.pooling == ("pool (SoftPool): CPUExecutionProvider",)
    assert off.pooling == ("pool (SoftPool): standard operators",)


def test_a_network_passes_against_its_golden_answers(exported):
    report = validate(*exported)
    assert report.passed, failures(report)
    assert report.causes == ()
    for run in report.runs:
        if run.verdict != "skipped":
            assert {"example", "ordinary", "nan", "sizes 3x2x12x12"} <= {result.case for result in run.results}
            assert run.worst.share < 0.7
            assert "PyTorch's own error" in run.worst.origin


def test_the_golden_file_beside_the_model_is_used(tmp_path, exported):
    made, answered = exported
    forms.write(made, tmp_path / "net.onnx")
    golden_file.save(answered, tmp_path / "net.golden.npz")
    report = validate(tmp_path / "net.onnx", forms=["function"])
    assert report.passed
    assert report.reference.startswith("Small in float64, PyTorch")
    assert validate(tmp_path / "net.onnx", str(tmp_path / "net.golden.npz"), forms=["standard"]).passed


def test_a_module_judges(exported):
    assert validate(exported[0], Small(), forms=["function"]).passed
    other = Small()
    other.last.bias.data += 1e-3
    assert not validate(exported[0], other, forms=["function"]).passed


def test_a_network_judged_by_itself(exported):
    report = validate(exported[0], forms=["standard"])
    assert report.passed, failures(report)
    assert "model itself in float64" in report.reference


def test_a_model_without_pooling_runs_as_it_is():
    report = validate(model([helper.make_node("Relu", ["x"], ["y"], "relu")], 2))
    assert report.passed, failures(report)
    assert [run.name for run in report.runs] == ["onnxruntime, standard"]


def test_missing_kernels_are_skipped_and_shown(monkeypatch, tmp_path):
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "nothing.so"))
    report = validate(pooled(WINDOW), soft)
    assert report.passed
    assert [run.verdict for run in report.runs] == ["passed", "skipped", "passed", "skipped"]
    assert "names no file" in report.runs[1].reason
    assert "2 skipped" in report.summary
    only = validate(pooled(WINDOW), soft, forms=["custom"])
    assert not only.passed, "nothing ran"


# --- wrong models


def tampered(made: ir.Model, change) -> ir.Model:
    """A copy, its first pooling node, or what else ``change`` picks, altered."""
    copy = made.clone()
    change(copy, next(node for node in copy.graph if node.op_type == "SoftPool"))
    return copy


def attribute(name, value):
    return lambda _, node: node.attributes.add(ir.convenience.convert_attribute(name, value))


def conv_weight(factor):
    def change(copy, _):
        node = next(node for node in copy.graph if node.op_type == "Conv")
        weight = node.inputs[1]
        weight.const_value = ir.tensor((weight.const_value.numpy() * factor).astype("float32"), name=weight.name)

    return change


def larger_same_shape(_, node):
    for name, value in (("kernel_shape", [5, 5]), ("pads", [2, 2, 2, 2])):
        node.attributes.add(ir.convenience.convert_attribute(name, value))


POOLING = {
    "pads": attribute("pads", [0, 0, 0, 0]),
    "uneven pads": attribute("pads", [1, 1, 0, 0]),
    "kernel": attribute("kernel_shape", [2, 2]),
    "kernel and pads, same shape": larger_same_shape,
    "strides": attribute("strides", [1, 1]),
    "dilations": attribute("dilations", [2, 2]),
    "ceil_mode": attribute("ceil_mode", 1),
    "nonsense": attribute("ceil_mode", 7),
    "no kernel": attribute("kernel_shape", [0, 3]),
    "missing": lambda _, node: node.attributes.pop("strides"),
}


@pytest.mark.parametrize("fault", POOLING)
def test_a_changed_pooling_attribute_fails_and_is_named(exported, fault):
    made, answered = exported
    name = next(node.name for node in made.graph if node.op_type == "SoftPool")
    report = validate(tampered(made, POOLING[fault]), answered, forms=["function", "standard"])
    assert not report.passed
    (cause,) = report.causes
    assert cause.startswith(f"attributes of node {name!r} (onnxpool::SoftPool) changed since export: ")
    assert any(is_failed(run.verdict) for run in report.runs)


def test_a_changed_attribute_fails_even_where_no_answer_shows_it():
    module, args = nn.SoftPool2d(2), (torch.randn(1, 1, 4, 4),)  # 4 = 2 * 2: floor and ceil agree
    made = onnxpool.export(module, args)
    answered = from_torch.record(module, made, args)
    report = validate(tampered(made, POOLING["ceil_mode"]), answered)
    assert all(run.verdict in ("passed", "skipped") for run in report.runs)
    assert not report.passed
    assert "attributes of node" in report.causes[0]


def test_perturbed_weights_fail_and_are_named(exported):
    made, answered = exported
    conv = next(node for node in made.graph if node.op_type == "Conv")
    report = validate(tampered(made, conv_weight(1 + 1e-3)), answered)
    assert not report.passed
    assert all(run.verdict in ("mismatch", "skipped") for run in report.runs)
    assert f"weights of node {conv.name!r} (Conv) (initializer {conv.inputs[1].name!r})" in report.causes[0]
    assert "times the" in failures(report)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("softpool_x", "Neg"),  # another operator in front
        ("ReduceProd", "ReduceMax"),  # the number of cells
        ("Less", "value"),  # the guard
    ],
)
def test_a_tampered_body_fails_and_is_named(exported, old, new):
    made, answered = exported
    copy = made.clone()
    body = copy.functions[("onnxpool", "SoftPool", "")]
    every = list(body.graph.all_nodes())
    if new == "Neg":
        (x,) = body.graph.inputs
        negated = ir.node("Neg", [x])
        for node, place in list(x.uses()):
            if node is not negated:
                node.replace_input_with(place, negated.outputs[0])
        body.insert_before(body.graph[0], negated)
    elif new == "ReduceMax":
        exact = next(node for node in every if node.op_type == old)
        exact.op_type = new
    else:
        limit = next(node for node in every if node.op_type == old).inputs[1].producer()
        limit.attributes.add(ir.AttrTensor("value", ir.tensor(np.float32(1e30))))
    report = validate(copy, answered, forms=["function", "standard"])
    assert not report.passed
    assert "the function body of onnxpool::SoftPool differs from the exported one" in report.causes
    assert report.runs[0].verdict == "mismatch"
    assert report.runs[-1].verdict == "passed", "the standard form is made anew from the node"


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_window_than_the_reference_fails(dtype):
    report = validate(pooled(Window.of(2, 3, 2, 1, ceil_mode=True), dtype), soft, forms=["standard"])
    assert not report.passed
    assert "expected" in failures(report)
    assert not validate(pooled(Window.of(2, 5, 2, 2), dtype), soft, forms=["standard"]).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_output_units_off_fail(dtype):
    def shifted(feeds):
        y = soft(feeds)["y"]
        return {"y": y + 3 * np.abs(y) * {"float16": 2**-10, "bfloat16": 2**-7}.get(dtype, 2**-16)}

    assert not validate(pooled(WINDOW, dtype), shifted, forms=["standard"]).passed


def test_a_model_of_another_type_fails(exported):
    report = validate(pooled(WINDOW, "float64"), from_function.record(soft, pooled(WINDOW)))
    assert not report.passed
    assert "has dtype float32; this model takes float64" in failures(report)


def test_nan_in_other_places_fails():
    def clean(feeds):
        return {"y": np.nan_to_num(soft(feeds)["y"])}

    report = validate(pooled(WINDOW), clean, forms=["standard"])
    assert {result.case for result in report.runs[0].results if result.verdict == "mismatch"} == {"nan", "inf"}
    assert "NaN in" in failures(report)


# --- the known deviation


def with_max_pool(window: Window) -> onnx.ModelProto:
    largest = helper.make_node("MaxPool", ["x"], ["t"], "largest", kernel_shape=[3, 3], strides=[1, 1])
    pool = helper.make_node("SoftPool", ["t"], ["y"], "pool", domain="onnxpool", **window.attributes())
    return model([largest, pool], 2)


def test_nan_lost_in_max_pool_is_noted(exported):
    x = np.random.default_rng(0).normal(size=(1, 8, 32, 32)).astype("float32")
    x[..., ::5, ::7] = np.nan

    def keeps(feeds):
        kept = np.lib.stride_tricks.sliding_window_view(feeds["x"], (3, 3), (2, 3)).max((-2, -1))
        return soft({"x": kept})

    answered = from_function.record(keeps, with_max_pool(WINDOW))
    case = replace(answered.cases[0], name="many nan", inputs={"x": x}, answers=keeps({"x": x.astype(float)}))
    answered = replace(answered, cases=(case,))
    report = validate(with_max_pool(WINDOW), answered, forms=["function", "standard"])
    assert report.passed
    assert {run.verdict for run in report.runs if run.verdict != "skipped"} == {"noted"}
    assert "dropped on the way through MaxPool" in report.runs[0].results[0].reason
    assert any("known deviation" in note for note in report.notes)

    wrong = {"y": np.nan_to_num(case.answers["y"])}  # NaN where there should be none is not such a loss
    answered = replace(answered, cases=(replace(case, answers=wrong),))
    assert not validate(with_max_pool(WINDOW), answered, forms=["standard"]).passed


# --- without PyTorch


def test_validation_by_the_golden_file_needs_no_torch(tmp_path, exported):
    forms.write(exported[0], tmp_path / "net.onnx")
    golden_file.save(exported[1], tmp_path / "net.golden.npz")
    program = """
import sys
sys.modules["torch"] = sys.modules["onnxscript"] = None
from onnxpool.cli.commands import app
app(["validate", sys.argv[1], "--json", "--html", sys.argv[1] + ".html", "--junit", sys.argv[1] + ".xml"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "net.onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "passed"
    assert done.stderr == ""
    assert (tmp_path / "net.onnx.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "net.onnx.xml").read_text().startswith("<?xml")


# --- usage errors


def test_wrong_questions(tmp_path, exported):
    with pytest.raises(ArgumentError, match="must be some of function, standard, custom"):
        validate(pooled(WINDOW), forms=["fast"])
    with pytest.raises(ArgumentError, match="must be some of"):
        validate(pooled(WINDOW), forms=[])
    with pytest.raises(FormError, match="no model file"):
        validate(tmp_path / "none.onnx")
    with pytest.raises(GoldenError, match="no golden file"):
        validate(pooled(WINDOW), tmp_path / "none.npz")
    with pytest.raises(ArgumentError, match=r"reference=3 must be"):
        validate(pooled(WINDOW), 3)


# --- the report


def test_the_worst_verdict_decides_the_exit_status():
    assert worst([]) == "skipped"
    assert worst(["passed", "skipped"]) == "passed"
    assert worst(["noted", "passed"]) == "noted"
    assert worst(["crashed", "structure", "unloadable", "mismatch"]) == "crashed"
    assert [EXIT_STATUS[verdict] for verdict in ("passed", "noted", "mismatch")] == [0, 0, 1]
    assert [EXIT_STATUS[verdict] for verdict in ("unloadable", "structure", "crashed")] == [3, 4, 5]
    statuses = [EXIT_STATUS[verdict] for verdict in EXIT_STATUS if is_failed(verdict)]
    assert statuses == sorted(statuses)
    assert Report("m", "skipped", "r", (), (), (), {}).exit_status == 3, "nothing ran"


@pytest.fixture(scope="module")
def failed(exported):
    return validate(tampered(exported[0], POOLING["pads"]), exported[1])


def test_report_is_plain_values(failed, exported):
    passed = validate(*exported)
    for report in (failed, passed):
        values = report.to_json()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert values["schema"] == 2
        assert values["passed"] == report.passed
        assert len(values["runs"]) == 4
        assert values["runs"][0]["name"] == "onnxruntime, function"
    with pytest.raises(FrozenInstanceError):
        failed.verdict = "passed"


def test_runs_that_differ_in_options_alone_share_a_line():
    result = Result("a", "y", "mismatch", "error 5 times", share=5.0, max_abs=1.0, max_ulp=2.0, snr_db=3.0, origin="o")
    runs = [
        Run("onnxruntime", "function", kernels=True, verdict="mismatch", options={"threads": n}, results=(result,))
        for n in (1, 2)
    ]
    runs[1] = replace(runs[1], results=(replace(result, reason="error 7 times", share=7.0),))
    runs.append(Run("openvino", "standard", kernels=False, verdict="skipped", reason="not here"))
    report = Report("m", "mismatch", "r", tuple(runs), (), (), {})
    assert sentences(report) == [
        "onnxruntime, function, native kernels, 2 variants: a, y: error 5 times",
        "openvino, standard: skipped: not here",
    ]
    text = table(report)
    assert "700.0%" in text
    assert "500.0%" not in text
    assert "0/2" in text


def table(report):
    return layout.text(tables.report(report))


def test_table_tells_the_verdict_and_the_cause(failed):
    text = table(failed)
    assert "FAILED (structure): 4 runs" in text
    assert "onnxruntime, function" in text
    assert "cause: attributes of node" in text


def test_json_follows_its_schema(failed, exported):
    schema = json.loads(Path(__file__).parent.parent.joinpath("docs", "report.schema.json").read_text())
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(schema).validate
    for report in (failed, validate(*exported, on=["onnxruntime"], forms=["custom"])):
        check(report.to_json())
    with pytest.raises(jsonschema.ValidationError):
        check(failed.to_json() | {"verdict": "failed"})
    assert schema["$defs"]["verdict"]["enum"] == list(EXIT_STATUS)
    assert schema["properties"]["schema"]["const"] == SCHEMA


def test_junit_counts_and_names_what_failed(failed):
    root = ElementTree.fromstring(as_junit.junit_xml(failed))
    assert (root.tag, root.get("failures")) == ("testsuites", "0")
    tests = list(root.iter("testcase"))
    assert root.get("tests") == str(len(tests))
    errors = [test for test in tests if test.find("error") is not None]
    assert root.get("errors") == str(len(errors))
    assert len(errors) > len(failed.runs)
    assert errors[0].get("name") == "verdict"
    assert "cause" not in errors[0].find("error").get("message")
    assert "attributes of node" in errors[0].find("error").get("message")
    assert {suite.get("name") for suite in root} == {"model", *(run.name for run in failed.runs)}

    odd = Result("<case>", "y", "mismatch", "a < b \x00 &")
    runs = (
        Run(
            "onnxruntime", "function", kernels=False, verdict="mismatch", results=(odd, replace(odd, verdict="passed"))
        ),
        Run("openvino", "standard", kernels=False, verdict="skipped", reason="not here"),
    )
    root = ElementTree.fromstring(as_junit.junit_xml(Report("<m>", "mismatch", "r", runs, (), (), {"python": "3"})))
    assert [root.get(count) for count in ("tests", "failures", "errors", "skipped")] == ["4", "2", "0", "1"]
    assert root.find(".//skipped").get("message") == "not here"
    assert root.find("testsuite[2]/testcase/failure").get("message") == "a < b ? &"


class Page(HTMLParser):
    """Every tag closed, text gathered."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in ("meta", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, _):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_complete_in_itself(failed, exported):
    for report in (failed, validate(*exported)):
        page = Page()
        page.feed(as_html.html_page(report))
        assert page.open == []
        text = "".join(page.text)
        assert report.summary in text
        assert all(sentence in text for sentence in sentences(report))
        assert not page.tags & {"script", "link", "img"}
        assert "://" not in as_html.html_page(report)


def test_page_escapes_and_shows_what_was_not_measured():
    result = Result("<case>", "y", "mismatch", "a < b")
    skipped = Run("onnxruntime", "custom", kernels=True, verdict="skipped", reason="no <library>")
    run = Run("onnxruntime", "function", kernels=False, verdict="mismatch", results=(result,))
    endless = replace(result, case="none allowed", share=np.inf, max_abs=1.0, origin="exact")
    report = Report(
        "<m>", "mismatch", "r", (replace(run, results=(result, endless)), skipped), ("<c>",), (), {"python": "3"}
    )
    page = Page()
    page.feed(as_html.html_page(report))
    assert not page.tags & {"case", "library", "m", "c"}
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["runs"][0]["results"][1]["share"] == "inf"
    assert run.worst is None
