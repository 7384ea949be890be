"""What is validated is parsed once, and each form of it is made once, however many ask for it."""

import sys
from collections import Counter
from dataclasses import replace

import onnx_ir as ir
import pytest
from models import pooled

from onnxpool.golden import from_function, from_model  # noqa: F401 - the latter before what it calls is counted
from onnxpool.graph import forms
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.pools import OPERATORS
from onnxpool.validation.validate import validate
from onnxpool.window import Window

WINDOW = Window.of(2, 3, 2, 1)


@pytest.fixture
def calls(monkeypatch):
    """How often a model file was parsed, ``"parsed"``, and how often each form was made."""
    counts: Counter[str] = Counter()
    load, to_form = ir.load, forms.to_form

    def parsed(*given, **options):
        counts["parsed"] += 1
        return load(*given, **options)

    def made(model, form):
        counts[form] += 1
        return to_form(model, form)

    monkeypatch.setattr(ir, "load", parsed)
    for module in [module for name, module in sys.modules.items() if name.startswith("onnxpool")]:
        if getattr(module, "to_form", None) is to_form:
            monkeypatch.setattr(module, "to_form", made)
    return counts


def test_every_form_is_made_once(tmp_path, calls):
    """Judged by itself: the float64 reference, bounds and runs all want it with bare nodes."""
    forms.write(forms.to_form(pooled(WINDOW), "function"), tmp_path / "net.onnx")
    calls.clear()
    report = validate(tmp_path / "net.onnx", require=["native"])
    assert {run.form for run in report.runs} == {"function", "standard", "custom"}
    assert calls == {"parsed": 1, "custom": 1, "standard": 1}


def test_also_where_fingerprints_want_another_form(tmp_path, calls):
    """And where numbers differ, so that the model itself is evaluated in float64."""
    made = forms.to_form(pooled(WINDOW), "function")
    forms.write(forms.to_form(made, "standard"), tmp_path / "net.onnx")
    twice = from_function.record(lambda feeds: {"y": 2 * OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}, made)
    golden = replace(twice, fingerprints=fingerprints(made))
    calls.clear()
    report = validate(tmp_path / "net.onnx", golden, forms=["standard", "function"])
    assert report.verdict == "mismatch"
    assert any("the exported model itself differs" in note for note in report.notes)
    assert report.causes == ()
    assert calls == {"parsed": 1, "function": 1, "custom": 1}
