"""Token pooling: one vector for a sequence of tokens, padding left out; the poolings of sentence embedding models.

    mean                  y = sum_t m_t x_t / sum_t m_t            m: the mask, 1 for a token, 0 for padding
    max                   y = max x_t over the tokens
    cls, lasttoken        y = the first, the last token            wherever the padding is: on the right or left
    weightedmean          y = sum_t t m_t x_t / sum_t t m_t        t: the position, 1 for the first of the T
    mean_sqrt_len_tokens  y = sum_t m_t x_t / sqrt(sum_t m_t)

Sources: Reimers, Gurevych, "Sentence-BERT", EMNLP 2019, whose library gave the modes their names; Muennighoff, "SGPT:
GPT sentence embeddings for semantic search", 2022 (weightedmean). As in that library, weights are those of positions,
whether these take part or not: a prompt that the mask leaves out counts. So does padding on the left, which makes the
vector depend on how much there is; the paper's weights are those of a sentence that starts at position 1, and so
weightedmean wants padding on the right.

float16 and bfloat16 are summed in float32 and rounded once: 4096 tokens of 20 have a sum beyond float16, and the usual
``clamp(min=1e-9)`` of the count is 0 there. Padding may hold NaN or infinity. A sequence without a token gives 0, or
NaN as asked. A float32 sum beyond 3.4e38 overflows. In ONNX it is standard operators in every form of a model.

>>> import numpy as np
>>> x = np.array([[[1.0], [4.0], [9.0]]])
>>> reference(x, np.array([[1, 1, 0]])).item(), reference(x, np.array([[1, 1, 0]]), "weightedmean").item()
(2.5, 3.0)
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxpool.dtypes import Array
from onnxpool.pools._method import Method
from onnxpool.pools._token_in_onnx import translate
from onnxpool.pools._tokens import Empty, TokenModule, check_choice, check_flag, check_some_token
from onnxpool.pools._torch_ops import standard_operator, torch, widen

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TokenPool"]

Mode = Literal["mean", "max", "cls", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"]


# --- what it computes: float64, plain


def reference(
    x: Array, mask: NDArray[Any] | None = None, mode: Mode = "mean", normalize: bool = False, empty: Empty = "zero"
) -> Array:
    """Float64 ``(N, T, C) -> (N, C)``: the definition that everything else is compared with."""
    kept = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask) != 0
    places = np.arange(1.0, x.shape[1] + 1)
    rows = [_one(tokens[row], places[row], mode, empty) for tokens, row in zip(x, kept, strict=True)]
    y = np.stack(rows) if rows else np.empty((0, x.shape[2]))
    return np.stack([_unit(vector) for vector in y]) if normalize and len(y) else y


def _one(x: Array, places: Array, mode: Mode, empty: Empty) -> Array:
    count = len(x)
    if not count:
        return np.full(x.shape[1], 0.0 if empty == "zero" else np.nan)
    y: Array = {
        "mean": lambda: x.sum(0) / count,
        "max": lambda: x.max(0),
        "cls": lambda: x[0],
        "lasttoken": lambda: x[-1],
        "weightedmean": lambda: (places[:, None] * x).sum(0) / places.sum(),
        "mean_sqrt_len_tokens": lambda: x.sum(0) / count**0.5,
    }[mode]()
    return y


def _unit(y: Array) -> Array:
    top = np.abs(y).max(initial=0)
    scaled = y / top if 0 < top < np.inf else y
    length = (scaled**2).sum() ** 0.5
    unit: Array = scaled / length if length != 0 else scaled
    return unit


METHOD = Method(
    name="TokenPool",
    summary="one vector for a sequence of tokens, padding left out by a mask",
    formula="y = sum m_t x_t / sum m_t; max, cls, lasttoken, weightedmean, mean_sqrt_len_tokens",
    source="Reimers, Gurevych, EMNLP 2019",
    modules=("TokenPool()", "TokenPool('weightedmean', normalize=True)"),
)


# --- how it trains


def _forward(x: "Tensor", mask: "Tensor | None", mode: str, normalize: bool, nan: bool) -> "Tensor":
    wide, kept = widen(x), None if mask is None else mask != 0
    y = _POOLED[mode](wide, kept)
    if kept is not None:
        y = torch.where(kept.any(1, keepdim=True), y, torch.nan if nan else 0)
    return (_normalized(y) if normalize else y).to(x.dtype)


def _sum(x: "Tensor", kept: "Tensor | None") -> "tuple[Tensor, Any]":
    """The sum of the tokens, and how many there are, or 1: a number, or ``(N, 1)``."""
    if kept is None:
        return x.sum(1), x.shape[1]
    return torch.where(kept.unsqueeze(2), x, 0).sum(1), kept.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def _mean(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    total, count = _sum(x, kept)
    y: Tensor = total / count
    return y


def _mean_sqrt_len(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    total, count = _sum(x, kept)
    y: Tensor = total / count**0.5
    return y


def _weighted_mean(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    """With weights that are divided by their sum first, so that no sum of products is larger than the largest token."""
    every = x.new_ones(x.shape[:2]).cumsum(1)
    places = every if kept is None else every * kept
    shares = places / places.sum(1, keepdim=True).clamp(min=1)
    values = x if kept is None else torch.where(kept.unsqueeze(2), x, 0)
    return (values * shares.unsqueeze(2)).sum(1)


def _max(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    return (x if kept is None else torch.where(kept.unsqueeze(2), x, -torch.inf)).amax(1)


def _first(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    return x[:, 0] if kept is None else _at(x, kept.int().argmax(1))


def _last(x: "Tensor", kept: "Tensor | None") -> "Tensor":
    return x[:, -1] if kept is None else _at(x, kept.int().cumsum(1).argmax(1))  # the count ends there


def _at(x: "Tensor", index: "Tensor") -> "Tensor":
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)


_POOLED = {
    "mean": _mean,
    "max": _max,
    "cls": _first,
    "lasttoken": _last,
    "weightedmean": _weighted_mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
}


def _normalized(y: "Tensor") -> "Tensor":
    """``y / |y|``, of which no square overflows or vanishes; the vector 0 stays, with slopes of 0."""
    magnitudes = torch.nn.functional.pad(y.detach().abs(), (0, 1))  # one more, of 0: there may be no channel
    top = magnitudes.amax(1, keepdim=True)  # a common factor has no slope
    scaled = y / torch.where((top > 0) & (top < torch.inf), top, 1)
    square = (scaled * scaled).sum(1, keepdim=True)
    nothing = square == 0
    return torch.where(nothing, 0, scaled / torch.where(nothing, 1, square).sqrt())


def _shape(x: "Tensor", *_: Any) -> tuple[int, ...]:
    check_some_token(x)
    return (x.shape[0], x.shape[2])


token_pool = standard_operator(
    "token_pool", "Tensor x, Tensor? mask, str mode, bool normalize, bool nan", _forward, _shape, translate
)


# --- the module


class TokenPool(TokenModule):
    """One vector for each sequence of tokens: ``x (N, T, C)``, ``mask (N, T)`` to ``(N, C)``; ``(T, C)`` to ``(C,)``.

    ``mode`` is that of sentence-transformers' Pooling: mean, max, cls, lasttoken, weightedmean or mean_sqrt_len_tokens.
    ``normalize`` gives vectors of length 1; the vector 0 stays 0. A sequence whose mask is 0 gives 0, or NaN with
    ``empty="nan"``. Without a mask every token takes part. The error of float32 is at most
    :func:`onnxpool.golden.bounds.token_ulps` of the largest token; a result of float16 or bfloat16 is rounded once.

    Raises :class:`ArgumentError` for arguments that are not among these, and in ``forward`` as
    :class:`onnxpool.pools._tokens.TokenModule`.

    >>> import torch
    >>> x = torch.tensor([[[1.0, 4.0], [3.0, 2.0], [torch.nan, 9.0]]])
    >>> TokenPool()(x, torch.tensor([[1, 1, 0]]))
    tensor([[2., 3.]])
    """

    def __init__(self, mode: Mode = "mean", *, normalize: bool = False, empty: Empty = "zero") -> None:
        super().__init__(empty)
        check_choice("mode", mode, Mode)
        check_flag("normalize", normalize)
        self.mode: Mode = mode
        self.normalize: bool = normalize

    def pool_tokens(self, x: "Tensor", mask: "Tensor | None") -> "Tensor":
        """Pool a batch ``(N, T, C)``."""
        return token_pool(x, mask, self.mode, self.normalize, self.empty == "nan")

    def reference(self, x: Array, mask: NDArray[Any] | None = None) -> Array:
        """As :func:`reference`, with these options."""
        return reference(x, mask, self.mode, self.normalize, self.empty)

    def extra_repr(self) -> str:
        """What is chosen."""
        return self.mode + ", normalize=True" * self.normalize + ", empty='nan'" * (self.empty == "nan")
