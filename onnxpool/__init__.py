"""onnxpool: any PyTorch pooling layer in production, exported to ONNX, proven equal, fast, and served.

    import onnxpool
    from onnxpool import nn                                    # modules, needs torch
    onnxpool.export(network, (image,), "network.onnx")         # PyTorch -> ONNX
    onnxpool.validate("network.onnx")                          # every form against float64 answers
    onnxpool.load("network.onnx").run({"x": image})            # natively where the library is installed

Importing this needs neither torch nor onnxruntime; what does need them says which extra to install.
"""

from importlib import import_module
from typing import Any

from onnxpool.export import export
from onnxpool.forms import form_of, pool_nodes, to_form
from onnxpool.kernels import library_path
from onnxpool.lift import lift
from onnxpool.session import Session, load
from onnxpool.swap import swap
from onnxpool.validate import validate
from onnxpool.window import Window

__version__ = "0.1.0"
__all__ = [
    "Session",
    "Window",
    "export",
    "form_of",
    "library_path",
    "lift",
    "load",
    "models",
    "nn",
    "pool_nodes",
    "swap",
    "to_form",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in {"models", "nn"}:  # need torch: imported on first use
        return import_module(f"onnxpool.{name}")
    raise AttributeError(f"module 'onnxpool' has no attribute {name!r}")
