"""The PyTorch side that all methods share: operators, the cells of a window as views, the module base.

PyTorch is optional. Without it this file and the method files still import, ``torch`` is ``None`` here, and making a
module raises :class:`MissingExtra`. Method files take ``torch`` from here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from onnxpool.errors import ArgumentError, MissingExtra
from onnxpool.pool import DOMAIN, Array, Node
from onnxpool.window import Size, Window

__all__ = [
    "OPERATORS",
    "Module",
    "Sequential",
    "WindowModule",
    "cells",
    "operator",
    "spread",
    "torch",
    "widen",
    "window_from",
]

HAVE_TORCH = find_spec("torch") is not None

if TYPE_CHECKING or HAVE_TORCH:
    import torch
    from torch import Tensor
    from torch.nn import Module, Sequential
else:
    torch = None

    class Module:
        """Stands in for ``torch.nn.Module`` where PyTorch is missing."""

        def __init__(self, *_: Any, **__: Any) -> None:
            raise MissingExtra("torch", "export", f"{type(self).__name__}, a PyTorch module,")

    class Sequential(Module):
        """Stands in for ``torch.nn.Sequential``."""


Forward = Callable[..., "Tensor"]
Backward = Callable[..., "tuple[Tensor, ...]"]

OPERATORS: dict[Any, Node] = {}
"""The ONNX operator of each PyTorch operator (``torch.ops.onnxpool.*.default``); filled by :func:`operator`."""


def operator(node: Node, name: str, forward: Forward, backward: Backward) -> Forward:
    """Register ``torch.ops.onnxpool.<name>``, exported as ``node``; returns a function ``(window, *inputs) -> output``.

    ``forward(window, *inputs) -> output`` and ``backward(window, grad, *inputs) -> gradients`` get plain tensors
    ``(N, C, *spatial)``. The operator is opaque to ``torch.compile`` and ``torch.export``, which know its output shape;
    the backward pass is ordinary traceable code, so that it compiles and can be differentiated again.
    Without PyTorch the function raises :class:`MissingExtra`.
    """
    inputs = node.inputs
    if not HAVE_TORCH:

        def missing(*_: Any) -> "Tensor":
            raise MissingExtra("torch", "export", name)

        return missing

    def kernel(*args: Any) -> "Tensor":
        tensors, window = args[: len(inputs)], window_from(args[len(inputs) :])
        window.check(tensors[0].shape)
        return forward(window, *tensors).contiguous()

    def fake(*args: Any) -> "Tensor":
        x: Tensor = args[0]
        return x.new_empty((*x.shape[:2], *window_from(args[len(inputs) :]).output(x.shape[2:])))

    def save(ctx: Any, inputs: tuple[Any, ...], output: "Tensor") -> None:  # noqa: ARG001 - PyTorch passes it by name
        ctx.save_for_backward(*inputs[: -len(_FIELDS)])
        ctx.window = window_from(inputs[-len(_FIELDS) :])

    def differentiate(ctx: Any, grad: "Tensor") -> tuple[Any, ...]:
        return *backward(ctx.window, grad, *ctx.saved_tensors), *[None] * len(_FIELDS)

    tensors = ", ".join(f"Tensor {argument}" for argument in inputs)
    schema = f"({tensors}, {', '.join(_FIELDS)}) -> Tensor"
    op = torch.library.custom_op(f"{DOMAIN}::{name}", kernel, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(differentiate, setup_context=save)
    overload = getattr(getattr(torch.ops, DOMAIN), name).default
    OPERATORS[overload] = node

    def call(window: Window, *tensors: "Tensor") -> "Tensor":
        for argument, tensor in zip(inputs, tensors, strict=True):
            if not tensor.is_floating_point():
                raise ArgumentError(f"{argument} has dtype {tensor.dtype}; pooling takes floating point, use .float()")
        output: Tensor = overload(*tensors, window.kernel, window.stride, window.pad, window.dilation, window.ceil)
        return output

    return call


def window_from(fields: Sequence[Any]) -> Window:
    """The window that an operator call carries: the five arguments after its tensors."""
    kernel, stride, pad, dilation, ceil = fields
    return Window(tuple(kernel), tuple(stride), tuple(pad), tuple(dilation), ceil)


_FIELDS = ("int[] kernel", "int[] stride", "int[] pad", "int[] dilation", "bool ceil")


def widen(x: "Tensor") -> "Tensor":
    """``x`` in the type to compute in: float32 for float16 and bfloat16, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cells(x: "Tensor", window: Window, fill: float) -> "Iterator[Tensor]":
    """Each cell of all windows at once: views ``(N, C, *output)``, one per offset, ``fill`` where there is padding."""
    padded = torch.nn.functional.pad(x, _amounts(window), value=fill)
    for view in _views(padded.shape[2:], window):
        yield padded[view]


def spread(values: "Iterable[Tensor]", x: "Tensor", window: Window) -> "Tensor":
    """The transpose of :func:`cells`: add up what each cell of each window sends to its place in ``x``."""
    total = torch.nn.functional.pad(torch.zeros_like(x), _amounts(window))
    for view, value in zip(_views(total.shape[2:], window), values, strict=True):
        total[view] += value
    return torch.nn.functional.pad(total, [-amount for amount in _amounts(window)])


def _amounts(window: Window) -> list[int]:
    axes = zip(reversed(window.pad), reversed(window.tail), strict=True)  # PyTorch counts from the last axis
    return [amount for axis in axes for amount in axis]


def _views(padded: Sequence[int], window: Window) -> Iterator[tuple[Any, ...]]:
    for offset in window.offsets():
        axes = zip(offset, padded, window.extent, window.stride, strict=True)
        yield (..., *(slice(start, start + length - extent + 1, stride) for start, length, extent, stride in axes))


class WindowModule(Module):
    """Base of the modules that have a window and nothing else: the arguments of ``torch.nn`` poolings.

    ``(N, C, *spatial)`` in and out, or ``(C, *spatial)`` without a batch. Raises :class:`ArgumentError` for arguments
    that make no window, and in ``forward`` for a wrong rank, an integer dtype, or an input smaller than the window.
    """

    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.window = Window.of(self.rank, kernel_size, stride, padding, dilation, ceil_mode)

    def pool(self, x: "Tensor") -> "Tensor":
        """Pool a batch ``(N, C, *spatial)``."""
        raise NotImplementedError

    def reference(self, x: Array) -> Array:
        """The float64 answer for a float64 batch ``(N, C, *spatial)``, by the plain formula."""
        raise NotImplementedError

    def forward(self, x: "Tensor") -> "Tensor":
        """Pool ``x``."""
        if x.dim() == self.rank + 1:
            pooled: Tensor = self.pool(x.unsqueeze(0)).squeeze(0)
            return pooled
        if x.dim() != self.rank + 2:
            raise ArgumentError(
                f"x has shape {tuple(x.shape)}; {type(self).__name__} takes {self.rank + 2} axes, (N, C, *spatial), "
                f"or {self.rank + 1} without a batch"
            )
        return self.pool(x)

    def extra_repr(self) -> str:
        """The window, as it stands in tables."""
        return str(self.window)
