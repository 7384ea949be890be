"""Files that get their names only when they are complete, so that nobody ever reads half of one.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     complete(Path(folder, "note.txt"), lambda file: file.write_text("done"))
...     Path(folder, "note.txt").read_text()
'done'
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def complete(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make the file under another name; it gets its own when it is complete."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        file = Path(folder, path.name)
        write(file)
        file.replace(path)
