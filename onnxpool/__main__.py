"""``python -m onnxpool``: the command line."""

from onnxpool.cli import main

main()
