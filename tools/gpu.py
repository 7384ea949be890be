"""Everything that only a GPU can show, on a machine with a GPU and little else, in at most eight minutes.

First the tests marked `cuda`, then how fast each kernel moves its bytes beside a copy on the device of as many: the
largest share of a copy's speed that a pooling, which must read its inputs and write its output once, could have is 1.
Each time is that of the device's own clock around a captured graph of many launches; reported is the median. The first
planes of each timed output are compared with the formula in float64.

    tools/gpu                      on that machine; writes build/gpu.json
    tools/gpu pack build/parts     before, on a machine with a package index: the wheels that the tests need but for
                                   PyTorch, in parts of at most 40 MiB; `tools/gpu --parts build/parts` installs them

Needs the project's folder, with the built libraries in `onnxpool/lib`, and NumPy. The tests need more, and are left
out, with the reason, where that is missing. Exit status: 0 all is right; 1 a test failed, or an output was wrong;
2 usage error; 3 there is no GPU, driver or library, and nothing was run.
"""

import argparse
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RIGHT, WRONG, NOTHING_RUN = 0, 1, 3
LIMIT_S, TABLE_S = 480, 120
PART_BYTES = 40 * 2**20  # so that one travels with the project's folder in 64 MiB
TEST_MODULES = ("pytest", "numpy", "ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "torch")
WHEELS = ("pytest", "numpy", "ml_dtypes", "onnx", "onnx-ir", "onnxruntime")
LIBRARY_TESTS = ("tests/test_cuda.py", "tests/test_cuda_torch.py")
Json = dict[str, object]


def run_tests(limit_s: float) -> Json:
    """Run the tests marked `cuda`; counts, and what failed."""
    if missing := [name for name in TEST_MODULES if importlib.util.find_spec(name) is None]:
        return {"left_out": f"this Python has no {', '.join(missing)}"}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        options = [
            "-q",
            "-m",
            "cuda",
            "-p",
            "no:cacheprovider",
            "-o",
            "filterwarnings=default",
            f"--junitxml={results}",
        ]
        command = [sys.executable, "-m", "pytest", *LIBRARY_TESTS, *options]
        try:
            done = subprocess.run(command, cwd=ROOT, env=_environment(), timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": ["all"], "reason": f"not done after {limit_s:.0f} s"}
        if not results.is_file():
            return {"failed": ["all"], "reason": f"pytest ended with status {done.returncode}"}
        cases = list(ElementTree.parse(results).iter("testcase"))
    faults = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(faults) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}::{case.get('name')}" for case in faults],
    }


def _environment() -> dict[str, str]:
    """What this process imports from, for another one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def pack(folder: Path, python: str) -> int:
    """Write the wheels for ``python``, such as 3.12, into a folder, in parts of at most :data:`PART_BYTES`."""
    platforms = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", wheels]
        for platform in platforms:
            command += ["--platform", platform]
        subprocess.run([*command, "--python-version", python, *WHEELS], check=True)
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for wheel in sorted(Path(wheels).iterdir()):
                archive.add(wheel, wheel.name)
    folder.mkdir(parents=True, exist_ok=True)
    whole = packed.getvalue()
    for number, at in enumerate(range(0, len(whole), PART_BYTES)):
        part = folder / f"part-{number:03}"
        part.write_bytes(whole[at : at + PART_BYTES])
        print(f"{part}: {part.stat().st_size} bytes")
    return RIGHT


def unpack(folder: Path) -> None:
    """Install what ``pack`` wrote into a folder of its own, and use that."""
    parts = sorted(folder.glob("part-*"))
    place = Path(tempfile.mkdtemp(prefix="onnxpool-gpu-"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extractall(place / "wheels", filter="data")
    wheels = map(str, sorted((place / "wheels").iterdir()))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", place / "site"]
    subprocess.run([*command, *wheels], check=True)
    sys.path.insert(1, str(place / "site"))


def main() -> int:
    """Run everything; the exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu.json", help="where the results go, as JSON")
    parser.add_argument("--parts", type=Path, help="a folder that `tools/gpu pack` wrote")
    packing = parser.add_subparsers(dest="task").add_parser("pack", help="write the wheels that the tests need")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--python", default="3.12", help="the version of Python there")
    given = parser.parse_args()
    if given.task == "pack":
        return pack(given.folder, given.python)

    from onnxpool.run.native_library import cuda_kernels, cuda_library

    begin, kernels = time.monotonic(), cuda_kernels()
    if kernels.missing is not None or kernels.library is None:
        print(kernels.missing, file=sys.stderr)
        return NOTHING_RUN
    if given.parts:
        if not list(given.parts.glob("part-*")):
            parser.error(f"--parts {given.parts} holds no parts: make them with tools/gpu pack")
        unpack(given.parts)
    if importlib.util.find_spec("numpy") is None:
        print("this Python has no NumPy: install it, or bring it along with tools/gpu pack", file=sys.stderr)
        return NOTHING_RUN
    import gpu_driver
    import gpu_table

    driver = gpu_driver.Driver()
    facts: Json = {"device": driver.facts(), "architectures": kernels.architectures}
    print(facts["device"])
    tests = run_tests(LIMIT_S - TABLE_S - (time.monotonic() - begin))
    print("tests:", tests)
    rows = gpu_table.measure(driver, cuda_library(kernels.library), begin + LIMIT_S)
    facts |= {"tests": tests, "bandwidth": rows, "seconds": round(time.monotonic() - begin, 1)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{given.out}: {facts['seconds']} s")
    wrong = [row for row in rows if not row.get("right", True)]
    return WRONG if tests.get("failed") or wrong else RIGHT


if __name__ == "__main__":
    sys.exit(main())
