"""Models that other people's tools rewrote: seen, and native again by at most one command, with equal answers."""

import contextlib
import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models import CODES, model, pooled
from onnx import helper, numpy_helper

import onnxpool
from onnxpool.about.model import describe
from onnxpool.domain import DOMAIN, IR_VERSION, VERSION
from onnxpool.errors import FormError, KernelError, SessionError
from onnxpool.graph import forms
from onnxpool.graph.inlined import inlined
from onnxpool.run import native_library
from onnxpool.window import Window

native = pytest.mark.skipif(native_library.why_missing() is not None, reason="without the native library")

INPUTS = {"SoftPool": 1, "LocalImportancePool": 2, "StochasticPool": 1}
FIRST, SECOND = Window.of(2, 3, 2, 1, ceil_mode=True), Window.of(2, 2)


def network(op_type: str, first: Window = FIRST, dtype: str = "float32") -> onnx.ModelProto:
    """A convolution, two pools with something between, of bare nodes; where there are logits, of the values."""
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)) * 0.3
    begin = (
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1] * 4)
        if dtype in ("float32", "float16")
        else helper.make_node("Tanh", ["x"], ["a"], "tanh")
    )
    nodes = [
        begin,
        helper.make_node("Sigmoid", ["a"], ["l"], "logit"),
        helper.make_node(op_type, ["a", "l"][: INPUTS[op_type]], ["p"], "pool", domain=DOMAIN, **first.attributes()),
        helper.make_node("Sin", ["p"], ["b"], "sin"),
        helper.make_node(op_type, ["b"] * INPUTS[op_type], ["q"], "pool2", domain=DOMAIN, **SECOND.attributes()),
        helper.make_node("Neg", ["q"], ["y"], "neg"),
    ]
    if INPUTS[op_type] == 1:
        del nodes[1]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", CODES[dtype], ["N", 4, "H", "W"])],
        [helper.make_tensor_value_info("y", CODES[dtype], ["N", 4, "h", "w"])],
        [numpy_helper.from_array(weight.astype(dtype), "w")] if begin.op_type == "Conv" else [],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def sample(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 4, 11, 10)).astype(dtype)


def run(given: forms.Model, x: np.ndarray, kernels: str = "off") -> np.ndarray:
    session = onnxpool.load(given, kernels=kernels, threads=1)
    (y,) = session.run({session.inputs[0].name: x.astype(session.inputs[0].dtype)}).values()
    return y


# --- the tools


def onnxscript_optimizer(path: Path) -> onnx.ModelProto:
    optimizer = pytest.importorskip("onnxscript.optimizer")
    return ir.to_proto(optimizer.optimize(ir.load(path)))


def onnxscript_version_converter(path: Path) -> onnx.ModelProto:
    converter = pytest.importorskip("onnxscript.version_converter")
    converted = ir.load(path)
    converter.convert_version(converted, target_version=21, fallback=False)
    return ir.to_proto(converted)


def onnx_inliner(path: Path) -> onnx.ModelProto:
    from onnx import inliner

    return inliner.inline_local_functions(onnx.load(path))


def quant_pre_process(path: Path) -> onnx.ModelProto:
    pytest.importorskip("sympy")
    from onnxruntime.quantization.shape_inference import quant_pre_process as process

    process(str(path), str(path.with_name("processed.onnx")))
    return onnx.load(path.with_name("processed.onnx"))


def optimised(level: str) -> Callable[[Path], onnx.ModelProto]:
    def optimise(path: Path) -> onnx.ModelProto:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
        options.log_severity_level = 4
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(path.with_name("optimised.onnx"))

    return optimise


INLINERS = {
    "onnxscript.optimizer": onnxscript_optimizer,
    "onnxscript.version_converter": onnxscript_version_converter,
    "onnx.inliner": onnx_inliner,
    "quant_pre_process": quant_pre_process,
    "ONNX Runtime, basic": optimised("ORT_ENABLE_BASIC"),
    "ONNX Runtime, all": optimised("ORT_ENABLE_ALL"),
}


def rewritten(tool: Callable[[Path], onnx.ModelProto], bare: onnx.ModelProto, form: str, folder: Path) -> Path:
    """The file that a tool makes of a model in this form; what it prints is not shown."""
    forms.write(onnxpool.to_form(bare, form), folder / "before.onnx")
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            onnx.save(tool(folder / "before.onnx"), folder / "after.onnx")
        finally:
            logging.disable(logging.NOTSET)
    return folder / "after.onnx"


# --- functions written out


