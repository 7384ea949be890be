"""A library of custom operators as somebody else may write it (``foreign_library.cpp``), and models that need it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest
from models import model
from onnx import helper

from onnxpool.window import Window

HERE = Path(__file__).parent
WINDOW = Window.of(2, 2, 2)


def compiled(path: Path, *options: str) -> Path:
    """The library, at this path; the test is skipped where nothing compiles it."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler on this machine")
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", *options]
    command = [compiler, *flags, "-I", HERE.parent / "custom_ops", HERE / "foreign_library.cpp", "-o", path]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def made(path: Path, op_type: str = "ScaledSquare", pool: bool = False, **attributes: Any) -> Path:
    """A model at this path: Relu, their operator, and Sigmoid or a SoftPool."""
    last = (
        helper.make_node("SoftPool", ["s"], ["y"], "last", domain="onnxpool", **WINDOW.attributes())
        if pool
        else helper.make_node("Sigmoid", ["s"], ["y"], "last")
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node(op_type, ["r"], ["s"], "theirs", domain="their.domain", **attributes),
        last,
    ]
    proto = model(nodes, 2)
    proto.opset_import.append(helper.make_opsetid("their.domain", 1))
    onnx.save(proto, path)
    return path
