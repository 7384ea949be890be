"""The ONNX domain of every operator and function here, and the limits of the models that use it: plain constants."""

from typing import Literal, TypeAlias

DOMAIN = "onnxpool"
"""ONNX domain of every operator and function here."""

VERSION = 1
"""Version of that domain. It rises when the meaning of an existing operator changes."""

BLOCKS_DOMAIN = "onnxpool.nchwc"
"""ONNX domain of the same operators on tensors in blocks of channels: see :mod:`onnxpool.graph.blocks`."""

OURS = (DOMAIN, BLOCKS_DOMAIN)
"""The domains of pooling nodes that may have a kernel."""

OPSETS = range(18, 27)
"""Opsets of the standard domain that models may use; the newest is the last that onnxscript supports."""

IR_VERSION = 10
"""ONNX file format written. Newer ones are refused by runtimes that could run everything else."""

_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")

Form: TypeAlias = Literal["function", "standard", "custom"]
"""The forms of one model: see :mod:`onnxpool.graph.forms`."""


def is_foreign(domain: str) -> bool:
    """Whether operators of this domain are neither of ONNX nor of this package."""
    return domain != DOMAIN and domain not in _STANDARD
