"""Saved results: read back as they were, held against other bounds, compared with later ones."""

import json
import math
from dataclasses import replace

import pytest

from onnxpool.cli import layout, tables
from onnxpool.errors import ArgumentError, GoldenError
from onnxpool.validation import history
from onnxpool.validation.report import Report, Result, Run


def result(case, share, **fields):
    fields = {"verdict": "passed" if share <= 1 else "mismatch", "origin": "a bound", "allowed": 0.5, **fields}
    return Result(case, "y", share=share, max_abs=share * 0.5, **fields)


def report(*results, verdict=None, **fields):
    status = verdict or max((one.verdict for one in results), key=["passed", "noted", "mismatch", "structure"].index)
    run = Run("onnxruntime", "function", kernels=False, verdict=status, results=results, **fields)
    skipped = Run("openvino", "standard", kernels=False, verdict="skipped", reason="not installed")
    return Report("net.onnx", status, "PyTorch", (run, skipped), (), (), {"numpy": "2"})


GOOD = report(
    result("a", 0.4, histogram=(3, 1), heat=((0.4, math.inf), (0.0, 1.0))),
    result("b", 0.9),
    result("c", 0.0, snr_db=math.inf),
)


def test_a_report_survives_the_file(tmp_path):
    path = tmp_path / "report.json"
    for values in (GOOD.to_json(), {"content": {"report": GOOD.to_json()}, "digest": "", "signature": None}):
        path.write_text(json.dumps(values, allow_nan=False))
        assert history.load_report(path).to_json() == GOOD.to_json()
    assert history.load_report(path).runs[0].results[2].snr_db == math.inf
    first = history.load_report(path).runs[0].results[0]
    assert math.isnan(first.max_ulp)
    assert (first.histogram, first.heat) == ((3, 1), ((0.4, math.inf), (0.0, 1.0)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 1}',
        '{"schema": 2}',
        '{"schema": 2, "runs": [1]}',
        '{"schema": 2, "runs": [], "model": [1]}',
    ],
)
def test_no_results(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(GoldenError, match="holds no results"):
        history.load_report(tmp_path / "bad.json")
    with pytest.raises(GoldenError, match="holds no results"):
        history.load_report(tmp_path / "none.json")


def test_tighter_bounds_fail_what_came_close():
    rescaled = history.rescale_report(GOOD, 0.5)
    assert [one.verdict for one in rescaled.runs[0].results] == ["passed", "mismatch", "passed"]
    assert [one.share for one in rescaled.runs[0].results] == [0.8, 1.8, 0]
    assert rescaled.runs[0].results[1].reason == "error 1.8 times the 0.25 allowed"
    assert rescaled.runs[0].results[1].origin == "0.5 x (a bound)"
    assert (rescaled.verdict, rescaled.runs[1].verdict) == ("mismatch", "skipped")
    assert rescaled.notes == ("judged again, with 0.5 times each bound",)


def test_looser_bounds_forgive_numbers_and_nothing_else():
    assert history.rescale_report(report(result("a", 3.0)), 4).passed
    assert not history.rescale_report(report(result("a", 3.0)), 2).passed
    assert not history.rescale_report(report(result("a", 0.1, nan=1, verdict="mismatch")), 1e9).passed
    shape = replace(result("a", math.nan), verdict="structure", origin="")
    assert history.rescale_report(report(shape, verdict="structure"), 1e9).verdict == "structure"
    assert history.rescale_report(replace(GOOD, verdict="structure"), 2).verdict == "structure", (
        "the model is another one"
    )
    assert history.rescale_report(report(result("a", 0.1, verdict="noted", nan=2)), 2).verdict == "noted"


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
def test_no_scale(scale):
    with pytest.raises(ArgumentError, match="must be a positive number"):
        history.rescale_report(GOOD, scale)


def test_what_became_worse():
    new = report(result("a", 0.9), result("b", 1.1), result("c", 0.04))
    difference = history.compare_reports(GOOD, new)
    assert difference.worse == (
        "onnxruntime, function, a, y: passed at 0.4 became passed at 0.9",
        "onnxruntime, function, b, y: passed at 0.9 became mismatch at 1.1",
    )
    assert (difference.better, difference.missing, difference.same) == ((), (), 1)
    assert history.compare_reports(new, GOOD).better[0].endswith("a, y: passed at 0.9 became passed at 0.4")
    assert "worse: onnxruntime, function, a, y" in layout.text(tables.difference(difference))
    assert json.loads(json.dumps(difference.to_json()))["same"] == 1


def test_what_is_missing_is_told():
    assert history.compare_reports(GOOD, report(result("a", 0.4))).missing == (
        "onnxruntime, function, b, y",
        "onnxruntime, function, c, y",
    )
    assert history.compare_reports(report(result("a", 0.4)), GOOD).missing == ()
    assert history.compare_reports(GOOD, GOOD).same == 3
