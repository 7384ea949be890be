"""The command line, a skin: each command parses, calls one function of the library, and prints the value it returns.

With ``--json`` that value goes to standard output as JSON and nothing else does. Exit status 0: done; 1: the check that
was asked for failed (``validate`` says more: :data:`onnxpool.validation.report.EXIT_STATUS`); 2: asked wrongly, with
one sentence on standard error. typer and rich, rather than argparse: the help, the types and the tables come from the
signatures and values that exist anyway.
"""

from onnxpool.cli import models, checks, serving, about  # isort: skip - the order of the commands in the help
from onnxpool.cli.application import app

__all__ = ["about", "app", "checks", "main", "models", "serving"]


def main() -> None:
    """Run the command line; what ``onnxpool`` and ``python -m onnxpool`` start."""
    app()
