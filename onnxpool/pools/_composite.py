"""Operators that PyTorch keeps whole where it knows them, and takes apart where it does not; needs PyTorch.

A composite operator (``CompositeImplicitAutograd``) is one call in a program of ``torch.export``, whose output shape is
known for symbolic sizes too. An exporter that translates it keeps it; every other one, and functorch, quantisers and
compilers, get the operators of PyTorch that it is made of, and its gradient with them.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from onnxpool.domain import DOMAIN
from onnxpool.window import Window

LIBRARY = torch.library.Library(DOMAIN, "FRAGMENT")  # type: ignore[no-untyped-call]
"""Holds our operators; they are gone when it is."""

_REMARK = "At pre-dispatch tracing, we assume that any custom op marked with CompositeImplicitAutograd .* onnxpool"
"""PyTorch's warning that it keeps a composite operator in a program, which is what is wanted."""

warnings.filterwarnings("ignore", _REMARK, UserWarning)


def composite(
    name: str,
    schema: str,
    run: Callable[..., Tensor],
    shape: Callable[..., Sequence[int]],
    gather: Callable[[Sequence[Any]], tuple[Any, ...]],
    place: int,
) -> Any:
    """Register ``torch.ops.onnxpool.<name>``, made of what ``run`` calls; returns its overload.

    ``gather`` makes the arguments of ``run`` and ``shape`` of those in ``schema``, ``x`` at ``place``. ``shape`` is the
    output's, and refuses, with :class:`ArgumentError`, sizes that ``run`` cannot pool.

    A native kernel for eager mode belongs into the ``run`` of :func:`onnxpool.pools._torch_ops.operator`, above this:
    for plain tensors, while PyTorch neither traces nor compiles, it may call another :func:`differentiable`, of native
    functions. What is traced keeps to plain operators, since nobody can take a kernel apart.
    """

    def kernel(*flat: Any) -> Tensor:
        args = gather(flat)
        x: Tensor = args[place]
        output = shape(*args)
        if is_fake(x) and get_proxy_mode() is None and any(type(n) is not int for n in x.shape):
            return (
                x.new_empty(output) + 0 * x.sum()
            )  # only the shape is asked for, and ``run`` may make conditions on it
        return run(*args)

    LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, kernel, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(getattr(torch.ops, DOMAIN), name).default


def differentiable(
    forward: Callable[..., Tensor], backward: Callable[..., tuple[Tensor, ...]]
) -> Callable[..., Tensor]:
    """``forward(window, *inputs)`` whose gradients are ``backward(window, grad, *inputs)``."""

    class Pooling(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(window: Window, *inputs: Tensor) -> Tensor:
            return forward(window, *inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - PyTorch's names
            ctx.window = inputs[0]
            ctx.save_for_backward(*inputs[1:])

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            return None, *backward(ctx.window, grad, *ctx.saved_tensors)

    call: Callable[..., Tensor] = Pooling.apply
    return call


def functorch_levels() -> set[str]:
    """The transforms of ``torch.func`` that are at work in eager mode: "Vmap", "Grad", "Jvp" and others."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return set()
    return {level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()}


def called(overload: Any, *args: Any) -> Tensor:
    """The operator's output, without the warning even where a program has set filters of its own."""
    if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _REMARK, UserWarning)
            kept: Tensor = overload(*args)
            return kept
    output: Tensor = overload(*args)
    return output
