"""The command line: what it prints, its exit status, and one clear sentence for each wrong question."""

import json
import subprocess
import sys
from typing import get_args

import numpy as np
import onnx
import pytest
from models import pooled
from typer.testing import CliRunner

import onnxpool
from onnxpool.about.methods import catalog
from onnxpool.about.model import describe
from onnxpool.cli import application, spelling
from onnxpool.cli.commands import app
from onnxpool.domain import OPSETS
from onnxpool.errors import ArgumentError
from onnxpool.golden.file import load as load_golden
from onnxpool.graph import forms
from onnxpool.graph.forms import write
from onnxpool.run.native_library import why_missing
from onnxpool.window import Window

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

COMMANDS = (
    "export",
    "swap",
    "form",
    "lift",
    "validate",
    "bisect",
    "bundle",
    "verify",
    "compare",
    "inspect",
    "predict",
    "batch",
    "downscale",
    "package",
    "serve",
    "pools",
    "doctor",
    "build",
)
NETWORK = """
import torch
from layers import pool                     # from the folder of this file

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)
        self.pool = pool()

    def forward(self, x, gate):
        return self.pool(self.conv(x)) * gate[:, :, None, None]

network = Network
made = torch.nn.ReLU()
number = 3

def broken():
    raise RuntimeError("no weights")
"""
LAYERS = "from onnxpool import nn\n\ndef pool():\n    return nn.SoftPool2d(2)\n"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """What a wrong question is answered with on standard error."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file with networks, and two models exported by the command: one layer, and one network of two inputs."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "nets.py").write_text(NETWORK)
    (folder / "layers.py").write_text(LAYERS)
    layer = "SoftPool2d(3, stride=2, padding=1)"
    arguments = ["--input", "1x2x8x8", "--dynamic", "batch,height,width"]
    assert run("export", layer, folder / "layer.onnx", *arguments).exit_code == 0
    arguments = ["--input", "2x3x9x9", "--input", "2x2", "--dynamic", "0=batch", "--dynamic", "x:3=columns"]
    assert run("export", f"{folder}/nets.py:network", folder / "network.onnx", *arguments, "--json").exit_code == 0
    return folder


# --- right questions


def test_export_describes_what_it_wrote(folder):
    layer = describe(folder / "layer.onnx")
    assert layer.form == "function"
    assert layer.golden == str(folder / "layer.golden.npz")
    assert [str(tensor) for tensor in layer.inputs] == ["x: float32 (batch, 2, height, width)"]
    assert [(pool.op_type, str(pool.window)) for pool in layer.pooling] == [("SoftPool", "3x3 s2 p1")]
    assert layer.size_bytes == (folder / "layer.onnx").stat().st_size
    network = describe(folder / "network.onnx")
    assert [tensor.shape for tensor in network.inputs] == [("batch", 3, 9, "columns"), ("batch", 2)]
    assert network.operators["Conv"] == network.operators["onnxpool::SoftPool"] == 1


def test_seed_and_dtype_reach_the_model(folder):
    for seed in (1, 1, 2):
        arguments = ["--input", "1x3x9x9", "--input", "1x2", "--dtype", "float64", "--seed", seed, "--form", "standard"]
        arguments.append("--no-check")  # ONNX Runtime has no float64 convolution on the CPU
        output = folder / f"seed-{seed}.onnx"
        before = output.read_bytes() if output.exists() else None
        assert run("export", f"{folder}/nets.py:network", output, *arguments).exit_code == 0
        assert before in (None, output.read_bytes())
    assert describe(output).inputs[0].dtype == "float64"
    assert describe(output).form == "standard"
    first, second = (onnx.load(folder / f"seed-{seed}.onnx").graph.initializer for seed in (1, 2))
    assert {tensor.raw_data for tensor in first} != {tensor.raw_data for tensor in second}


def test_export_without_answers(folder):
    output = folder / "bare.onnx"
    arguments = [f"{folder}/nets.py:network", output, "--input", "1x3x9x9", "--input", "1x2", "--no-check"]
    assert run("export", *arguments).exit_code == 0
    assert describe(output).golden == str(folder / "bare.golden.npz")
    assert run("export", *arguments, "--no-golden").exit_code == 0
    assert describe(output).golden is None
    assert not (folder / "bare.golden.npz").exists()  # nor that of the export before


def test_form_moves_there_and_back(folder):
    for source, target, form in (("layer", "standard", "standard"), ("standard", "back", "function")):
        result = run("form", folder / f"{source}.onnx", folder / f"{target}.onnx", "--to", form, "--json")
        assert json.loads(result.stdout)["form"] == form
    assert describe(folder / "back.onnx").operators == {"onnxpool::SoftPool": 1}


def test_validate_passes_writes_a_page_and_fails(folder, tmp_path):
    page = tmp_path / "new" / "report.html"
    result = run("validate", folder / "layer.onnx", "--html", page, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passed"] is True
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert list(page.parent.iterdir()) == [page]

    changed = onnx.load(folder / "layer.onnx")
    changed.graph.node[0].attribute[0].ints[:] = [1, 1]
    onnx.save(changed, tmp_path / "changed.onnx")
    result = run("validate", tmp_path / "changed.onnx", "--reference", folder / "layer.golden.npz")
    assert result.exit_code == 3
    assert "FAILED" in result.stdout


def test_validate_against_the_module_itself(folder):
    reference = f"{folder}/nets.py:network"
    assert run("validate", folder / "network.onnx", "--reference", reference).exit_code == 0
    assert run("validate", folder / "network.onnx", "--reference", reference, "--seed", 1).exit_code == 1


def test_what_validate_keeps(folder, tmp_path):
    for name in ("layer.onnx", "layer.golden.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    model = tmp_path / "layer.onnx"
    result = run("validate", model, "--case", "image", "--per-node", "--bundle", tmp_path / "bundle", "--json")
    values = json.loads(result.stdout)
    assert result.exit_code == 0
    assert values["nodes"]["case"] == "image"
    assert {one["case"] for one in values["runs"][0]["results"]} == {"image"}
    assert (tmp_path / "bundle" / "reproduce.py").exists()
    assert "a certificate is for all" in refused("validate", model, "--case", "image", "--certificate")
    result = run("validate", model, "--certificate", "--json")
    assert run("verify", model).exit_code == 0
    assert run("verify", model, "--scale-bounds", "1e-9").exit_code == 1
    (tmp_path / "report.json").write_text(result.stdout)
    certificate = tmp_path / "layer.certificate.json"
    assert run("compare", certificate, tmp_path / "report.json").exit_code == 0
    model.write_bytes(model.read_bytes() + b"\n")
    assert run("verify", model).exit_code == 1
    assert "layer.onnx has changed" in run("verify", model, "--json").stdout


def test_bundle_and_bisect(folder, tmp_path):
    told = run("bundle", folder / "layer.onnx", tmp_path / "bundle", "--case", "nan").stdout
    assert "case 'nan'" in " ".join(told.split())
    changed = onnx.load(folder / "layer.onnx")
    next(one for one in changed.graph.node[0].attribute if one.name == "strides").ints[:] = [1, 1]
    onnx.save(changed, tmp_path / "changed.onnx")
    result = run("bisect", tmp_path / "changed.onnx", tmp_path / "small", "--reference", folder / "layer.golden.npz")
    assert result.exit_code == 0
    assert "1 nodes fail: node_soft_pool" in result.stdout
    assert "cases fails in ONNX Runtime" in refused("bisect", folder / "layer.onnx", tmp_path / "none")


def test_validate_on_other_runtimes_and_with_requirements(folder, tmp_path):
    asked = ["--on", "reference", "--on", "onnxruntime", "--threads", 1, "--junit", tmp_path / "junit.xml", "--json"]
    result = run("validate", folder / "layer.onnx", *asked)
    assert result.exit_code == 0
    assert {run["runtime"] for run in json.loads(result.stdout)["runs"]} == {"reference", "onnxruntime"}
    assert result.stderr == ""
    assert (tmp_path / "junit.xml").read_text().startswith("<?xml")
    required = run("validate", folder / "layer.onnx", "--require", "native")
    assert required.exit_code == (0 if why_missing() is None else 3)
    write(onnxpool.to_form(folder / "layer.onnx", "standard"), tmp_path / "plain.onnx")
    assert run("validate", tmp_path / "plain.onnx", "--require", "native").exit_code == 3
    assert "on=['tensorflow'] must be 'all', or some of" in refused(
        "validate", folder / "layer.onnx", "--on", "tensorflow"
    )
    told = refused("validate", folder / "layer.onnx", "--python", tmp_path / "python")
    assert "is not a Python with onnxruntime" in told
    assert "timeout_s=0" in refused("validate", folder / "layer.onnx", "--timeout", "0")


def test_answers_follow_a_model_into_another_form(folder, tmp_path):
    (tmp_path / "plain.golden.npz").write_text("answers of another network")
    assert run("form", folder / "layer.onnx", tmp_path / "plain.onnx", "--to", "standard").exit_code == 0
    assert load_golden(tmp_path / "plain.golden.npz").source == load_golden(folder / "layer.golden.npz").source
    assert run("validate", tmp_path / "plain.onnx").exit_code == 0
    write(onnxpool.to_form(folder / "layer.onnx", "standard"), tmp_path / "alone.onnx")
    run("form", tmp_path / "alone.onnx", tmp_path / "plain.onnx", "--to", "function")
    assert not (tmp_path / "plain.golden.npz").exists()


def test_json_is_what_the_library_returns(folder):
    assert json.loads(run("inspect", folder / "layer.onnx", "--json").stdout) == json.loads(
        json.dumps(describe(folder / "layer.onnx").to_json())
    )
    assert json.loads(run("pools", "--json").stdout) == json.loads(json.dumps(catalog().to_json()))
    doctor = run("doctor", "--json")
    assert json.loads(doctor.stdout)["healthy"] is (doctor.exit_code == 0)


def test_inspect_says_where_each_node_runs(folder, monkeypatch):
    native = "natively on CPUExecutionProvider" if why_missing() is None else "as its function body"
    assert native in run("inspect", folder / "layer.onnx").stdout
    write(onnxpool.to_form(folder / "layer.onnx", "custom"), folder / "custom.onnx")
    write(onnxpool.to_form(folder / "layer.onnx", "standard"), folder / "plain.onnx")
    assert "as standard operators" in run("inspect", folder / "plain.onnx").stdout
    monkeypatch.setenv("ONNXPOOL_LIBRARY", "nowhere.so")
    assert "as its function body" in run("inspect", folder / "layer.onnx").stdout
    (pool,) = describe(folder / "custom.onnx").to_json()["pooling"]
    assert pool["runs"].startswith("not here: ONNX Runtime could not load the model")
    assert "nowhere.so" in pool["runs"]


def test_the_json_of_inspect(tmp_path):
    write(onnxpool.to_form(pooled(Window.of(2, 3, 2, 1)), "standard"), tmp_path / "m.onnx")
    told = json.loads(run("inspect", tmp_path / "m.onnx", "--json").stdout)
    node = {"node": "pool", "op_type": "SoftPool", "window": "3x3 s2 p1", "runs": "as standard operators"}
    assert told.pop("pooling") == [node]
    assert told.pop("operators")["Exp"] == 9
    assert told == {
        "model": str(tmp_path / "m.onnx"),
        "size_bytes": (tmp_path / "m.onnx").stat().st_size,
        "golden": None,
        "form": "standard",
        "opset": 18,
        "ir_version": 10,
        "producer": "an unknown program",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", "C", "in_0", "in_1"]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", "C", "out_0", "out_1"]}],
    }


def test_inspect_counts_weights_beside_the_model(tmp_path):
    model = pooled(Window.of(2, 2))
    weight = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "weight")
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert describe(tmp_path / "m.onnx").size_bytes == 4000 + (tmp_path / "m.onnx").stat().st_size


@pytest.mark.skipif(why_missing() is not None, reason="no native library here")
def test_pools_lists_the_kernels_that_really_run():
    (method,) = (method for method in catalog().methods if method.name == "SoftPool")
    assert method.native == ("float32", "float64", "float16", "bfloat16")
    assert method.modules == ("SoftPool1d", "SoftPool2d", "SoftPool3d")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: onnxpool {command}" in result.stdout


def test_help_imports_nothing_heavy():
    program = "import sys, runpy; sys.argv = ['onnxpool', '--help']; runpy.run_module('onnxpool', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    )
    assert "Usage: onnxpool" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "onnxpool" in imported
    assert not imported & {"numpy", "onnx", "onnx_ir", "ml_dtypes", "onnxruntime", "torch", "onnxscript", "PIL"}


def test_the_command_line_knows_the_forms_and_opsets():
    assert get_args(application.Form) == get_args(forms.Form)
    assert application.OPSETS == OPSETS


def test_the_program_as_a_process(folder):
    command = [sys.executable, "-m", "onnxpool", "inspect"]
    done = subprocess.run([*command, folder / "layer.onnx", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["form"] == "function"
    assert done.stderr == ""
    done = subprocess.run([*command, folder / "qqq.onnx"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"onnxpool: there is no model file {folder}/qqq.onnx\n"


# --- wrong questions

EXPORT = ["--input", "1x2x8x8"]
LAYER = "SoftPool2d(2)"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("SoftPool2d(0)", "kernel_size=(0, 0): each number must be at least 1"),
        ("SoftPool2d(3, padding=2)", "padding=(2, 2) is more than half the extent of the window, (3, 3); use at most"),
        ("SoftPool2d(size=3)", "unexpected keyword argument 'size'; its arguments are numbers"),
        ("SoftPool2d(__import__('os').getpid())", "__import__('os').getpid() cannot be an argument; these are numbers"),
        ("SoftPool2d(*[3])", "*[3] cannot be an argument"),
        ("SoftPool2d(**size)", "**size cannot be an argument"),
        ("SoftPool2d(3, stride=1, stride=2)", "stride is given twice in SoftPool2d(3, stride=1, stride=2)"),
        ("SoftPool2d", "missing 1 required positional argument: 'kernel_size'"),
        ("[SoftPool2d(3)]", "is not a layer: write a layer ("),
        ("Pooling(3)", "is neither a layer nor a network of onnxpool: write a layer ("),
        ("SoftPol2d(3)", "(did you mean 'SoftPool2d'?) is neither a layer nor"),
        ("softpool_resnet19", "(did you mean 'softpool_resnet18'?) is neither a layer nor"),
        ("Pooling(3)", " SoftPool1d, SoftPool2d, SoftPool3d"),
        ("vgg16", "a network (dpp_resnet50, dpp_resnet101,"),
        ("LocalImportancePool2d(SoftGate(0))", "coefficient=0 must be a positive number"),
        ("LocalImportancePool2d(Gate(3))", "Gate(3) cannot be an argument"),
        ("LocalImportancePool2d(3)", "logit=3 is not a torch.nn.Module"),
        ("softpool_resnet18(num_classes=0)", "num_classes=0 must be a positive integer"),
        ("softpool_resnet18(10, True)", "takes from 0 to 1 positional arguments but 2 were given"),
        ("SoftPool2d(3", "cannot be read"),
        ("no_such_package:network", "importing no_such_package raised ModuleNotFoundError"),
        ("{folder}/net.py:network", "there is no file {folder}/net.py (did you mean '{folder}/nets.py'?)"),
        ("{folder}/nets.py:absent", "there is no 'absent' in"),
        ("{folder}/nets.py:netwrok", "(did you mean 'network'?)"),
        ("{folder}/nets.py:number", "gives a int; name a torch.nn.Module, or a function without arguments"),
        ("{folder}/nets.py:broken", "broken() raised RuntimeError: no weights"),
    ],
)
def test_wrong_sources(folder, source, told):
    source = source.format(folder=folder)
    said = refused("export", source, folder / "x.onnx", *EXPORT)
    assert said.startswith(f"onnxpool: source={source!r}")
    assert told.format(folder=folder) in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--input", "1x2x8xq"],
            "input='1x2x8xq' is not a shape; write sizes with x between them, such as 1x3x224x224",
        ),
        (["--input", "1x0x8x8"], "input='1x0x8x8' is not a shape"),
        (["--input", "1x2x8x8:int9"], "input='1x2x8x8:int9' is not a shape"),
        (["--input", "1x2x8x8:bool:int8"], "input='1x2x8x8:bool:int8' is not a shape"),
        (["--input", "y:1x2x8x8"], "input='y:1x2x8x8': forward has no argument 'y'; it takes x"),
        (["--input", "x:1x2x8x8", "--input", "x:1x2x8x8"], "input='x:1x2x8x8': 'x' is given twice"),
        (["--input", "1x2x8x8:int64"], "x has dtype torch.int64; pooling takes floating point"),
        ([*EXPORT, "--dynamic", "batch,depth"], "no input has an axis 'depth'; write axes as batch,channels,height"),
        ([*EXPORT, "--dynamic", "4=batch"], "no input has an axis '4=batch'"),
        ([*EXPORT, "--dynamic", "y:0=batch"], "there is no input 'y'; the inputs are x"),
        ([*EXPORT, "--opset", "17"], "opset=17 is out of range; use 18 to 26"),
        ([*EXPORT, "--checkpoint", "absent.pth"], "checkpoint='absent.pth': there is no such file"),
        ([*EXPORT, "--dtype", "int8"], "'--dtype'"),
        ([*EXPORT, "--form", "tidy"], "'--form'"),
        ([], "'--input'"),
    ],
)
def test_wrong_options(tmp_path, arguments, told):
    assert told in refused("export", LAYER, tmp_path / "x.onnx", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_for_the_module(tmp_path):
    said = refused("export", LAYER, tmp_path / "x.onnx", "--input", "8x8")
    assert "SoftPool2d" in said
    assert "(8, 8)" in said


def test_wrong_files(folder, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    assert "cannot read" in refused("inspect", tmp_path / "text.onnx")
    assert "there is no model file absent.onnx" in refused("validate", "absent.onnx")
    assert "there is no model file absent.onnx" in refused("form", "absent.onnx", "y.onnx", "--to", "standard")
    assert "there is no golden file" in refused("validate", folder / "layer.onnx", "--reference", folder / "absent.npz")
    assert "/dev/null" in refused("form", folder / "layer.onnx", "/dev/null/x.onnx", "--to", "custom")


def test_wrong_commands():
    assert "No such command" in refused("bake")
    assert "'--to'" in refused("form", __file__, "b.onnx")


# --- spellings


def test_axes_by_name_go_to_every_input_that_has_them():
    class Two(torch.nn.Module):
        def forward(self, image, series):
            return image, series

    inputs = spelling.inputs(["1x3x8x8", "1x2x5"], "float32")
    assert spelling.axes(["batch,width"], Two(), inputs) == ({0: "batch", 3: "width"}, {0: "batch"})
    assert spelling.axes(["series:length=time", "image:batch"], Two(), inputs) == ({0: "batch"}, {2: "time"})
    with pytest.raises(ArgumentError, match="no input has an axis '2'"):
        spelling.axes(["2"], Two(), inputs)


def test_inputs_have_names_and_types():
    class Words(torch.nn.Module):
        def forward(self, ids, mask=None, table=None):
            return (ids, mask, table)

    texts = ["2x5:int64", "table:3x4", "mask:2x5:bool"]
    inputs = spelling.inputs(texts, "float16")
    assert [(one.dtype, tuple(one.shape)) for one in inputs] == [
        (torch.int64, (2, 5)),
        (torch.float16, (3, 4)),
        (torch.bool, (2, 5)),
    ]
    assert inputs[0].unique().tolist() == [0, 1]
    assert spelling.named(texts, Words()) == ["ids", "table", "mask"]
    assert list(spelling.call(texts, Words(), inputs)) == ["ids", "table", "mask"]
    assert spelling.call(texts[:1], Words(), inputs[:1]) == inputs[:1]
    names = spelling.named(texts, Words())
    assert spelling.axes(["mask:0=batch,1=time", "ids:0=batch"], Words(), inputs, names) == (
        {0: "batch"},
        {},
        {0: "batch", 1: "time"},
    )


WORDS = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(2, 4)

    def forward(self, ids, bias=None, mask=None):
        words = self.table(ids) * mask[..., None]
        if words.ndim == 2:
            return words if words.sum() > 0 else ids
        return words.mean(1)
"""


