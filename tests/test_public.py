"""What users get: the names, their types for mypy and pyright, what importing costs, and what docs/ promises."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType

import pytest

import onnxpool
from onnxpool import domain, nn, pools
from onnxpool.deploy import shards
from onnxpool.diagnosis import bundle
from onnxpool.golden import file as golden_file
from onnxpool.validation import certificate
from onnxpool.validation import report as report_file

ROOT = Path(onnxpool.__file__).parents[1]
DOCS = Path(__file__).parents[1] / "docs"
PUBLIC = ["deploy", "diagnosis", "errors", "models", "nn", "openvino", "serve", "validation"]
"""The modules whose names are public, beside the package itself."""

LAZY = ["onnxpool", "onnxpool.deploy", "onnxpool.diagnosis", "onnxpool.validation"]
"""The packages that import a name when it is used."""

LEAST_COMPLETE = 0.99
"""Part of the public symbols whose type pyright must know without inferring it."""

ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # pyright looks for python
    "PYTHONPATH": str(ROOT),
    "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
}

PROGRAM = """
import torch
from typing import assert_type

import onnxpool
from onnxpool import models, nn
from onnxpool.deploy import package
from onnxpool.diagnosis import compare_nodes
from onnxpool.errors import OnnxpoolError
from onnxpool.serve import Options
from onnxpool.validation import Report, load_report

x = torch.zeros(1, 3, 8, 8)
assert_type(nn.SoftPool2d(3, stride=2, padding=1), nn.SoftPool2d)
assert_type(nn.SoftPool2d(3)(x), torch.Tensor)
assert_type(nn.LocalImportancePool2d(nn.SimplifiedLogit2d(3)).forward(x), torch.Tensor)
assert_type(nn.SimplifiedLogit2d(3)(x), torch.Tensor)
assert_type(nn.PowerAvgPool2d(2, p=3, learn_p=True).p, float | torch.Tensor)
assert_type(models.softpool_resnet18(num_classes=10)(x), torch.Tensor)
assert_type(onnxpool.validate("network.onnx"), Report)
assert_type(load_report("network.certificate.json").passed, bool)
session = onnxpool.load("network.onnx", threads=2)
session.run({"x": x.numpy()})["y"].shape
first = compare_nodes("network.onnx").first
line: str = first.line if first else ""
error: type[Exception] = OnnxpoolError
files: tuple[str, ...] = package("network.onnx", "folder", "triton", max_batch=4).files
options = Options(max_batch=4)

nn.Nonsense  # wrong
nn.SoftPool2d("three")  # wrong
nn.SoftPool2d(3, strides=2)  # wrong
nn.MixedPool2d(2, per="pixel")  # wrong
nn.SoftGate()(x).nonsense  # wrong
onnxpool.nonsense  # wrong
onnxpool.load("x").runn  # wrong
onnxpool.load("x", kernels="on")  # wrong
onnxpool.validate("x").pased  # wrong
onnxpool.errors.Nonsense  # wrong
models.softpool_resnet19()  # wrong
models.lip_resnet50(classes=10)  # wrong
Report.nonsense  # wrong
load_report("x").runs[0].nonsense  # wrong
onnxpool.validation.nonsense  # wrong
onnxpool.diagnosis.nonsense  # wrong
onnxpool.deploy.nonsense  # wrong
onnxpool.serve.nonsense  # wrong
package("network.onnx", "folder", "tomcat")  # wrong
package("network.onnx", "folder", "triton", batch=4)  # wrong
compare_nodes("network.onnx").second  # wrong
"""
"""A user's program: type checkers take every line but those that are marked."""


