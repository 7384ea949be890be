"""The runtimes that a model can be validated on, one file each; a new file here is all that a new runtime needs.

    FORMS                        what it takes: forms of a model, or "module" for the PyTorch module
    why_not(options) -> str      why it cannot be tried here; empty where it can
    open_model(path, options)    opens a model in the child (:mod:`onnxpool.runtimes._worker`), without onnxpool; gives
                                 run({name: (dtype, array)}) -> the same, and facts: version, and nodes if it tells them

    VARIANTS, or one {}          options of every way to run it, all of which ``on=`` tries
    ordinary() -> variants       those that are tried where nothing is asked for
    KERNELS, or none             forms in which it can run our native kernels; ``library`` is then what it loads
    LOSES_NAN, or none           operators in which it may give a number for NaN; "*" for any
    LIMITS, or none              what it cannot do, by a part of the error that it then raises: such cases are skipped
    one_size(options) -> bool    whether cases cost so much that those of the commonest size must do
    program() -> list[str]       what serves it, where that is not Python

The options that functions get are those of a variant, and ``dtypes`` (of inputs and outputs), ``outputs`` (their names,
in order), ``weights`` (how many), ``arrangement`` (how the PyTorch module that is the reference takes inputs, or None),
``path`` (where this process imports from) and ``library`` (with native kernels: what holds them for it, or None).

Files with an underscore are not runtimes: ``_child.py`` asks the program that serves one, ``_worker.py`` is that
program, in Python; ``_devices.py`` says whether there is a GPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeAlias

Options: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Runtime:
    """One runtime: what its file says, see above."""

    name: str
    file: str
    forms: tuple[str, ...]
    why_not: Callable[[Options], str]
    variants: tuple[Options, ...]
    ordinary: Callable[[], tuple[Options, ...]]
    kernels: tuple[str, ...]
    program: Callable[[], list[str]] | None
    one_size: Callable[[Options], bool]
    loses_nan: frozenset[str]
    limits: Mapping[str, str]

    def command(self, python: str) -> list[str]:
        """The program that serves it; ``python`` is of the environment to take."""
        from onnxpool.runtimes._child import worker

        return self.program() if self.program else worker(self.file, python)


def _runtime(name: str) -> Runtime:
    module: Any = import_module(f"{__name__}.{name}")
    return Runtime(
        name,
        module.__file__,
        module.FORMS,
        module.why_not,
        tuple(getattr(module, "VARIANTS", ({},))),
        getattr(module, "ordinary", lambda: ({},)),
        tuple(getattr(module, "KERNELS", ())),
        getattr(module, "program", None),
        getattr(module, "one_size", lambda _: False),
        frozenset(getattr(module, "LOSES_NAN", ())),
        getattr(module, "LIMITS", {}),
    )


RUNTIMES: dict[str, Runtime] = {
    info.name: _runtime(info.name) for info in iter_modules(__path__) if not info.name.startswith("_")
}
"""Every runtime by its name."""
