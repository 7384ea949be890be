"""Operators of other libraries: validated, refused when they are wrong, survived when they crash, bisected, served."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from models import model as network
from onnx import TensorProto, helper, numpy_helper
from theirs import WINDOW, compiled, made
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.diagnosis import bisect_model, compare_nodes
from onnxpool.errors import ArgumentError, CertificateError, KernelError, SessionError
from onnxpool.golden import file as golden_file
from onnxpool.golden import from_function
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.serve import Options, Repository
from onnxpool.validation import check_certificate, issue_certificate
from onnxpool.validation.as_text import sentences

X = np.random.default_rng(0).normal(size=(2, 3, 6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("theirs") / "their.so")


@pytest.fixture(scope="module")
def tampered(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("tampered") / "their.so", "-DTAMPERED")


def squared(feeds):
    return 0.5 * np.maximum(feeds["x"], 0) ** 2


def answer(feeds):
    return {"y": 1 / (1 + np.exp(-squared(feeds)))}


def pooled_answer(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, squared(feeds))}


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


# --- validate


def test_it_passes_in_every_cell_of_onnx_runtime(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.5)
    report = onnxpool.validate(path, answer, libraries=[theirs], on=["onnxruntime", "openvino"])
    assert report.passed, sentences(report)
    ran = [run for run in report.runs if run.verdict == "passed"]
    assert len(ran) >= 8
    assert {run.runtime for run in ran} == {"onnxruntime"}
    (other,) = [run for run in report.runs if run.runtime == "openvino"]
    assert other.verdict == "skipped"
    assert "openvino" in other.reason
    assert max(result.share for run in ran for result in run.results) <= 1


def test_without_the_library_it_cannot_be_loaded(tmp_path):
    report = onnxpool.validate(made(tmp_path / "m.onnx", scale=0.5), answer, threads=1, case="image")
    assert report.verdict == "unloadable"
    assert any("operators of their.domain: name the library" in note for note in report.notes)


def test_a_tampered_library_and_a_tampered_model_fail(theirs, tampered, tmp_path):
    report = onnxpool.validate(
        made(tmp_path / "m.onnx", scale=0.5), answer, libraries=[tampered], threads=1, case="image"
    )
    assert report.verdict == "mismatch", sentences(report)
    report = onnxpool.validate(
        made(tmp_path / "m.onnx", scale=0.501), answer, libraries=[theirs], threads=1, case="image"
    )
    assert report.verdict == "mismatch"
    assert any("the exported model itself differs from the reference" in note for note in report.notes), report.notes


def test_without_a_reference_it_judges_itself(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.5)
    report = onnxpool.validate(path, libraries=[theirs], threads=1)
    assert report.passed, sentences(report)
    assert report.reference.startswith("the model itself")
    with pytest.raises(CertificateError, match="judged by itself"):
        issue_certificate(report, path)


def test_a_library_that_crashes_is_a_line_of_the_report(theirs, tmp_path):
    report = onnxpool.validate(
        made(tmp_path / "m.onnx", "Crashing"),
        lambda feeds: {"y": 1 / (1 + np.exp(-np.maximum(feeds["x"], 0)))},
        libraries=[theirs],
        threads=1,
    )
    assert report.verdict == "crashed"
    crashed = [result.case for run in report.runs for result in run.results if result.verdict == "crashed"]
    passed = [result.case for run in report.runs for result in run.results if result.verdict == "passed"]
    assert crashed == ["nan"]
    assert len(passed) > 5


def test_a_library_that_crashes_leaves_the_case_open_where_it_should_answer(theirs, tmp_path):
    report = onnxpool.validate(made(tmp_path / "m.onnx", "Crashing"), libraries=[theirs], threads=1)
    assert report.passed, sentences(report)
    assert any("'nan' left out" in note and "crashed" in note for note in report.notes), report.notes


# --- with our own nodes


def test_forms_leave_foreign_nodes_alone_and_pool_behind_them(theirs, tmp_path):
    """Behind their operator no element type is known but by what the model takes and gives."""
    path = made(tmp_path / "m.onnx", scale=0.5, pool=True)
    their = onnx.load(path).graph.node[1]
    for form in ("function", "standard", "custom"):
        converted = onnxpool.to_form(path, form)
        forms.write(converted, tmp_path / f"{form}.onnx")
        (found,) = [node for node in onnx.load(tmp_path / f"{form}.onnx").graph.node if node.domain == "their.domain"]
        assert found == their
    report = onnxpool.validate(tmp_path / "function.onnx", pooled_answer, libraries=[theirs], threads=1)
    assert report.passed, sentences(report)
    assert {run.form for run in report.runs} == {"function", "standard", "custom"}
    back = onnxpool.to_form(tmp_path / "standard.onnx", "custom")
    assert [node.op_type for node in back.graph] == ["Relu", "ScaledSquare", "SoftPool"]


def test_attributes_of_others_are_not_taken_for_element_types(theirs, tmp_path):
    """In float64 a Cast to float32 becomes one to float64; their attribute of that name stays 1."""
    proto = onnx.load(made(tmp_path / "m.onnx", scale=0.5, to=1))
    from onnxpool.golden.from_model import in_dtype

    wide = in_dtype(forms.read(proto), forms.ir.DataType.DOUBLE)
    assert {node.op_type: node.attributes["to"].value for node in wide.graph if "to" in node.attributes} == {
        "ScaledSquare": 1
    }


# --- load, serve, certificates


def test_load_and_serve(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.5)
    y = onnxpool.load(path, libraries=[theirs]).run({"x": X})["y"]
    np.testing.assert_allclose(y, answer({"x": X.astype(float)})["y"], rtol=1e-6)
    with pytest.raises(SessionError):
        onnxpool.load(path)
    with pytest.raises(KernelError, match=r"refused .*none\.so"):
        onnxpool.load(path, libraries=[tmp_path / "none.so"])
    golden_file.save(from_function.record(answer, path), golden_file.path_for(path))
    issue_certificate(onnxpool.validate(path, libraries=[theirs], threads=1), path)
    Repository(path, Options(require_certificate=True, libraries=(theirs,)))
    with pytest.raises(SessionError, match=r"it was validated with their\.so"):
        Repository(path, Options(require_certificate=True))


def test_the_library_belongs_to_the_certificate(theirs, tampered, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.5)
    report = onnxpool.validate(path, answer, libraries=[theirs], threads=1)
    issue_certificate(report, path)
    assert check_certificate(path, libraries=[theirs]).passed
    assert check_certificate(path).passed
    with pytest.raises(CertificateError, match=r"their\.so has changed"):
        check_certificate(path, libraries=[tampered])
    other = tmp_path / "other.so"
    shutil.copy(theirs, other)
    with pytest.raises(CertificateError, match=r"other\.so was not there"):
        check_certificate(path, libraries=[other])


def test_what_is_not_a_library(tmp_path):
    with pytest.raises(ArgumentError, match="is not a file"):
        onnxpool.validate(made(tmp_path / "m.onnx", scale=0.5), answer, libraries=[tmp_path / "none.so"])


# --- diagnosis


def test_node_by_node(theirs, tampered, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.5)
    found = compare_nodes(path, answer, libraries=[theirs])
    assert [(one.name, one.part) for one in found.results] == [
        ("relu", "agrees"),
        ("theirs", "agrees"),
        ("last", "agrees"),
    ]
    found = compare_nodes(path, answer, libraries=[tampered])
    assert found.first.part == "introduces"
    assert "theirs" in found.first.sentence


def test_bisecting_ends_in_a_folder_that_runs_with_their_library(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", scale=0.501)
    golden = from_function.record(answer, path)
    golden_file.save(golden, golden_file.path_for(path))
    found = bisect_model(path, tmp_path / "small", libraries=[theirs])
    assert "theirs" in found.nodes
    folder = tmp_path / "small"
    assert json.loads((folder / "versions.json").read_text())["libraries"] == ["their.so"]
    assert "their.so" in found.bundle.files
    done = subprocess.run([sys.executable, folder / "reproduce.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("FAILED\n")


def test_a_crash_is_bisected(theirs, tmp_path):
    path = made(tmp_path / "m.onnx", "Crashing")
    golden = from_function.record(lambda feeds: {"y": 1 / (1 + np.exp(-np.maximum(feeds["x"], 0)))}, path)
    found = bisect_model(path, tmp_path / "small", golden, libraries=[theirs])
    assert found.bundle.case == "nan, part"
    assert found.nodes == ("theirs", "last"), "what the first gives there nobody knows"
    assert "node 'theirs' (their.domain::Crashing): the runtime crashed (signal 6, SIGABRT)" in found.reason


# --- the command line


REFERENCE = """
import numpy as np

