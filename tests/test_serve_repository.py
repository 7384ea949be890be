"""Models of a server: found, tried, replaced, refused, unloaded; and what is tried before one serves."""

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import model
from onnx import TensorProto, helper, numpy_helper
from serving import HANGS_S, average, endless, soft, soft_answer, wait_for, with_golden

pytest.importorskip("starlette")

from onnxpool import validate
from onnxpool.errors import ArgumentError, CertificateError, OnnxpoolError, SessionError
from onnxpool.run.session import load
from onnxpool.serve import Options, Repository
from onnxpool.serve import repository as repositories
from onnxpool.serve.limits import Refusal
from onnxpool.serve.trial import _is_straight, attempt
from onnxpool.validation import certificate

X = np.array([[[[1, 2], [3, 4]]]], np.float32)


def asked(repository, name="m", version=""):
    """What a model answers for [[1, 2], [3, 4]]: 3.49 by SoftPool, 2.5 by the average."""
    return round(float(repository.get(name, version).session.run({"x": X})["y"].item()), 2)


def replace(path: Path, make) -> None:
    """A new file takes the place of the old in one step."""
    make(path.with_name("new.tmp.onnx")).replace(path)


def two_looks(repository):
    repository.look()
    repository.look()


# --- what is found


def test_a_file_alone_is_version_1_of_its_name(tmp_path):
    soft(tmp_path / "other.onnx")
    repository = Repository(soft(tmp_path / "m.onnx"))
    assert repository.index() == [{"name": "m", "version": "1", "state": "READY"}]
    assert asked(repository) == 3.49


def test_a_folder_has_names_and_versions(tmp_path):
    soft(tmp_path / "plain.onnx")
    for version, make in (("2", soft), ("10", average)):
        (tmp_path / "m" / version).mkdir(parents=True)
        make(tmp_path / "m" / version / "model.onnx")
    (tmp_path / "m" / "draft").mkdir()
    soft(tmp_path / "m" / "draft" / "model.onnx")  # no version: not a number
    (tmp_path / "notes.txt").write_text("no model")
    repository = Repository(tmp_path)
    assert repository.names() == ["m", "plain"]
    assert repository.versions("m") == ["2", "10"]
    assert (asked(repository), asked(repository, "m", "2"), asked(repository, "m", "10")) == (2.5, 3.49, 2.5)


@pytest.mark.parametrize("name", ["", "nix", "../m", "/etc/passwd", "m/1", "m\0", ".", "m.onnx", "m" * 5000])
def test_unknown_names_are_only_looked_up(tmp_path, name):
    repository = Repository(soft(tmp_path / "m.onnx"))
    for refusing in (repository.get, repository.load, repository.unload):
        with pytest.raises(Refusal) as refusal:
            refusing(name)
        assert refusal.value.status == 404
        assert len(str(refusal.value)) < 200


def test_unknown_versions(tmp_path):
    repository = Repository(soft(tmp_path / "m.onnx"))
    for version in ("2", "one", "-1"):
        with pytest.raises(Refusal, match="there is no model 'm' version"):
            repository.get("m", version)


def test_which_model_is_meant(tmp_path, monkeypatch):
    for name in ("resnet50", "soft"):
        average(tmp_path / f"{name}.onnx")
    repository = Repository(tmp_path)
    for refusing in (repository.get, repository.load, repository.unload):
        with pytest.raises(Refusal, match=r"there is no model 'resnet_50'.* \(did you mean 'resnet50'\?\)$"):
            refusing("resnet_50")
    with pytest.raises(Refusal, match=r"there is no model 'soft' version '2'; it has 1$"):
        repository.get("soft", "2")
    with pytest.raises(Refusal, match=r"there is no model 'other'$"):
        repository.get("other")
    monkeypatch.setattr(repositories, "_COMPARED", 1)
    with pytest.raises(Refusal, match=r"there is no model 'SOFT'$"):
        repository.get("SOFT")


def test_nothing_to_serve(tmp_path):
    with pytest.raises(ArgumentError, match="holds no model"):
        Repository(tmp_path)
    with pytest.raises(ArgumentError, match="holds no model"):
        Repository(tmp_path / "nix.onnx")
    with pytest.raises(FileNotFoundError):
        Repository(tmp_path / "nix")
    soft(tmp_path / "a model.onnx")
    with pytest.raises(ArgumentError, match="'a model'"):
        Repository(tmp_path)