def test_export_of_named_inputs_says_what_it_did_not_check(tmp_path):
    (tmp_path / "words.py").write_text(WORDS)
    source, path = f"{tmp_path}/words.py:Network", tmp_path / "w.onnx"
    arguments = [source, path, "--input", "ids:2x6:int64", "--input", "mask:2x6:bool", "--json"]
    done = run("export", *arguments, "--dynamic", "ids:0=batch", "--dynamic", "mask:0=batch", "--no-check")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "onnxpool: nothing was checked: --no-check\n"
    inputs = json.loads(done.stdout)["inputs"]
    assert [(one["name"], one["dtype"], one["shape"]) for one in inputs] == [
        ("ids", "int64", ["batch", 6]),
        ("mask", "bool", ["batch", 6]),
    ]
    assert run("export", *arguments).stderr == "", "all was checked"


def test_pytorch_s_own_text_comes_where_it_is_asked_for(tmp_path):
    (tmp_path / "words.py").write_text(WORDS)
    source, path = f"{tmp_path}/words.py:Network", tmp_path / "w.onnx"
    arguments = [source, path, "--input", "ids:6:int64", "--input", "mask:6:bool"]
    sentence = refused("export", *arguments)
    assert "\n" not in sentence
    assert f"({tmp_path}/words.py:12)" in sentence
    text = run("export", *arguments, "--verbose").stderr
    assert text.splitlines()[-1].startswith("onnxpool: PyTorch could not export Network: Could not guard")
    assert "Traceback" in text
    assert not path.exists()


