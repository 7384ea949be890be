"""The code blocks of README and docs/, and the programs of examples/ that are made of them.

    python tools/docs_blocks.py    writes examples/how-to/ and examples/notebooks/ again

A comment above a block says what becomes of it in tests/test_docs.py: ``<!-- not run: why -->`` is only parsed,
``<!-- server -->`` runs beside the rest of its page, ``<!-- needs: openssl cryptography -->`` runs where these are.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOW_TO, EXAMPLES = ROOT / "docs" / "how-to", ROOT / "examples" / "how-to"
FENCE = re.compile(r"^```(\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, its text, the line that it begins on, and the comment above it."""

    language: str
    text: str
    line: int
    mark: str

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return not self.mark.startswith("not run")


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Its fenced blocks, in order."""
    found: list[Block] = []
    language, start, inside, mark = "", 0, list[str](), ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if start and line == "```":
            found.append(Block(language, "\n".join(inside) + "\n", start, mark))
            start, mark = 0, ""
        elif start:
            inside.append(line)
        elif fence:
            language, start, inside = fence[1], number + 1, []
        elif line.startswith("<!-- "):
            mark = line.removeprefix("<!-- ").removesuffix(" -->")
        elif line:
            mark = ""
    return found


def title(page: Path) -> str:
    """Its first heading."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def programs() -> dict[Path, str]:
    """The program of each how-to page: its Python, or else its commands."""
    made = {}
    for page in sorted(HOW_TO.glob("*.md")):
        running = [block for block in blocks(page) if block.runs and block.mark != "server"]
        python = [block.text for block in running if block.language == "python"]
        shell = [block.text for block in running if block.language == "sh"]
        about = f"{title(page)}: the program of docs/how-to/{page.name}, to be run in a copy of examples/files."
        if python:
            made[EXAMPLES / f"{page.stem}.py"] = f'"""{about}"""\n\n' + "\n".join(python)
        elif shell and "curl" not in shell[0]:
            made[EXAMPLES / f"{page.stem}.sh"] = f"# {about}\nset -e\n" + "\n".join(shell)
    return made


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    lines = text.strip("\n").splitlines(keepends=True)
    extra: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines, **extra}


def notebook(page: Path) -> str:
    """A page as a notebook: Python in cells that run, all else as text."""
    cells: list[tuple[str, str]] = [("markdown", "")]
    inside, language = False, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line == "```python" and not inside:
            cells.append(("code", ""))
            inside, language = True, "python"
        elif line == "```" and language == "python":
            cells.append(("markdown", ""))
            inside, language = False, ""
        else:
            kind, text = cells[-1]
            text_line = re.sub(r"\]\(\.\./", "](../../docs/", line) if kind == "markdown" else line
            cells[-1] = (kind, f"{text}{text_line}\n")
    content = {
        "cells": [_cell(kind, text, i) for i, (kind, text) in enumerate(cells) if text.strip()],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def made() -> dict[Path, str]:
    """Every file that is made of the pages, with its text."""
    found = programs()
    found[ROOT / "examples/notebooks/train.ipynb"] = notebook(ROOT / "docs/tutorials/train.md")
    found[ROOT / "examples/notebooks/onnx-file.ipynb"] = notebook(ROOT / "docs/tutorials/onnx-file.md")
    return found


if __name__ == "__main__":
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
