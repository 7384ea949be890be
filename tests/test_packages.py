"""Packages for Triton and KServe: read back with Triton's own protobuf and as YAML, and run as there."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import model as graph
from models import pooled
from onnx import helper
from typer.testing import CliRunner

import onnxpool
from onnxpool.cli.commands import app
from onnxpool.deploy import kserve, package, triton
from onnxpool.dtypes import TYPES
from onnxpool.errors import ArgumentError, KernelError
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import form_of, write
from onnxpool.run import native_library
from onnxpool.run.native_library import library_path, why_missing
from onnxpool.window import Window

ort = pytest.importorskip("onnxruntime")
pb = pytest.importorskip("tritonclient.grpc.model_config_pb2")

from google.protobuf import text_format  # noqa: E402 - tritonclient brings it

without_library = pytest.mark.skipif(why_missing() is not None, reason="no native library here")
FORMS = ["function", "standard", pytest.param("custom", marks=without_library)]


@pytest.fixture
def layer(tmp_path):
    """The path of a layer in the form asked for, each with a golden file; x: (N, C, in_0, in_1)."""

    def made(form="function", name="layer"):
        path = tmp_path / f"{name}.onnx"
        bare = pooled(Window.of(2, 2))
        bare.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "C"
        write(onnxpool.to_form(bare, form), path)
        x = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
        case = golden_file.Case("ordinary", {"x": x}, {"y": np.zeros((2, 1, 2, 2))}, {"y": 0.0})
        golden_file.save(
            golden_file.Golden("numbers", "numbers", {"y": "float32"}, (case,), (), None), golden_file.path_for(path)
        )
        return path

    return made


def read(repository: Path, name: str):
    """The configuration as Triton parses it."""
    text = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, pb.ModelConfig())


# --- Triton


@pytest.mark.parametrize("form", FORMS)
def test_a_repository_as_triton_reads_it(tmp_path, layer, form):
    made = triton.package(layer(form), tmp_path / "repository", name="pool", root="/srv/models", delay_s=0.002)
    config = read(tmp_path / "repository", "pool")
    assert (config.name, config.backend, config.max_batch_size) == ("pool", "onnxruntime", 32)
    assert [(one.name, one.data_type, [*one.dims]) for one in config.input] == [("x", pb.TYPE_FP32, [-1, -1, -1])]
    assert [(one.name, one.data_type, [*one.dims]) for one in config.output] == [("y", pb.TYPE_FP32, [-1, -1, -1])]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    native = form != "standard" and why_missing() is None
    libraries = [*config.model_operations.op_library_filename]
    assert libraries == (["/srv/models/pool/1/libonnxpool.so"] if native else [])
    assert form_of(tmp_path / "repository/pool/1/model.onnx") == made.form == form
    assert set(made.files) == {
        str(file.relative_to(tmp_path / "repository")) for file in (tmp_path / "repository").rglob("*.*")
    } | {"pool/warmup/0"}
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["pool"]


@pytest.mark.parametrize("form", FORMS)
def test_what_the_backend_does_with_it(tmp_path, layer, form):
    """A plain ONNX Runtime session, with the libraries that the configuration names, runs the warm-up."""
    triton.package(layer(form), tmp_path / "repository", root=str(tmp_path / "repository"))
    config = read(tmp_path / "repository", "layer")
    options = ort.SessionOptions()
    for library in config.model_operations.op_library_filename:
        options.register_custom_ops_library(library)
    path = tmp_path / "repository/layer/1/model.onnx"
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    warm = config.model_warmup[0].inputs["x"]
    data = np.fromfile(tmp_path / "repository/layer/warmup" / warm.input_data_file, np.float32)
    (y,) = session.run(None, {"x": data.reshape(1, *warm.dims)})
    e = np.exp(np.array([0, 1, 4, 5]))
    assert y[0, 0, 0, 0] == pytest.approx((e * [0, 1, 4, 5]).sum() / e.sum(), rel=1e-6)
    assert golden_file.load(golden_file.path_for(path)).source == "numbers"


@pytest.mark.parametrize("form", FORMS)
def test_every_combination_is_read_by_triton(tmp_path, layer, form):
    """Batched or not, with a golden file or without, with the native library or without."""
    path = layer(form)
    natives = {"standard": [False], "custom": [True]}.get(form, [False] if why_missing() else [False, True])
    for golden in (True, False):
        if not golden:
            golden_file.path_for(path).unlink()
        for native, batch in itertools.product(natives, (1, 4)):
            name = f"{form}-{golden}-{native}-{batch}"
            made = triton.package(path, tmp_path / "repository", name=name, native=native, max_batch=batch)
            config = read(tmp_path / "repository", name)
            assert config.max_batch_size == (batch if batch > 1 else 0)
            assert [warm.batch_size for warm in config.model_warmup] == ([1] if golden else [])
            assert len(config.model_operations.op_library_filename) == native
            assert made.run.startswith("docker run --rm -p 127.0.0.1:8000:8000 ")
            assert made.run.endswith("tritonserver:26.07-py3 tritonserver --model-repository=/models")


def test_instances_and_threads(tmp_path, layer):
    triton.package(layer(), tmp_path / "repository", instances=2, threads=3)
    config = read(tmp_path / "repository", "layer")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, pb.ModelInstanceGroup.KIND_CPU)
    assert config.parameters["intra_op_thread_count"].string_value == "3"


@without_library
def test_the_library_for_cuda_goes_along_only_when_it_is_asked_for(tmp_path, layer, monkeypatch):
    there = tmp_path / "built"
    there.mkdir()
    for name in ("libonnxpool.so", "libonnxpool_cuda.so"):
        shutil.copy(library_path(), there / name)
    monkeypatch.setattr(native_library, "library_path", lambda: there / "libonnxpool.so")
    monkeypatch.setattr(triton, "load", lambda path, **_: onnxpool.load(path, kernels="off"))
    plain = triton.package(layer(), tmp_path / "plain")
    assert not any("cuda" in file for file in plain.files)
    made = triton.package(layer(), tmp_path / "cuda", cuda=True, instances=1)
    assert "layer/1/libonnxpool_cuda.so" in made.files
    assert read(tmp_path / "cuda", "layer").instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert "--gpus all" in made.run
    (there / "libonnxpool_cuda.so").unlink()
    with pytest.raises(KernelError, match=r"cuda=True, but .* is not there"):
        triton.package(layer(name="other"), tmp_path / "cuda", cuda=True)


def test_only_a_common_named_axis_is_batched(tmp_path):
    def packaged(name, x, y, **options):
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        made = graph(nodes, 2)
        for value, shape in ((made.graph.input[0], x), (made.graph.output[0], y)):
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
        onnx.save(made, tmp_path / f"{name}.onnx")
        notes = triton.package(tmp_path / f"{name}.onnx", tmp_path / "repository", **options).notes
        return read(tmp_path / "repository", name), notes

    config, notes = packaged("same", ["N", 3], ["N", 3])
    assert (config.max_batch_size, config.input[0].dims[:]) == (32, [3])
    assert notes == ("no warm-up: there is no golden file beside the model",)
    config, notes = packaged("fixed", [2, 3], [2, 3])
    assert (config.max_batch_size, config.input[0].dims[:]) == (0, [2, 3])
    assert not config.HasField("dynamic_batching")
    assert notes[0].startswith("requests are not joined")
    assert packaged("other", ["N", 3], ["M", 3])[0].max_batch_size == 0
    assert packaged("nameless", [None, 3], [None, 3])[0].max_batch_size == 0
    config, notes = packaged("alone", ["N", 3], ["N", 3], max_batch=1)
    assert (config.max_batch_size, config.input[0].dims[:], len(notes)) == (0, [-1, 3], 1)


def test_a_vector_per_batch_and_no_axis_at_all(tmp_path):
    """Triton has no empty shape: one element, reshaped where it is one of a batch, as its backend completes it."""
    for name, shape, reshaped in (("vector", ["N"], True), ("number", [], False)):
        made = graph([helper.make_node("Identity", ["x"], ["y"])], 2)
        for value in (made.graph.input[0], made.graph.output[0]):
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
        onnx.save(made, tmp_path / f"{name}.onnx")
        triton.package(tmp_path / f"{name}.onnx", tmp_path / "repository")
        (tensor,) = read(tmp_path / "repository", name).input
        assert (tensor.dims[:], tensor.HasField("reshape"), tensor.reshape.shape[:]) == ([1], reshaped, [])


@pytest.mark.parametrize("protocol", sorted(element.protocol for element in TYPES))
def test_every_type_that_onnxpool_runs_has_one_of_tritons(protocol):
    assert f"TYPE_{protocol}" in pb.DataType.keys()  # noqa: SIM118 - protobuf gives enumerations no other way to ask


def test_names_with_quotes_arrive_whole(tmp_path):
    odd = 'a "b" \\ ü'
    bare = pooled(Window.of(2, 2), inputs=(odd,))
    write(onnxpool.to_form(bare, "standard"), tmp_path / "odd.onnx")
    triton.package(tmp_path / "odd.onnx", tmp_path / "repository")
    assert read(tmp_path / "repository", "odd").input[0].name == odd


def test_a_repository_takes_several_models_and_keeps_what_it_has(tmp_path, layer):
    for name in ("one", "two"):
        triton.package(layer(name=name), tmp_path / "repository")
    before = (tmp_path / "repository/one/config.pbtxt").read_bytes()
    with pytest.raises(ArgumentError, match="one exists; remove it, or give another name"):
        triton.package(tmp_path / "one.onnx", tmp_path / "repository", max_batch=2)
    assert (tmp_path / "repository/one/config.pbtxt").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "../up"}, "name='../up' must be letters"),
        ({"name": ".hidden"}, "name='.hidden' must be letters"),
        ({"root": "models"}, "root='models' must be an absolute path"),
        ({"max_batch": 0}, "max_batch=0 must be at least 1"),
        ({"delay_s": -1}, "delay_s=-1 must be from 0 to 10"),
        ({"delay_s": float("nan")}, "delay_s=nan must be from 0 to 10"),
        ({"instances": 0, "threads": -1}, "instances=0, threads=-1 must be at least 1"),
        ({"native": False, "cuda": True}, "cuda=True, but the package takes no native library"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path, layer, arguments, told):
    with pytest.raises(ArgumentError, match=told):
        triton.package(layer(), tmp_path / "repository", **arguments)
    assert not (tmp_path / "repository").exists()


def test_the_library_comes_where_it_can_be_used(tmp_path, layer, monkeypatch):
    with pytest.raises(ArgumentError, match="native=True, but a standard form"):
        triton.package(layer("standard"), tmp_path / "repository", native=True)
    with pytest.raises(ArgumentError, match="native=False, but a custom form needs the library"):
        triton.package(layer("custom"), tmp_path / "repository", native=False)
    made = triton.package(layer(), tmp_path / "repository", native=False, name="bodies")
    assert not read(tmp_path / "repository", "bodies").HasField("model_operations")
    assert made.needs == ("a server of any platform, for a function form without native kernels",)
    monkeypatch.setenv("ONNXPOOL_LIBRARY", "nowhere.so")
    for form, native in (("custom", None), ("function", True)):
        with pytest.raises(KernelError, match=r"nowhere\.so names no file"):
            triton.package(layer(form), tmp_path / "repository", native=native)


# --- KServe

PREDICTOR = {"minReplicas", "maxReplicas", "model"}
MODEL = {"runtime", "runtimeVersion", "modelFormat", "protocolVersion", "storageUri", "resources"}
"""Fields of v1beta1's PredictorSpec and ModelSpec that are used here."""
RESOURCES = {"cpu": "1", "memory": "2Gi"}


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_and_the_repository_that_it_serves(tmp_path, layer, form):
    yaml = pytest.importorskip("yaml")
    path = layer(form, name="My_Layer")
    made = kserve.package(path, tmp_path / "package", storage="pvc://models/layer", max_replicas=3)
    text = yaml.safe_load((tmp_path / "package/inference-service.yaml").read_text(encoding="utf-8"))
    assert (text["apiVersion"], text["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert text["metadata"] == {"name": "my-layer"}
    predictor = text["spec"]["predictor"]
    assert set(predictor) == PREDICTOR
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 3)
    assert set(predictor["model"]) == MODEL
    assert predictor["model"]["modelFormat"] == {"name": "onnx", "version": "1"}
    assert predictor["model"]["storageUri"] == "pvc://models/layer"
    assert predictor["model"]["runtimeVersion"] == "26.07-py3"  # 23.05, KServe's own, cannot load our files
    assert predictor["model"]["resources"] == {"requests": RESOURCES, "limits": RESOURCES}
    config = read(tmp_path / "package/models", "my-layer")
    if form != "standard" and why_missing() is None:
        assert [*config.model_operations.op_library_filename] == ["/mnt/models/my-layer/1/libonnxpool.so"]
        assert "libonnxpool.so at /mnt/models/my-layer/1" in made.needs[1]
    assert all((tmp_path / "package" / file).is_file() for file in made.files)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"storage": "models/layer"}, "storage='models/layer' must be a URI of pvc, s3"),
        ({"storage": "pvc:///x"}, "storage='pvc:///x' must be a URI"),
        ({"name": "Layer"}, "name='Layer' must be lower-case letters"),
        ({"name": "a" * 64}, "at most 63"),
        ({"min_replicas": 2}, "min_replicas=2, max_replicas=1: use 0 <= min <= max"),
        ({"min_replicas": 0, "max_replicas": 0}, "max >= 1"),
        ({"cpus": 0}, "cpus=0, memory_gb=None: each must be at least 1"),
    ],
)
def test_wrong_arguments_for_kserve(tmp_path, layer, arguments, told):
    with pytest.raises(ArgumentError, match=told):
        kserve.package(layer(), tmp_path / "package", **{"storage": "pvc://models/layer", **arguments})
    assert not (tmp_path / "package").exists()


def test_an_unknown_server_is_refused(tmp_path, layer):
    with pytest.raises(ArgumentError, match="target='tomcat' is unknown; use one of triton, kserve"):
        package(layer(), tmp_path / "package", "tomcat")


# --- the command


def test_the_command(tmp_path, layer):
    path, run = str(layer()), CliRunner().invoke
    made = run(app, ["package", path, str(tmp_path / "t"), "--target", "triton", "--max-batch", "4", "--json"])
    assert json.loads(made.stdout)["name"] == "layer"
    assert read(tmp_path / "t", "layer").max_batch_size == 4
    made = run(app, ["package", path, str(tmp_path / "k"), "--target", "kserve", "--storage", "s3://bucket/layer"])
    assert made.exit_code == 0
    assert "copy models/ to s3://bucket/layer" in made.stdout
    for arguments, told in (
        (["--target", "triton", "--storage", "s3://b/l"], "storage='s3://b/l' is not for target='triton'"),
        (["--target", "kserve", "--storage", "s3://b/l", "--root", "/x"], "root='/x' is not for target='kserve'"),
        (["--target", "kserve"], "storage is missing; target='kserve' needs it"),
    ):
        result = run(app, ["package", path, str(tmp_path / "n"), *arguments])
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
