"""Every PyTorch module of onnxpool under one name: ``from onnxpool import nn; nn.SoftPool2d(3, stride=2, padding=1)``.

The modules live in the method files of :mod:`onnxpool.pools`; this gathers what those list in ``__all__``.
"""

from typing import Any

from onnxpool.pools import MODULES

__all__ = sorted(MODULES)  # noqa: PLE0605 - a list, though made


def __getattr__(name: str) -> Any:
    try:
        return MODULES[name]
    except KeyError:
        raise AttributeError(f"onnxpool.nn has no {name!r}; it has {', '.join(__all__)}") from None


def __dir__() -> list[str]:
    return __all__
