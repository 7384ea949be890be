"""Attentive statistics pooling: mean and standard deviation over tokens or frames, weighted by a learned score.

    s_t = v . tanh(W x_t + b),   w = softmax of s over the tokens,   y = [mean, deviation]
    mean = sum_t w_t x_t,        deviation = sqrt(max(sum_t w_t (x_t - mean)^2, eps))

Source: Okabe, Koshinaka, Shinoda, "Attentive statistics pooling for deep speaker embedding", Interspeech 2018. Its
``sum w x^2 - mean^2`` cancels: a constant of 1000 has a deviation of 0.1 or NaN by it in float32. (The number that the
paper adds to each score divides out of the softmax, and is left out.) Squares are of numbers relative to the largest
distance, and distances of halves, so that none overflows. Scores, weights and sums of float16 and bfloat16 are float32.
Padding may hold NaN or infinity; a sequence without a token gives 0, or NaN as asked. In ONNX it is standard operators
in every form.

>>> import numpy as np
>>> x = np.array([[[1.0], [3.0], [9.0]]])
>>> reference(x, np.zeros((1, 3)), np.array([[1, 1, 0]]))
array([[2., 1.]])
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.errors import ArgumentError
from onnxpool.pools import _onnx_ops as onnx_ops
from onnxpool.pools._channels import check_has_channels
from onnxpool.pools._method import Method
from onnxpool.pools._tokens import Empty, TokenModule, check_some_token, without_padding, written_mask
from onnxpool.pools._torch_ops import has_known_sizes, standard_operator, torch, widen

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentiveStatisticsPool"]


# --- what it computes: float64, plain


def reference(
    x: Array, scores: Array, mask: NDArray[Any] | None = None, eps: float = 1e-12, empty: Empty = "zero"
) -> Array:
    """Float64 ``x (N, T, C)``, ``scores (N, T)`` to ``(N, 2 C)``: the definition that everything is compared with."""
    kept = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask) != 0
    rows = [_one(x[i][kept[i]], scores[i][kept[i]], eps, empty) for i in range(len(x))]
    return np.stack(rows) if rows else np.empty((0, 2 * x.shape[2]))


def _one(x: Array, scores: Array, eps: float, empty: Empty) -> Array:
    if not len(x):
        return np.full(2 * x.shape[1], 0.0 if empty == "zero" else np.nan)
    weights = np.exp(scores - scores.max())
    weights = (weights / weights.sum())[:, None]
    half = (weights * (x / 2)).sum(0)
    limit = np.finfo(x.dtype).max / 2
    half = np.where(np.isfinite(half), np.clip(half, -limit, limit), half)
    distance = x / 2 - half
    scale = np.abs(distance).max(0)
    scale = np.where((scale > 0) & (scale < np.inf), scale, 1)
    deviation = 2 * np.minimum(scale * np.sqrt((weights * (distance / scale) ** 2).sum(0)), limit)
    return np.concatenate([2 * half, np.maximum(deviation, eps**0.5)])


METHOD = Method(
    name="AttentiveStatisticsPool",
    summary="mean and standard deviation over tokens, weighted by the softmax of a learned score",
    formula="y = [sum w_t x_t, sqrt(sum w_t (x_t - mean)^2)], w = softmax(v . tanh(W x_t + b))",
    source="Okabe et al., Interspeech 2018",
    modules=("AttentiveStatisticsPool(3, 4)",),
)


# --- how it trains


def _forward(
    x: "Tensor", mask: "Tensor | None", weight: "Tensor", bias: "Tensor", vector: "Tensor", eps: float, nan: bool
) -> "Tensor":
    wide, kept = widen(x), None if mask is None else mask != 0
    if kept is not None:  # here already, since 0 times NaN would enter the slopes of the weights
        wide = torch.where(kept.unsqueeze(2), wide, 0)
    hidden = torch.nn.functional.linear(wide, widen(weight), widen(bias)).tanh()
    scores = (hidden * widen(vector)).sum(2, keepdim=True)
    if kept is not None:
        some = kept.any(1, keepdim=True)
        scores = torch.where((kept | ~some).unsqueeze(2), scores, -torch.inf)
    weights = scores.softmax(1)
    limit = torch.finfo(wide.dtype).max / 2
    half = (weights * (wide / 2)).sum(1)  # a distance may be twice as large as the type holds
    half = torch.where(half.isfinite(), half.clamp(-limit, limit), half)  # which rounding may have passed a little
    distance = wide / 2 - half.unsqueeze(1)
    if kept is not None:
        distance = torch.where(kept.unsqueeze(2), distance, 0)
    scale = distance.abs().amax(1).detach()  # a common factor has no slope
    scale = torch.where((scale > 0) & (scale < torch.inf), scale, 1)
    variance = (weights * (distance / scale.unsqueeze(1)) ** 2).sum(1)
    nothing = variance == 0  # there the root has no slope
    root = torch.where(nothing, 0, torch.where(nothing, 1, variance).sqrt())
    deviation = 2 * (scale * root).clamp(max=limit)
    y = torch.cat([2 * half, deviation.clamp(min=eps**0.5)], 1)
    if kept is not None:
        y = torch.where(some, y, torch.nan if nan else 0)
    return y.to(x.dtype)


def _shape(x: "Tensor", _: "Tensor | None", weight: "Tensor", *__: Any) -> tuple[int, ...]:
    check_some_token(x)
    if has_known_sizes(x):
        check_has_channels(x, weight.shape[1], axis=2)
    return (x.shape[0], 2 * x.shape[2])


# --- how it looks in ONNX


def _translate(op: Any, x: Any, mask: Any, weight: Any, bias: Any, vector: Any, eps: float, nan: bool) -> Any:
    wide = onnx_ops.wide_for(x.dtype)
    along = onnx_ops.ints(op, 1)

    def number(value: float) -> Any:
        return onnx_ops.number(op, value, wide)

    def write(x: Any) -> Any:
        kept = None if mask is None else written_mask(op, mask)
        some = None
        if kept is not None:
            x = without_padding(op, x, kept, 0, wide)
            some = op.Cast(op.ReduceMax(op.Cast(kept, to=ir.DataType.INT32), along, keepdims=1), to=ir.DataType.BOOL)
        turned = op.Transpose(onnx_ops.cast(op, weight, wide), perm=(1, 0))
        hidden = op.Tanh(op.Add(op.MatMul(x, turned), onnx_ops.cast(op, bias, wide)))
        products = op.Mul(hidden, onnx_ops.cast(op, vector, wide))
        scores = op.ReduceSum(products, onnx_ops.ints(op, 2), keepdims=1)
        if kept is not None:
            scores = without_padding(op, scores, op.Or(kept, op.Not(some)), -math.inf, wide)
        weights = op.Softmax(scores, axis=1)
        limit, two = float(np.finfo(wide.numpy()).max) / 2, number(2)
        halves = op.Div(x, two)
        half = op.ReduceSum(op.Mul(weights, halves), along, keepdims=1)
        within = op.Min(op.Max(half, number(-limit)), number(limit))
        half = op.Where(op.Less(op.Abs(half), number(1.5 * limit)), within, half)  # infinity stays
        distance = op.Sub(halves, half)
        if kept is not None:
            distance = without_padding(op, distance, kept, 0, wide)
        scale = op.ReduceMax(op.Abs(distance), along, keepdims=1)
        usual = op.And(op.Greater(scale, number(0)), op.Less(scale, number(math.inf)))
        scale = op.Where(usual, scale, number(1))
        ratio = op.Div(distance, scale)
        variance = op.ReduceSum(op.Mul(weights, op.Mul(ratio, ratio)), along, keepdims=1)
        deviation = op.Mul(op.Min(op.Mul(scale, op.Sqrt(variance)), number(limit)), two)
        y = op.Concat(op.Mul(half, two), op.Max(deviation, number(eps**0.5)), axis=2)
        y = op.Squeeze(y, along)
        return y if some is None else op.Where(some, y, number(math.nan if nan else 0))

    return onnx_ops.computed_in(op, x, wide, write)


attentive_statistics_pool = standard_operator(
    "attentive_statistics_pool",
    "Tensor x, Tensor? mask, Tensor weight, Tensor bias, Tensor vector, float eps, bool nan",
    _forward,
    _shape,
    _translate,
)


# --- the module


class AttentiveStatisticsPool(TokenModule):
    """Weighted mean and deviation: ``x (N, T, channels)``, ``mask (N, T)`` to ``(N, 2 channels)``.

    The score of a token has ``attention_channels`` hidden units. ``eps`` is what the variance has at least. A sequence
    whose mask is 0 gives 0, or NaN with ``empty="nan"``. With the scores as they are, float32 errs at most
    :func:`onnxpool.golden.bounds.statistics_ulps` of the largest token.

    Raises :class:`ArgumentError` for sizes that are not positive ints, a negative ``eps``, an unknown ``empty``, and in
    ``forward`` for another number of channels, and as :class:`onnxpool.pools._tokens.TokenModule`.

    >>> import torch
    >>> pool = AttentiveStatisticsPool(1)
    >>> _ = torch.nn.init.zeros_(pool.vector)
    >>> pool(torch.tensor([[[1.0], [3.0], [torch.inf]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[2.0, 1.0]]
    """

    def __init__(
        self, channels: int, attention_channels: int = 128, *, eps: float = 1e-12, empty: Empty = "zero"
    ) -> None:
        super().__init__(empty)
        for name, value in (("channels", channels), ("attention_channels", attention_channels)):
            if type(value) is not int or value < 1:
                raise ArgumentError(f"{name}={value!r} must be a positive int")
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
            raise ArgumentError(f"eps={eps!r} must be a number of at least 0, such as 1e-12")
        self.channels: int = channels
        self.attention_channels: int = attention_channels
        self.eps: float = float(eps)
        reach, inner = channels**-0.5, attention_channels**-0.5
        self.weight: torch.nn.Parameter = torch.nn.Parameter(
            torch.empty(attention_channels, channels).uniform_(-reach, reach)
        )
        self.bias: torch.nn.Parameter = torch.nn.Parameter(torch.empty(attention_channels).uniform_(-reach, reach))
        self.vector: torch.nn.Parameter = torch.nn.Parameter(torch.empty(attention_channels).uniform_(-inner, inner))

    def pool_tokens(self, x: "Tensor", mask: "Tensor | None") -> "Tensor":
        """Pool a batch ``(N, T, C)``."""
        return attentive_statistics_pool(x, mask, self.weight, self.bias, self.vector, self.eps, self.empty == "nan")

    def reference(self, x: Array, mask: NDArray[Any] | None = None) -> Array:
        """As :func:`reference`, with scores by the present parameters."""
        weight, bias, vector = (p.detach().double().cpu().numpy() for p in (self.weight, self.bias, self.vector))
        hidden = np.tanh(np.einsum("ntc,dc->ntd", x, weight) + bias)
        scores: Array = hidden @ vector
        return reference(x, scores, mask, self.eps, self.empty)

    def extra_repr(self) -> str:
        """Sizes, and what is chosen."""
        return f"{self.channels}, {self.attention_channels}, eps={self.eps:g}" + ", empty='nan'" * (self.empty == "nan")
