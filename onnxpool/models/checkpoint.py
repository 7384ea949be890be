"""Checkpoints into networks: files as training code saves them, refused as a whole unless every parameter fits.

What is taken: ``{name: tensor}``, alone or under ``"state_dict"``, the names with or without the prefix ``module.``
that ``DataParallel`` puts before them. A file may hold tensors and plain values only: it is read without running code.

>>> load_checkpoint(network, "lip_resnet-50.pth")  # doctest: +SKIP
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxpool.errors import ArgumentError
from onnxpool.pools._torch_ops import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_checkpoint"]

_PREFIX = "module."

_SHOWN = 5
"""How many names a message lists."""


def load_checkpoint(network: "torch.nn.Module", checkpoint: "str | os.PathLike[str] | Mapping[str, Any]") -> None:
    """Give ``network`` the parameters and buffers of ``checkpoint``, a file or what is in one.

    Values are converted to the network's dtype and device. The counters of batch norms may be missing: PyTorch has
    them since 0.4.1, and they change no answer.

    Raises :class:`ArgumentError` for what is not a checkpoint, and where names or shapes differ, all of which it then
    tells; the network is unchanged then.
    """
    given = _state(checkpoint)
    own = network.state_dict()
    shapes = [
        f"{name} {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    faults = {
        "missing": [name for name in own if name not in given and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in given if name not in own],
        "of another shape": shapes,
    }
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names)
        raise ArgumentError(
            f"checkpoint={_name(checkpoint)} does not fit {type(network).__name__}: {told}; make the network that it "
            "was saved from, with its num_classes"
        )
    network.load_state_dict(given)


def _state(checkpoint: "str | os.PathLike[str] | Mapping[str, Any]") -> "dict[str, Tensor]":
    """Names without prefix, and tensors."""
    found = _read(Path(checkpoint)) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items())
    ):
        raise ArgumentError(
            f"checkpoint={_name(checkpoint)} is not a mapping from names to tensors; save network.state_dict(), or "
            "{'state_dict': network.state_dict()}"
        )
    prefix = _PREFIX if all(name.startswith(_PREFIX) for name in found) else ""
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ArgumentError(f"checkpoint={str(path)!r}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and PyTorch's own
        raise ArgumentError(
            f"checkpoint={str(path)!r} cannot be read as tensors and plain values "
            f"({type(error).__name__}: {str(error).partition('. ')[0]:.200}); save network.state_dict() alone"
        ) from error


def _name(checkpoint: "str | os.PathLike[str] | Mapping[str, Any]") -> str:
    """A file by its path, anything else by its type."""
    return repr(os.fspath(checkpoint)) if isinstance(checkpoint, str | os.PathLike) else type(checkpoint).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