@pytest.mark.parametrize("op_type", INPUTS)
@pytest.mark.parametrize("tool", INLINERS)
def test_functions_written_out_are_seen_and_lifted(tool, op_type, tmp_path):
    after = rewritten(INLINERS[tool], network(op_type), "function", tmp_path)
    assert not forms.pool_nodes(after)
    assert len(inlined(after)) == 2
    told = describe(after)
    assert told.lost.startswith("these were ours")
    assert told.lost.endswith("run: onnxpool lift")
    assert len(told.to_json()["inlined"]) == 2
    lifted = onnxpool.lift(after)
    assert [(fold.op_type, fold.window) for fold in lifted.folds] == [(op_type, "3x3 s2 p1 ceil"), (op_type, "2x2")]
    computing = [node.op_type for node in lifted.model.graph if node.op_type not in ("Cast", "Identity", "Constant")]
    whole = "com.microsoft.nchwc" in lifted.model.opset_imports
    assert whole or computing == [node.op_type for node in network(op_type).graph.node]
    y = run(tmp_path / "before.onnx", sample())
    np.testing.assert_allclose(run(lifted.model, sample()), y, rtol=1e-5, atol=1e-6)
    if native_library.why_missing() is None:
        np.testing.assert_allclose(run(lifted.model, sample(), "require"), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("op_type", INPUTS)
def test_loops_without_a_guard_and_narrow_types_are_lifted(op_type, dtype, tmp_path):
    """A dilated window and float64 leave a Loop alone, without an If around it; float16 has casts around."""
    first = Window.of(2, 3, 2, 1, 2) if dtype == "float16" else FIRST
    after = rewritten(onnx_inliner, network(op_type, first, dtype), "function", tmp_path)
    lifted = onnxpool.lift(after)
    assert [(fold.op_type, fold.window) for fold in lifted.folds] == [(op_type, str(first)), (op_type, "2x2")]
    nodes = {node.op_type: node for node in lifted.model.graph if node.domain == DOMAIN}
    assert {node.inputs[0].dtype.numpy().name for node in nodes.values()} == {dtype}, "without casts around"
    tolerance = 2e-3 if dtype == "float16" else 1e-12
    np.testing.assert_allclose(
        run(lifted.model, sample(dtype)).astype(float),
        run(tmp_path / "before.onnx", sample(dtype)).astype(float),
        atol=tolerance,
    )


@native
def test_require_refuses_a_model_whose_pooling_nodes_are_gone(tmp_path):
    after = rewritten(onnx_inliner, network("SoftPool"), "function", tmp_path)
    with pytest.raises(KernelError, match=r"wrote out the functions of 2 pooling nodes, at If_\d+__1, If_\d+__2: onnx"):
        onnxpool.load(after, kernels="require")
    assert onnxpool.load(after).placements == ()


def test_another_loop_over_a_pooled_tensor_is_left_with_the_reason():
    """Looks like a body of ours, and sums squares of the cells instead."""
    bare = pooled(Window.of(2, 2))
    changed = onnx_inliner_of(bare, "Exp", "Abs")
    assert len(inlined(changed)) == 1
    lifted = onnxpool.lift(changed)
    assert not lifted.folds
    assert [refused.reason for refused in lifted.refused if "written out" in refused.likeness] == [
        "it computes none of the poolings that this version knows"
    ]


def test_a_pool_inside_of_somebody_s_if_is_seen_and_left(tmp_path):
    branches = {
        f"{name}_branch": helper.make_graph(
            [
                helper.make_node("Abs", ["x"], [f"{name}_x"], f"{name}_abs"),
                helper.make_node(
                    "SoftPool", [f"{name}_x"], [name], f"{name}_pool", domain=DOMAIN, **Window.of(2, size).attributes()
                ),
            ],
            name,
            [],
            [helper.make_tensor_value_info(name, CODES["float32"], None)],
        )
        for name, size in (("then", 2), ("else", 3))
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], "max", keepdims=0),
        helper.make_node("Cast", ["top"], ["large"], "cast", to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["large"], ["y"], "theirs", **branches),
    ]
    after = rewritten(onnx_inliner, model(nodes, 2), "function", tmp_path)
    assert [one.name for one in inlined(after)] == ["theirs", "theirs"]
    lifted = onnxpool.lift(after)
    assert not lifted.folds
    assert {one.reason for one in lifted.refused} == {
        "it stands inside of an If or Loop, where nodes are not run alone"
    }


