"""What an exported module gives in ONNX Runtime beside what it gives in PyTorch and by its reference, for the tests."""

from collections.abc import Iterable, Iterator
from typing import Any

import cases
import numpy as np
import onnx_ir as ir
import torch

import onnxpool
from onnxpool.pools._tokens import TokenModule
from onnxpool.window import Window

SPATIAL = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}

TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""A few roundings of numbers near 1, in each type that a pool is exported in."""


def first_axis(module: Any) -> int:
    """The first axis that the module pools: tokens come before their channels."""
    return 1 if isinstance(module, TokenModule) else 2


def shape_for(module: Any, batch: int, sizes: Iterable[int]) -> tuple[int, ...]:
    """The shape of an input of three channels and these ``sizes``, as many as the module has axes to pool."""
    pooled = tuple(sizes)[: module.rank]
    return (batch, *pooled, 3) if first_axis(module) == 1 else (batch, 3, *pooled)


def exported(module: Any, x: torch.Tensor, *, dynamic: bool = True, opset: int = 18) -> ir.Model:
    """The module as an ONNX model in which batch and spatial sizes may change, unless not ``dynamic``."""
    axes = {0: "batch", **dict(enumerate(SPATIAL[module.rank], start=first_axis(module)))}
    return onnxpool.export(module, (x,), dynamic_shapes=(axes,) if dynamic else None, opset=opset, golden=False)


def operators(model: ir.Model) -> list[str]:
    """The operators of a model in the order of execution; all are standard ones."""
    assert {node.domain for node in model.graph} == {""}
    return [node.op_type for node in model.graph]


def ran(model: ir.Model, x: torch.Tensor) -> torch.Tensor:
    """What ONNX Runtime's CPU provider gives, without native kernels."""
    session = onnxpool.load(model, kernels="off", threads=1)
    bfloat16 = x.dtype == torch.bfloat16
    feed = x.view(torch.uint16).numpy().view(session.inputs[0].dtype) if bfloat16 else x.numpy()
    (y,) = session.run({session.inputs[0].name: feed}).values()
    assert y.dtype == feed.dtype
    return torch.from_numpy(y.view(np.uint16)).view(torch.bfloat16) if bfloat16 else torch.from_numpy(y)


def assert_exports(
    module: Any, dtype: torch.dtype, sizes: Iterable[tuple[int, ...]], *, dynamic: bool = True, opset: int = 18
) -> list[str]:
    """Export with the first of ``sizes``; run all of them in ONNX Runtime; compare with PyTorch and the reference.

    Inputs are ordinary, within a few units of 0. Returns the operators of the model.
    """
    sizes = list(sizes)
    module.eval()
    model = exported(module, torch.zeros(sizes[0], dtype=dtype), dynamic=dynamic, opset=opset)
    for seed, size in enumerate(sizes):
        x = torch.randn(size, generator=torch.manual_seed(seed)).to(dtype)
        y = ran(model, x).double()
        bound = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        torch.testing.assert_close(y, module(x).detach().double(), **bound)
        torch.testing.assert_close(y, torch.from_numpy(module.reference(x.double().numpy())), **bound)
    return operators(model)


def extremes(window: Window, largest: float, *left_out: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The float32 inputs of ``cases.py`` that fit an exported model, by name, but for those ``left_out``."""
    for name, x in cases.inputs(window, largest).items():
        if name not in {"size-1 channel", "empty batch", *left_out}:
            yield name, torch.from_numpy(x).float()
