"""What people see: pages of 80 columns and in a pipe, completion, and failures that say what to do."""

import errno
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxpool
from onnxpool import _files
from onnxpool.about.methods import catalog
from onnxpool.cli import application, completion, layout, tables
from onnxpool.cli.commands import app
from onnxpool.cli.complaint import complain
from onnxpool.cli.layout import NO_BREAK, Columns, Facts, Row
from onnxpool.errors import ArgumentError, FormError
from onnxpool.golden import file as golden_file
from onnxpool.graph import fingerprint, forms
from onnxpool.quantizing.quantize import Quantized
from onnxpool.run.predict import Class, Output, Prediction, Predictions
from onnxpool.validation.quantized import Distance

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

NETWORKS = """
import torch
from onnxpool import nn

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution_of_the_stem = torch.nn.Conv2d(3, 4, 3)
        self.pooling_of_the_stem = nn.SoftPool2d(2)
        self.max_pooling_of_the_head = torch.nn.MaxPool2d(2)
        self.head = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.pooling_of_the_stem(self.convolution_of_the_stem(x))
        return self.head(self.max_pooling_of_the_head(x))

class Naive(torch.nn.Module):
    def forward(self, x):
        weights = torch.exp(x)
        return torch.nn.functional.avg_pool2d(x * weights, 2) / torch.nn.functional.avg_pool2d(weights, 2)

class LearnedGeM(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x.clamp(min=1e-6).pow(self.p), x.shape[-2:]).pow(1 / self.p)

def ours():
    return torch.nn.Sequential(nn.SoftPool2d(2), nn.PowerAvgPool2d(2, p=3), nn.GeM2d())
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """The sentence that a wrong question is answered with."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks, one of them exported as ``network_with_a_name.onnx``, and that with one weight changed."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "nets.py").write_text(NETWORKS)
    source, model = f"{folder}/nets.py:Network", folder / "network_with_a_name.onnx"
    assert run("export", source, model, "-i", "1x3x12x12", "--dynamic", "batch").exit_code == 0
    changed = onnx.load(model)
    weight = next(one for one in changed.graph.initializer if len(one.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(changed, folder / "changed.onnx")
    shutil.copy(golden_file.path_for(model), golden_file.path_for(folder / "changed.onnx"))
    return folder


# --- 80 columns, and a pipe


@pytest.fixture
def terminal(monkeypatch):
    """Standard error is a terminal of so many columns; what was written to it comes back."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    monkeypatch.delenv("COLUMNS", raising=False)

    def written(columns, call):
        above, below = pty.openpty()
        fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(below, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            call()
            told = os.read(above, 65536).decode().replace("\r\n", "\n")
        os.close(above)
        return told

    return written


def test_an_error_is_wrapped_between_words_in_a_terminal_and_one_line_in_a_pipe(terminal, tmp_path, capsys):
    model = tmp_path / "a-name-of-a-model-that-nobody-has-exported-yet.onnx"

    def ask():
        with pytest.raises(SystemExit) as ended:
            app(["inspect", str(model)])
        assert ended.value.code == 2

    ask()
    plain = capsys.readouterr().err
    assert plain.count("\n") == 1
    assert len(plain) > 80
    for columns in (80, 40):
        told = terminal(columns, ask)
        assert told.count("\n") > 1
        assert told.split() == plain.split()
        assert all(len(line) <= columns or " " not in line for line in told.splitlines())
        assert not any(
            len(line) + 1 + len(after.split(" ")[0]) <= columns for line, after in itertools.pairwise(told.splitlines())
        )


def test_each_line_of_an_error_is_wrapped_by_itself(terminal):
    told = terminal(20, lambda: complain("the first line is long\nthe second"))
    assert told == "onnxpool: the first\nline is long\nthe second\n"


def stands(page, width):
    """That no line is wider than the terminal but for one word, and that every word is as it is in a pipe."""
    piped, narrow = layout.text(page), layout.text(page, width)
    assert "…" not in piped + narrow
    for line in narrow.splitlines():
        assert len(line) <= width or " " not in line.strip() or line.strip().startswith("docker run"), line
    assert set(narrow.split()) <= set(piped.split())
    names = {word for block in page if isinstance(block, Columns) for name in block.names for word in name.split()}
    assert set(piped.split()) - set(narrow.split()) <= names  # a block of facts does not name its first column


@pytest.fixture
def pages(monkeypatch):
    """The pages that commands show."""
    shown = []
    monkeypatch.setattr(layout, "show", shown.append)
    return shown


COMMANDS = {
    "export": ["{folder}/nets.py:Network", "{folder}/again.onnx", "-i", "1x3x12x12", "--no-check", "--no-golden"],
    "swap": ["{folder}/nets.py:Network", "{folder}/swapped.onnx", "-i", "1x3x12x12", "--rule", "all=SoftPool",
             "--no-check", "--no-golden"],
    "form": ["{folder}/network_with_a_name.onnx", "{folder}/standard.onnx", "--to", "standard"],
    "inspect": ["{folder}/network_with_a_name.onnx"],
    "validate": ["{folder}/changed.onnx", "--case", "image", "--per-node"],
    "bundle": ["{folder}/network_with_a_name.onnx", "{folder}/bundle", "--case", "image"],
    "package": ["{folder}/network_with_a_name.onnx", "{folder}/repository", "--target", "triton"],
    "pools": ["SoftPool", "GeM"],
    "doctor": [],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_pages_stand_in_80_columns_and_in_a_pipe(folder, pages, command):
    done = run(command, *(argument.format(folder=folder) for argument in COMMANDS[command]))
    assert done.exit_code in (0, 1), done.output
    assert len(pages) == 1
    for width in (80, 60, 33):
        stands(pages[0], width)


def test_pages_of_values():
    """Those whose commands take long, of values with long names."""
    name = "a_rather_long_name_of_a_node_in_somebody_s_network"
    quantized = Quantized(
        model="m.onnx",
        output=f"{name}.onnx",
        golden="m.golden.npz",
        source="photos",
        samples=24,
        compared=24,
        outputs=(Distance(name, 0.0123, 17.25, 0.2, 31.4, "sizes 3x3x32x32"),),
        size_before_bytes=40_000_000,
        size_after_bytes=10_000_000,
        quantized=54,
        in_float=3,
        native=(name,),
        weights=20,
        checked="the rest in ONNX Runtime",
        notes=("a note that goes on for longer than eighty columns are wide, as notes do",),
    )
    classes = tuple(Class(i, f"{name}_{i}" if i else None, None if i == 1 else 0.5 / (i + 1)) for i in range(3))
    outputs = (
        Output(name, (1, 3), classes, 0.0, 1.0, 0.3, 0),
        Output("map", (1, 3, 8, 8), (), -1.0, None, 0.3, 4),
    )
    predictions = Predictions("m.onnx", (Prediction(f"photos/{name}.jpg", 0.0123, outputs, (224, 320)),))
    for page in (tables.quantized(quantized), tables.predictions(predictions), tables.catalog(catalog())):
        for width in (80, 60):
            stands(page, width)


def test_layout_by_hand():
    columns = Columns(
        ("share", "run"), [Row(("7%", "one, two"), ["below it"]), Row(("100%", "three four"))], right=("share",)
    )
    assert layout.text([columns]) == "share  run\n   7%  one, two\n       below it\n 100%  three four"
    long = Columns(("name", "what it is"), [Row(("first", "word " * 4 + "word"), ["below"])])
    assert layout.text([long], 27) == ("name   what it is\nfirst  word word word word\n       word\n    below")
    assert layout.text([long], 20) == "first\n  what it is  word\n              word\n              word\n" + (
        "              word\n              word\n  below"
    )
    facts = Facts([("a", "x" * 9), ("bc", f"1 2{NO_BREAK}3")])
    assert layout.text([facts], 8) == "a\n    xxxxxxxxx\nbc  1\n    2 3"
    assert layout.text(["one two-three", ""], 7) == "one\ntwo-three\n"
    assert layout.text([]) == ""


def test_a_terminal_has_a_width_and_a_pipe_has_none():
    pty = pytest.importorskip("pty")
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    program = "from onnxpool.cli import layout; layout.show(['word ' * 20, layout.Facts([('a', '[red]1 2 ' * 20)])])"
    command = [sys.executable, "-c", program]
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower, env=environment) as process:
        os.close(follower)
        told = b""
        try:
            while part := os.read(leader, 4096):
                told += part
        except OSError:  # the other end is closed
            pass
    os.close(leader)
    assert process.returncode == 0
    wide = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", told.decode()).replace("\r\n", "\n")
    assert 50 < max(map(len, narrow.splitlines())) <= 60
    assert len(wide.splitlines()) == 2
    assert narrow.split() == wide.split()


@pytest.mark.parametrize("command", [[], ["serve"], ["validate"], ["package"], ["swap"], ["deploy", "ray"]])
def test_help_names_every_option_in_full(command):
    told = run(*command, "-h").stdout
    assert told == run(*command, "--help").stdout
    assert not re.search(r"\w\.\.\.|…", told)
    assert max(map(len, told.splitlines())) <= 80
    if command == ["serve"]:
        assert "--require-certificate " in told
        assert "-p, --port" in told


def test_version_and_quiet(folder):
    for option in ("--version", "-V"):
        assert run(option).stdout == f"onnxpool {onnxpool.__version__}\n"
    told = run("validate", folder / "changed.onnx", "--case", "image", "-q")
    assert (told.exit_code, told.stdout) == (1, "FAILED (mismatch): 4 runs, 4 mismatch\n")


# --- completion


def test_names_without_imports_are_those_that_are_there():
    from onnxpool import models, nn
    from onnxpool.pools import METHODS

    assert completion.layer_names() == tuple(nn.__all__)
    assert set(completion.network_names()) == set(models.NETWORKS)
    assert set(completion.method_names()) == set(METHODS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_layers_and_cases(folder, tmp_path):
    questions = {
        "onnxpool va": {"validate"},
        "onnxpool serve --require-c": {"--require-certificate"},
        "onnxpool export SoftP": {"SoftPool1d", "SoftPool2d", "SoftPool3d"},
        "onnxpool validate network_with_a_name.onnx --case na": {"nan"},
        "onnxpool form a.onnx b.onnx --to s": {"standard"},
    }
    program = tmp_path / "onnxpool"
    program.write_text(f"#!{sys.executable}\nfrom onnxpool.cli import main\nmain()\n")
    program.chmod(0o755)
    script = """
eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 onnxpool --show-completion bash)"
while read -r line; do
  COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  _onnxpool_completion onnxpool
  echo "${COMPREPLY[*]}"
done"""
    done = subprocess.run(
        ["bash", "-c", script],
        input="\n".join(questions) + "\n",
        cwd=folder,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(questions.values()), done.stderr


# --- failures that help


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_seen_before_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_files.tempfile, "TemporaryFile", full)
    monkeypatch.setattr(onnxpool.cli.spelling, "module", None)  # what would be called first
    monkeypatch.setattr(forms, "read", None)
    model, target = folder / "network_with_a_name.onnx", tmp_path / "new" / "x.onnx"
    for command in (
        ("export", f"{folder}/nets.py:Network", target, "-i", "1x3x12x12"),
        ("swap", f"{folder}/nets.py:Network", target, "-i", "1x3x12x12", "--rule", "max=SoftPool"),
        ("form", model, target, "--to", "standard"),
        ("lift", model, target),
        ("quantize", model, "-o", target),
        ("precision", model, "-o", target),
        ("validate", model, "--html", target),
        ("validate", model, "--junit", target),
        ("validate", model, "--bundle", target),
        ("bundle", model, target),
        ("bisect", model, target),
        ("package", model, target, "--target", "triton"),
        ("batch", model, folder, target),
    ):
        told = refused(*command)
        assert told == f"onnxpool: {target}: No space left on device; free some space, or name another place\n"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_the_table(folder, tmp_path, monkeypatch):
    def breaks(path, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(application, "complete", breaks)
    page = tmp_path / "report.html"
    told = run("validate", folder / "network_with_a_name.onnx", "--case", "image", "--html", page)
    assert told.exit_code == 2
    assert "PASSED: 4 runs" in told.stdout
    assert told.stderr == f"onnxpool: {page}: No space left on device; free some space, or name another place\n"


def test_places_that_cannot_be_written_have_the_user_s_name(folder, tmp_path, monkeypatch):
    model = folder / "network_with_a_name.onnx"
    told = refused("form", model, "/dev/null/x.onnx", "--to", "custom")
    assert told == "onnxpool: /dev/null/x.onnx: Not a directory; a part of that path is a file, not a folder\n"
    assert refused("form", model, tmp_path, "--to", "custom").endswith("Is a directory; name a file, not a folder\n")

    def read_only(*_, prefix, dir, **__):  # noqa: A002 - tempfile's word
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{dir}/{prefix}abc123")

    monkeypatch.setattr(forms.tempfile, "mkdtemp", read_only)
    with pytest.raises(PermissionError) as caught:
        onnxpool.save(model, tmp_path / "x.onnx")
    assert caught.value.filename == str(tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_name_may_be_as_long_as_the_disk_allows(tmp_path):
    path = tmp_path / f"{'像' * 83}.png"  # 253 bytes
    _files.writable(path)
    _files.complete(path, lambda file: file.write_text("done"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_port_that_is_taken_is_told_before_anything_loads(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxpool.serve", None)  # importing it fails
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (("--port", port), ("--port", 0, "--grpc-port", port)):
            name = "grpc_port" if "--grpc-port" in options else "port"
            told = refused("serve", folder / "network_with_a_name.onnx", *options)
            assert told == (
                f"onnxpool: {name}={port}: another program listens on 127.0.0.1:{port}; name another port, 0 for a "
                "free one, or stop it\n"
            )
    assert "port=70000 must be from 0" in refused("serve", folder, "-p", 70000)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inspect", "network_with_a_nam.onnx"], "there is no model file network_with_a_nam.onnx (did you mean "),
        (["validate", "changed.onnx", "--reference", "changd.golden.npz"], "did you mean 'changed.golden.npz'?"),
        (["validate", "changed.onnx", "--case", "nam"], "case='nam' (did you mean 'nan'?) is not one of "),
        (["export", "SoftPol2d(2)", "x.onnx", "-i", "1x2x8x8"], "(did you mean 'SoftPool2d'?) is neither a layer"),
        (["export", "nets.py:Netwrok", "x.onnx", "-i", "1x2x8x8"], "there is no 'Netwrok' in nets.py (did you mean"),
        (["export", "net.py:Network", "x.onnx", "-i", "1x2x8x8"], "there is no file net.py (did you mean 'nets.py'?)"),
        (["validate", "changed.onnx", "--on", "openvno"], "on=['openvno'] (did you mean 'openvino'?) must be 'all'"),
        (
            ["swap", "nets.py:Network", "x.onnx", "-i", "1x3x12x12", "--rule", "haed=SoftPool"],
            "rule 'haed' (did you mean 'head'?)",
        ),
        (["pools", "softpool"], "method='softpool' is unknown (did you mean 'SoftPool'?)"),
        (["predict", "changed.onnx", "nets.pi"], "there is no such file or folder (did you mean 'nets.py'?)"),
        (["serve", "changd.onnx"], "there is no such file or folder (did you mean 'changed.onnx'?)"),
        (["inspct"], "No such command 'inspct'"),
        (["serve", "changed.onnx", "--prot", "1"], "No such option"),
    ],
)  # fmt: skip
def test_did_you_mean(folder, monkeypatch, arguments, told):
    monkeypatch.chdir(folder)
    assert told in refused(*arguments)


def test_refusals_come_before_heavy_imports(folder):
    """Of what can be known at once; each would import PyTorch or ONNX Runtime otherwise."""
    questions = [
        ["export", "SoftPol2d(2)", "x.onnx", "-i", "1x2x8x8"],
        ["export", "SoftPool2d(2)", "x.onnx", "-i", "1x2x8xq"],
        ["export", "SoftPool2d(2)", "x.onnx", "-i", "1x2x8x8", "--opset", "3"],
        ["export", "SoftPool2d(2)", "x.onnx", "-i", "1x2x8x8", "--checkpoint", "absent"],
        ["export", "SoftPool2d(2)", "/dev/null/x.onnx", "-i", "1x2x8x8"],
        ["swap", "absent.py:network", "x.onnx", "-i", "1x2x8x8", "--rule", "max=SoftPool"],
        ["validate", "absent.onnx"],
        ["validate", "changed.onnx", "--reference", "absent.npz"],
        ["validate", "changed.onnx", "--html", "/dev/null/x.html"],
        ["validate", "changed.onnx", "--case", "absent"],
        ["validate", "changed.onnx", "--on", "onnxruntim"],
        ["bisect", "changed.onnx", "small", "--case", "absent"],
        ["quantize", "changed.onnx", "--calibration", "absent"],
        ["precision", "changed.onnx", "-o", "/dev/null/x.onnx"],
        ["predict", "changed.onnx", "absent.jpg"],
        ["downscale", "absent.jpg", "--size", "8"],
        ["serve", "absent.onnx"],
        ["package", "changed.onnx", "/dev/null/x", "--target", "triton"],
        ["pools", "softpool"],
    ]
    program = f"""
import json, sys
from typer.testing import CliRunner
from onnxpool.cli.commands import app
from onnxpool.cli.complaint import complain
for arguments in json.loads({json.dumps(json.dumps(questions))}):
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 2 and told.stderr.startswith("onnxpool: "), (arguments, told.output)
print([name for name in ("torch", "onnxruntime", "onnx", "onnxscript", "starlette") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "[]\n")


def test_answers_of_another_network_are_told_in_few_lines():
    def deep(kernel):
        nodes = [
            onnx.helper.make_node("AveragePool", [f"v{i}"], [f"v{i + 1}"], f"n{i}", kernel_shape=[kernel] * 2)
            for i in range(40)
        ]
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 99, 99]) for name in ("v0", "v40")
        ]
        graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)

    def renamed(model):
        for i, node in enumerate(model.graph.node):
            node.name = f"other{i}"
        return model

    before = fingerprint.fingerprints(deep(1))
    told = fingerprint.changes(before, fingerprint.fingerprints(deep(2)))
    assert len(told) == fingerprint.MOST_NAMED + 1
    assert told[-1].text == "and 36 more differences of nodes: are these the answers of another network?"
    assert all(change.fault for change in told)
    (one,) = fingerprint.changes(before, fingerprint.fingerprints(renamed(deep(1))))
    assert one.text.startswith("40 of the 40 nodes that were exported are not in this model, and 40 others are: ")
    assert not one.fault, "another program may rename all nodes"
    assert fingerprint.changes(before, before) == []