def test_layers_within_layers_and_networks():
    pool = spelling.module("LocalImportancePool2d(SimplifiedLogit2d(3, coefficient=None), (2, 3), stride=None)")
    assert [name for name, _ in pool.named_parameters()] == ["logit.conv.weight", "logit.bn.weight", "logit.bn.bias"]
    assert str(pool.window) == "2x3 p1"
    networks = [spelling.module("softpool_resnet18(num_classes=7)", seed=seed) for seed in (3, 3, 4)]
    first, again, other = (network.fc.weight for network in networks)
    assert first.shape == (7, 512)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert spelling.module("softpool_resnet18").fc.out_features == 1000
    assert isinstance(spelling.module("GlobalAvgPool2d"), onnxpool.nn.GlobalAvgPool2d)


def test_a_checkpoint_gives_the_network_its_parameters(folder, tmp_path):
    other = spelling.module(f"{folder}/nets.py:network", seed=5)
    torch.save({"state_dict": {f"module.{name}": value for name, value in other.state_dict().items()}}, tmp_path / "c")
    arguments = ["--input", "1x3x9x9", "--input", "1x2", "--checkpoint", tmp_path / "c"]
    assert run("export", f"{folder}/nets.py:network", tmp_path / "n.onnx", *arguments).exit_code == 0
    x, gate = torch.ones(1, 3, 9, 9), torch.ones(1, 2)
    (y,) = onnxpool.load(tmp_path / "n.onnx").run({"x": x.numpy(), "gate": gate.numpy()}).values()
    np.testing.assert_allclose(y, other(x, gate).detach(), atol=1e-6)


def test_a_module_may_be_named_as_it_is(folder):
    assert isinstance(spelling.module(f"{folder}/nets.py:made"), torch.nn.ReLU)
    assert isinstance(spelling.module("torch.nn:Identity"), torch.nn.Identity)
