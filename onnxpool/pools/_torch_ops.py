"""The PyTorch side that all methods share: operators, the cells of a window as views, the module base.

PyTorch is optional. Without it this file and the method files still import, ``torch`` is ``None`` here, and making a
module raises :class:`MissingExtra`. Method files take ``torch`` from here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError, MissingExtra
from onnxpool.pools._method import Operator
from onnxpool.pools._schema import COUNT, FIELDS, fields, window_from
from onnxpool.window import Size, Window

__all__ = [
    "EXPORTED_AS",
    "TRANSLATIONS",
    "Module",
    "PoolModule",
    "Sequential",
    "WindowModule",
    "cells",
    "draw_operator",
    "has_known_sizes",
    "is_jit_tracing",
    "is_symbol",
    "laid_out_as",
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

    from onnxpool.pools import _native
    from onnxpool.pools._composite import called, composite, differentiable, functorch_levels
    from onnxpool.pools._native_draws import native_draw_operator
    from onnxpool.pools._native_ops import kernels_for, native_operator
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
Ordinary = Callable[..., "Tensor | None"]

EXPORTED_AS: dict[Any, Operator] = {}
"""The ONNX operator of each PyTorch operator (``torch.ops.onnxpool.*.default``); filled by :func:`operator`."""

TRANSLATIONS: dict[Any, Callable[..., Any]] = {}
"""How each other PyTorch operator is written in standard ONNX operators; filled by :func:`standard_operator`."""


def operator(exported_as: Operator, name: str, forward: Forward, backward: Backward, ordinary: Ordinary) -> Forward:
    """Register ``torch.ops.onnxpool.<name>`` for PyTorch; returns a function ``(window, *inputs) -> output``.

    ``forward(window, *inputs) -> output`` and ``backward(window, grad, *inputs) -> gradients`` get plain tensors
    ``(N, C, *spatial)``; both are traceable code, so that they compile and can be differentiated again. Where native
    kernels take the tensors (:func:`onnxpool.pools._native.takes`), they run in place of both. Where there are none,
    ``ordinary(window, *inputs)`` may pool plain tensors on the CPU at less cost, or return None. To
    ``torch.export`` it is one call, which is one node in ONNX with our translation (:data:`EXPORTED_AS`); whoever does
    not know the operator takes ``forward`` in its place. Without PyTorch the function raises :class:`MissingExtra`.
    """
    inputs = exported_as.inputs
    if not HAVE_TORCH:
        return _missing(name)

    pool = differentiable(forward, backward)

    def shape(window: Window, *tensors: "Tensor") -> tuple[int, ...]:
        output = pooled_shape(window, tensors[0])
        for argument, tensor in zip(inputs, tensors, strict=True):
            if tensor.shape != tensors[0].shape:
                raise ArgumentError(
                    f"{argument} has shape {tuple(tensor.shape)}, {inputs[0]} has {tuple(tensors[0].shape)}; they must "
                    "be equal: use .expand_as"
                )
        return output

    native = native_operator(exported_as.op_type, name, inputs, shape, forward, backward)

    def with_slopes(window: Window, *tensors: "Tensor") -> "Tensor":
        have_slopes = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        return (pool if have_slopes else forward)(window, *tensors)

    def run(window: Window, *tensors: "Tensor") -> "Tensor":
        """Inside of the operator, where functorch takes no function with a gradient of its own."""
        if functorch_levels():
            return forward(window, *tensors)
        if _native.are_plain(*tensors):
            if _native.why_not() is None:
                return native(window, *tensors)
            if (y := ordinary(window, *tensors)) is not None:
                return y
        return with_slopes(window, *tensors)

    def gather(flat: Sequence[Any]) -> tuple[Any, ...]:
        return (window_from(flat[len(inputs) :]), *flat[: len(inputs)])

    tensors = ", ".join(f"Tensor {argument}" for argument in inputs)
    overload = composite(name, f"({tensors}, {FIELDS}) -> Tensor", run, shape, gather, 1)
    EXPORTED_AS[overload] = exported_as

    def transformed(levels: set[Any], window: Window, *tensors: "Tensor") -> "Tensor":
        """Under ``torch.func``: whole where it batches alone, else something that all transforms can follow."""
        if levels == {"Vmap"} and _native.may_take(*tensors):
            return native(window, *tensors)
        shape(window, *tensors)
        return (forward if "Jvp" in levels else with_slopes)(window, *tensors)

    def compiled(window: Window, *tensors: "Tensor") -> "Tensor | None":
        """What TorchDynamo reads, for ``torch.compile``: no condition here is on more than kinds of tensors."""
        if torch.compiler.is_exporting():
            return None
        if torch._C._are_functorch_transforms_active():
            return with_slopes(window, *tensors)
        return native(window, *tensors) if _native.may_take(*tensors) else None

    def eager(window: Window, *tensors: "Tensor") -> "Tensor | None":
        if kernels_for(*tensors):
            return native(window, *tensors)
        if is_jit_tracing():  # TorchScript's programs hold PyTorch's own operators, and run without this package
            return forward(window, *tensors)
        if levels := functorch_levels():  # which do not take operators apart
            return transformed(levels, window, *tensors)
        return None

    def call(window: Window, *tensors: "Tensor") -> "Tensor":
        for argument, tensor in zip(inputs, tensors, strict=True):
            if not tensor.is_floating_point():
                raise ArgumentError(f"{argument} has dtype {tensor.dtype}; pooling takes floating point, use .float()")
        y = (compiled if torch.compiler.is_dynamo_compiling() else eager)(window, *tensors)
        return called(overload, *tensors, *fields(window)) if y is None else y

    return call


def draw_operator(name: str, draw: Forward, places: Forward) -> Forward:
    """Register the native kernel that draws; returns a function ``(window, x) -> output``, which draws at random.

    ``draw(window, x, uniforms) -> output`` and ``places(window, x, uniforms) -> integers`` are what uniform numbers
    from [0, 1), one for each window, draw, and its place in the plane, or -1. ``draw`` is traceable code; where the
    native kernel takes the tensors, it runs in place of both, and draws the same but where a sum is rounded otherwise.
    Numbers come from PyTorch's generator for the device of ``x``. Without PyTorch the function raises
    :class:`MissingExtra`.
    """
    if not HAVE_TORCH:
        return _missing(name)

    native = native_draw_operator(name, pooled_shape, draw, places)

    def is_native(x: "Tensor") -> bool:
        if torch.compiler.is_dynamo_compiling():
            plain = not torch.compiler.is_exporting() and not torch._C._are_functorch_transforms_active()
            return plain and _native.may_take(x)
        if math.prod(x.shape[2:]) > _native.MOST_PLACES:
            return False
        return _native.takes(x) or (functorch_levels() == {"Vmap"} and _native.may_take(x))

    def call(window: Window, x: "Tensor") -> "Tensor":
        shape = pooled_shape(window, x)
        uniforms = torch.rand_like(x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32)))
        return (native if is_native(x) else draw)(window, x, uniforms)

    return call


def standard_operator(
    name: str,
    arguments: str,
    forward: Forward,
    shape: Callable[..., Sequence[int]],
    translate: Callable[..., Any] | None,
) -> Forward:
    """Register ``torch.ops.onnxpool.<name>``, exported as standard ONNX operators; returns a function like ``forward``.

    ``arguments`` is PyTorch's schema with a ``Tensor x`` in it; ``Window window`` may stand first. ``forward`` is plain
    differentiable PyTorch code, which runs as it is, compiled too. Only ``torch.export`` sees the operator in its
    place: one call, whose output shape is ``shape(*arguments)`` for symbolic sizes too, where PyTorch's own
    operators would fix sizes or fall apart into arithmetic; whoever does not know the operator takes ``forward`` in its
    place. For plain sizes ``shape`` refuses, with :class:`ArgumentError`, what ``forward`` cannot pool.
    ``translate(op, *arguments)`` writes the ONNX operators with onnxscript: ``op`` is its opset 18, tensors are values
    of the graph; without it they are those of ``forward``. Without PyTorch the function raises :class:`MissingExtra`.
    """
    if not HAVE_TORCH:
        return _missing(name)

    windowed = arguments.startswith(_WINDOW)
    names = [argument.split()[-1] for argument in arguments.split(", ")]

    def gather(flat: Sequence[Any]) -> tuple[Any, ...]:
        return (window_from(flat[:COUNT]), *flat[COUNT:]) if windowed else tuple(flat)

    schema = f"({arguments.replace(_WINDOW, FIELDS)}) -> Tensor"
    overload = composite(name, schema, forward, shape, gather, names.index("x"))
    if translate is not None:
        TRANSLATIONS[overload] = lambda op, *flat: translate(op, *gather(flat))

    def call(*args: Any) -> "Tensor":
        if torch.compiler.is_exporting():
            return called(overload, *(fields(args[0]) if windowed else ()), *args[windowed:])
        shape(*args)
        return forward(*args)

    return call


def pooled_shape(window: Window, x: "Tensor") -> tuple[int, ...]:
    """The output shape; while PyTorch traces it makes no condition on the sizes of ``x``, else it refuses bad ones."""
    if has_known_sizes(x):
        return window.check(x.shape)
    return (*x.shape[:2], *window.output(x.shape[2:]))


def has_known_sizes(x: "Tensor") -> bool:
    """Whether a condition may be made on the sizes of ``x``: they are numbers, and not those of an example."""
    return not torch.compiler.is_compiling() and all(type(n) is int for n in x.shape)


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` runs: then a size that is compared would be fixed, with a warning."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_symbol(x: Any) -> bool:
    """Whether it stands for a value while ``torch.fx`` traces."""
    return isinstance(x, torch.fx.Proxy)


_WINDOW = "Window window"


def _missing(name: str) -> Forward:
    def missing(*_: Any) -> "Tensor":
        raise MissingExtra("torch", "export", name)

    return missing


def widen(x: "Tensor") -> "Tensor":
    """``x`` in the type to compute in: float32 for float16 and bfloat16, else its own."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def laid_out_as(x: "Tensor", y: "Tensor") -> "Tensor":
    """``y`` in memory as ``x`` is: with channels last, if they are so there."""
    if x.dim() != 4 or functorch_levels() or x.is_contiguous():
        return y
    return y.contiguous(memory_format=torch.channels_last) if x.stride(1) == 1 else y


