"""Runtimes: each runs in a process of its own; what crashes, hangs or is missing is a result, and the rest runs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import model, pooled
from onnx import helper

import onnxpool
from onnxpool import nn, runtimes
from onnxpool.errors import ArgumentError
from onnxpool.golden import from_function, from_torch
from onnxpool.graph import forms
from onnxpool.pools import OPERATORS
from onnxpool.run import native_library
from onnxpool.runtimes import RUNTIMES
from onnxpool.runtimes._child import Child, Crashed, worker
from onnxpool.validation import plan
from onnxpool.validation.as_text import sentences
from onnxpool.validation.blame import sides
from onnxpool.validation.model import HeldModel
from onnxpool.validation.report import Result, Run
from onnxpool.validation.validate import validate
from onnxpool.window import Window

HERE = Path(__file__).parent
WINDOW = Window.of(2, 3, 2, 1)
FEW = ("ordinary", "huge", "nan", "sizes 3x3x32x32")
native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")


def available(name):
    reason = RUNTIMES[name].why_not({"dtypes": ["float32"], "arrangement": ((), {}), "outputs": ["y"]})
    return pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason))


def soft(feeds):
    return {"y": OPERATORS["SoftPool"].reference(WINDOW, feeds["x"])}


def few(golden, *names):
    return replace(golden, cases=tuple(case for case in golden.cases if case.name in (names or FEW)))


@pytest.fixture(scope="module")
def pooling():
    """One node, and answers to a few cases."""
    made = pooled(WINDOW)
    return made, few(from_function.record(soft, made))


def verdicts(run):
    return {result.case: result.verdict for result in run.results}


# --- every runtime that is here


@pytest.mark.parametrize("name", [available(name) for name in RUNTIMES if name != "pytorch"])
def test_a_runtime_gives_the_answers_in_every_form_that_it_takes(pooling, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # OpenVINO takes more of them where its extension was compiled
    report = validate(*pooling, on=[name], threads=1)
    assert report.passed, sentences(report)
    ran = [run for run in report.runs if run.verdict != "skipped"]
    assert {run.form for run in ran} == set(RUNTIMES[name].forms) - (
        {"custom"} if native_library.why_missing() else set()
    )
    for run in ran:
        assert run.version
        assert verdicts(run).keys() == set(FEW)
        assert all(result.share <= 1 for result in run.results)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", [available(name) for name in RUNTIMES if name != "pytorch"])
def test_a_runtime_takes_a_type_or_says_why_not(name, dtype):
    made = pooled(WINDOW, dtype)
    report = validate(made, few(from_function.record(soft, made), "ordinary"), on=[name], forms=["standard"], threads=1)
    for run in report.runs:
        assert run.verdict == "passed" or (run.verdict == "skipped" and run.reason), sentences(report)


def test_whole_numbers_and_several_inputs_go_through():
    nodes = [
        helper.make_node("Cast", ["count"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "wide"], ["y"]),
    ]
    made = model(nodes, 2, inputs=("x", "count"))
    made.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    golden = few(from_function.record(lambda feeds: {"y": feeds["x"] * feeds["count"]}, made), "ordinary")
    report = validate(made, golden, on="all", threads=1)
    assert report.passed, sentences(report)
    assert {run.runtime for run in report.runs if run.verdict == "passed"} >= {"onnxruntime", "reference"}


def test_onnxruntime_is_tried_at_each_level_and_number_of_threads(pooling):
    report = validate(*pooling, on=["onnxruntime"], forms=["standard"])
    ran = {(run.options["optimisation"], run.options["threads"]) for run in report.runs if "threads" in run.options}
    assert ran == {(o, t) for o in ("disable", "basic", "extended", "all") for t in {1, 2, os.cpu_count()}}
    assert len({run.name for run in report.runs}) == len(report.runs)


def test_options_reach_onnxruntime(monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    from onnxpool.runtimes import onnxruntime as runtime

    seen = []

    def start(path, settings, providers):
        seen.append((path, settings.intra_op_num_threads, settings.graph_optimization_level, providers))
        raise InterruptedError

    monkeypatch.setattr(ort, "InferenceSession", start)
    for options in ({}, {"threads": 3, "optimisation": "basic"}, {"provider": "CUDAExecutionProvider"}):
        with pytest.raises(InterruptedError):
            runtime.open_model("m.onnx", options)
    levels, cpu = ort.GraphOptimizationLevel, "CPUExecutionProvider"
    assert seen == [
        ("m.onnx", 0, levels.ORT_ENABLE_ALL, [cpu]),
        ("m.onnx", 3, levels.ORT_ENABLE_BASIC, [cpu]),
        ("m.onnx", 0, levels.ORT_ENABLE_ALL, ["CUDAExecutionProvider", cpu]),
    ]


def test_a_runtime_that_is_not_here_is_skipped_and_nothing_passes(pooling, monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXPOOL_ONNXRUNTIME_WEB", str(tmp_path))
    report = validate(*pooling, on=["onnxruntime_web"])
    assert {run.verdict for run in report.runs} == {"skipped"}
    assert report.exit_status == 3
    assert not report.passed
    assert any("tools/onnxruntime_web" in sentence or "Node.js" in sentence for sentence in sentences(report))


def test_a_case_beyond_the_known_limits_of_a_runtime_is_skipped():
    """The onnx package's MaxPool fails where a window holds NaN alone, and the function body has one."""
    made = pooled(Window.of(2, 3, 1, 1))
    golden = few(from_function.record(lambda feeds: {"y": np.full(feeds["x"].shape, np.nan)}, made), "ordinary")
    x = np.full(golden.cases[0].inputs["x"].shape, np.nan, np.float32)
    golden = replace(golden, cases=(replace(golden.cases[0], inputs={"x": x}),))
    report = validate(made, golden, on=["reference"], forms=["function"])
    assert verdicts(report.runs[0]) == {"ordinary": "skipped"}
    assert "leaves NaN out" in report.runs[0].results[0].reason
    assert report.exit_status == 3, "nothing ran"


