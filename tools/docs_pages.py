"""What mkdocs asks while it builds the site: pages that are made from the code, and links that leave docs/.

A page below docs/ links to files beside it, and to others of the repository, such as ``../examples/``: these become
links to the repository, so that both the site and a reader of the files can follow them.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import docs_commands
import docs_reference

LINK = re.compile(r"(?<=\]\()(\.\.?/[^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from docstrings and from the command line."""
    made = docs_reference.pages() | {"reference/commands.md": docs_commands.page()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:  # noqa: ARG001  (mkdocs calls it by these names)
    """Lead links to files outside docs/ to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def outside(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        if path.startswith("docs/"):
            return found[1]
        root = Path(config.config_file_path).parent
        if not (root / path).exists():
            return found[1]  # mkdocs says that it is broken
        return f"{config.repo_url}/{'tree' if (root / path).is_dir() else 'blob'}/main/{path}"

    return LINK.sub(outside, markdown)
