"""onnxpool: any PyTorch pooling layer in production, exported to ONNX, proven equal, fast, and served.

    import onnxpool
    from onnxpool import nn                                    # modules, needs torch
    onnxpool.export(network, (image,), "network.onnx")         # PyTorch -> ONNX
    onnxpool.validate("network.onnx")                          # every form against float64 answers
    onnxpool.load("network.onnx").run({"x": image})            # natively where the library is installed

Importing this needs neither torch nor onnxruntime; what does need them says which extra to install. It imports nothing
until a name is used, so that ``onnxpool --help`` answers at once.
"""

from typing import TYPE_CHECKING

from onnxpool._lazy import on_demand

if TYPE_CHECKING:
    from onnxpool import deploy, diagnosis, errors, models, nn, openvino, serve, validation
    from onnxpool.graph.forms import form_of, pool_nodes, save, to_form
    from onnxpool.lifting.lift import lift
    from onnxpool.network.export import export
    from onnxpool.network.swap import swap
    from onnxpool.network.translate import finish, translations
    from onnxpool.quantizing.precision import precision
    from onnxpool.quantizing.quantize import quantize
    from onnxpool.run.native_library import library_path
    from onnxpool.run.optimize import optimize
    from onnxpool.run.predict import predict
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
    "finish",
    "form_of",
    "library_path",
    "lift",
    "load",
    "models",
    "nn",
    "openvino",
    "optimize",
    "pool_nodes",
    "precision",
    "predict",
    "quantize",
    "save",
    "serve",
    "swap",
    "to_form",
    "translations",
    "validate",
    "validation",
]

_HOMES = {
    "Session": "run.session",
    "Window": "window",
    "export": "network.export",
    "finish": "network.translate",
    "form_of": "graph.forms",
    "library_path": "run.native_library",
    "lift": "lifting.lift",
    "load": "run.session",
    "optimize": "run.optimize",
    "pool_nodes": "graph.forms",
    "precision": "quantizing.precision",
    "predict": "run.predict",
    "quantize": "quantizing.quantize",
    "save": "graph.forms",
    "swap": "network.swap",
    "to_form": "graph.forms",
    "translations": "network.translate",
    "validate": "validation.validate",
}
"""The module that each public name is in; the others are modules themselves."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_demand(__name__, [*__all__, "__version__"], _HOMES)