def padded(x: "Tensor", window: Window, fill: float) -> "tuple[Tensor, Window]":
    """``x`` with the padding that ``window`` asks for, and the window over it, which needs none."""
    inside = replace(window, pad=(0,) * window.rank, ceil=False)
    amounts = _amounts(window)
    return torch.nn.functional.pad(x, amounts, value=fill) if any(amounts) else x, inside


def cells(x: "Tensor", window: Window, fill: float) -> "Iterator[Tensor]":
    """Each cell of all windows at once: views ``(N, C, *output)``, one per offset, ``fill`` where there is padding."""
    x, _ = padded(x, window, fill)
    for view in _views(window):
        yield x[view]


def spread(values: "Iterable[Tensor]", x: "Tensor", window: Window) -> "Tensor":
    """The transpose of :func:`cells`: add up what each cell of each window sends to its place in ``x``."""
    total = torch.nn.functional.pad(torch.zeros_like(x), _amounts(window))
    for place, (view, value) in enumerate(zip(_views(window), values, strict=True)):
        if place == 0 and torch._C._are_functorch_transforms_active():  # what is batched goes into what is, too
            total = total + value.new_zeros(())
        total[view] += value
    return torch.nn.functional.pad(total, [-amount for amount in _amounts(window)])


def _amounts(window: Window) -> list[int]:
    axes = zip(reversed(window.pad), reversed(window.tail), strict=True)  # PyTorch counts from the last axis
    return [amount for axis in axes for amount in axis]


