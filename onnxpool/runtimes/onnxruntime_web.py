"""ONNX Runtime Web: its WebAssembly build, in Node.js; function and standard form, one thread.

``tools/onnxruntime_web`` installs the npm package; or the environment variable ``ONNXPOOL_ONNXRUNTIME_WEB`` names a
folder whose ``node_modules`` has it. ``onnxruntime_web.mjs`` beside this file is the program that runs there.
"""

import os
import shutil
from pathlib import Path
from typing import Any

FORMS = ("function", "standard")
LOSES_NAN = ("MaxPool", "GlobalMaxPool", "ReduceMax")

FOLDER = "ONNXPOOL_ONNXRUNTIME_WEB"
"""Environment variable that names a folder whose ``node_modules`` has onnxruntime-web."""


def program() -> list[str]:
    """The program that serves it."""
    return ["node", str(Path(__file__).with_suffix(".mjs")), str(_folder())]


def why_not(options: dict[str, Any]) -> str:
    """Why this cannot be tried here, or nothing."""
    if not shutil.which("node"):
        return "Node.js is not installed: there is no program 'node'"
    if not Path(_folder(), "node_modules", "onnxruntime-web").is_dir():
        return (
            f"the npm package onnxruntime-web is not in {_folder()}: run tools/onnxruntime_web in a clone of onnxpool, "
            f"or 'npm install onnxruntime-web' in a folder that the environment variable {FOLDER} names"
        )
    return "JavaScript has no bfloat16" if "bfloat16" in options["dtypes"] else ""


def _folder() -> Path:
    return Path(os.environ.get(FOLDER) or Path(__file__).parents[2] / "build" / "onnxruntime_web").resolve()
