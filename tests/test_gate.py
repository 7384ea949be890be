"""What leads around the gate, and what it stopped without reason: interface, blame, known limits, cases left out."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model, pooled
from onnx import helper, numpy_helper

import onnxpool
from onnxpool.errors import ArgumentError
from onnxpool.golden import file as golden_file
from onnxpool.golden import from_function
from onnxpool.golden.magnitude import ByMagnitude
from onnxpool.graph.fingerprint import changes, fingerprints
from onnxpool.serve import trial
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate
from onnxpool.window import Window


def nodes(*made, constants=()):
    """A model of these nodes, x (N, C, A) -> y, and constants by name."""
    found = model([helper.make_node(*one) for one in made], 1)
    found.graph.initializer.extend(numpy_helper.from_array(np.float32(value), name) for name, value in constants)
    return found


# --- the interface belongs to the fingerprint


def two_outputs():
    made = ir.from_proto(nodes(("Relu", ["x"], ["y"], "relu"), ("Neg", ["x"], ["z"], "neg")))
    made.graph.outputs.append(next(node for node in made.graph if node.name == "neg").outputs[0])
    return made


def told(before, after):
    return [change.text for change in changes(fingerprints(before), fingerprints(after)) if change.fault]


def test_inputs_and_outputs_have_an_order_and_a_number():
    before = two_outputs()
    assert told(before, two_outputs()) == []
    after = two_outputs()
    after.graph.outputs.reverse()
    assert told(before, after) == ["its outputs were in the order y, z, and are z, y now"]
    after = two_outputs()
    after.graph.outputs.pop()
    assert told(before, after) == ["it had 2 outputs, and has 1 now: 'z' went"]
    after = two_outputs()
    after.graph.inputs.append(ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1])))
    assert told(before, after) == ["it had 1 inputs, and has 2 now: 'w' came"]


def test_long_lists_are_cut():
    before, after = two_outputs(), two_outputs()
    for i in range(9):
        after.graph.append(ir.node("Relu", [after.graph.inputs[0]], name=f"more_{i}"))
    found = [change.text for change in changes(fingerprints(before), fingerprints(after))]
    assert len(found) == 5
    assert found[-1] == "and 5 more nodes like the last one"


def test_a_body_may_be_tidied_and_not_changed():
    """As onnxslim does: other names, another order, constants once."""
    made = onnxpool.to_form(pooled(Window.of(1, 3)), "function")
    before = fingerprints(made)["functions"]
    body = next(iter(made.functions.values()))
    for i, node in enumerate(body):
        node.name = f"other_{i}"
        for value in node.outputs:
            value.name = f"{value.name}_other"
    constants = [node for node in body if node.op_type == "Constant"]
    body.remove(constants[-1])
    body.insert_before(body[0], constants[-1])
    assert fingerprints(made)["functions"] == before
    number = next(node for node in body if node.op_type == "Constant").attributes["value"].as_tensor().numpy()
    constants[0].attributes["value"] = ir.AttrTensor("value", ir.tensor(np.asarray(number * 2 + 1, number.dtype)))
    assert fingerprints(made)["functions"] != before


# --- who is wrong


def test_a_model_that_gives_infinity_itself_is_wrong_and_not_the_runtime():
    made = nodes(("Div", ["x", "zero"], ["y"], "ratio"), constants=[("zero", 0)])
    report = validate(made, lambda feeds: {"y": feeds["x"] / 2}, forms=["standard"])
    assert report.exit_status == 1
    assert any("the exported model itself differs" in note and "not the runtime" in note for note in report.notes)
    assert not any("this runtime is off" in note for note in report.notes)


# --- known limits, and cases left out


CLIPPED = nodes(("Clip", ["x", "least"], ["y"], "clip"), constants=[("least", 0)])


def clipped(feeds):
    return {"y": np.maximum(feeds["x"], 0)}


def test_a_known_limit_is_noted_by_case():
    report = validate(CLIPPED, clipped, forms=["standard"])
    assert report.exit_status == 0, sentences(report)
    assert {one.case for one in report.runs[0].results if one.verdict == "noted"} == {"inf"}
    sentence = "a known limit of onnxruntime: given an infinity, its Clip gives the largest number for infinity"
    assert f"{sentence} (case 'inf')" in report.notes

    wrong = nodes(("Clip", ["x", "least"], ["y"], "clip"), constants=[("least", 0.5)])
    report = validate(wrong, clipped, forms=["standard"])
    assert report.exit_status == 1
    assert "mismatch" in {one.verdict for one in report.runs[0].results if one.case == "inf"}


def test_a_known_limit_refuses_no_serving(tmp_path):
    onnx.save(CLIPPED, tmp_path / "net.onnx")
    golden = from_function.record(clipped, CLIPPED)
    golden_file.save(golden, tmp_path / "net.golden.npz")
    session = onnxpool.load(tmp_path / "net.onnx")
    assert trial.attempt(session, tmp_path / "net.onnx").fault == ""
    ordinary = golden.case("ordinary")
    wrong = replace(ordinary, answers={"y": ordinary.answers["y"] + 1})
    golden_file.save(replace(golden, cases=(wrong, *golden.cases[1:])), tmp_path / "net.golden.npz")
    assert "golden case 'ordinary', output 'y'" in trial.attempt(session, tmp_path / "net.onnx").fault


def test_a_runtime_that_is_known_to_die_of_a_case_fails_nothing():
    made = model([helper.make_node("Einsum", ["x", "x"], ["y"], "products", equation="nij,nkj->nik")], 1)
    report = validate(made, forms=["standard"])
    assert report.exit_status == 0, sentences(report)
    noted = [one for one in report.runs[0].results if one.verdict == "noted"]
    assert [one.case for one in noted] == ["sizes 0x3x32"]
    assert "given an empty batch, its Einsum ends its process" in noted[0].reason
    assert sum(one.verdict == "passed" for one in report.runs[0].results) > 10


def test_cases_can_be_left_out():
    report = validate(CLIPPED, clipped, forms=["standard"], without=["inf", "sizes 0x*"])
    cases = {one.case for one in report.runs[0].results}
    assert "ordinary" in cases
    assert not {"inf", "sizes 0x3x32"} & cases
    assert any(note.startswith("left out as asked: 'inf', 'sizes 0x") for note in report.notes)
    with pytest.raises(ArgumentError, match=r"without='info' \(did you mean 'inf'\?\) is not one of ordinary"):
        validate(CLIPPED, clipped, without=["info"])
    with pytest.raises(ArgumentError, match="leaves no case"):
        validate(CLIPPED, clipped, without=["*"])


def test_what_is_allowed_beyond_one_percent_is_a_warning():
    golden = from_function.record(clipped, CLIPPED)
    assert not any("exceeds 1 %" in note for note in validate(CLIPPED, golden, forms=["standard"]).notes)
    case = golden.case("ordinary")
    loose = replace(case, yardstick={"y": ByMagnitude((0,), (0.1,))})
    report = validate(CLIPPED, replace(golden, cases=(loose,)), forms=["standard"])
    assert any(
        note.startswith("warning: what 'y' is allowed to err exceeds 1 % of its median answer") for note in report.notes
    )
