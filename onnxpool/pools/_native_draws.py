"""Stochastic pooling's draws as an operator of PyTorch, with its gradient: beside :mod:`onnxpool.pools._native_ops`.

``torch.ops.onnxpool.native_<name>(x, uniforms, *window)`` gives what uniform numbers draw, one of each window, and
where it stands in its plane (-1: nowhere). That is all its gradient needs, so that neither input is kept for it.
Nothing here is random: the numbers come from PyTorch's generator before the call, so that seeds, compilers, checkpoints
and the ``randomness`` of ``torch.vmap`` mean what they mean elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from onnxpool.domain import DOMAIN
from onnxpool.errors import ArgumentError
from onnxpool.pools import _native
from onnxpool.pools._composite import LIBRARY
from onnxpool.pools._native_ops import define
from onnxpool.pools._schema import COUNT, FIELDS, fields, window_from


def native_draw_operator(
    name: str,
    shape: Callable[..., tuple[int, ...]],
    draw: Callable[..., Tensor],
    places: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """Register the operator and its gradient's; returns the differentiable ``(window, x, uniforms) -> output``.

    ``draw`` and ``places`` are what it gives, by PyTorch's own operators, from the same arguments, for where there is
    no library. ``shape(window, x)`` is the output's, and refuses, with :class:`ArgumentError`, what cannot be pooled.
    """

    def run(x: Tensor, uniforms: Tensor, *flat: Any) -> tuple[Tensor, Tensor]:
        window = window_from(flat)
        output, dtype = shape(window, x), _wide(x)
        if uniforms.shape != output or uniforms.dtype != dtype:
            raise ArgumentError(
                f"uniforms has shape {tuple(uniforms.shape)} and dtype {uniforms.dtype}; give a number for each "
                f"window: shape {output}, dtype {dtype}"
            )
        if _native.takes(x, uniforms):
            return _native.draw(window, x, uniforms)
        y = _native.laid_out(draw(window, x, uniforms).contiguous(), x)
        return y, places(window, x, uniforms).to(_native.PLACES[dtype]).contiguous()

    def run_shapes(x: Tensor, uniforms: Tensor, *flat: Any) -> tuple[Tensor, Tensor]:
        y = x.new_empty(shape(window_from(flat), x))
        return _native.laid_out(y, x), y.new_empty(y.shape, dtype=_native.PLACES[uniforms.dtype])

    def slopes(grad: Tensor, at: Tensor, spatial: Sequence[int], *flat: Any) -> Tensor:
        if _native.takes(grad):
            return _native.drawn_slopes(window_from(flat), grad, at, spatial)
        return _native.laid_out(_sent(grad, at, spatial), grad)

    def slopes_shape(grad: Tensor, at: Tensor, spatial: Sequence[int], *flat: Any) -> Tensor:  # noqa: ARG001
        return _native.laid_out(grad.new_empty((*grad.shape[:2], *spatial)), grad)

    call = define(f"native_{name}", f"(Tensor x, Tensor uniforms, {FIELDS}) -> (Tensor, Tensor)", run, run_shapes)
    schema = f"(Tensor grad, Tensor places, SymInt[] spatial, {FIELDS}) -> Tensor"
    call_backward = define(f"native_{name}_backward", schema, slopes, slopes_shape)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.rest = inputs[0].shape[2:], *inputs[2:]

    def pass_back(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        return call_backward(grad, *ctx.saved_tensors, *ctx.rest), None, *[None] * COUNT

    def keep_places(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - PyTorch's names
        ctx.save_for_backward(inputs[1])

    def pass_on(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _found(grad, *ctx.saved_tensors), None, None, *[None] * COUNT

    register = torch.library.register_autograd
    register(f"{DOMAIN}::native_{name}", pass_back, setup_context=keep, lib=LIBRARY)
    register(f"{DOMAIN}::native_{name}_backward", pass_on, setup_context=keep_places, lib=LIBRARY)

    def drawn(window: Any, x: Tensor, uniforms: Tensor) -> Tensor:
        y: Tensor = call(x, uniforms, *fields(window))[0]
        return y

    return drawn


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _sent(grad: Tensor, places: Tensor, spatial: Sequence[int]) -> Tensor:
    """``grad`` to where cells were drawn, added up there."""
    wide = grad.to(_wide(grad)).flatten(2)
    at = places.flatten(2).long()
    flat = wide.new_zeros((*grad.shape[:2], *spatial)).flatten(2)
    sums = flat.scatter_add(2, at.clamp(min=0), torch.where(at < 0, 0, wide))
    return sums.reshape(*sums.shape[:2], *spatial).to(grad.dtype)


def _found(x: Tensor, places: Tensor) -> Tensor:
    """The cells of ``x`` at these places; 0 where a place is none."""
    at = places.flatten(2).long()
    cells = torch.where(at < 0, 0, x.flatten(2).gather(2, at.clamp(min=0)))
    return cells.view(places.shape)
