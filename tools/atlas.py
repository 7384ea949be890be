"""The pooling atlas: what current runtimes get wrong in plain pooling operators of ONNX, and how to see it.

    tools/atlas                                           runs every script of examples/atlas whose runtime is here
    tools/atlas --python ENVIRONMENT/bin/python --docs    in this environment too; writes docs/atlas.md

Each script is one defect: a model of one operator, and no line of onnxpool. It prints the runtime's release, the right
answer and the runtime's own. Exit status 1 where one is mended: then it can go.
"""

import argparse
import ast
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "examples" / "atlas"
PAGE = ROOT / "docs" / "atlas.md"

INSTALL = {
    "onnxruntime": "onnxruntime onnx",
    "openvino": "openvino onnx",
    "onnx": "onnx",
    "tract": "tract onnx numpy",
    "opencv": "opencv-python-headless onnx",
    "ncnn": "ncnn pnnx onnx",
    "tvm": "apache-tvm onnx",
    "iree": "iree-base-compiler[onnx] iree-base-runtime",
}
"""What to install into an environment for the scripts whose names begin like this."""


@dataclass(frozen=True)
class Defect:
    """What a script has shown: ``got`` is an answer, an error or a crash."""

    script: Path
    release: str
    expected: str
    got: str

    @property
    def title(self) -> str:
        """What is wrong, in words."""
        return title(self.script)

    @property
    def mended(self) -> bool:
        """Whether this release is right."""
        return self.got == self.expected


def scripts() -> list[Path]:
    """All of them."""
    return sorted(SCRIPTS.glob("*.py"))


def title(script: Path) -> str:
    """The first line of the script."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""


def run(script: Path, pythons: Sequence[str]) -> Defect | None:
    """Run it in the first of these environments that has its runtime; None where none has."""
    for python in pythons:
        with tempfile.TemporaryDirectory(prefix="onnxpool-") as folder:
            done = subprocess.run(
                [python, script], cwd=folder, capture_output=True, text=True, check=False, timeout=300
            )
        if "ModuleNotFoundError" in done.stderr:
            continue
        release, expected, *rest = done.stdout.splitlines()
        if done.returncode == 0 and rest:
            return Defect(script, release, expected, rest[-1])
        if done.returncode < 0:
            return Defect(script, release, expected, f"a crash, {signal.Signals(-done.returncode).name}")
        lines = [line for line in done.stderr.splitlines() if "Error" in line or "error" in line]
        return Defect(script, release, expected, lines[-1].strip()[:200] if lines else "an error")
    return None


def page(defects: Sequence[Defect]) -> str:
    """docs/atlas.md."""
    releases = sorted({defect.release for defect in defects})
    lines = [
        "# The pooling atlas",
        "",
        f"{len(defects)} defects of {len(releases)} current runtimes in plain pooling operators of ONNX, each as the "
        "smallest model that shows it. `tools/atlas --docs`",
        "writes this page from the scripts in `examples/atlas`, which import nothing of onnxpool and run on their own.",
        "What onnxpool exports is spelled so that ONNX Runtime, OpenVINO and the ReferenceEvaluator are right in all "
        "that",
        "`tools/fuzz_runtimes` draws, but for NaN, which they may drop, and -infinity in a maximum.",
        "",
        f"Seen in {'; '.join(releases)}.",
        "",
        "| runtime | what is wrong | script |",
        "|---|---|---|",
        *(f"| {d.release} | {d.title} | [{d.script.name}](#{d.script.stem}) |" for d in defects),
    ]
    for defect in defects:
        text = defect.script.read_text(encoding="utf-8").strip()
        lines += ["", f"## {defect.script.stem}", "", defect.title, "", "```python", text, "```", ""]
        lines += ["| | |", "|---|---|", f"| runtime | {defect.release} |", f"| right | `{defect.expected}` |"]
        lines += [f"| got | `{defect.got}` |"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit status 1 if a defect is mended, 2 if the page cannot be written since a runtime is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", action="append", default=[], help="of another environment; may be repeated")
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    defects, missing = [], set()
    for script in scripts():
        if found := run(script, [sys.executable, *given.python]):
            defects.append(found)
            print(f"{found.release}: {found.title} {found.expected} is right, {found.got} came", flush=True)
        else:
            missing.add(script.stem.split("_")[0])
    for runtime in sorted(missing):
        print(f"{runtime} is not here: pip install {INSTALL[runtime]}")
    mended = [defect for defect in defects if defect.mended]
    for defect in mended:
        print(f"MENDED in {defect.release}: {defect.title} ({defect.script.name})")
    if given.docs:
        if missing:
            print("the page is left as it is: it needs every runtime")
            return 2
        PAGE.write_text(page([defect for defect in defects if not defect.mended]), encoding="utf-8")
    return int(bool(mended))


if __name__ == "__main__":
    sys.exit(main())
