"""Every command, in the order of the help."""

from onnxpool.cli import models, quantizing, checks, serving, pictures, about  # isort: skip
from onnxpool.cli.application import app

__all__ = ["about", "app", "checks", "models", "pictures", "quantizing", "serving"]