@pytest.mark.parametrize(
    ("name", "told"), [("Naive", "SoftPool at node_div"), ("LearnedGeM", "such as GeM's, at node_pow")]
)
def test_export_tells_of_poolings_that_are_spelled_out(folder, tmp_path, name, told):
    done = run("export", f"{folder}/nets.py:{name}", tmp_path / "m.onnx", "-i", "1x2x8x8", "--no-check", "--no-golden")
    assert done.exit_code == 0, done.output
    assert told in done.stderr
    assert "'onnxpool lift'" in done.stderr
    assert "'onnxpool swap'" in done.stderr


def test_export_says_nothing_of_our_own_poolings(folder, tmp_path):
    arguments = ["-i", "1x2x8x8", "--no-check", "--no-golden", "--form", "standard"]
    done = run("export", f"{folder}/nets.py:ours", tmp_path / "m.onnx", *arguments)
    assert done.stderr == "onnxpool: nothing was checked: --no-check\n"


# --- onnxpool.save


def test_save_writes_what_to_form_gives(folder, tmp_path, monkeypatch):
    model = folder / "network_with_a_name.onnx"
    standard = onnxpool.to_form(model, "standard")
    onnxpool.save(standard, tmp_path / "new" / "standard.onnx")
    assert onnxpool.form_of(tmp_path / "new" / "standard.onnx") == "standard"
    monkeypatch.setattr(forms, "_EXTERNAL_FROM_BYTES", 100)
    onnxpool.save(standard, tmp_path / "large.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"new", "large.onnx", "large.onnx.data"}
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    answers = [onnxpool.load(one).run(None, {"x": x})[0] for one in (standard, tmp_path / "large.onnx")]
    np.testing.assert_array_equal(*answers)
    held = forms.read(tmp_path / "large.onnx")
    monkeypatch.undo()
    onnxpool.save(held, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx.data").exists()
    assert any(type(one.const_value).__name__ == "ExternalTensor" for one in held.graph.initializers.values())
    for wrong in (tmp_path / "absent.onnx", b"no model"):
        with pytest.raises(FormError):
            onnxpool.save(wrong, tmp_path / "x.onnx")
    with pytest.raises(ArgumentError, match=r"form='standrad' is unknown \(did you mean 'standard'\?\)"):
        onnxpool.to_form(model, "standrad")


# --- the web page


def test_the_web_page_has_date_digests_legend_and_nodes(folder, tmp_path):
    page = tmp_path / "report.html"
    done = run("validate", folder / "changed.onnx", "--case", "image", "--per-node", "--html", page, "-q")
    assert done.exit_code == 1
    told = page.read_text(encoding="utf-8")
    for file in (folder / "changed.onnx", folder / "changed.golden.npz"):
        assert _digest(file) in told
    assert re.search(r'<time datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00">', told)
    assert "<h2>Node by node, case image</h2>" in told
    assert re.search(r'<th scope="row">node_soft_pool</th><td>SoftPool</td><td><span class="passed">✓ agrees', told)
    assert "<dt>share of budget</dt>" in told
    assert "prefers-color-scheme: dark" in told


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
