"""Packages that import their public names when these are used, so that importing a package costs nothing.

Such an ``__init__`` lists its names in ``__all__`` and imports them under ``if TYPE_CHECKING``, for type checkers and
editors. At run time it takes its ``__getattr__`` and ``__dir__`` from here, which type checkers must not see: a name
that is not there would have the type Any otherwise.

    if not TYPE_CHECKING:
        __getattr__, __dir__ = on_demand(__name__, __all__, {"Session": "run.session"})
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def on_demand(
    package: str, public: Sequence[str], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``, whose names are ``public``.

    ``homes`` has the module below ``onnxpool`` that each name is in; a name without one is a module of ``package``.
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"onnxpool.{homes[name]}"), name)
        if name in public:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: list(public)
