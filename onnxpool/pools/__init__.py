"""The pooling methods, one file each.

A new file here is all that a new method needs: it sets ``METHOD``, and ``__all__`` to the names of its PyTorch modules,
which :mod:`onnxpool.nn` imports by name (one line there, and the names in its ``__all__``, for type checkers).
"""

from importlib import import_module
from pkgutil import iter_modules

from onnxpool.pools._method import Method, Operator

_FILES = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__) if not info.name.startswith("_")]

METHODS: dict[str, Method] = {file.METHOD.name: file.METHOD for file in _FILES}
"""Every method by its name."""

OPERATORS: dict[str, Operator] = {
    method.operator.op_type: method.operator for method in METHODS.values() if method.operator
}
"""The operators of our domain by their ONNX name."""
