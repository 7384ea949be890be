"""The command line, a skin: each command parses, calls one function of the library, and prints the value it returns.

    commands.py       all of them: models.py, quantizing.py, checks.py, serving.py, about.py
    application.py    what they share                 spelling.py    what their arguments spell: networks, inputs, axes
    tables.py         what a person reads of each value        complaint.py   sentences on standard error

With ``--json`` that value goes to standard output as JSON and nothing else does. Exit status 0: done; 1: the check that
was asked for failed (``validate`` says more: :data:`onnxpool.validation.report.EXIT_STATUS`); 2: usage error, with
one sentence on standard error. typer and rich, rather than argparse: the help, the types and the tables come from the
signatures and values that exist anyway. Nothing outside of this folder needs them, so a serving machine can go without.
"""

import sys

from onnxpool.cli.complaint import complain
from onnxpool.errors import MissingExtra

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; what ``onnxpool`` and ``python -m onnxpool`` start."""
    try:
        from onnxpool.cli.commands import app
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        complain(str(MissingExtra(package, "cli", "the command line")))
        sys.exit(2)
    app()
