"""Every error that onnxpool raises on purpose.

    OnnxpoolError
    ├── ArgumentError    an argument cannot be used: says its name, its value and what to do (also a ValueError)
    ├── MissingExtra     an optional package is not installed: says which ``pip install`` fixes it (also an ImportError)
    ├── ExportError      a PyTorch module cannot become an ONNX model
    ├── FormError        a model cannot be brought into the form that was asked for
    ├── KernelError      the native library is missing, unusable, or refused by the runtime
    ├── SessionError     the runtime cannot load or run a model
    ├── GoldenError      the stored inputs and answers of a model are missing or unusable
    └── CertificateError the certificate of a model is missing, damaged, or no longer true

A comparison that fails is not an error: :class:`onnxpool.validation.validate.Report` holds it as a value.
"""

__all__ = [
    "ArgumentError",
    "CertificateError",
    "ExportError",
    "FormError",
    "GoldenError",
    "KernelError",
    "MissingExtra",
    "OnnxpoolError",
    "SessionError",
]


from collections.abc import Callable, Iterable
from difflib import get_close_matches


class OnnxpoolError(Exception):
    """Root of the tree; ``except OnnxpoolError`` catches everything above."""


class ArgumentError(OnnxpoolError, ValueError):
    """An argument cannot be used."""


class MissingExtra(OnnxpoolError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'onnxpool[{extra}]'")


class ExportError(OnnxpoolError):
    """A PyTorch module cannot become an ONNX model."""


class FormError(OnnxpoolError):
    """A model cannot be brought into the form that was asked for."""


class KernelError(OnnxpoolError):
    """The native library is missing, unusable, or refused by the runtime."""


class SessionError(OnnxpoolError):
    """The runtime cannot load or run a model."""


class GoldenError(OnnxpoolError):
    """The stored inputs and answers of a model are missing or unusable."""


class CertificateError(OnnxpoolError):
    """The certificate of a model is missing, damaged, or no longer true."""


def nearest(word: str, known: Iterable[str], spelled: Callable[[str], str] = str) -> str:
    """A question after the known word that ``word`` is most like, or nothing; ``spelled`` says how to write it.

    >>> nearest("SoftPol2d", ["SoftPool2d", "PowerAvgPool2d"])
    " (did you mean 'SoftPool2d'?)"
    """
    names = list(known)
    close = [name for name in names if name.lower() == word.lower()] or get_close_matches(word, names, n=1)
    return f" (did you mean {spelled(close[0])!r}?)" if close else ""
