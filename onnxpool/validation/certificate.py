"""Certificates: what a validation found, bound to the very files that it ran, so that it can be checked offline.

>>> certificate = issue_certificate(onnxpool.validate("network.onnx"), "network.onnx")  # doctest: +SKIP
>>> check_certificate("network.onnx").passed  # doctest: +SKIP
True

``network.certificate.json`` beside ``network.onnx`` holds ``content`` (the SHA-256 of the model, of each file of
external weights, of the golden file and of the native library; the tolerances; the range of a bounded standard form;
the whole report with its versions; the date), the SHA-256 of that content in canonical JSON (keys sorted, no spaces,
ASCII), and, where the environment variable ``ONNXPOOL_SIGNING_KEY`` was set, its HMAC-SHA256 under that key.

What this proves: the digest shows damage and careless edits; anybody can make another. The signature shows that
somebody who has the key issued the certificate; whoever can check it can also issue one, and the key itself is no part
of the file. Neither proves that the validation was asked the right questions: ``content`` says which were asked.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxpool._files import complete
from onnxpool.errors import CertificateError
from onnxpool.golden import bounds
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import range_of, read
from onnxpool.run.native_library import library_path, why_missing
from onnxpool.validation.report import Report

VERSION = 1
"""Version of the file format; files of other versions are refused."""

KEY = "ONNXPOOL_SIGNING_KEY"
"""Environment variable of the key that signs certificates and checks signatures."""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. ``content`` is what was digested and, if ``signature`` is not None, signed."""

    content: dict[str, Any]
    digest: str
    signature: str | None

    @property
    def passed(self) -> bool:
        """Whether the validation passed."""
        return bool(self.content["report"]["passed"])

    @property
    def report(self) -> dict[str, Any]:
        """The report, as :meth:`onnxpool.validation.report.Report.to_json` gave it."""
        found: dict[str, Any] = self.content["report"]
        return found


