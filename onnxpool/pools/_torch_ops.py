"""The PyTorch side that all methods share: operators, the cells of a window as views, the module base.

PyTorch is optional. Without it this file and the method files still import, ``torch`` is ``None`` here, and making a
module raises :class:`MissingExtra`. Method files take ``torch`` from here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from onnxpool.domain import DOMAIN
from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, MissingExtra
from onnxpool.pools._method import Operator
from onnxpool.window import Size, Window

__all__ = [
    "EXPORTED_AS",
    "TRANSLATIONS",
    "Module",
    "PoolModule",
    "Sequential",
    "WindowModule",
    "cells",
    "operator",
    "padded",
    "pooled_shape",
    "spread",
    "standard_operator",
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

EXPORTED_AS: dict[Any, Operator] = {}
"""The ONNX operator of each PyTorch operator (``torch.ops.onnxpool.*.default``); filled by :func:`operator`."""

TRANSLATIONS: dict[Any, Callable[..., Any]] = {}
"""How each other PyTorch operator is written in standard ONNX operators; filled by :func:`standard_operator`."""


def operator(exported_as: Operator, name: str, forward: Forward, backward: Backward) -> Forward:
    """Register ``torch.ops.onnxpool.<name>`` for PyTorch; returns a function ``(window, *inputs) -> output``.

    ``forward(window, *inputs) -> output`` and ``backward(window, grad, *inputs) -> gradients`` get plain tensors
    ``(N, C, *spatial)``. The operator is opaque to ``torch.compile`` and ``torch.export``, which know its output shape;
    the backward pass is ordinary traceable code, so that it compiles and can be differentiated again.
    Without PyTorch the function raises :class:`MissingExtra`.
    """
    inputs = exported_as.inputs
    if not HAVE_TORCH:
        return _missing(name)

    def kernel(*args: Any) -> "Tensor":
        tensors, window = args[: len(inputs)], window_from(args[len(inputs) :])
        window.check(tensors[0].shape)
        for argument, tensor in zip(inputs, tensors, strict=True):
            if tensor.shape != tensors[0].shape:
                raise ArgumentError(
                    f"{argument} has shape {tuple(tensor.shape)}, {inputs[0]} has {tuple(tensors[0].shape)}; they must "
                    "be equal: use .expand_as"
                )
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
    EXPORTED_AS[overload] = exported_as

    def call(window: Window, *tensors: "Tensor") -> "Tensor":
        for argument, tensor in zip(inputs, tensors, strict=True):
            if not tensor.is_floating_point():
                raise ArgumentError(f"{argument} has dtype {tensor.dtype}; pooling takes floating point, use .float()")
        output: Tensor = overload(*tensors, *_fields(window))
        return output

    return call


def standard_operator(
    name: str,
    arguments: str,
    forward: Forward,
    shape: Callable[..., Sequence[int]],
    translate: Callable[..., Any],
) -> Forward:
    """Register ``torch.ops.onnxpool.<name>``, exported as standard ONNX operators; returns a function like ``forward``.

    ``arguments`` is PyTorch's schema with a ``Tensor x`` in it; ``Window window`` may stand first. ``forward`` is plain
    differentiable PyTorch code, which runs as it is, compiled too. Only ``torch.export`` sees the operator in its
    place: one opaque call, whose output shape is ``shape(*arguments)`` for symbolic sizes too, where PyTorch's own
    operators would fix sizes or fall apart into arithmetic. For plain sizes ``shape`` refuses, with
    :class:`ArgumentError`, what ``forward`` cannot pool. ``translate(op, *arguments)`` writes the ONNX operators with
    onnxscript: ``op`` is its opset 18, tensors are values of the graph.
    Without PyTorch the function raises :class:`MissingExtra`.
    """
    if not HAVE_TORCH:
        return _missing(name)

    windowed = arguments.startswith(_WINDOW)
    names = [argument.split()[-1] for argument in arguments.split(", ")]

    def gather(flat: Sequence[Any]) -> tuple[Any, ...]:
        return (window_from(flat[: len(_FIELDS)]), *flat[len(_FIELDS) :]) if windowed else tuple(flat)

    def kernel(*flat: Any) -> "Tensor":
        args = gather(flat)
        shape(*args)
        return forward(*args).clone(memory_format=torch.contiguous_format)

    def fake(*flat: Any) -> "Tensor":
        args = gather(flat)
        x: Tensor = args[names.index("x")]
        return x.new_empty(shape(*args))

    def save(ctx: Any, inputs: tuple[Any, ...], output: "Tensor") -> None:  # noqa: ARG001 - PyTorch passes it by name
        ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, torch.Tensor)]
        ctx.save_for_backward(*(inputs[i] for i in ctx.places))
        ctx.rest = [None if i in ctx.places else value for i, value in enumerate(inputs)]

    def differentiate(ctx: Any, grad: "Tensor") -> tuple[Any, ...]:
        def of_tensors(*tensors: "Tensor") -> "Tensor":
            given = dict(zip(ctx.places, tensors, strict=True))
            return forward(*gather([given.get(i, value) for i, value in enumerate(ctx.rest)]))

        pull_back = torch.func.vjp(of_tensors, *ctx.saved_tensors)[1]
        slopes = dict(zip(ctx.places, pull_back(grad), strict=True))
        return tuple(slopes.get(i) for i in range(len(ctx.rest)))

    schema = f"({arguments.replace(_WINDOW, ', '.join(_FIELDS))}) -> Tensor"
    op = torch.library.custom_op(f"{DOMAIN}::{name}", kernel, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(differentiate, setup_context=save)
    overload = getattr(getattr(torch.ops, DOMAIN), name).default
    TRANSLATIONS[overload] = lambda op, *flat: translate(op, *gather(flat))

    def call(*args: Any) -> "Tensor":
        if torch.compiler.is_exporting():
            output: Tensor = overload(*(_fields(args[0]) if windowed else ()), *args[windowed:])
            return output
        shape(*args)
        return forward(*args)

    return call


def pooled_shape(window: Window, x: "Tensor") -> tuple[int, ...]:
    """The output shape; while PyTorch traces it makes no condition on the sizes of ``x``, else it refuses bad ones."""
    if torch.compiler.is_compiling():
        return (*x.shape[:2], *window.output(x.shape[2:]))
    return window.check(x.shape)


def window_from(fields: Sequence[Any]) -> Window:
    """The window that an operator call carries: the five arguments after its tensors."""
    kernel, stride, pad, dilation, ceil = fields
    return Window(tuple(kernel), tuple(stride), tuple(pad), tuple(dilation), ceil)


def _fields(window: Window) -> tuple[Any, ...]:
    """The five arguments that carry a window; the inverse of :func:`window_from`."""
    return window.kernel, window.stride, window.pad, window.dilation, window.ceil


_FIELDS = ("int[] kernel", "int[] stride", "int[] pad", "int[] dilation", "bool ceil")
_WINDOW = "Window window"


def _missing(name: str) -> Forward:
    def missing(*_: Any) -> "Tensor":
        raise MissingExtra("torch", "export", name)

    return missing


def widen(x: "Tensor") -> "Tensor":
    """``x`` in the type to compute in: float32 for float16 and bfloat16, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def padded(x: "Tensor", window: Window, fill: float) -> "tuple[Tensor, Window]":
    """``x`` with the padding that ``window`` asks for, and the window over it, which needs none."""
    inside = replace(window, pad=(0,) * window.rank, ceil=False)
    amounts = _amounts(window)
    return torch.nn.functional.pad(x, amounts, value=fill) if any(amounts) else x, inside