def answer(feeds):
    return {"y": 1 / (1 + np.exp(-0.5 * np.maximum(feeds["x"], 0) ** 2))}

def factory():
    return answer

number = 3
"""


@pytest.mark.parametrize("name", ["factory", "answer"])
def test_a_function_in_a_file_is_a_reference(theirs, tampered, tmp_path, name):
    path = made(tmp_path / "m.onnx", scale=0.5)
    mine = tmp_path / f"mine_{name}.py"
    mine.write_text(REFERENCE)
    given = ("--reference", f"{mine}:{name}", "--threads", 1, "--case", "image")
    assert invoke("validate", path, "--library", theirs, *given).exit_code == 0
    assert invoke("validate", path, "--library", tampered, *given).exit_code == 1
    done = invoke("bundle", path, tmp_path / "bundle", "--library", theirs, "--reference", f"{mine}:{name}")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "bundle" / "their.so").exists()
    assert "gives a int" in invoke("validate", path, "--reference", f"{mine}:number").stderr


# --- onnxruntime-extensions, where it is installed


def test_onnxruntime_extensions(tmp_path):
    extensions = pytest.importorskip("onnxruntime_extensions")
    library = extensions.get_library_path()
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], "neg"),
        helper.make_node("NegPos", ["a"], ["n", "p"], "theirs", domain="ai.onnx.contrib"),
        helper.make_node("Sub", ["p", "n"], ["m"], "sub"),
        helper.make_node("Mul", ["m", "two"], ["y"], "mul"),
    ]
    proto = network(nodes, 2)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    onnx.save(proto, tmp_path / "m.onnx")

    def right(feeds):
        return {"y": 2 * np.abs(feeds["x"])}

    report = onnxpool.validate(tmp_path / "m.onnx", right, libraries=[library], on=["onnxruntime"])
    assert report.passed, sentences(report)
    assert onnxpool.validate(tmp_path / "m.onnx", libraries=[library], threads=1).passed
    wrong = onnx.load(tmp_path / "m.onnx")
    wrong.graph.node[2].op_type = "Add"
    onnx.save(wrong, tmp_path / "wrong.onnx")
    assert onnxpool.validate(tmp_path / "wrong.onnx", right, libraries=[library], threads=1).verdict == "mismatch"
    found = bisect_model(tmp_path / "wrong.onnx", tmp_path / "small", right, libraries=[library])
    assert "sub" in found.nodes


def test_an_operator_of_extensions_on_bytes(tmp_path):
    """A PNG, decoded to pixels, blue first: bytes in, bytes out, and nothing floating."""
    extensions = pytest.importorskip("onnxruntime_extensions")
    Image = pytest.importorskip("PIL.Image")  # noqa: N806
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    node = helper.make_node("DecodeImage", ["x"], ["y"], "decode", domain="com.microsoft.extensions")
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["h", "w", 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft.extensions", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    session = onnxpool.load(tmp_path / "m.onnx", libraries=[extensions.get_library_path()])
    given = np.frombuffer((tmp_path / "p.png").read_bytes(), np.uint8)
    np.testing.assert_array_equal(session.run({"x": given})["y"], pixels[..., ::-1])
