"""The native kernels as operators of PyTorch, each with its gradient: what eager mode and ``torch.compile`` call.

``torch.ops.onnxpool.native_<name>`` and ``native_<name>_backward`` are opaque to PyTorch: it knows the shape of what
they give (for symbolic sizes too), their derivatives and how ``torch.vmap`` batches them, and compiles around them. No
exporter meets them, since a program that travels holds the operators of :mod:`onnxpool.pools._composite`; a compiled
one that comes to a machine without the library, or to other tensors, gets PyTorch's own operators inside of these.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onnxpool.domain import DOMAIN
from onnxpool.pools import _native, _native_cuda
from onnxpool.pools._composite import LIBRARY
from onnxpool.pools._schema import COUNT, FIELDS, fields, window_from

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def native_operator(
    op_type: str,
    name: str,
    inputs: tuple[str, ...],
    shape: Callable[..., tuple[int, ...]],
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, ...]],
) -> Callable[..., Tensor]:
    """Register both operators; returns the differentiable function ``(window, *inputs) -> output``.

    The other arguments are those of :func:`onnxpool.pools._torch_ops.operator`; ``shape(window, *inputs)`` is the
    output's, and refuses, with :class:`ArgumentError`, inputs that cannot be pooled. Second derivatives are those of
    ``backward``.
    """

    def pool(*args: Any) -> Tensor:
        window, tensors = window_from(args[-COUNT:]), args[:-COUNT]
        shape(window, *tensors)
        if kernels := kernels_for(*tensors):
            y: Tensor = kernels.pool(op_type, window, *tensors)
            return y
        return _native.laid_out(forward(window, *tensors).contiguous(), tensors[0])

    def pool_shape(*args: Any) -> Tensor:
        x: Tensor = args[0]
        y = x.new_empty(shape(window_from(args[-COUNT:]), *args[:-COUNT]))
        return _native.laid_out(y, x)

    def slopes(*args: Any) -> Any:
        window, (grad, *tensors) = window_from(args[-COUNT:]), args[:-COUNT]
        if kernels := kernels_for(grad, *tensors):
            return _one_or_all(kernels.gradients(op_type, window, grad, *tensors))
        found = zip(backward(window, grad, *tensors), tensors, strict=True)
        return _one_or_all(tuple(_native.laid_out(slope.contiguous(), tensor) for slope, tensor in found))

    def slope_shapes(*args: Any) -> Any:
        tensors = args[1:-COUNT]
        return _one_or_all(tuple(_native.laid_out(x.new_empty(x.shape), x) for x in tensors))

    arguments = ", ".join(f"Tensor {argument}" for argument in inputs)
    results = "Tensor" if len(inputs) == 1 else f"({', '.join(['Tensor'] * len(inputs))})"
    call = define(f"native_{name}", f"({arguments}, {FIELDS}) -> Tensor", pool, pool_shape)
    call_backward = define(
        f"native_{name}_backward", f"(Tensor grad, {arguments}, {FIELDS}) -> {results}", slopes, slope_shapes
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - PyTorch's names
        ctx.save_for_backward(*inputs[:-COUNT])
        ctx.fields = inputs[-COUNT:]

    def pass_back(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        found = call_backward(grad, *ctx.saved_tensors, *ctx.fields)
        return *_all(found), *[None] * COUNT

    def slopes_again(*args: Any) -> Any:
        """The gradients, made of operators that can be differentiated where that may be asked for."""
        tensors = args[:-COUNT]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return _one_or_all(backward(window_from(args[-COUNT:]), *tensors))
        with torch._C._AutoDispatchBelowAutograd():
            return call_backward(*args)

    torch.library.register_autograd(f"{DOMAIN}::native_{name}", pass_back, setup_context=keep, lib=LIBRARY)
    LIBRARY.impl(f"native_{name}_backward", slopes_again, "Autograd")  # type: ignore[no-untyped-call]
    return lambda window, *tensors: call(*tensors, *fields(window))


def kernels_for(*tensors: Tensor) -> Any:
    """The module whose kernels take these tensors, or None."""
    return next((module for module in (_native, _native_cuda) if module.takes(*tensors)), None)


def _one_or_all(tensors: tuple[Any, ...]) -> Any:
    """As operators give them: one, or a tuple."""
    return tensors if len(tensors) > 1 else tensors[0]


def _all(tensors: Any) -> tuple[Tensor, ...]:
    return tensors if isinstance(tensors, tuple) else (tensors,)


def define(name: str, schema: str, run: Callable[..., Any], shapes: Callable[..., Any]) -> Any:
    """Register an operator without an autograd formula, of tensors ``(N, C, *spatial)``; returns its overload.

    ``schema`` ends with :data:`FIELDS`. ``shapes`` gives what ``run`` gives, for tensors without values.
    """
    LIBRARY.define(f"{name}{schema}", tags=_TAGS)  # type: ignore[no-untyped-call]
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    overload = getattr(getattr(torch.ops, DOMAIN), name).default

    def batched(info: Any, places: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """More samples: what is batched stands before the axis of those."""
        flat = [
            _joined(arg, place, info.batch_size) if isinstance(arg, Tensor) else arg
            for arg, place in zip(args[:-COUNT], places, strict=False)
        ]
        found = overload(*flat, *args[-COUNT:])
        sizes = (info.batch_size, -1)
        parts = tuple(each.unflatten(0, sizes) for each in _all(found))  # type: ignore[no-untyped-call]
        return _one_or_all(parts), _one_or_all((0,) * len(parts))

    torch.library.register_fake(f"{DOMAIN}::{name}", shapes, lib=LIBRARY)
    torch.library.register_vmap(f"{DOMAIN}::{name}", batched, lib=LIBRARY)
    return overload


def _joined(tensor: Tensor, place: int | None, size: int) -> Tensor:
    whole = tensor.expand(size, *tensor.shape) if place is None else tensor.movedim(place, 0)
    return whole.flatten(0, 1)
