"""Sentences on standard error: wrapped between words in a terminal, one line each in a pipe or file.

It needs neither typer nor rich, since it says when they are missing.
"""

import os
import shutil
import sys
import textwrap


def complain(sentence: str) -> None:
    """Write ``onnxpool: sentence`` to standard error; of several lines each is wrapped, and no word is broken."""
    text = f"onnxpool: {sentence}"
    if sys.stderr.isatty():
        width = _width()
        text = "\n".join(
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines()
        )
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _width() -> int:
    """Of the terminal that standard error is, unless COLUMNS says otherwise."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        known = 80
    return shutil.get_terminal_size((known, 24)).columns if "COLUMNS" in os.environ else known or 80
