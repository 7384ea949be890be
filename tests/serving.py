"""What the tests of the server share: small model files, golden files made by hand, and a server in a process."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models import model, pooled
from onnx import helper

sys.path.append(str(Path(__file__).parent.parent / "tools"))

from load_hostile import endless
from load_server import HANGS_S, Served, serve, started

__all__ = ["HANGS_S", "average", "endless", "running", "soft", "soft_answer", "started", "wait_for", "with_golden"]

from onnxpool.golden import file as golden_file
from onnxpool.graph import forms
from onnxpool.window import Window


def soft(path: Path, dtype: str = "float32") -> Path:
    """SoftPool 2x2 of x: (N, C, H, W)."""
    forms.write(forms.to_form(pooled(Window.of(2, 2), dtype), "function"), path)
    return path


def average(path: Path) -> Path:
    """AveragePool 2x2 with the same inputs and outputs as :func:`soft`."""
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    onnx.save(model([node], 2), path)
    return path


def soft_answer(x: Any) -> Any:
    """SoftPool 2x2 of x: (N, C, 2, 2), by its formula in float64."""
    x = np.asarray(x, np.float64)
    weights = np.exp(x)
    return (x * weights).sum((2, 3), keepdims=True) / weights.sum((2, 3), keepdims=True)


def with_golden(path: Path, answer: Any = None) -> Path:
    """Store one golden case beside a model file; ``answer`` in place of the right one of SoftPool."""
    x = np.array([[[[1, 2], [3, 4]]], [[[0, 0], [0, 8]]]], np.float32)
    answers = {"y": soft_answer(x) if answer is None else np.asarray(answer, np.float64)}
    case = golden_file.Case("ordinary", {"x": x}, answers, {"y": 1e-7})
    golden_file.save(
        golden_file.Golden("hand", "hand", {"y": "float32"}, (case,), (), None), golden_file.path_for(path)
    )
    return path


def wait_for(condition: Callable[[], object]) -> float:
    """Wait until it holds; how long that took, in seconds, which decides nothing but that a test hangs."""
    begin_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begin_s < HANGS_S, "it never happened"
        time.sleep(0.02)
    return time.monotonic() - begin_s


def running(path: Path, *options: str) -> AbstractContextManager[Served]:
    """``onnxpool serve`` on free ports of loopback, with minutes for each answer; ends with SIGTERM and status 0."""
    return serve(path, "--timeout", str(HANGS_S), *options)