# --- names


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_has_the_names_that_it_lists_once(name):
    module = import_module(f"onnxpool.{name}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    assert all(getattr(module, public) is not None for public in module.__all__)
    assert not hasattr(module, "nonsense")


@pytest.mark.parametrize("name", LAZY)
def test_a_name_is_what_its_module_has(name):
    """A name that had no home would be taken for a module; a module of that name would stand in its place."""
    package = import_module(name)
    assert [*dir(package)] == sorted([*package.__all__, *(["__version__"] if package is onnxpool else [])])
    inside = {info.name for info in iter_modules(package.__path__)}
    assert {*package._HOMES} == {*package.__all__} - (inside if package is onnxpool else set())
    assert not {*package._HOMES} & inside
    for public, home in package._HOMES.items():
        value = getattr(package, public)
        assert value is getattr(import_module(f"onnxpool.{home}"), public)
        assert not isinstance(value, type | FunctionType) or value.__name__ == public


def test_nn_has_the_modules_of_every_method():
    files = [info.name for info in iter_modules(pools.__path__) if not info.name.startswith("_")]
    methods = [import_module(f"onnxpool.pools.{file}") for file in files]
    assert nn.__all__ == sorted(name for method in methods for name in method.__all__)


def test_nn_says_what_it_has():
    told = r"onnxpool\.nn has no 'SoftPol2d' \(did you mean 'SoftPool2d'\?\); it has AdaPool1d, .*, SoftPool2d, "
    with pytest.raises(AttributeError, match=told):
        nn.SoftPol2d  # noqa: B018 - only asked for


def test_public_packages_import_nothing_heavy():
    program = f"""
import sys
for name in {LAZY}:
    __import__(name)
sys.argv = ["onnxpool", "--help"]
from onnxpool.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "starlette", "ray")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- types


def run(command: list[str], *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program that finds the onnxpool that is tested, whatever folder it runs in."""
    env = ENVIRONMENT | variables
    return subprocess.run([*command, *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def pyright(tmp_path_factory):
    """The command, where it can be had: the package on PyPI fetches the program from npm when it first runs."""
    found = shutil.which("pyright")
    command = [sys.executable, "-m", "pyright"] if find_spec("pyright") else [found] if found else []
    if not command:
        pytest.skip("there is no pyright: pip install pyright")
    folder = tmp_path_factory.mktemp("pyright")
    tried = run(command, "--version", cwd=folder)
    if tried.returncode:
        pytest.skip(f"pyright cannot start: {tried.stderr.strip().splitlines()[-1:]}")
    return [*command, "--pythonpath", sys.executable, "--outputjson"]


@pytest.fixture
def program(tmp_path):
    """The file of the user's program, and the lines of it that are wrong."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    return file, {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}


@pytest.mark.slow
def test_mypy_takes_the_right_lines_and_no_other(program, request):
    if not find_spec("mypy"):
        pytest.skip("there is no mypy: pip install mypy")
    file, wrong = program
    kept = request.config.cache.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={kept}", "--no-error-summary", "--no-pretty"]
    done = run(command, "--config-file=", file.name, cwd=file.parent)
    errors = re.findall(r"^(.*?):(\d+): error: ", done.stdout, re.MULTILINE)
    expected = {(file.name, line) for line in wrong}
    assert {(name, int(line)) for name, line in errors} == expected, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_takes_the_right_lines_and_no_other(program, pyright):
    file, wrong = program
    done = run(pyright, file.name, cwd=file.parent)
    told = json.loads(done.stdout)["generalDiagnostics"]
    errors = {one["range"]["start"]["line"] + 1 for one in told if one["severity"] == "error"}
    assert errors == wrong, done.stdout + done.stderr


def homes() -> set[str]:
    """The names that public functions and classes have where they are defined."""
    found = set()
    for module in [onnxpool, *(import_module(f"onnxpool.{name}") for name in PUBLIC)]:
        for name in module.__all__:
            public = getattr(module, name)
            found.add(f"{module.__name__}.{name}")
            if (home := getattr(public, "__module__", "")).startswith("onnxpool"):
                found.add(f"{home}.{public.__qualname__}")
    return found


@pytest.mark.slow
def test_public_types_are_complete(pyright, tmp_path):
    done = run(pyright, "--verifytypes", "onnxpool", "--ignoreexternal", cwd=tmp_path)
    public = homes()
    symbols = [
        one
        for one in json.loads(done.stdout)["typeCompleteness"]["symbols"]
        if one["name"] in public or one["name"].rpartition(".")[0] in public  # also methods and attributes of classes
    ]
    unknown = sorted(one["name"] for one in symbols if not one["isTypeKnown"])
    assert len(symbols) > len(public)
    assert 1 - len(unknown) / len(symbols) >= LEAST_COMPLETE, f"{len(symbols)} symbols, of these unknown: {unknown}"


# --- what docs/ says


def test_the_stability_page_has_the_versions_of_the_code():
    text = (DOCS / "stability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| .* \| (\d+) \|$", text, re.MULTILINE)
    assert {name: int(version) for name, version in rows} == {
        "golden inputs and answers": golden_file.VERSION,
        "certificate": certificate.VERSION,
        "report": report_file.SCHEMA,
        "bundle": bundle.VERSION,
        "batch": shards.VERSION,
    }
    assert f"the ONNX domain `{domain.DOMAIN}`, version {domain.VERSION}." in text
    schema = json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["schema"]["const"] == report_file.SCHEMA


def test_the_stability_page_has_the_exit_statuses_of_the_code():
    text = (DOCS / "stability.md").read_text(encoding="utf-8")
    first = [cell for row in re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE) for cell in row.split(", ")]
    assert {int(cell) for cell in first} == {*report_file.EXIT_STATUS.values(), 2}


@pytest.mark.slow
def test_the_blocks_of_the_python_page_print_what_they_say(tmp_path):
    """Each ``print(...)  # text`` prints that text; the program has the page's line numbers."""
    for package in ("torch", "onnxscript", "onnxruntime", "PIL", "ray", "pyarrow"):
        if find_spec(package) is None:
            pytest.skip(f"there is no {package}")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i, place in enumerate(["photo.jpg", "photos/a.png", "photos/b.png", "photos/c.png"]):
        Image.new("RGB", (48, 40), (60 * i, 200, 30)).save(tmp_path / place)
    page, inside = [], False
    for line in (DOCS / "python.md").read_text(encoding="utf-8").splitlines():
        inside = line == "```python" or (inside and line != "```")
        page.append(line if inside and line != "```python" else "")
    (tmp_path / "python_page.py").write_text("\n".join(page), encoding="utf-8")
    expected = [line.rpartition("  # ")[2] for line in page if line.startswith("print(")]
    done = run([sys.executable], "python_page.py", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / ".cache"))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line] == expected
    assert len(expected) >= 10


def test_the_python_page_names_every_function_of_these_packages():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    for name in ("deploy", "diagnosis", "validation"):
        module = import_module(f"onnxpool.{name}")
        for public in (name for name in module.__all__ if name[0].islower()):
            assert re.search(rf"\b{public}(\(|`)", text), f"{name}.{public}"
