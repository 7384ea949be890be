"""The pooling methods, one file each. A new file here that sets ``POOL`` is all that a new method needs."""

from importlib import import_module
from pkgutil import iter_modules

from onnxpool.pool import Pool


def _find() -> dict[str, Pool]:
    modules = (import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__))
    return {module.POOL.op_type: module.POOL for module in modules}


POOLS = _find()
"""Every method by the name of its ONNX operator."""
