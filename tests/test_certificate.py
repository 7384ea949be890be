"""Certificates: they hold for the files that were validated, and say what changed for any others."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from models import pooled

from onnxpool.errors import CertificateError
from onnxpool.golden import bounds, from_function
from onnxpool.golden import file as golden_file
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.validation import certificate
from onnxpool.validation.validate import validate
from onnxpool.window import Window

WINDOW = Window.of(2, 2, 2)


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A model with its golden file, and the report of validating it."""
    path = tmp_path_factory.mktemp("certificate") / "net.onnx"
    model = forms.read(pooled(WINDOW))
    forms.write(model, path)
    golden_file.save(from_function.record(soft, model), golden_file.path_for(path))
    return path, validate(path, forms=["standard"])


@pytest.fixture
def model(validated, tmp_path):
    """A certified model of the test's own."""
    path, report = validated
    for file in (path, golden_file.path_for(path)):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    certificate.issue_certificate(report, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def faults(model):
    with pytest.raises(CertificateError) as caught:
        certificate.check_certificate(model)
    return str(caught.value)


def edit(model, change):
    path = certificate.path_for(model)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_an_untouched_model_holds(model):
    found = certificate.check_certificate(model)
    assert found.passed
    assert found.signatures == {}
    assert found.report["runs"][0]["results"][0]["share"] < 1
    assert found.content["tolerances"]["FLOOR_ULPS"] == bounds.FLOOR_ULPS
    verification = certificate.verify_certificate(model)
    assert (verification.faults, verification.notes) == ((), ())
    assert verification.summary.startswith("HOLDS: PASSED")
    assert "judged by the given function" in verification.summary
    assert json.loads(json.dumps(verification.to_json()))["holds"] is True


def test_a_renamed_model_holds(model):
    for path in (model, golden_file.path_for(model), certificate.path_for(model)):
        path.rename(path.with_name(path.name.replace("net", "other")))
    assert certificate.check_certificate(model.with_name("other.onnx")).passed


@pytest.mark.parametrize("name", ["net.onnx", "net.golden.npz"])
def test_one_changed_byte_is_found_and_named(model, name):
    path = model.with_name(name)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert f"{name} has changed" in faults(model)


def test_missing_files(model):
    golden_file.path_for(model).unlink()
    assert "cannot be validated again" in certificate.verify_certificate(model).notes[0]
    assert certificate.check_certificate(model).passed
    model.unlink()
    assert "net.onnx is missing" in faults(model)
    certificate.path_for(model).unlink()
    assert "onnxpool validate --certificate writes one" in faults(model)


def test_external_weights_belong_to_the_model(validated, tmp_path):
    model = ir.load(validated[0])
    weight = ir.Value(name="w", const_value=ir.tensor(np.ones(1000, np.float32), name="w"))
    model.graph.initializers["w"] = weight
    ir.save(model, tmp_path / "big.onnx", external_data="big.bin", size_threshold_bytes=0)
    certificate.issue_certificate(validate(tmp_path / "big.onnx", soft, forms=["standard"]), tmp_path / "big.onnx")
    assert certificate.check_certificate(tmp_path / "big.onnx").passed
    (tmp_path / "big.bin").write_bytes(b"0")
    assert "big.bin has changed" in faults(tmp_path / "big.onnx")


@pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")
def test_the_native_library_is_the_validated_one_or_none(model, monkeypatch, tmp_path):
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "none.so"))
    assert "function bodies will run here" in certificate.verify_certificate(model).notes[0]
    (tmp_path / "none.so").write_bytes(b"another")
    assert "native library here is not the one" in faults(model)


def test_an_edited_certificate_is_found(model):
    edit(model, lambda values: values["content"]["report"].update(summary="PASSED with honours"))
    assert "the digest does not match" in faults(model)


def test_a_failed_validation_is_refused_and_shown(model, validated):
    failed = validate(validated[0], lambda feeds: {"y": feeds["x"][..., ::2, ::2] + 1}, forms=["standard"])
    certificate.issue_certificate(failed, model)
    assert "its validation failed (FAILED" in faults(model)
    assert not certificate.load_certificate(certificate.path_for(model)).passed


def test_signatures(model, validated, monkeypatch):
    monkeypatch.setenv(certificate.KEY, "secret")
    assert "it is not signed" in faults(model)
    certificate.issue_certificate(validated[1], model)
    assert certificate.check_certificate(model).signatures
    assert "secret" not in certificate.path_for(model).read_text()
    monkeypatch.setenv(certificate.KEY, "another")
    assert "its signature was not made with this ONNXPOOL_SIGNING_KEY" in faults(model)
    monkeypatch.setenv(certificate.KEY, "secret")
    edit(model, lambda values: values.update(digest=certificate._digest({}), content={**values["content"], "a": 1}))
    assert "the digest does not match" in faults(model)
    certificate.issue_certificate(validated[1], model)
    monkeypatch.delenv(certificate.KEY)
    assert certificate.verify_certificate(model).notes == (
        "its signature was not checked: ONNXPOOL_SIGNING_KEY is not set",
    )


def test_other_versions_are_noted(model):
    def older(values):
        values["content"]["report"]["environment"]["onnxruntime"] = "1.0"
        values["digest"] = certificate._digest(values["content"])

    edit(model, older)
    assert any(note.startswith("onnxruntime was 1.0, is ") for note in certificate.verify_certificate(model).notes)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"content": {}, "digest": "", "signatures": null}'])
def test_damaged_certificates(model, text):
    certificate.path_for(model).write_text(text)
    assert "damaged or no certificate" in faults(model)


def test_another_version_of_the_format(model):
    edit(model, lambda values: values["content"].update(version=1))
    assert "has version 1, this onnxpool reads 2" in faults(model)