@dataclass(frozen=True)
class Verification:
    """What became of a certificate: ``faults`` break it, ``notes`` are differences that it survives."""

    certificate: Certificate
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Whether it holds, what the validation found and when, and whether it is signed."""
        content, signature = self.certificate.content, self.certificate.signature
        verdict = "DOES NOT HOLD" if self.faults else "HOLDS"
        return (
            f"{verdict}: {content['report']['summary']}, {content['date']}, {'signed' if signature else 'not signed'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"holds": not self.faults, "faults": [*self.faults], "notes": [*self.notes], **self.certificate.content}


def path_for(model: str | os.PathLike[str]) -> Path:
    """Where the certificate of a model file is: ``network.onnx`` has ``network.certificate.json``."""
    return Path(model).with_suffix(".certificate.json")


def issue_certificate(report: Report, model: str | os.PathLike[str]) -> Certificate:
    """Write the certificate of ``report``, which came of validating the file ``model``, beside that file.

    A failed validation gets a certificate too; it says so, and :func:`check_certificate` refuses it.
    """
    path = Path(model)
    answers = golden_file.path_for(path)
    content: dict[str, Any] = {
        "version": VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": _sha256(path),
        "weights": {name: _sha256(path.parent / name) for name in _external(path)},
        "golden": _sha256(answers) if answers.exists() else None,
        "library": _library(),
        "tolerances": _tolerances(),
        "range": range_of(path),
        "report": report.to_json(),
    }
    certificate = Certificate(content, _digest(content), _sign(content))
    _write(certificate, path_for(model))
    return certificate


def check_certificate(model: str | os.PathLike[str]) -> Certificate:
    """The certificate of the file ``model``, if there is one, it is of a passed validation, and it still holds.

    It holds while the model and its external weights are what they were, golden file and native library are what they
    were or are not here, and, where ``ONNXPOOL_SIGNING_KEY`` is set, the signature was made with that key. Runs no
    model; needs neither PyTorch nor ONNX Runtime. Raises :class:`CertificateError` otherwise, with every reason.
    """
    verification = verify_certificate(model)
    if verification.faults:
        raise CertificateError(f"the certificate of {model} does not hold: {'; '.join(verification.faults)}")
    return verification.certificate


def verify_certificate(model: str | os.PathLike[str]) -> Verification:
    """What has changed since the certificate of the file ``model`` was issued; see :func:`check_certificate`.

    Raises :class:`CertificateError` where the certificate is missing or cannot be read.
    """
    certificate = load_certificate(path_for(model))
    faults = [] if certificate.passed else [f"its validation failed ({certificate.report['summary']})"]
    faults += _signature_faults(certificate)
    notes: list[str] = []
    if certificate.signature and not os.environ.get(KEY):
        notes.append(f"its signature was not checked: {KEY} is not set")
    for change, broken in _changes(certificate.content, Path(model)):
        (faults if broken else notes).append(change)
    return Verification(certificate, tuple(faults), (*notes, *_version_notes(certificate.report["environment"])))


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate; :class:`CertificateError` where it is missing, damaged, or of another version."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        certificate = Certificate(values["content"], values["digest"], values["signature"])
        version = certificate.content["version"]
    except FileNotFoundError as error:
        raise CertificateError(f"there is no certificate {path}: onnxpool validate --certificate writes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CertificateError(f"{path} is damaged or no certificate ({error!r})") from error
    if version != VERSION:
        raise CertificateError(f"{path} has version {version}, this onnxpool reads {VERSION}: validate again")
    return certificate


# --- what is compared


def _signature_faults(certificate: Certificate) -> list[str]:
    if certificate.digest != _digest(certificate.content):
        return ["its content was edited: the digest does not match"]
    expected = _sign(certificate.content)
    if expected and not certificate.signature:
        return [f"it is not signed, and {KEY} asks for a signature"]
    if expected and not hmac.compare_digest(expected, str(certificate.signature)):
        return [f"its signature was not made with this {KEY}"]
    return []


def _changes(content: dict[str, Any], model: Path) -> Iterator[tuple[str, bool]]:
    """What is not as it was, and whether the certificate is void by it."""
    answers = golden_file.path_for(model)
    for path, digest in (
        (model, content["model"]),
        *((model.parent / name, digest) for name, digest in content["weights"].items()),
    ):
        if not path.exists() or _sha256(path) != digest:
            yield f"{path.name} has changed" if path.exists() else f"{path.name} is missing", True
    if content["golden"] and not answers.exists():
        yield f"{answers.name} is not here: the model cannot be validated again", False
    elif content["golden"] and _sha256(answers) != content["golden"]:
        yield f"{answers.name} has changed", True
    if content["library"] and why_missing():
        yield f"function bodies will run here: {why_missing()}", False
    elif content["library"] != _library():
        yield "the native library here is not the one that was validated", True
    if content["tolerances"] != _tolerances():
        yield "this onnxpool judges by other tolerances", False


def _version_notes(then: dict[str, str]) -> list[str]:
    notes: list[str] = []
    for package in set(then) & {"onnxpool", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy"}:
        with suppress(metadata.PackageNotFoundError):
            if (now := metadata.version(package)) != then[package]:
                notes.append(f"{package} was {then[package]}, is {now}")
    return sorted(notes)


def _external(model: Path) -> list[str]:
    """The files beside a model that hold weights of it."""
    tensors = (value.const_value for graph in read(model).graphs() for value in graph.initializers.values())
    return sorted({str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def _library() -> str | None:
    return None if why_missing() else _sha256(library_path())


def _tolerances() -> dict[str, float]:
    names = ("NATIVE_EXP", "NATIVE_RUN", "EXP", "CUDA_EXP", "YARDSTICK_FACTOR", "ELEMENT_ULPS", "FLOOR_ULPS")
    return {name: getattr(bounds, name) for name in names}


# --- digests and the file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _sign(content: dict[str, Any]) -> str | None:
    key = os.environ.get(KEY)
    return hmac.digest(key.encode(), _canonical(content), "sha256").hex() if key else None


def _write(certificate: Certificate, path: Path) -> None:
    values = {"content": certificate.content, "digest": certificate.digest, "signature": certificate.signature}
    complete(path, lambda file: file.write_text(json.dumps(values, indent=1), encoding="utf-8"))
