"""The shape of the package: imports go one way, heavy ones stay at the edge, and adding a method is one file."""

import ast
import subprocess
import sys
from pathlib import Path

import onnxpool

PACKAGE = Path(onnxpool.__file__).parent
ORDER = [
    "errors",
    "atomic",
    "window",
    "pool",
    "body",
    "torch_op",
    "onnx_op",
    "pools",
    "nn",
    "models",
    "swapping",
    "swap",
    "kernels",
    "forms",
    "bounds",
    "cases",
    "fingerprint",
    "golden",
    "answers",
    "export",
    "session",
    "child",
    "runtimes",
    "reporting",
    "report",
    "judge",
    "lifting",
    "lift",
    "validating",
    "validate",
    "nodes",
    "per_node",
    "bundle",
    "bisection",
    "certificate",
    "saved",
    "picture",
    "predict",
    "serve",
    "deploy",
]


def imported(path: Path, *, module_level: bool) -> set[str]:
    """First-level names of the package's own modules that this file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxpool"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("onnxpool.")}
    return found


def test_imports_go_one_way():
    for name in ORDER:
        path = PACKAGE / f"{name}.py"
        files = [path] if path.exists() else sorted((PACKAGE / name).glob("*.py"))
        later = set(ORDER[ORDER.index(name) + 1 :])
        for file in files:
            assert not imported(file, module_level=False) & later, file


def test_importing_stays_light():
    program = "import sys, onnxpool; print([m for m in ('torch', 'onnxruntime', 'onnxscript') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_functions_and_modules_of_one_name():
    program = """
import onnxpool.validate, onnxpool
from onnxpool import errors, forms, lift
assert all(callable(getattr(onnxpool, name)) for name in ("export", "lift", "load", "swap", "validate", "Window"))
assert onnxpool.golden.VERSION and callable(lift)
assert sorted(onnxpool._HOMES) == sorted(set(onnxpool.__all__) - {"models", "nn"})
assert not hasattr(onnxpool, "nonsense")
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
