"""Ways to a certificate that vouches for what did not run, or for nobody's answers: each is refused in a sentence."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import model as network
from models import pooled
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from serving import average, soft, soft_answer, with_golden
from typer.testing import CliRunner

from onnxpool.cli.commands import app
from onnxpool.errors import ArgumentError, CertificateError, SessionError
from onnxpool.golden import file as golden_file
from onnxpool.golden import from_model
from onnxpool.graph import forms
from onnxpool.run import native_library
from onnxpool.runtimes._child import without_secrets
from onnxpool.serve import Options, Repository
from onnxpool.validation import certificate, evidence
from onnxpool.validation.validate import validate
from onnxpool.window import Window


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder with a model in function form, its golden file, and its certificate; and the report."""
    path = with_golden(soft(tmp_path_factory.mktemp("certified") / "m.onnx"))
    report = validate(path, threads=1)
    certificate.issue_certificate(report, path)
    return path, report


@pytest.fixture
def path(certified, tmp_path):
    """A copy of the test's own."""
    shutil.copytree(certified[0].parent, tmp_path / "own")
    return tmp_path / "own" / "m.onnx"


def refused(report, path):
    with pytest.raises(CertificateError) as caught:
        certificate.issue_certificate(report, path)
    return str(caught.value)


# --- files that did not run


def test_a_model_that_took_the_place_of_the_validated_one(certified, path):
    average(path)
    assert "is not what was validated, by its model" in refused(certified[1], path)


def test_a_golden_file_that_took_the_place_of_the_one_that_judged(certified, path):
    with_golden(path, [[[[2.5]]], [[[2.0]]]])
    assert "by its golden" in refused(certified[1], path)


def test_a_model_that_was_replaced_while_it_ran_and_put_back(path):
    """Its digest is the same before and after."""
    right = path.read_bytes()

    def swap(done, total, _):
        if done == 1:
            average(path)
        if done == total:
            path.write_bytes(right)

    report = validate(path, threads=1, progress=swap)
    assert "m.onnx changed while the model was validated" in refused(report, path)


def test_a_report_that_does_not_come_of_a_file(path):
    assert "does not tell which files" in refused(
        validate(forms.read(path), golden_file.load(golden_file.path_for(path)), threads=1), path
    )


def test_the_library_for_cuda_belongs_to_it(path, monkeypatch, tmp_path):
    own = tmp_path / "library" / native_library.FILE_NAME
    own.parent.mkdir()
    own.write_bytes(b"kernels")
    monkeypatch.setenv(native_library.OVERRIDE, str(own))
    cuda = own.with_name(native_library.CUDA_FILE_NAME)
    cuda.write_bytes(b"kernels for CUDA")
    report = validate(path, forms=["standard"], threads=1)
    certificate.issue_certificate(report, path)
    assert certificate.verify_certificate(path).faults == ()
    cuda.write_bytes(b"others")
    assert certificate.verify_certificate(path).faults == (
        "libonnxpool_cuda.so here is not the one that was validated",
    )
    assert "by its cuda library" in refused(report, path)
    cuda.unlink()
    assert "libonnxpool_cuda.so is not here" in certificate.verify_certificate(path).notes[0]


def external(name, place):
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], np.float32(3).tobytes(), raw=True)
    set_external_data(tensor, place)
    tensor.ClearField("raw_data")
    return tensor