def cells(x: "Tensor", window: Window, fill: float) -> "Iterator[Tensor]":
    """Each cell of all windows at once: views ``(N, C, *output)``, one per offset, ``fill`` where there is padding."""
    x, _ = padded(x, window, fill)
    for view in _views(x.shape[2:], window):
        yield x[view]


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


class PoolModule(Module):
    """Base of every module: ``(N, C, *spatial)`` in and out, or ``(C, *spatial)`` without a batch.

    Raises :class:`ArgumentError` in ``forward`` for a wrong rank and an integer dtype.
    """

    rank: ClassVar[int]

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor:
            """As :meth:`forward`, which it calls."""

    @property
    def draws(self) -> bool:
        """Whether forward draws at random in the mode that the module is in: then it is not exported."""
        return False

    def settled(self) -> AbstractContextManager[None]:
        """While it is open, forward makes its choices by the module's values as they are now: for export."""
        return nullcontext()

    def pool(self, x: "Tensor") -> "Tensor":
        """Pool a batch ``(N, C, *spatial)``."""
        raise NotImplementedError

    def reference(self, x: Array) -> Array:
        """The float64 answer for a float64 batch ``(N, C, *spatial)``, by the plain formula."""
        raise NotImplementedError

    def forward(self, x: "Tensor") -> "Tensor":
        """Pool ``x``."""
        if x.dim() not in (self.rank + 1, self.rank + 2):
            raise ArgumentError(
                f"x has shape {tuple(x.shape)}; {type(self).__name__} takes {self.rank + 2} axes, (N, C, *spatial), "
                f"or {self.rank + 1} without a batch"
            )
        if not x.is_floating_point():
            raise ArgumentError(f"x has dtype {x.dtype}; pooling takes floating point, use .float()")
        if x.dim() == self.rank + 2:
            return self.pool(x)
        pooled: Tensor = self.pool(x.unsqueeze(0)).squeeze(0)
        return pooled


class WindowModule(PoolModule):
    """Base of the modules that have a window: the arguments of ``torch.nn`` poolings.

    Raises :class:`ArgumentError` for arguments that make no window, and in ``forward`` for a wrong rank, an integer
    dtype, or an input smaller than the window.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.window: Window = Window.of(self.rank, kernel_size, stride, padding, dilation, ceil_mode)

    def extra_repr(self) -> str:
        """The window, as it stands in tables."""
        return str(self.window)
