"""Certificates: what a validation found, bound to the very files that it ran, so that it can be checked offline.

>>> certificate = issue_certificate(onnxpool.validate("network.onnx"), "network.onnx")  # doctest: +SKIP
>>> check_certificate("network.onnx").passed  # doctest: +SKIP
True

``network.certificate.json`` beside ``network.onnx`` holds ``content`` (the SHA-256 of every file that the validation
ran, see :mod:`onnxpool.validation.evidence`; who judged; the tolerances; the range of a bounded standard form; the
whole report with its versions; the date), the SHA-256 of that content in canonical JSON (keys sorted, no spaces,
ASCII), and its signatures (:mod:`onnxpool.validation.signatures`).

The digests were taken before the first run, and are compared with the files when the certificate is issued. None is
issued for a model that was judged by itself, or on one case alone.

What this proves: the digest shows damage and careless edits; anybody can make another. A signature shows that
somebody who has the key issued the certificate. Neither proves that the validation was asked the right questions:
``content`` says which were asked, and who answered.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from onnxpool._files import complete
from onnxpool.errors import CertificateError
from onnxpool.golden import bounds
from onnxpool.golden import file as golden_file
from onnxpool.graph.forms import range_of
from onnxpool.run.native_library import CUDA_FILE_NAME, why_missing
from onnxpool.validation import evidence, signatures
from onnxpool.validation.evidence import Evidence
from onnxpool.validation.report import Report, failed
from onnxpool.validation.signatures import KEY, KeyFile

VERSION = 2
"""Version of the file format; files of other versions are refused."""

__all__ = [
    "KEY",
    "VERSION",
    "Certificate",
    "Verification",
    "check_certificate",
    "issue_certificate",
    "load_certificate",
    "path_for",
    "verify_certificate",
]


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. ``content`` is what was digested, and signed: ``signatures`` are by scheme."""

    content: dict[str, Any]
    digest: str
    signatures: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether the validation passed."""
        return bool(self.content["report"]["passed"])

    @property
    def judge(self) -> str:
        """Who gave the answers that the model was judged by."""
        return str(self.content["judge"])

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
        """Whether it holds, what the validation found, who judged and when, and how it is signed."""
        content = self.certificate.content
        verdict = "DOES NOT HOLD" if self.faults else "HOLDS"
        signed = " and ".join(sorted(self.certificate.signatures))
        return (
            f"{verdict}: {content['report']['summary']}, judged by {content['judge']}, {content['date']}, "
            f"{f'signed ({signed})' if signed else 'not signed'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"holds": not self.faults, "faults": [*self.faults], "notes": [*self.notes], **self.certificate.content}


def path_for(model: str | os.PathLike[str]) -> Path:
    """Where the certificate of a model file is: ``network.onnx`` has ``network.certificate.json``."""
    return Path(model).with_suffix(".certificate.json")


def issue_certificate(
    report: Report, model: str | os.PathLike[str], *, private_key: KeyFile | None = None
) -> Certificate:
    """Write the certificate of ``report``, which came of validating the file ``model``, beside that file.

    ``private_key`` is a PEM file of an Ed25519 key, which signs; so does ``ONNXPOOL_SIGNING_KEY`` where it is set.
    A failed validation gets a certificate too; it says so, and :func:`check_certificate` refuses it.

    Raises :class:`CertificateError` where the files are not those that were validated, where the model was judged by
    itself or on one case alone, and for a key that cannot be used.
    """
    path = Path(model)
    found = _issuable(report.evidence, path)
    content: dict[str, Any] = {
        "version": VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(found.digests),
        "judge": found.judge,
        "form": found.form,
        "tolerances": _tolerances(),
        "range": range_of(path),
        "report": report.to_json(),
    }
    text = _canonical(content)
    certificate = Certificate(content, _digest(content), signatures.sign(text, private_key))
    _write(certificate, path_for(model))
    return certificate


def check_certificate(
    model: str | os.PathLike[str],
    *,
    public_key: KeyFile | None = None,
    libraries: Sequence[str | os.PathLike[str]] = (),
    serving: bool = False,
) -> Certificate:
    """The certificate of the file ``model``, if there is one, it is of a passed validation, and it still holds.

    It holds while the model and its external weights are what they were, golden file, native libraries and other
    ``libraries`` are what they were or are not here, and the signatures are those of ``public_key`` (a PEM file) and of
    ``ONNXPOOL_SIGNING_KEY``, whichever is given. ``serving`` asks for more: the golden file must be here, every library
    be named, and the form that the file is in have run in ONNX Runtime.

    Runs no model; needs neither PyTorch nor ONNX Runtime. Raises :class:`CertificateError` otherwise, with every
    reason.
    """
    verification = verify_certificate(model, public_key=public_key, libraries=libraries)
    faults = [*verification.faults]
    if serving:
        faults += _unserved(verification.certificate.content, Path(model), [Path(one).name for one in libraries])
    if faults:
        raise CertificateError(f"the certificate of {model} does not hold: {'; '.join(faults)}")
    return verification.certificate


def verify_certificate(
    model: str | os.PathLike[str],
    *,
    public_key: KeyFile | None = None,
    libraries: Sequence[str | os.PathLike[str]] = (),
) -> Verification:
    """What has changed since the certificate of the file ``model`` was issued; see :func:`check_certificate`.

    Raises :class:`CertificateError` where the certificate is missing or cannot be read, and for a key that cannot be
    used.
    """
    certificate = load_certificate(path_for(model))
    faults = [] if certificate.passed else [f"its validation failed ({certificate.report['summary']})"]
    if certificate.digest != _digest(certificate.content):
        faults.append("its content was edited: the digest does not match")
    faults += signatures.faults(_canonical(certificate.content), certificate.signatures, public_key)
    notes = [str(note) for note in certificate.report["notes"] if str(note).startswith("left out as asked")]
    notes += signatures.unchecked(certificate.signatures, public_key)
    for change, broken in _changes(certificate.content, Path(model), [Path(library) for library in libraries]):
        (faults if broken else notes).append(change)
    return Verification(certificate, tuple(faults), (*notes, *_version_notes(certificate.report["environment"])))


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate; :class:`CertificateError` where it is missing, damaged, or of another version."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        version = values["content"]["version"]
        if version == VERSION:
            return _read(values)
    except FileNotFoundError as error:
        raise CertificateError(f"there is no certificate {path}: onnxpool validate --certificate writes one") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CertificateError(f"{path} is damaged or no certificate ({error!r:.200})") from error
    raise CertificateError(f"{path} has version {version!r:.20}, this onnxpool reads {VERSION}: validate again")


# --- what must hold when it is issued


def _issuable(found: Evidence | None, path: Path) -> Evidence:
    if found is None:
        raise CertificateError(
            "the report does not tell which files it came of; give the one that onnxpool.validate returned for the "
            "path of a model"
        )
    if found.touched:
        raise CertificateError(f"{', '.join(found.touched)} changed while the model was validated: validate it again")
    if found.itself:
        raise CertificateError(
            f"the model was judged by itself ({found.judge}), which says nothing about whether it is the right one: "
            "name a reference"
        )
    if found.case is not None:
        raise CertificateError(f"only case {found.case!r} was run, and a certificate is for all: validate all of them")
    now = asdict(evidence.digests_of(path, [Path(library) for library in found.libraries]))
    then = asdict(found.digests)
    if different := [name.replace("_", " ") for name in then if then[name] != now[name]]:
        raise CertificateError(f"{path} is not what was validated, by its {', '.join(different)}: validate it again")
    return found


# --- what is compared


def _changes(content: dict[str, Any], model: Path, libraries: Sequence[Path]) -> Iterator[tuple[str, bool]]:
    """What is not as it was, and whether the certificate is void by it."""
    answers = golden_file.path_for(model)
    for path, digest in (
        (model, content["model"]),
        *((model.parent / name, digest) for name, digest in content["weights"].items()),
        *((path, content["libraries"].get(path.name)) for path in libraries),
    ):
        if not path.is_file():
            yield f"{path.name} is missing", True
        elif digest is None:
            yield f"{path.name} was not there when the model was validated", True
        elif evidence.sha256(path) != digest:
            yield f"{path.name} has changed", True
    if unnamed := sorted(set(content["libraries"]) - {path.name for path in libraries}):
        yield f"not checked, since not named: {', '.join(unnamed)}", False
    if content["golden"] and not answers.is_file():
        yield f"{answers.name} is not here: the model cannot be validated again", False
    elif content["golden"] and evidence.sha256(answers) != content["golden"]:
        yield f"{answers.name} has changed", True
    yield from _native(content)
    if content["tolerances"] != _tolerances():
        yield "this onnxpool judges by other tolerances", False


def _native(content: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    if content["library"] and why_missing():
        yield f"function bodies will run here: {why_missing()}", False
        return
    if content["library"] != evidence.library_digest():
        yield "the native library here is not the one that was validated", True
    cuda = evidence.cuda_library_digest()
    if content["cuda_library"] and not cuda:
        yield f"{CUDA_FILE_NAME} is not here: function bodies will run on CUDA", False
    elif content["cuda_library"] != cuda:
        yield f"{CUDA_FILE_NAME} here is not the one that was validated", True


def _unserved(content: dict[str, Any], model: Path, libraries: Sequence[str]) -> Iterator[str]:
    """What a server needs beyond that."""
    answers = golden_file.path_for(model)
    if content["golden"] and not answers.is_file():
        yield f"{answers.name} is missing, so that nothing shows that its answers come out here"
    if unnamed := sorted(set(content["libraries"]) - set(libraries)):
        yield f"it was validated with {', '.join(unnamed)}"
    ran = [
        run
        for run in content["report"]["runs"]
        if run["runtime"].split()[0] == "onnxruntime" and "invariant" not in run["options"]
    ]
    right = {run["form"] for run in ran if run["verdict"] != "skipped" and not failed(run["verdict"])}
    if content["form"] not in right:
        yield f"the form that the model is in, {content['form']}, was not run in ONNX Runtime"


def _version_notes(then: dict[str, str]) -> list[str]:
    notes: list[str] = []
    for package in set(then) & {"onnxpool", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy"}:
        with suppress(metadata.PackageNotFoundError):
            if (now := metadata.version(package)) != then[package]:
                notes.append(f"{package} was {then[package]}, is {now}")
    return sorted(notes)


def _tolerances() -> dict[str, float]:
    names = ("NATIVE_EXP", "NATIVE_RUN", "EXP", "CUDA_EXP", "YARDSTICK_FACTOR", "ELEMENT_ULPS", "FLOOR_ULPS")
    return {name: getattr(bounds, name) for name in names}


# --- digests and the file

_OPTIONAL = (str, type(None))

_CONTENT: dict[str, type | tuple[type, ...]] = {
    "date": str,
    "model": str,
    "weights": dict,
    "golden": _OPTIONAL,
    "library": _OPTIONAL,
    "cuda_library": _OPTIONAL,
    "libraries": dict,
    "judge": str,
    "form": str,
    "tolerances": dict,
    "report": dict,
}
"""The fields that are read here, and their types."""

_REPORT = {"passed": bool, "summary": str, "environment": dict, "runs": list, "notes": list}
_RUN = {"runtime": str, "form": str, "verdict": str, "options": dict}


def _read(values: dict[str, Any]) -> Certificate:
    """Raises ValueError, KeyError or TypeError for anything that a certificate does not hold."""
    certificate = Certificate(values["content"], values["digest"], values["signatures"])
    content = certificate.content
    _typed({"digest": certificate.digest, "signatures": certificate.signatures}, {"digest": str, "signatures": dict})
    _typed(content, _CONTENT)
    _typed(content["report"], _REPORT)
    for run in content["report"]["runs"]:
        _typed(run, _RUN)
    for names in (certificate.signatures, content["weights"], content["libraries"], content["report"]["environment"]):
        _typed(names, dict.fromkeys(names, str))
    _canonical(content)
    return certificate


def _typed(values: dict[str, Any], types: "dict[str, Any]") -> None:
    for name, expected in types.items():
        if not isinstance(values[name], expected):
            raise TypeError(f"{name} is a {type(values[name]).__name__}")


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _write(certificate: Certificate, path: Path) -> None:
    complete(path, lambda file: file.write_text(json.dumps(asdict(certificate), indent=1), encoding="utf-8"))
