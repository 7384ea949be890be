"""The native kernels in OpenVINO: an extension library, for models in function and custom form as they are.

    core = openvino.Core()
    core.add_extension(onnxpool.openvino.extension_path())
    core.compile_model("network.onnx", "CPU")

OpenVINO promises nothing about its C++ interface from one release to the next, so that an extension is compiled for one
release: ``onnxpool build openvino``, or :func:`build_extension`, does it in seconds, against the headers in OpenVINO's
own wheel, where there is a C++ compiler. It is kept in the user's cache, one for each release of OpenVINO and build of
onnxpool. A wheel of onnxpool may bring one along. The library loads ``libonnxpool.so`` from its own folder.

Types, sizes and threads: ``custom_ops/openvino/extension.cc``. OpenVINO itself computes float64 in float32.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxpool._library import FILE_NAME, folders, library_path
from onnxpool.errors import KernelError

__all__ = ["Built", "build_extension", "extension_path"]

EXTENSION = "libonnxpool_openvino.so"
SOURCES = ("openvino/extension.cc", "kernels/geometry.h", "kernels/kernel.h", "ort.h", "ort_abi.h")
"""What is compiled, in ``custom_ops``; the build of onnxpool installs these beside its libraries, in ``sources``."""

_COMMAND = "onnxpool build openvino"
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,--no-undefined")
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Built:
    """The extension's file, the release of OpenVINO that it is for, and whether it was there already."""

    path: str
    release: str
    cached: bool
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def extension_path() -> Path:
    """The extension library for the OpenVINO that is installed, to be given to ``Core.add_extension``.

    Raises :class:`onnxpool.errors.KernelError` where there is none, with the reason and the remedy.
    """
    release = _Release.installed()
    for place in (release.cached(), release.brought_along()):
        if place.is_file():
            return place
    raise KernelError(f"there is no extension for OpenVINO {release.version} yet: {_COMMAND} compiles it")


def why_missing() -> str | None:
    """Why there is no extension, or None where there is one."""
    try:
        extension_path()
    except KernelError as error:
        return str(error)
    return None


def build_extension(*, anew: bool = False) -> Built:
    """Compile the extension for the OpenVINO that is installed; nothing is to do where there is one, unless ``anew``.

    Takes the compiler that the environment variable ``CXX`` names, or ``c++``, ``g++`` or ``clang++``, and about ten
    seconds. The result is tried in a process of its own before it is kept.

    Raises :class:`onnxpool.errors.KernelError` without OpenVINO, its headers, a compiler or our native library, and
    where the compiler fails or OpenVINO refuses the result.
    """
    start = time.monotonic()
    if not anew and why_missing() is None:
        return Built(str(extension_path()), _Release.installed().version, cached=True, time_s=0.0)
    release = _Release.installed()
    target = release.cached()
    folder = target.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        shutil.copyfile(library_path(), made / FILE_NAME)
        _compile(release, made / target.name)
        _try(made / target.name)
        if anew and folder.exists():
            folder.rename(Path(temporary, "replaced"))
        with suppress(OSError):  # another process was faster: what it made is the same
            made.rename(folder)
    return Built(str(extension_path()), release.version, cached=False, time_s=time.monotonic() - start)


@dataclass(frozen=True)
class _Release:
    """OpenVINO as it is installed: ``folder`` is its package, ``library`` its ``libopenvino.so``."""

    version: str
    folder: Path
    library: Path

    @classmethod
    def installed(cls) -> "_Release":
        """Raises :class:`KernelError` where there is none that an extension can be made for."""
        if not sys.platform.startswith("linux"):
            raise KernelError("onnxpool's extension for OpenVINO is for Linux; elsewhere take the standard form")
        spec = find_spec("openvino")
        places = [] if spec is None else [*(spec.submodule_search_locations or ())]
        if not places:
            raise KernelError("openvino is not installed: pip install 'onnxpool[openvino]'")
        folder = Path(places[0])
        libraries = sorted(folder.glob("libs/libopenvino.so.*"))
        if not libraries:
            raise KernelError(f"the openvino in {folder} is not that of its Python wheel: pip install openvino")
        return cls(metadata.version("openvino"), folder, libraries[0])

    def brought_along(self) -> Path:
        """Where a wheel of onnxpool has the extension for this release, if it has."""
        return library_path().with_name(f"{EXTENSION}{self.library.suffix}")

    def cached(self) -> Path:
        """Where the extension for this release and our build is, or will be."""
        content = hashlib.sha256(f"{self.version} {self.library.name} {_FLAGS}".encode())
        for file in (library_path(), *map(sources().joinpath, SOURCES)):
            content.update(file.read_bytes())
        return _cache() / "openvino" / f"{self.version}-{content.hexdigest()[:16]}" / EXTENSION


def sources() -> Path:
    """The folder of :data:`SOURCES`: beside the native library, or in the source tree."""
    places = [_TREE, *(Path(folder, "lib", "sources") for folder in folders())]
    for place in places:
        if all(place.joinpath(name).is_file() for name in SOURCES):
            return place
    raise KernelError("onnxpool was installed without the sources of its extension for OpenVINO; install it again")


_TREE = Path(__file__).resolve().parents[1] / "custom_ops"


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given if Path(given).is_absolute() else Path.home() / ".cache", "onnxpool")


def _compile(release: _Release, target: Path) -> None:
    headers = release.folder / "include"
    if not (headers / "openvino").is_dir():
        raise KernelError(f"OpenVINO {release.version} is installed without its headers: {headers} is missing")
    compiler = _compiler()
    libraries = [release.library, *sorted(release.folder.glob("libs/libtbb.so.*"))]
    files = ["-isystem", headers, sources() / SOURCES[0], "-o", target, *libraries, "-ldl"]
    done = subprocess.run([*compiler, *_FLAGS, *map(str, files)], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise KernelError(f"{compiler[0]} could not compile the extension: {' '.join(errors[:1])}")


def _compiler() -> list[str]:
    """The program, and what ``CXX`` has behind it."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    asked = f"the environment variable CXX names {named[0]!r}, which is not there" if named else "there is none"
    raise KernelError(f"the extension for OpenVINO needs a C++ compiler, and {asked}: install g++ or clang++")


def _try(library: Path) -> None:
    """In a process of its own, which may die."""
    program = "import sys, openvino; openvino.Core().add_extension(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"OpenVINO refuses the extension: {(done.stderr.strip().splitlines() or ['it died'])[-1]}")
