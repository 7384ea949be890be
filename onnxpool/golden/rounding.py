"""QuantizeLinear and DequantizeLinear in float64, for onnx's reference evaluator, with roundings that can be moved.

Q divides in float64, rounds half to even, and saturates; DQ multiplies in float64. A runtime computes in float32, or in
integers with a factor in float32: where a quotient lies close to the middle of two whole numbers it may round to the
other one. :class:`Rounding` lets every quotient move a little, so that one can see what that changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from onnxpool.dtypes import Array
from onnxpool.errors import GoldenError
from onnxpool.graph.quantized import DOMAINS, DQ, Q


@dataclass
class Rounding:
    """How the next run rounds: each quotient ``moved`` up or down by so many steps, as ``draws`` falls.

    ``jolted`` are outputs of DQ that move by a whole step, up or down, too.
    """

    moved: float = 0.0
    jolted: frozenset[str] = frozenset()
    draws: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def operators(self) -> list[type[OpRun]]:
        """Q and DQ, in each domain that they stand in, for an evaluator that rounds as this says."""

        def quantize(_: OpRun, x: NDArray[Any], scale: NDArray[Any], *rest: NDArray[Any], **told: Any) -> Any:
            zero_point = _zero_point(rest, told)
            quotient = x.astype(np.float64) / _along(scale, x, told).astype(np.float64)
            if self.moved:
                quotient = quotient + self.moved * self.draws.choice([-1.0, 1.0], quotient.shape)
            limits = np.iinfo(zero_point.dtype)
            stored = np.rint(quotient) + _along(zero_point, x, told)
            if np.isnan(stored).any():
                raise GoldenError("a quantised tensor holds no NaN: what runtimes store for one is their own choice")
            return (np.clip(stored, limits.min, limits.max).astype(zero_point.dtype),)

        def dequantize(node: OpRun, stored: NDArray[Any], scale: NDArray[Any], *rest: NDArray[Any], **told: Any) -> Any:
            zero_point = _along(_zero_point(rest, told, stored.dtype), stored, told).astype(np.float64)
            step = _along(scale, stored, told).astype(np.float64)
            real: Array = step * (stored.astype(np.float64) - zero_point)
            if node.onnx_node.output[0] in self.jolted:
                real = real + step * self.draws.choice([-1.0, 1.0], real.shape)
            return (np.asarray(real, scale.dtype),)

        runs: dict[str, Callable[..., Any]] = {Q: quantize, DQ: dequantize}
        return [
            type(name, (OpRun,), {"op_domain": domain, "_run": run}) for name, run in runs.items() for domain in DOMAINS
        ]


def _zero_point(rest: tuple[NDArray[Any], ...], told: dict[str, Any], dtype: Any = np.uint8) -> NDArray[Any]:
    if told.get("block_size"):
        raise GoldenError("the model counts in blocks of elements (block_size); onnxpool knows one scale, or channels")
    found = np.asarray(rest[0]) if rest and rest[0] is not None else np.zeros((), dtype)
    if found.dtype.kind not in "iu":
        raise GoldenError(f"the model quantises to {found.dtype}; onnxpool knows whole numbers")
    return found


def _along(number: NDArray[Any], x: NDArray[Any], told: dict[str, Any]) -> NDArray[Any]:
    number = np.asarray(number)
    if number.size == 1:
        return number.reshape(())
    axes = [1] * x.ndim
    axes[int(told.get("axis") if told.get("axis") is not None else 1)] = -1  # type: ignore[arg-type]
    return number.reshape(axes)
