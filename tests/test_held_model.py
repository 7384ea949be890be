"""What is validated is parsed once, and each form of it is made once, however many ask for it."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from models import model, pooled
from onnx import helper, numpy_helper

from onnxpool.golden import from_function, from_model  # noqa: F401 - the latter before what it calls is counted
from onnxpool.graph import forms
from onnxpool.graph.fingerprint import fingerprints
from onnxpool.pools import OPERATORS
from onnxpool.validation.matrix import Files
from onnxpool.validation.model import HeldModel
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


def test_what_cannot_be_made_is_tried_once(calls):
    """A pooling node that is malformed has no other form, which every run of one says."""
    made = forms.to_form(pooled(WINDOW), "function")
    golden = from_function.record(lambda feeds: {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}, made)
    next(iter(made.graph)).attributes.add(ir.AttrInt64("ceil_mode", 7))
    calls.clear()
    report = validate(made, replace(golden, fingerprints=None), on=["reference", "openvino", "onnxruntime"])
    assert {run.verdict for run in report.runs} <= {"unloadable", "skipped"}
    assert "ceil_mode" in next(run.reason for run in report.runs if run.form == "standard")
    assert calls == {"custom": 1, "standard": 1}


def test_writing_a_form_leaves_weights_on_disk(tmp_path):
    """The file of another form holds them, the model in memory does not."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["t"], "add"),
        helper.make_node("SoftPool", ["t"], ["y"], "pool", domain="onnxpool", **WINDOW.attributes()),
    ]
    proto = model(nodes, 2)
    weights = np.arange(1024, dtype=np.float32).reshape(1, 1, 32, 32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    ir.save(ir.from_proto(proto), tmp_path / "net.onnx", external_data="net.onnx.data")

    held = HeldModel(tmp_path / "net.onnx")
    path = Files(held, None, tmp_path).path("standard")
    assert (ir.load(path).graph.initializers["w"].const_value.numpy() == weights).all()
    assert isinstance(held.converted("standard").graph.initializers["w"].const_value, ir.ExternalTensor)
    assert Files(held, None, tmp_path).path("custom") == (tmp_path / "net.onnx").resolve(), "its own form, as it is"