def test_the_reference_evaluator_takes_one_size_of_a_large_model():
    options = {"dtypes": ["float32"]}
    assert not RUNTIMES["reference"].one_size(options | {"weights": 1_000_000})
    assert RUNTIMES["reference"].one_size(options | {"weights": 10_000_000})


# --- PyTorch


class Small(torch.nn.Module):
    def __init__(self, slope=1.0):
        super().__init__()
        self.pool, self.slope = nn.SoftPool2d(2), slope

    def forward(self, x):
        return self.pool(x * self.slope)


class Float32Only(torch.nn.Module):
    """Loses a small number beside a large one, but not in float64."""

    def forward(self, x):
        return (x + 1e9) - 1e9


def test_pytorch_runs_where_a_module_is_the_reference(pooling):
    module = Small().eval()
    made = onnxpool.export(module, (torch.randn(1, 2, 6, 6),), dynamic_shapes=({0: "batch"},))
    report = validate(made, module, on=["pytorch"])
    assert [run.name for run in report.runs] == ["pytorch, module, mode eager", "pytorch, module, mode compile"]
    eager, compiled = report.runs
    assert eager.verdict == "passed", sentences(report)
    assert compiled.verdict in ("passed", "unloadable"), "a compiler may be missing"
    assert "sizes 3x2x6x6" in compiled.left_out
    assert not eager.left_out
    assert any("left out" in note for note in report.notes)

    without = validate(*pooling, on=["pytorch"])
    assert {run.verdict for run in without.runs} == {"skipped"}
    assert "no PyTorch module is the reference" in without.runs[0].reason


def test_a_module_that_cannot_be_sent_is_skipped():
    module = torch.nn.Sequential(Small())
    made = onnxpool.export(module, (torch.randn(1, 2, 4, 4),))
    module.hook = lambda: None
    report = validate(made, module, on=["pytorch"])
    assert {run.verdict for run in report.runs} == {"skipped"}
    assert "cannot be sent to another process" in report.runs[0].reason


# --- which side is wrong


def test_the_exported_model_is_wrong():
    right, wrong = Small().eval(), Small(1.01).eval()
    made = onnxpool.export(wrong, (torch.randn(1, 2, 6, 6),))
    report = validate(made, right, forms=["standard"])
    assert report.exit_status == 1
    (note,) = [note for note in report.notes if "exported model itself differs" in note]
    assert "it is not the runtime" in note


def test_pytorch_is_wrong_where_only_its_float32_is_off():
    made = model([helper.make_node("Identity", ["x"], ["y"])], 2)
    golden = few(from_torch.record(Float32Only(), made), "ordinary", "image")
    report = validate(made, golden)
    assert report.passed
    assert any("PyTorch's own result is off by" in note and "PyTorch is wrong" in note for note in report.notes)


def test_pytorch_is_wrong_where_its_own_run_is_off(pooling):
    off = Result("huge", "y", "mismatch", "error 9 times", share=9.0)
    run = Run("pytorch", "module", kernels=False, verdict="mismatch", results=(replace(off, share=2.0), off))
    (told,) = sides(HeldModel(pooling[0]), pooling[1], [run], {("pytorch, module", "huge", "y"): np.zeros(1)})
    assert told == "pytorch, module: PyTorch's own result is wrong, in case 'huge': error 9 times"


# --- what dies


