"""Looks at this machine: versions, ONNX Runtime's providers, the native library, and what stands in the way.

>>> diagnose().healthy  # doctest: +SKIP
True

A problem is something that is installed and does not work; each comes with its remedy. Optional packages that are not
there are no problem.
"""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from onnxpool import openvino
from onnxpool.run.native_library import CPU, CUDA, OVERRIDE, CudaKernels, cuda_kernels, library_path, why_missing
from onnxpool.runtimes._devices import TENSORRT, why_no_device

PACKAGES = (
    "onnxpool",
    "numpy",
    "onnx",
    "onnx-ir",
    "ml-dtypes",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "onnxscript",
    "openvino",
)
"""What this looks for; their allowed versions are those in onnxpool's own metadata."""


@dataclass(frozen=True)
class Problem:
    """What does not work, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of this machine. ``versions`` has None for what is not installed; ``library`` and ``openvino`` are
    the files of the native library and of its extension for OpenVINO, None where there is none. ``pytorch`` says why
    PyTorch's tensors are not pooled natively, None where they are.
    """

    python: str
    platform: str
    versions: dict[str, str | None]
    providers: tuple[str, ...]
    library: str | None
    cuda: CudaKernels
    openvino: str | None
    pytorch: str | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether all that is installed works."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {"healthy": self.healthy, **asdict(self)}


def diagnose() -> Diagnosis:
    """Look at everything; run a SoftPool through the native library where there is one."""
    versions = {package: _version(package) for package in PACKAGES} | _other_runtimes()
    providers, failure = _providers(versions)
    missing, cuda = why_missing(), cuda_kernels()
    problems = [*_clashes(versions), *_outdated(versions), *failure]
    if missing and OVERRIDE in os.environ:
        problems.append(Problem(f"{OVERRIDE} names no file", missing))
    if missing is None and providers and not problems:  # else what stands above is what the trial would fail on
        problems += _trial(CPU)
        if CUDA in providers and cuda.missing is None and not why_no_device(CUDA):
            problems += _trial(CUDA)
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        versions=versions,
        providers=providers,
        library=None if missing else str(library_path()),
        cuda=cuda,
        openvino=None if openvino.why_missing() else str(openvino.extension_path()),
        pytorch=_why_not_in_pytorch(versions),
        problems=tuple(problems),
        notes=(*_notes(versions, missing, cuda if CUDA in providers else None), *_on_providers(providers, versions)),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _providers(versions: dict[str, str | None]) -> tuple[tuple[str, ...], list[Problem]]:
    try:
        import onnxruntime

        return tuple(onnxruntime.get_available_providers()), []
    except Exception as error:  # a damaged installation fails in many ways
        if not _runtimes(versions):
            return (), []
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'onnxpool[cpu]' or 'onnxpool[gpu]'"
        return (), [Problem(f"onnxruntime is installed but cannot be used: {error}", remedy)]


def _other_runtimes() -> dict[str, str | None]:
    """Other packages that hold ONNX Runtime itself, such as onnxruntime-openvino, and plug-in providers for it."""
    found: dict[str, str | None] = {}
    for package in metadata.distributions():
        name = str(package.metadata["Name"]).lower().replace("_", "-")
        holds = "onnxruntime" in (package.read_text("top_level.txt") or "").split()
        if name not in PACKAGES and name.startswith("onnxruntime-") and (holds or name.startswith(_PLUG_IN)):
            found[name] = package.version
    return dict(sorted(found.items()))


_PLUG_IN = "onnxruntime-ep-"
"""What the names of packages begin with that hold one provider, which a program registers with ONNX Runtime."""


def _runtimes(versions: Mapping[str, str | None]) -> list[str]:
    """The packages that hold ONNX Runtime itself."""
    return [
        name
        for name, version in versions.items()
        if version and name.startswith("onnxruntime") and _PLUG_IN not in name
    ]


def _clashes(versions: dict[str, str | None]) -> Iterator[Problem]:
    found = _runtimes(versions)
    if len(found) > 1:
        yield Problem(
            f"{' and '.join(found)} are {'both' if len(found) == 2 else 'all'} installed and overwrite each other's "
            "files",
            f"pip uninstall {' '.join(found)}, then pip install 'onnxpool[cpu]' or 'onnxpool[gpu]'",
        )


def _why_not_in_pytorch(versions: Mapping[str, str | None]) -> str | None:
    if not versions["torch"]:
        return "PyTorch is not installed"
    from onnxpool.pools import _native

    return _native.why_not()


def _outdated(versions: dict[str, str | None]) -> Iterator[Problem]:
    for package, (least, below) in _allowed().items():
        version = versions.get(package)
        if version and not _numbers(least) <= _numbers(version) < _numbers(below):
            yield Problem(
                f"{package} {version} is not among the versions that onnxpool works with, {least} to below {below}",
                f"pip install '{package}>={least},<{below}'",
            )


def _allowed() -> dict[str, tuple[str, str]]:
    """First allowed and first refused version of each package, as pyproject.toml has them."""
    try:
        requirements = metadata.requires("onnxpool") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in requirements:  # such as: onnxruntime<2,>=1.24; extra == "cpu"
        name, least, below = (re.search(pattern, line) for pattern in (r"^[\w.-]+", r">=([\d.]+)", r"<([\d.]+)"))
        if name and least and below:
            found[name[0]] = (least[1], below[1])
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def _trial(provider: str) -> Iterator[Problem]:
    from onnxpool.about.methods import why_not_native
    from onnxpool.pools import OPERATORS

    for operator in OPERATORS.values():
        if reason := why_not_native(operator, provider=provider):
            yield Problem(
                f"the native kernel of {operator.op_type} does not work on {provider}: {reason}",
                "install onnxpool again (pip install --force-reinstall --no-deps), or load models with kernels='off'",
            )


def _notes(versions: dict[str, str | None], missing: str | None, cuda: CudaKernels | None) -> Iterator[str]:
    if versions["onnxpool"] is None:
        yield "onnxpool runs from its source tree and is not installed, so that versions are not checked"
    if not _runtimes(versions):
        yield "nothing can be run or validated without ONNX Runtime: pip install 'onnxpool[cpu]' or 'onnxpool[gpu]'"
    if not (versions["torch"] and versions["onnxscript"]):
        yield "nothing can be exported without PyTorch and onnxscript: pip install 'onnxpool[export]'"
    if missing:
        yield f"{missing}; until then pooling runs as standard operators"
    elif cuda and cuda.missing and not why_no_device(CUDA):
        yield f"{cuda.missing}; until then pooling runs as standard operators on CUDA"
    if versions["openvino"] and not missing and (reason := openvino.why_missing()):
        yield f"{reason}; until then OpenVINO takes the standard form alone"


def _on_providers(providers: Sequence[str], versions: Mapping[str, str | None]) -> Iterator[str]:
    """Which of ONNX Runtime's providers are not used here, or not by themselves."""
    for provider in providers:
        if reason := why_no_device(provider):
            yield f"{provider} is not used: {reason}"
        elif provider not in (CPU, CUDA, TENSORRT, *_NEVER):
            yield f"{provider} has no native kernels, and is used only where providers={[provider]!r} asks for it"
    for package in versions:
        if package.startswith(_PLUG_IN):
            yield f"{package} is a plug-in without native kernels: a program registers it with onnxruntime to use it"


_NEVER = ("AzureExecutionProvider",)
"""In every build of ONNX Runtime, and runs no model by itself."""
