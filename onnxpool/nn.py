"""Every PyTorch module of onnxpool under one name: ``from onnxpool import nn; nn.SoftPool2d(3, stride=2, padding=1)``.

The modules live in the method files of :mod:`onnxpool.pools`; this gathers what those list in ``__all__``.
"""

import sys
from typing import Any

from onnxpool.pools import POOLS

_MODULES = {
    name: getattr(method, name)
    for method in (sys.modules[pool.reference.__module__] for pool in POOLS.values())
    for name in method.__all__
}
__all__ = sorted(_MODULES)  # noqa: PLE0605 - a list, though made


def __getattr__(name: str) -> Any:
    try:
        return _MODULES[name]
    except KeyError:
        raise AttributeError(f"onnxpool.nn has no {name!r}; it has {', '.join(__all__)}") from None


def __dir__() -> list[str]:
    return __all__