@pytest.fixture
def fragile(monkeypatch):
    def use(*dies):
        sys.path.insert(0, str(HERE))
        import fragile

        monkeypatch.setitem(
            RUNTIMES,
            "fragile",
            replace(
                RUNTIMES["reference"],
                name="fragile",
                file=str(HERE / "fragile.py"),
                forms=fragile.FORMS,
                why_not=fragile.why_not,
                variants=tuple({"dies": how} for how in dies),
            ),
        )
        sys.path.remove(str(HERE))

    return use


def largest(feeds):
    return {"y": feeds["x"].max((2, 3), keepdims=True)}


@pytest.fixture(scope="module")
def global_max():
    made = model([helper.make_node("GlobalMaxPool", ["x"], ["y"])], 2)
    return made, few(from_function.record(largest, made))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("segfault", "the runtime crashed (signal 11, SIGSEGV): last words"),
        ("abort", "the runtime crashed (signal 6, SIGABRT)"),
        ("kill", "the runtime crashed (signal 9, SIGKILL)"),
        ("exit", "the runtime crashed (exit status 7): last words"),
    ],
)
def test_a_runtime_that_dies_has_crashed_and_the_rest_runs(global_max, fragile, how, told):
    fragile(how)
    report = validate(*global_max, on=["fragile", "reference"])
    first, last = report.runs
    assert verdicts(first) == {
        "ordinary": "passed",
        "huge": "passed",
        "nan": "crashed",
        "sizes 3x3x32x32": "structure",
    }
    assert told in next(result.reason for result in first.results if result.case == "nan")
    assert first.verdict == "crashed"
    assert last.verdict == "passed"
    assert report.exit_status == 5
    assert any(told in sentence for sentence in sentences(report))


def test_a_runtime_that_hangs_has_crashed_and_can_be_asked_again(tmp_path):
    command, x = worker(str(HERE / "fragile.py")), np.ones((1, 1, 2, 2), np.float32)
    with Child(command, tmp_path, timeout_s=600) as child:
        for _ in range(2):
            child.open(tmp_path, {"dies": "hang", "outputs": ["y"]})
            np.testing.assert_array_equal(child.run({"x": x})["y"], [[[[1]]]])
            child.timeout_s = 0.5
            with pytest.raises(Crashed, match="the runtime did not answer within 0"):
                child.run({"x": np.nan * x})
            assert not child.alive
            child.timeout_s = 600


def test_a_size_at_which_alone_the_runtime_fails_is_fixed_in_the_model(global_max, fragile):
    fragile("hang")
    report = validate(global_max[0], few(global_max[1], "ordinary", "sizes 3x3x32x32"), on=["fragile"])
    assert report.exit_status == 4
    assert "runs at 2x3x32x32, not at 3x3x32x32: batch 3 is too much" in report.runs[0].results[-1].reason


def test_a_runtime_that_always_dies_is_given_up(global_max, fragile):
    fragile("always")
    (run,) = validate(*global_max, on=["fragile"]).runs
    assert verdicts(run) == dict.fromkeys(FEW, "crashed")
    assert "not tried, after 3 crashes" in run.results[-1].reason


def test_a_runtime_that_dies_on_the_model_has_crashed(fragile):
    made = model([helper.make_node("GlobalMaxPool", ["x"], ["y"])], 2)
    made.graph.node[0].output[0] = made.graph.output[0].name = "broken"
    golden = few(from_function.record(lambda feeds: {"broken": largest(feeds)["y"]}, made), "ordinary")
    fragile("hang")
    report = validate(made, golden, on=["fragile", "onnxruntime"], threads=1)
    assert report.runs[0].verdict == "crashed"
    assert "signal 11" in report.runs[0].reason
    assert {run.verdict for run in report.runs[1:]} <= {"passed", "skipped"}


def test_real_native_code_that_dies(pooling, tmp_path):
    """A library that ends the process as soon as ONNX Runtime loads it."""
    source, library = tmp_path / "dies.c", tmp_path / "libdies.so"
    source.write_text("#include <stdlib.h>\nvoid *RegisterCustomOps(void *a, void *b) { abort(); }\n")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native_library.OVERRIDE, str(library))
        report = validate(*pooling, forms=["function"])
    assert [run.verdict for run in report.runs] == ["passed", "crashed"]
    assert "signal 6" in report.runs[1].reason


# --- native, or not


@native
def test_native_is_proven_by_the_records_of_onnxruntime(pooling):
    report = validate(forms.to_form(pooling[0], "function"), pooling[1], forms=["function"], require=["native"])
    assert report.passed, sentences(report)
    off, on = report.runs
    assert (off.native, on.native) == ((), ("pool",))
    assert off.providers.keys() == on.providers.keys() == {"CPUExecutionProvider"}
    assert on.providers == {"CPUExecutionProvider": 1}
    assert off.pooling == ("pool (SoftPool): standard operators",)