def _views(window: Window) -> Iterator[tuple[Any, ...]]:
    """Slices of the padded input; they end at numbers counted from its end, so that no symbolic size is computed."""
    for offset in window.offsets():
        axes = zip(offset, window.extent, window.stride, strict=True)
        yield (..., *(slice(start, start - extent + 1 or None, stride) for start, extent, stride in axes))


class PoolModule(Module):
    """Base of every module: ``(N, C, *spatial)`` in and out, or ``(C, *spatial)`` without a batch.

    Raises :class:`ArgumentError` in ``forward`` for a wrong rank and an integer dtype, and in ``torch.jit.script``.
    ``torch.fx.symbolic_trace`` takes every such module of a network as one call, a leaf, like the layers of torch.nn.
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

    def _leaf(self, x: Any, *others: Any) -> "Tensor":
        if x.tracer.root is self:
            raise ArgumentError(
                f"torch.fx takes {type(self).__name__} as one call, a leaf; trace a network that holds it, such as "
                "torch.nn.Sequential(pool)"
            )
        leaf: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x, *others), {})
        return leaf

    def __prepare_scriptable__(self) -> "Module":
        """Refuse ``torch.jit.script``, which calls this and would fail in words of its own."""
        raise ArgumentError(
            f"torch.jit.script cannot compile {type(self).__name__}; use torch.export.export, or torch.jit.trace"
        )

    def forward(self, x: "Tensor") -> "Tensor":
        """Pool ``x``."""
        if is_symbol(x):
            return self._leaf(x)
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
