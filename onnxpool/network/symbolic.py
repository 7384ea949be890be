"""``int(size)`` and ``float(size)`` in somebody's forward, while it is captured with sizes that may change.

Python lets both return numbers only, so that PyTorch fixes the size at that of the example: for a size itself with an
error, for what is computed of one (``int(math.ceil(h / 3))``, as spatial pyramid pooling is published) without a word.
Here such a call is found as it is made. The code that made it then gets its own ``int`` and ``float``, which leave
symbolic numbers symbolic, until the capture is over.
"""

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from onnxpool.network.lines import PACKAGE

LIBRARIES = (str(Path(torch.__file__).parent), str(PACKAGE))
"""The folders of code that is not the user's."""


class FixedSizeError(TypeError):
    """A size that may change was about to be fixed by ``name``, in code that has these global names."""

    def __init__(self, name: str, where: str, names: dict[str, Any]) -> None:
        super().__init__(
            f"{name}() at {where} would fix a size that may change; leave it out, or use //, math.ceil or "
            f"torch.sym_{name}"
        )
        self.name, self.names = name, names


@contextmanager
def symbolic_numbers() -> Iterator[Callable[[FixedSizeError], bool]]:
    """While it is open, ``int`` and ``float`` of the user's code raise :class:`FixedSizeError` for a symbolic number.

    Gives a function that lets the code that raised it have its own ``int`` or ``float``, and tells whether that is new.
    """
    kinds = (torch.SymInt, torch.SymFloat)
    methods = [(kind, name) for kind in kinds for name in _SYMBOLIC]
    originals = [vars(kind).get(f"__{name}__") for kind, name in methods]
    given: list[FixedSizeError] = []

    def spell(error: FixedSizeError) -> bool:
        if error.name in error.names:
            return False
        error.names[error.name] = _SYMBOLIC[error.name]
        given.append(error)
        return True

    try:
        for (kind, name), original in zip(methods, originals, strict=True):
            setattr(kind, f"__{name}__", _refusing(name, original))
        yield spell
    finally:
        for (kind, name), original in zip(methods, originals, strict=True):
            if original is None:
                delattr(kind, f"__{name}__")
            else:
                setattr(kind, f"__{name}__", original)
        for error in given:
            del error.names[error.name]


def _refusing(name: str, original: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def convert(number: Any) -> Any:
        frame = sys._getframe(1)
        if frame.f_code.co_filename.startswith(LIBRARIES) or number.node.is_constant():
            return original(number) if original else float(number.__index__())
        raise FixedSizeError(name, f"{frame.f_code.co_filename}:{frame.f_lineno}", frame.f_globals)

    return convert


class _Spelling(type):
    """What makes a class that stands for ``int`` or ``float``: with its instances, and symbolic numbers as they are."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.__base__ or object)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], torch.SymInt | torch.SymFloat):
            return {"int": torch.sym_int, "float": torch.sym_float}[cls.__name__](args[0])  # type: ignore[no-untyped-call]
        return getattr(builtins, cls.__name__)(*args, **kwargs)


_SYMBOLIC = {
    "int": _Spelling("int", (int,), {}),
    "float": _Spelling("float", (float,), {}),
}