def test_weights_beside_the_model_wherever_it_names_them(tmp_path):
    """In an initializer, in the attribute of a Constant, in a branch of an If, and in the body of a function."""
    constant = [helper.make_node("Constant", [], ["c"], value=external("c", "in a function.bin"))]
    branch = helper.make_graph([], "branch", [], [], initializer=[external("b", "in a branch.bin")])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=external("a", "in an attribute.bin")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = network(nodes, 2)
    proto.graph.initializer.append(external("i", "plain.bin"))
    proto.functions.append(helper.make_function("own", "F", [], ["c"], constant, [helper.make_opsetid("", 18)]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert evidence.external_files(tmp_path / "m.onnx") == [
        "in a branch.bin",
        "in a function.bin",
        "in an attribute.bin",
        "plain.bin",
    ]


def test_weights_of_a_constant_are_compared(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=external("c", "c.bin"))
    onnx.save(network([constant, helper.make_node("Mul", ["x", "c"], ["y"])], 2), tmp_path / "m.onnx")
    (tmp_path / "c.bin").write_bytes(np.float32(3).tobytes())
    report = validate(tmp_path / "m.onnx", lambda feeds: {"y": 3 * feeds["x"]}, threads=1)
    certificate.issue_certificate(report, tmp_path / "m.onnx")
    assert certificate.check_certificate(tmp_path / "m.onnx").passed
    (tmp_path / "c.bin").write_bytes(np.float32(4).tobytes())
    assert certificate.verify_certificate(tmp_path / "m.onnx").faults == ("c.bin has changed",)


# --- answers that judge nothing


def test_a_model_that_was_judged_by_itself_gets_none(tmp_path):
    path = tmp_path / "m.onnx"
    forms.write(forms.read(pooled(Window.of(2, 2))), path)
    assert "was judged by itself (the model itself in float64" in refused(validate(path, threads=1), path)
    golden_file.save(from_model.record(path), golden_file.path_for(path))
    assert "was judged by itself" in refused(validate(path, threads=1), path)
    assert "was judged by itself" in refused(validate(path, path, threads=1), path)


def test_one_case_is_not_all(path):
    assert "only case 'ordinary' was run" in refused(validate(path, case="ordinary", threads=1), path)


# --- what a server needs


def test_a_server_that_asks_for_certificates_needs_the_golden_file(path):
    golden_file.path_for(path).unlink()
    assert "cannot be validated again" in certificate.verify_certificate(path).notes[0]
    with pytest.raises(SessionError, match=r"m\.golden\.npz is missing, so that nothing shows"):
        Repository(path, Options(require_certificate=True))


def test_a_server_needs_a_certificate_of_the_form_that_it_runs(path):
    certificate.issue_certificate(validate(path, forms=["standard"], threads=1), path)
    assert certificate.check_certificate(path).passed
    with pytest.raises(SessionError, match="the form that the model is in, function, was not run"):
        Repository(path, Options(require_certificate=True))


DAMAGED = ["", "[1]", "{}", "[" * 100_000, '{"content": 1e999}', "\ud800".encode("utf-8", "surrogatepass")]
FIELDS = {
    "weights": [1],
    "model": None,
    "report": {"passed": True},
    "golden": 7,
    "libraries": {"a": None},
    "tolerances": {"a": float("inf")},
    "version": [2],
    "judge": None,
}


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_certificate_is_a_sentence(path, text):
    certificate.path_for(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CertificateError, match="damaged or no certificate"):
        certificate.verify_certificate(path)


@pytest.mark.parametrize("field", FIELDS)
def test_a_certificate_with_a_wrong_field_is_a_sentence(path, field):
    values = json.loads(certificate.path_for(path).read_text())
    values["content"][field] = FIELDS[field]
    certificate.path_for(path).write_text(json.dumps(values))
    with pytest.raises(CertificateError, match=r"damaged or no certificate|has version"):
        certificate.verify_certificate(path)


def test_a_damaged_certificate_does_not_end_the_looking(path):
    """The model that serves goes on, and a right certificate is taken when it comes."""
    right = certificate.path_for(path).read_bytes()
    repository = Repository(path, Options(require_certificate=True))
    served = repository.get("m")
    values = json.loads(right)
    values["content"]["report"] = {}
    certificate.path_for(path).write_text(json.dumps(values))
    repository.look()
    repository.look()
    assert repository.get("m") is served
    assert "damaged or no certificate" in repository.index()[0]["reason"]
    certificate.path_for(path).write_bytes(right)
    repository.look()
    repository.look()
    assert repository.get("m") is not served
    assert "reason" not in repository.index()[0]


def test_whatever_a_file_raises_the_looking_goes_on(path, monkeypatch):
    repository = Repository(path, Options(require_certificate=True))
    served = repository.get("m")

    def broken(*_, **__):
        raise RecursionError("too deep")

    monkeypatch.setattr(certificate, "check_certificate", broken)
    path.write_bytes(path.read_bytes())
    repository.look()
    repository.look()
    assert repository.get("m") is served
    assert "too deep" in repository.index()[0]["reason"]


# --- keys


def test_an_empty_key_is_an_error(certified, path, monkeypatch):
    monkeypatch.setenv(certificate.KEY, "")
    for ask in (certificate.check_certificate, lambda path: certificate.issue_certificate(certified[1], path)):
        with pytest.raises(CertificateError, match="ONNXPOOL_SIGNING_KEY is set, but empty"):
            ask(path)


def test_children_do_not_inherit_the_key(path, monkeypatch, tmp_path):
    """A runtime, or a library that it loads, could sign what it likes."""
    monkeypatch.setenv(certificate.KEY, "secret")
    assert certificate.KEY not in without_secrets()
    assert without_secrets()["PATH"] == os.environ["PATH"]
    spy = tmp_path / "python"
    spy.write_text(f'#!/bin/sh\nenv > "{tmp_path}/told.$$"\n[ "$1" = -c ] && echo 1.24.0\n')
    spy.chmod(0o755)
    validate(path, pythons=[spy], threads=1)
    told = [file.read_text() for file in tmp_path.glob("told.*")]
    assert len(told) >= 2, "the question which release it is, and the runtime itself"
    assert all("PATH=" in text for text in told)
    assert not any("secret" in text for text in told)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs of keys as openssl makes them, of Ed25519, and a private key of another kind."""
    pytest.importorskip("cryptography")
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ours", "theirs"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", f"{name}.pem")
        openssl("pkey", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub.pem")
    openssl("genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "other.pem")
    openssl("pkey", "-in", "other.pem", "-pubout", "-out", "other.pub.pem")
    return folder


def test_anybody_can_check_a_signature_by_a_private_key(certified, path, keys):
    certificate.issue_certificate(certified[1], path, private_key=keys / "ours.pem")
    found = certificate.check_certificate(path, public_key=keys / "ours.pub.pem")
    assert [*found.signatures] == ["ed25519"]
    assert certificate.verify_certificate(path).notes == ("its signature was not checked: no public key was given",)
    assert certificate.verify_certificate(path).summary.endswith("signed (ed25519)")


def test_a_signature_by_another_key_or_over_another_content(certified, path, keys):
    ours = keys / "ours.pub.pem"
    assert "is not signed with a private key" in str(certificate.verify_certificate(path, public_key=ours).faults)
    certificate.issue_certificate(certified[1], path, private_key=keys / "theirs.pem")
    (fault,) = certificate.verify_certificate(path, public_key=ours).faults
    assert fault == f"its signature was not made with the private key of {ours}"
    certificate.issue_certificate(certified[1], path, private_key=keys / "ours.pem")
    values = json.loads(certificate.path_for(path).read_text())
    values["content"]["judge"] = "PyTorch in float64"
    values["digest"] = certificate._digest(values["content"])
    certificate.path_for(path).write_text(json.dumps(values))
    (fault,) = certificate.verify_certificate(path, public_key=ours).faults
    assert fault == f"its signature was not made with the private key of {ours}"
    values["signatures"]["ed25519"] = "no hexadecimal é"
    certificate.path_for(path).write_text(json.dumps(values))
    assert fault in certificate.verify_certificate(path, public_key=ours).faults


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere.pem", "No such file"), ("ours.pub.pem", "cannot be used as a private key"), ("other.pem", "not a priv")],
)
def test_keys_that_cannot_sign(certified, path, keys, name, words):
    with pytest.raises(CertificateError, match=words):
        certificate.issue_certificate(certified[1], path, private_key=keys / name)


@pytest.mark.parametrize(
    ("name", "words"), [("ours.pem", "cannot be used as a public"), ("other.pub.pem", "not a pub")]
)
def test_keys_that_cannot_check(path, keys, name, words):
    with pytest.raises(CertificateError, match=words):
        certificate.verify_certificate(path, public_key=keys / name)


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_signing_and_verifying_by_command(path, keys, monkeypatch):
    ours, theirs = keys / "ours.pub.pem", keys / "theirs.pub.pem"
    assert "add --certificate" in invoke("validate", path, "--sign", keys / "ours.pem").stderr
    done = invoke("validate", path, "--threads", 1, "--certificate", "--sign", keys / "ours.pem")
    assert done.exit_code == 0, done.output
    done = invoke("verify", path, "--public-key", ours)
    assert done.exit_code == 0
    assert "judged by " in done.stdout
    assert invoke("verify", path, "--public-key", theirs).exit_code == 1
    Repository(path, Options(require_certificate=True, public_key=ours))
    with pytest.raises(SessionError, match="was not made with the private key"):
        Repository(path, Options(require_certificate=True, public_key=theirs))
    with pytest.raises(ArgumentError, match="is for require_certificate"):
        Options(public_key=ours)


def test_the_golden_case_is_right():
    """What these tests take for the answer."""
    assert round(float(soft_answer([[[[1, 2], [3, 4]]]]).item()), 2) == 3.49
    assert Path(__file__).exists()
