"""The shape of the package: imports go one way, heavy ones stay at the edge, and adding a method is one file."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import onnxpool

PACKAGE = Path(onnxpool.__file__).parent
FLOORS = [
    ["errors"],
    ["_files", "_lazy", "domain", "dtypes"],
    ["window", "_library"],
    ["pools", "openvino"],
    ["nn", "graph"],
    ["models", "golden", "runtimes"],
    ["network", "run"],
    ["lifting", "validation"],
    ["about", "diagnosis", "quantizing", "serve"],
    ["deploy"],
    ["cli"],
    ["__main__"],
]
"""From the ground up: a room imports rooms of lower floors, and of its own floor none but itself."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name below ``onnxpool``, but for the package's own."""
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(name).removesuffix(".__init__"): path for path, name in names.items() if name != ("__init__",)}


def imported(path: Path, known: set[str]) -> set[str]:
    """The package's own modules that this file imports, wherever in it, by their names below ``onnxpool``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxpool":
            place = (node.module or "").removeprefix("onnxpool").removeprefix(".")
            for alias in node.names:
                module = ".".join(filter(None, (place, alias.name)))
                found.add(module if module in known else place)
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("onnxpool.") for name in node.names if name.name.startswith("onnxpool.")}
    return {name for name in found if name}


def test_every_module_stands_on_a_floor():
    rooms = [room for floor in FLOORS for room in floor]
    assert sorted(rooms) == sorted({name.split(".")[0] for name in modules()})


def test_imports_go_down():
    known = modules()
    level = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    for name, path in known.items():
        room = name.split(".")[0]
        for module in imported(path, set(known)):
            other = module.split(".")[0]
            assert other == room or level[other] < level[room], f"{name} imports {module}"


def test_the_package_itself_is_imported_on_the_top_floor_alone():
    for name, path in modules().items():
        plain = re.search(r"^\s*import onnxpool$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert name.startswith("cli.") or not plain or name == "_lazy", name


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    imports = {name: imported(path, set(known)) - {name} for name, path in known.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_the_architecture_page_names_every_room_in_order():
    text = (PACKAGE.parent / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `onnxpool/(.*?)` \|", text, re.MULTILINE)
    rooms = [room.removesuffix("/").removesuffix(".py") for row in rows for room in row.split("` `")]
    level = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    assert set(rooms) == set(level) - {"__main__"}
    assert [level[room] for room in rooms] == sorted(level[room] for room in rooms)


def test_only_the_command_line_draws_on_the_terminal():
    """typer and rich come with the extra ``cli``; a serving machine goes without them."""
    told = []
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(text)))
        imports = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        imports |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        if {module.split(".")[0] for module in imports} & {"typer", "rich"}:
            told.append(name)
    assert told
    assert all(name.startswith("cli.") for name in told)


def test_importing_stays_light():
    program = "import sys, onnxpool; print([m for m in ('torch', 'onnxruntime', 'onnxscript') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names():
    program = """
import onnxpool
assert dir(onnxpool) == sorted([*onnxpool.__all__, "__version__"])
assert all(getattr(onnxpool, name) is not None for name in onnxpool.__all__)
assert all(callable(getattr(onnxpool, name)) for name in onnxpool._HOMES)
assert set(onnxpool._HOMES) < set(onnxpool.__all__)
assert not hasattr(onnxpool, "nonsense")
import onnxpool.validation.validate, onnxpool.lifting.lift
assert callable(onnxpool.validate) and callable(onnxpool.lift)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_everything_but_training_works_without_torch(tmp_path):
    """As on a serving machine: torch cannot be found."""
    program = """
import sys, importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else real(name, *rest)
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import numpy, onnxpool
from models import pooled
model = onnxpool.to_form(onnxpool.to_form(pooled(onnxpool.Window.of(2, 2)), "standard"), "function")
y = onnxpool.load(model).run({"x": numpy.array([[[[1, 2], [3, 4]]]], "float32")})["y"]
assert abs(y.item() - 3.4926527) < 1e-6
for attempt in (lambda: onnxpool.nn.SoftPool2d(2), lambda: onnxpool.export(None, ())):
    try:
        attempt()
    except onnxpool.errors.MissingExtra as error:
        assert "pip install 'onnxpool[export]'" in str(error), error
    else:
        raise AssertionError("should have said that torch is missing")
"""
    subprocess.run([sys.executable, "-c", program, str(Path(__file__).parent)], check=True)


def test_everything_but_the_command_line_works_without_typer_and_rich():
    """Every module can be imported, if its own extras are there, and a report is shown in every way but as a table."""
    program = """
import importlib, json, sys
sys.modules |= {"typer": None, "rich": None}
from onnxpool.validation import as_html, as_junit, as_text, history
from onnxpool.validation.report import Report, Result, Run
result = Result("a", "y", "mismatch", "error 5 times", share=5.0, max_abs=1.0, max_ulp=2.0, snr_db=3.0, origin="o")
run = Run("onnxruntime", "function", kernels=False, verdict="mismatch", results=(result,))
report = Report("m.onnx", "mismatch", "PyTorch", (run,), ("a cause",), (), {})
assert as_text.sentences(report) == ["onnxruntime, function: a, y: error 5 times", "cause: a cause"]
assert as_text.rows(report)[0].cells == ("mismatch", "500.0%", "0/1", "onnxruntime, function")
assert "<li>cause: a cause</li>" in as_html.html_page(report)
assert 'message="error 5 times"' in as_junit.junit_xml(report)
assert json.loads(json.dumps(report.to_json(), allow_nan=False))["summary"] == "FAILED (mismatch): 1 runs, 1 mismatch"
absent = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(f"onnxpool.{name}")
    except ImportError as error:
        assert (error.name or "").partition(".")[0] not in ("typer", "rich"), (name, error)
        assert "onnxpool[cli]" not in str(error), name
        absent.append(name)
print(*absent)
"""
    names = [name for name in sorted(modules()) if name != "__main__" and not name.startswith("cli.")]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) < len(names) / 3


@pytest.mark.parametrize("package", ["typer", "rich"])
@pytest.mark.parametrize("start", ["from onnxpool.cli import main; main()", "MODULE"])
def test_the_command_line_says_which_extra_it_needs(package, start):
    start = start.replace("MODULE", "import runpy; runpy.run_module('onnxpool', run_name='__main__')")
    program = f"import sys; sys.modules[{package!r}] = None; {start}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"onnxpool: the command line needs the package {package!r}: pip install 'onnxpool[cli]'\n"