def test_a_damaged_model_stops_the_start(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(OnnxpoolError, match="m"):
        Repository(tmp_path)


# --- what changes


def test_a_replaced_file_is_served_after_two_looks(tmp_path):
    path = soft(tmp_path / "m.onnx")
    repository = Repository(tmp_path / "m.onnx")
    old = repository.get("m")
    replace(path, average)
    repository.look()
    assert asked(repository) == 3.49  # it might still be written to
    repository.look()
    assert asked(repository) == 2.5
    assert round(float(old.session.run({"x": X})["y"].item()), 2) == 3.49  # for those who have it


def test_a_replaced_model_is_gone_when_its_last_request_is_answered(tmp_path):
    repository = Repository(soft(tmp_path / "m.onnx"))
    old = repository.get("m")
    seen = weakref.ref(old.session)
    asyncio.run(old.batcher.submit({"x": X}))
    gc.disable()  # it must not take the collector
    try:
        repository.load("m")
        assert seen() is not None
        del old
        assert seen() is None
    finally:
        gc.enable()


def test_a_damaged_replacement_changes_nothing_and_says_so(tmp_path, caplog):
    path = soft(tmp_path / "m.onnx")
    repository = Repository(path)
    path.write_bytes(b"no model")
    two_looks(repository)
    assert asked(repository) == 3.49
    (entry,) = repository.index()
    assert entry["state"] == "READY"
    assert "the file on disk is refused" in entry["reason"]
    assert "the file on disk is refused" in caplog.text
    loads = repository.metrics.total("loads_total", outcome="refused")
    repository.look()
    assert repository.metrics.total("loads_total", outcome="refused") == loads == 1  # tried once
    replace(path, average)
    two_looks(repository)
    assert asked(repository) == 2.5
    assert "reason" not in repository.index()[0]


def test_a_replacement_with_wrong_golden_answers_changes_nothing(tmp_path):
    path = with_golden(soft(tmp_path / "m.onnx"))
    repository = Repository(path)
    replace(path, average)  # golden answers are still those of SoftPool
    two_looks(repository)
    assert asked(repository) == 3.49
    assert "golden case 'ordinary', output 'y': error 5.99 " in repository.index()[0]["reason"]
    with_golden(path, np.array([2.5, 2.0]).reshape(2, 1, 1, 1))
    two_looks(repository)
    assert asked(repository) == 2.5


def test_new_and_vanished_files(tmp_path):
    path = soft(tmp_path / "m.onnx")
    repository = Repository(tmp_path)
    average(tmp_path / "new.onnx")
    two_looks(repository)
    assert asked(repository, "new") == 2.5
    path.unlink()
    repository.look()
    assert asked(repository) == 3.49  # it might be about to come back
    repository.look()
    assert repository.names() == ["new"]


def test_unload_and_load(tmp_path):
    repository = Repository(soft(tmp_path / "m.onnx"))
    repository.unload("m")
    with pytest.raises(Refusal, match="model 'm' is not loaded: unloaded"):
        repository.get("m")
    assert repository.index() == [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert repository.index(ready=True) == []
    assert repository.ready()  # it was asked for
    replace(tmp_path / "m.onnx", average)
    two_looks(repository)
    assert repository.index(ready=True) == []  # unloaded is unloaded
    repository.load("m")
    assert asked(repository) == 2.5


def test_load_of_a_damaged_file_is_refused_and_the_old_model_serves(tmp_path):
    path = soft(tmp_path / "m.onnx")
    repository = Repository(path)
    path.write_bytes(b"no model")
    with pytest.raises(Refusal) as refusal:
        repository.load("m")
    assert refusal.value.status == 422
    assert asked(repository) == 3.49


def test_a_load_that_does_not_end_holds_up_no_other(tmp_path, monkeypatch):
    soft(tmp_path / "slow.onnx")
    soft(tmp_path / "m.onnx")
    repository = Repository(tmp_path, Options(timeout_s=0.1))
    may_end = threading.Event()

    def slowly(path, **how):
        assert path.stem != "slow" or may_end.wait(HANGS_S)
        return load(path, **how)

    monkeypatch.setattr(repositories, "load", slowly)
    monkeypatch.setattr(repositories, "_PATIENCE_S", 0.1)
    replace(tmp_path / "slow.onnx", average)
    two_looks(repository)
    replace(tmp_path / "m.onnx", average)
    two_looks(repository)
    assert (asked(repository), asked(repository, "slow")) == (2.5, 3.49)
    with pytest.raises(Refusal, match="is being loaded") as refusal:
        repository.load("slow")
    assert refusal.value.status == 503
    repository.unload("m")
    with pytest.raises(Refusal, match="not loaded"):
        repository.get("m")
    may_end.set()
    wait_for(lambda: asked(repository, "slow") == 2.5)


def test_files_that_would_not_end_are_refused_and_the_server_stays_ready(tmp_path):
    soft(tmp_path / "m.onnx")
    loose, strict = Repository(tmp_path), Repository(tmp_path, Options(strict_readiness=True))
    (tmp_path / "fifo" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo" / "1" / "model.onnx")
    with (tmp_path / "sparse.onnx").open("wb") as sparse:
        sparse.truncate(3 << 30)
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for repository in (loose, strict):
        two_looks(repository)
        reasons = {entry["name"]: entry["reason"] for entry in repository.index() if "reason" in entry}
        assert "is not a regular file" in reasons["fifo"]
        assert "2 GiB at most" in reasons["sparse"]
        assert "damaged" in reasons
    assert (loose.ready(), strict.ready()) == (True, False)


def test_clients_are_told_no_paths(tmp_path):
    soft(tmp_path / "m.onnx")
    repository = Repository(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"no model")
    two_looks(repository)
    with pytest.raises(Refusal) as refusal:
        repository.load("m")
    for said in (str(refusal.value), repository.index()[0]["reason"]):
        assert "m.onnx" in said
        assert str(tmp_path) not in said


# --- what is tried


def test_golden_answers_hold(tmp_path):
    path = with_golden(soft(tmp_path / "m.onnx"))
    trial = attempt(load(path), path)
    assert trial.share < 1
    assert trial.fault == ""
    assert trial.shapes == {"x": (2, 1, 2, 2)}


def test_a_mismatch_is_refused_or_told(tmp_path):
    wrong = soft_answer(np.array([[[[1, 2], [3, 4]]], [[[0, 0], [0, 8]]]])) + 1e-3
    path = with_golden(soft(tmp_path / "m.onnx"), wrong)
    with pytest.raises(SessionError, match=r"golden case 'ordinary', output 'y': error 0\.001 "):
        Repository(path)
    repository = Repository(path, Options(on_mismatch="warn"))
    assert repository.get("m").trial.fault.startswith("golden case 'ordinary'")
    assert repository.metrics.total("golden_share") > 100


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (np.full((2, 1, 1, 1), np.inf), "is inf of the allowed"),
        (np.zeros((1, 1, 1, 1)), "of another shape"),
    ],
)
def test_other_mismatches(tmp_path, answer, fault):
    path = with_golden(soft(tmp_path / "m.onnx"), answer)
    assert fault in attempt(load(path), path).fault


def test_without_golden_answers_the_model_runs_once_all_the_same(tmp_path):
    path = soft(tmp_path / "m.onnx")
    trial = attempt(load(path), path)
    assert (trial.share, str(trial)) == (None, "no golden answers beside it")
    broken = tmp_path / "broken.onnx"
    onnx.save(model([helper.make_node("Expand", ["x", "s"], ["y"])], 2), broken)
    with pytest.raises(OnnxpoolError):
        Repository(broken)


def test_what_joins(tmp_path):
    def joins(nodes, **changes):
        path = tmp_path / "m.onnx"
        made = model(nodes, 2)
        for value in (*made.graph.input, *made.graph.output):
            for axis, name in changes.items():
                value.type.tensor_type.shape.dim[int(axis[1:])].dim_param = name
        onnx.save(made, path)
        return attempt(load(path), path).joins

    exact = helper.make_node("Relu", ["x"], ["y"])
    over_rows = [
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    assert joins([exact]) == "exactly"
    assert joins(over_rows) == "never"  # a row depends on the others


def sized(path, given):
    """y: Expand of x to a size that is ``given``: a weight, a Constant, or computed from x."""
    size = np.array([1, 4], np.int64)
    nodes = {
        "weight": [],
        "constant": [helper.make_node("Constant", [], ["size"], value=numpy_helper.from_array(size))],
        "computed": [helper.make_node("Cast", ["x"], ["size"], to=TensorProto.INT64)],
    }[given]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2]), ("y", None))]
    weights = [numpy_helper.from_array(size, "size")] if given == "weight" else []
    graph = helper.make_graph(
        [*nodes, helper.make_node("Expand", ["x", "size"], ["y"])], "g", sides[:1], sides[1:], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def test_which_models_may_run_on_the_event_loop(tmp_path):
    """Only those where sizes decide how long they run."""
    soft(tmp_path / "soft.onnx")
    endless(tmp_path / "loop.onnx")
    for given in ("weight", "constant", "computed"):
        sized(tmp_path / f"{given}.onnx", given)
    names = ("soft", "loop", "weight", "constant", "computed")
    found = {name: _is_straight(tmp_path / f"{name}.onnx") for name in names}
    assert found == {"soft": True, "loop": False, "weight": True, "constant": True, "computed": False}
    (tmp_path / "loop.onnx").write_bytes(b"none")
    assert not _is_straight(tmp_path / "loop.onnx")
    for name in ("loop", "weight", "constant", "computed"):
        (tmp_path / f"{name}.onnx").unlink()
    assert Repository(tmp_path).get("soft").trial.straight


def nodes_of(given):
    """y of x, by as much work as sizes say, or as x says."""
    constant = helper.make_node("Constant", [], ["c"], value_ints=[1])
    of_sizes = helper.make_node("Shape", ["x"], ["n"])
    of_data = helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64)
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [helper.make_tensor_value_info(op, 1, None)])
        for op in ("Abs", "Neg")
    ]
    chosen = helper.make_node("If", ["b"], ["y"], then_branch=branches[0], else_branch=branches[1])
    sliced = helper.make_node("Slice", ["x", "c", "n"], ["y"])
    return {
        "slice by sizes": [constant, of_sizes, sliced],
        "slice by data": [constant, of_data, sliced],
        "if by sizes": [of_sizes, helper.make_node("Cast", ["n"], ["b"], to=TensorProto.BOOL), chosen],
        "if by data": [helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BOOL), chosen],
        "nonzero": [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=1)],
        "nonzero of sizes": [
            of_sizes,
            helper.make_node("NonZero", ["n"], ["m"]),
            helper.make_node("Abs", ["x"], ["y"]),
        ],
        "lengths by data": [
            *(constant, helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT32)),
            helper.make_node("GRU", ["x", "x", "x", "", "n"], ["", "y"], hidden_size=1),
        ],
    }[given]


