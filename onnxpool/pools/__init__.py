"""The pooling methods, one file each.

A new file here is all that a new method needs: it sets ``POOL``, and ``__all__`` to the names of its PyTorch modules,
which :mod:`onnxpool.nn` imports by name (one line there, and the names in its ``__all__``, for type checkers).
"""

from importlib import import_module
from pkgutil import iter_modules

from onnxpool.pools._method import Node, Pool

_METHODS = [
    import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__) if not info.name.startswith("_")
]

POOLS: dict[str, Pool] = {method.POOL.name: method.POOL for method in _METHODS}
"""Every method by its name."""

NODES: dict[str, Node] = {pool.node.op_type: pool.node for pool in POOLS.values() if pool.node}
"""The operators of our domain by their ONNX name."""
