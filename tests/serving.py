"""What the tests of the server share: small model files, golden files made by hand, and a server in a process."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models import model, pooled
from onnx import helper

from onnxpool.golden import file as golden_file
from onnxpool.graph import forms
from onnxpool.window import Window

START_S = 120
"""How long a server may take to start on a busy machine."""


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


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any]) -> None:
        self.process = process
        self.said = said
        self.rest: str = said["rest"]
        self.address = self.rest.partition("//")[2]
        self.grpc: str = said["grpc"]


@contextmanager
def running(path: Path, *options: str) -> Iterator[Server]:
    """``onnxpool serve`` on free ports of loopback; ends with SIGTERM and status 0."""
    command = [sys.executable, "-m", "onnxpool", "serve", str(path), "--port", "0", "--grpc-port", "0", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(START_S, process.kill)
        guard.start()
        try:
            text = ""
            while (line := process.stdout.readline()) and line != "}\n":
                text += line
            guard.cancel()
            yield Server(process, json.loads(text + line))
            process.terminate()
            assert process.wait(60) == 0
        finally:
            guard.cancel()
            process.kill()
