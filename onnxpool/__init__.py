"""onnxpool: any PyTorch pooling layer in production, exported to ONNX, proven equal, fast, and served.

    import onnxpool
    from onnxpool import nn                                    # modules, needs torch
    onnxpool.export(network, (image,), "network.onnx")         # PyTorch -> ONNX
    onnxpool.validate("network.onnx")                          # every form against float64 answers
    onnxpool.load("network.onnx").run({"x": image})            # natively where the library is installed

Importing this needs neither torch nor onnxruntime; what does need them says which extra to install. It imports nothing
until a name is used, so that ``onnxpool --help`` answers at once.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "Session": "session",
    "Window": "window",
    "export": "export",
    "form_of": "forms",
    "library_path": "kernels",
    "lift": "lift",
    "load": "session",
    "pool_nodes": "forms",
    "swap": "swap",
    "to_form": "forms",
    "validate": "validate",
}
"""The module that each public name is in."""


class _Package(ModuleType):
    """Where a module holds a function of its own name, this package's attribute is the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        imported = isinstance(value, ModuleType) and _HOMES.get(name) == name
        super().__setattr__(name, getattr(value, name) if imported else value)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"onnxpool.{_HOMES[name]}"), name)
    if find_spec(f"onnxpool.{name}"):
        return import_module(f"onnxpool.{name}")
    raise AttributeError(f"module 'onnxpool' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