def test_native_is_required_of_the_model_as_it_is(pooling):
    spelled = forms.to_form(pooling[0], "standard")
    report = validate(spelled, pooling[1], require=["native"], forms=["standard"])
    assert report.runs[0].verdict == "passed"
    assert report.exit_status == 3
    assert "node 'pool' (SoftPool) is required to run natively: it is spelled out" in report.causes[0]

    report = validate(*pooling, require=["native"], forms=["function"])
    assert "its own form, custom, was not tried" in report.causes[0]

    plain = model([helper.make_node("Relu", ["x"], ["y"])], 2)
    report = validate(plain, require=["native"])
    assert report.exit_status == 3
    assert "no pooling node of ours" in report.causes[0]


def test_native_is_required_and_the_library_is_missing(pooling, monkeypatch, tmp_path):
    monkeypatch.setenv(native_library.OVERRIDE, str(tmp_path / "nothing.so"))
    report = validate(*pooling, forms=["custom"], require=["native"])
    assert report.exit_status == 3
    assert "'pool' (SoftPool) is required to run natively" in report.causes[0]
    assert "names no file" in report.causes[0]
    assert not any("--per-node" in note for note in report.notes), "no answer is wrong"


@native
def test_a_native_cell_in_which_a_body_ran_fails_and_names_the_node(pooling, monkeypatch):
    monkeypatch.setattr(plan, "library_path", lambda: "")  # nothing is registered
    report = validate(*pooling, forms=["function"])
    assert [run.verdict for run in report.runs] == ["passed", "unloadable"]
    assert report.runs[1].reason == "no native kernel of CPUExecutionProvider ran for 'pool'"


# --- other environments


def test_another_environment_runs_without_onnxpool(pooling, tmp_path):
    """This one's packages, but for onnxpool and onnx: the worker may import neither."""
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text("import sys\nfor name in ('onnxpool', 'onnx', 'ml_dtypes', 'torch'): sys.modules[name] = None\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    report = validate(*pooling, pythons=[python], threads=1)
    assert report.passed, sentences(report)
    version = report.environment["onnxruntime"]
    others = [run for run in report.runs if run.runtime == f"onnxruntime {version}"]
    assert [(run.form, run.kernels) for run in others] == [
        ("function", False),
        ("function", True),
        ("standard", False),
        ("custom", True),
    ]
    assert {run.verdict for run in others} <= {"passed", "skipped"}


def test_an_environment_without_onnxruntime_is_a_wrong_question(pooling, tmp_path):
    with pytest.raises(ArgumentError, match="is not a Python with onnxruntime"):
        validate(*pooling, pythons=[tmp_path / "python"])
    with pytest.raises(ArgumentError, match="is not a Python with onnxruntime"):
        validate(*pooling, pythons=["false"])


def test_old_releases_are_not_given_the_library():
    configuration = plan.Configuration(RUNTIMES["onnxruntime"], "function", True, {}, "python", "1.20.1")
    if native_library.why_missing() is None:
        assert "needs ONNX Runtime 1.24 or newer" in configuration.why_not({})
    assert not replace(configuration, kernels=False).why_not({})


# --- the plan


def test_wrong_questions(pooling):
    for wrong in (["tensorflow"], [], ["onnxruntime", "x"]):
        with pytest.raises(ArgumentError, match="must be 'all', or some of onnxruntime, onnxruntime_web"):
            validate(*pooling, on=wrong)
    with pytest.raises(ArgumentError, match="require="):
        validate(*pooling, require=["fast"])
    with pytest.raises(ArgumentError, match="timeout_s=0"):
        validate(*pooling, timeout_s=0)
    for threads in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="threads="):
            validate(*pooling, threads=threads)


def test_a_runtime_that_takes_none_of_the_forms_is_skipped(pooling):
    (run,) = validate(*pooling, on=["onnxruntime_web"], forms=["custom"]).runs
    assert (run.verdict, run.reason) == ("skipped", "onnxruntime_web takes function and standard form")


def test_progress_tells_what_comes_next(pooling):
    told = []
    validate(*pooling, forms=["standard"], on=["reference", "openvino"], progress=lambda *now: told.append(now))
    assert told == [(0, 2, "reference, standard"), (1, 2, "openvino, standard"), (2, 2, "")]


def test_a_runtime_is_one_file():
    folder = Path(runtimes.__file__).parent
    assert set(RUNTIMES) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}


def test_importing_the_worker_has_no_effect():
    """It serves, and takes its own folder out of the path, as a script only."""
    program = """
import sys
import onnxpool.runtimes
sys.path.append(onnxpool.runtimes.__path__[0])
path = [*sys.path]
import onnxpool.runtimes._worker
assert sys.path == path
print(sys.stdin.readline().strip(), "on standard output")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input="read here\n", capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("read here on standard output\n", "")