@pytest.mark.parametrize(
    ("given", "straight"),
    [
        *(("slice by sizes", True), ("slice by data", False), ("if by sizes", True), ("if by data", False)),
        *(("nonzero", False), ("nonzero of sizes", True), ("lengths by data", False)),
    ],
)
def test_work_that_data_decide_is_not_known_from_sizes(tmp_path, given, straight):
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes_of(given), "g", sides[:1], sides[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    assert _is_straight(tmp_path / "m.onnx") is straight


def test_a_model_with_a_fixed_first_axis_never_joins(tmp_path):
    made = model([helper.make_node("Relu", ["x"], ["y"])], 2)
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(made, tmp_path / "m.onnx")
    assert attempt(load(tmp_path / "m.onnx"), tmp_path / "m.onnx").joins == "never"


def test_only_certified_models(tmp_path):
    path = with_golden(soft(tmp_path / "m.onnx"))
    options = Options(require_certificate=True)
    with pytest.raises(SessionError, match="there is no certificate") as refused:
        Repository(path, options)
    assert isinstance(refused.value.__cause__, CertificateError)
    certificate.issue_certificate(validate(path), path)
    assert asked(Repository(path, options)) == 3.49
    average(path)
    with pytest.raises(SessionError, match=r"m\.onnx has changed"):
        Repository(path, options)


# --- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"max_batch": 0},
        {"max_queue": 0},
        {"max_delay_s": -1},
        {"timeout_s": 0},
        {"max_body_bytes": 0},
        {"max_pending_bytes": 1},
        {"max_tensor_bytes": 0},
        {"poll_s": -1},
        {"on_mismatch": "ignore"},
        {"token": "short"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_options_out_of_range(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Options(**wrong)


def test_the_token_is_not_shown():
    assert "secret" not in repr(Options(token="secret-secret-secret"))