def onnx_inliner_of(bare: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """The function form of a model, written out, with every node of one operator of another."""
    from onnx import inliner

    written = inliner.inline_local_functions(ir.to_proto(onnxpool.to_form(bare, "function")))
    changed = forms.read(written)
    for node in changed.graph.all_nodes():
        node.op_type = new if node.op_type == old else node.op_type
    return ir.to_proto(changed)


# --- order, names and tags


def test_nodes_out_of_order_are_sorted(tmp_path):
    """As onnxruntime.transformers.float16 leaves them: a cast after the node that takes it."""
    for form in ("function", "standard"):
        proto = ir.to_proto(onnxpool.to_form(network("SoftPool"), form))
        proto.graph.node.append(proto.graph.node.pop(0))
        onnx.save(proto, tmp_path / "m.onnx")
        for to in ("function", "standard", "custom"):
            y = run(onnxpool.to_form(tmp_path / "m.onnx", to), sample(), "off" if to != "custom" else "auto")
            np.testing.assert_allclose(y, run(onnxpool.to_form(network("SoftPool"), "function"), sample()), atol=1e-6)


def test_a_circle_is_refused_in_one_line(tmp_path):
    proto = model([helper.make_node("Add", ["x", "y"], ["a"]), helper.make_node("Relu", ["a"], ["y"])], 2)
    with pytest.raises(FormError, match=r"cannot read these bytes as an ONNX model: [^\n]*\Z"):
        forms.read(proto.SerializeToString())


@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("keep_io_types", [False, True])
def test_onnxruntime_s_float16(form, keep_io_types, tmp_path):
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    after = rewritten(
        lambda path: convert(onnx.load(path), keep_io_types=keep_io_types), network("SoftPool"), form, tmp_path
    )
    moved = onnxpool.to_form(after, "function")
    assert [node.op_type for node in forms.pool_nodes(moved)] == ["SoftPool", "SoftPool"]
    y = run(tmp_path / "before.onnx", sample())
    np.testing.assert_allclose(run(moved, sample()).astype("float32"), y, atol=1e-2)
    if native_library.why_missing() is None:
        np.testing.assert_allclose(run(moved, sample(), "require").astype("float32"), y, atol=1e-2)


@pytest.mark.parametrize("op_type", INPUTS)
@pytest.mark.parametrize("form", ["function", "standard"])
def test_prefixes_of_onnx_compose(form, op_type, tmp_path):
    after = rewritten(lambda path: onnx.compose.add_prefix(onnx.load(path), "net/"), network(op_type), form, tmp_path)
    assert [node.op_type for node in forms.pool_nodes(after)] == [op_type, op_type]
    assert {value.name for value in onnxpool.load(after).inputs} == {"net/x"}
    y = run(tmp_path / "before.onnx", sample())
    moved = onnxpool.to_form(after, "function")
    assert [node.op_type for node in moved.graph if node.domain == DOMAIN] == [op_type, op_type]
    np.testing.assert_allclose(run(moved, sample()), y, atol=1e-6)
    if form == "function" and native_library.why_missing() is None:  # no command at all
        np.testing.assert_allclose(run(after, sample(), "require"), y, atol=1e-6)


@native
def test_validation_of_a_model_with_a_prefix_and_of_one_that_was_written_out(tmp_path):
    def prefix(path: Path) -> onnx.ModelProto:
        return onnx.compose.add_prefix(onnx.load(path), "net/")

    bare = pooled(Window.of(2, 2))
    told = {"forms": ["function"], "require": ["native"], "threads": 1}
    assert onnxpool.validate(rewritten(prefix, bare, "function", tmp_path), **told).exit_status == 0
    report = onnxpool.validate(rewritten(onnx_inliner, bare, "function", tmp_path), **told)
    assert not report.passed
    assert report.causes == (
        "native kernels are required: the model has no pooling node of ours; another program wrote them out, which "
        "'onnxpool lift' undoes",
    )


def test_two_models_that_were_merged(tmp_path):
    """Under two prefixes, with bodies that differ, since one window is dilated: form --to function unites them."""
    other = model(
        [helper.make_node("SoftPool", ["x"], ["y"], "pool", domain=DOMAIN, **Window.of(2, 2, 1, 0, 2).attributes())], 2
    )
    first, second = (ir.to_proto(onnxpool.to_form(bare, "function")) for bare in (network("SoftPool"), other))
    merged = onnx.compose.merge_models(first, second, [("y", "x")], prefix1="one/", prefix2="two/")
    onnx.save(merged, tmp_path / "m.onnx")
    moved = onnxpool.to_form(tmp_path / "m.onnx", "function")
    assert [node.op_type for node in moved.graph if node.domain == DOMAIN] == ["SoftPool"] * 3
    x = np.random.default_rng(1).standard_normal((2, 4, 20, 20)).astype("float32")
    np.testing.assert_allclose(run(moved, x), run(second, run(first, x)), atol=1e-6)


def test_an_operator_that_ends_like_ours_is_not_taken_for_it():
    newer = onnxpool.to_form(pooled(Window.of(2, 2)), "function")
    function = newer.functions.pop((DOMAIN, "SoftPool", ""))
    newer.graph[0].op_type = function.name = "AdaptiveSoftPool"
    function.inputs[0].name = "adaptivesoftpool_x"
    newer.functions[function.identifier()] = function
    with pytest.raises(FormError, match="AdaptiveSoftPool, which this version does not know"):
        onnxpool.to_form(ir.to_proto(newer), "custom")


def test_stale_tags_count_for_nothing():
    """Of a pool whose weights were rounded between: its tag tells what it was, and it is that no longer."""
    standard = onnxpool.to_form(network("SoftPool"), "standard")
    (node, *_) = (node for node in standard.graph if node.op_type == "Exp" and (node.name or "").startswith("pool/"))
    rounded = ir.node("Round", [node.outputs[0]], outputs=[ir.Value(name="rounded")], name="round")
    ir.convenience.replace_all_uses_with(node.outputs[0], rounded.outputs[0])
    rounded.replace_input_with(0, node.outputs[0])
    standard.graph.insert_after(node, rounded)
    assert [one.name for one in forms.pool_nodes(standard)] == ["pool2"]
    x = sample()
    for form in ("function", "standard", "custom"):
        moved = onnxpool.to_form(standard, form)
        assert [one.name for one in forms.pool_nodes(moved)] == ["pool2"]
        np.testing.assert_allclose(
            run(moved, x, "off" if form != "custom" else "auto"), run(standard, x), rtol=1e-5, atol=1e-6
        )
    onnxpool.lift(standard)


# --- ONNX Runtime's own format


def test_ort_files_run_and_tell_what_they_are(tmp_path):
    forms.write(onnxpool.to_form(network("SoftPool"), "function"), tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    y = run(tmp_path / "m.onnx", sample())
    for given in (tmp_path / "m.ort", (tmp_path / "m.ort").read_bytes()):
        np.testing.assert_allclose(run(given, sample(), "auto"), y, atol=1e-6)
        with pytest.raises(FormError, match=r"own format, which onnxpool\.load runs"):
            forms.read(given)
    with pytest.raises(KernelError, match="does not tell which of its nodes were ours"):
        onnxpool.load(tmp_path / "m.ort", kernels="require")


@pytest.mark.parametrize("form", ["function", "custom"])
def test_ort_files_made_with_the_library_are_native_and_need_it(tmp_path, form):
    """As mobile builds of ONNX Runtime load them: with the library registered, in its own loader and in ours."""
    if native_library.why_missing():
        pytest.skip("no native library here")
    forms.write(onnxpool.to_form(network("SoftPool"), form), tmp_path / "m.onnx")

    def opened(name, *, library=True, **settings):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        for key, value in settings.items():
            setattr(options, key, value)
        if name.endswith(".onnx"):
            options.add_session_config_entry("session.save_model_format", "ORT")
        if library:
            native_library.register(options)
        return onnxruntime.InferenceSession(tmp_path / name, options, providers=["CPUExecutionProvider"])

    before = opened("m.onnx", optimized_model_filepath=str(tmp_path / "m.ort"))
    assert (tmp_path / "m.ort").read_bytes()[4:8] == b"ORTM"
    feeds = {before.get_inputs()[0].name: sample()}
    (y,) = before.run(None, feeds)
    np.testing.assert_array_equal(opened("m.ort").run(None, feeds)[0], y)
    np.testing.assert_array_equal(run(tmp_path / "m.ort", sample(), "auto"), y)
    np.testing.assert_allclose(run(onnxpool.to_form(tmp_path / "m.onnx", "function"), sample()), y, atol=1e-6)
    with pytest.raises(Exception, match=r"SoftPool.* is not a registered function/op"):
        opened("m.ort", library=False)
    with pytest.raises(SessionError, match="could not load the model"):
        onnxpool.load(tmp_path / "m.ort", kernels="off")


# --- nothing on the screen


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_plain_onnxruntime_loads_our_functions_without_a_word(dtype, tmp_path):
    """In a process of its own, at ONNX Runtime's own level of messages: also where the logits are the values."""
    for op_type in INPUTS:
        forms.write(onnxpool.to_form(network(op_type, dtype=dtype), "function"), tmp_path / f"{op_type}.onnx")
    program = "import sys, onnxruntime\nfor path in sys.argv[1:]: onnxruntime.InferenceSession(path)"
    files = sorted(map(str, tmp_path.glob("*.onnx")))
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
