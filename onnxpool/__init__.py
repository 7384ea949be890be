"""onnxpool: any PyTorch pooling layer in production, exported to ONNX, proven equal, fast, and served.

    import onnxpool
    from onnxpool import nn                                    # modules, needs torch
    onnxpool.export(network, (image,), "network.onnx")         # PyTorch -> ONNX
    onnxpool.validate("network.onnx")                          # every form against float64 answers
    onnxpool.load("network.onnx").run({"x": image})            # natively where the library is installed

Importing this needs neither torch nor onnxruntime; what does need them says which extra to install. It imports nothing
until a name is used, so that ``onnxpool --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxpool import deploy, diagnosis, errors, models, nn, serve, validation
    from onnxpool.graph.forms import form_of, pool_nodes, to_form
    from onnxpool.lifting.lift import lift
    from onnxpool.network.export import export
    from onnxpool.network.swap import swap
    from onnxpool.run.native_library import library_path
    from onnxpool.run.session import Session, load
    from onnxpool.validation.validate import validate
    from onnxpool.window import Window

__version__ = "0.1.0"
__all__ = [
    "Session",
    "Window",
    "deploy",
    "diagnosis",
    "errors",
    "export",
    "form_of",
    "library_path",
    "lift",
    "load",
    "models",
    "nn",
    "pool_nodes",
    "serve",
    "swap",
    "to_form",
    "validate",
    "validation",
]

_HOMES = {
    "Session": "run.session",
    "Window": "window",
    "export": "network.export",
    "form_of": "graph.forms",
    "library_path": "run.native_library",
    "lift": "lifting.lift",
    "load": "run.session",
    "pool_nodes": "graph.forms",
    "swap": "network.swap",
    "to_form": "graph.forms",
    "validate": "validation.validate",
}
"""The module that each public name is in; the others are modules themselves."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"onnxpool.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"onnxpool.{name}")
    raise AttributeError(f"module 'onnxpool' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
