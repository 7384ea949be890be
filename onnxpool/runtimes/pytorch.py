"""PyTorch itself, eager and compiled, where a PyTorch module is the reference: the module in its own type."""

import sys
from collections.abc import Callable
from typing import Any

FORMS = ("module",)
VARIANTS = ({"mode": "eager"}, {"mode": "compile"})

Pairs = dict[str, tuple[str, Any]]


def why_not(options: dict[str, Any]) -> str:
    """Why this cannot be tried here, or nothing."""
    return (
        "" if options["arrangement"] else "no PyTorch module is the reference: give reference=, or --reference SOURCE"
    )


def one_size(options: dict[str, Any]) -> bool:
    """Compiling takes minutes for a large network, again for other sizes."""
    return bool(options["mode"] == "compile")


def open_model(path: str, options: dict[str, Any]) -> tuple[Callable[[Pairs], Pairs], dict[str, Any]]:
    """The module that was saved at ``path``, on the CPU, in evaluation mode: in the child."""
    import numpy as np

    sys.path[:] = options["path"]  # where the classes of the module come from
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    module = torch.load(path, map_location="cpu", weights_only=False).eval()
    call = torch.compile(module) if options["mode"] == "compile" else module

    def tensor(dtype: str, array: Any) -> Any:
        given = torch.from_numpy(array)
        return given.view(torch.bfloat16) if dtype == "bfloat16" else given

    def pair(value: Any) -> tuple[str, Any]:
        value = value.contiguous()
        array = value.view(torch.int16).numpy().view(np.uint16) if value.dtype == torch.bfloat16 else value.numpy()
        return str(value.dtype).removeprefix("torch."), array

    def run(feeds: Pairs) -> Pairs:
        with torch.no_grad():
            args, kwargs = tree_map(lambda name: tensor(*feeds[name]), options["arrangement"])
            outputs = tree_leaves(call(*args, **kwargs))
        return dict(zip(options["outputs"], map(pair, filter(torch.is_tensor, outputs)), strict=True))

    return run, {"version": torch.__version__}
