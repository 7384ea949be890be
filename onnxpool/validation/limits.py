"""What a runtime is known not to do, whatever the model: such a case is noted, and fails nothing.

Each limit has the smallest model that shows it, as text that ``onnx.parser`` reads, and the tests run it in the release
that is installed: what a runtime has mended must leave this table. A limit excuses a case of its kind alone, in a model
with its operator, and only as it says:

    stops     it refuses to run, with an error            dies      its process ends
    drops     it gives a number where NaN belongs         clips     it gives the largest number in place of infinity
    vanishes  products of numbers near the smallest are 0, as they are in float32

Of the last two, nothing is excused where the model itself differs from the answers in float64.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxpool.errors import OnnxpoolError
from onnxpool.golden import bounds
from onnxpool.golden.file import Case

Kind: TypeAlias = Literal["empty", "nan", "infinite", "subnormal"]
Way: TypeAlias = Literal["stops", "dies", "drops", "clips", "vanishes"]

TOLD = "a known limit of"
"""How the sentence on a limit begins."""

SUBNORMAL = 1e-30
"""Inputs that are all below this have products that vanish in float32."""


@dataclass(frozen=True)
class Limit:
    """In cases of this kind, a runtime does this in models with this operator, or ``*``; ``shown`` is the smallest.

    The first input of ``shown`` is the one that is of this kind.
    """

    runtime: str
    operator: str
    kind: Kind
    way: Way
    shown: str

    @property
    def sentence(self) -> str:
        """For people."""
        given = {"empty": "an empty batch", "nan": "NaN", "infinite": "an infinity", "subnormal": "numbers near 1e-38"}
        what = "operators" if self.operator == "*" else self.operator
        told = {
            "stops": "refuses to run",
            "dies": "ends its process",
            "drops": "may drop NaN",
            "clips": "gives the largest number for infinity",
            "vanishes": "takes squares for 0",
        }
        return f"{TOLD} {self.runtime}: given {given[self.kind]}, its {what} {told[self.way]}"


_HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '

LIMITS = (
    *(
        Limit(
            "onnxruntime",
            name,
            "empty",
            "dies",
            f"{_HEAD}(float[3,N,2] x, float[1,{size},2] w, float[1,{size},2] r) => (float[a,b,c,d] y)"
            f"{{ y = {name}<hidden_size=2>(x, w, r) }}",
        )
        for name, size in (("LSTM", 8), ("GRU", 6))
    ),
    Limit(
        "onnxruntime",
        "Einsum",
        "empty",
        "dies",
        _HEAD + '(float[N,2,3] x) => (float[N,2,2] y) { y = Einsum<equation="nij,nkj->nik">(x, x) }',
    ),
    Limit(
        "onnxruntime",
        "GroupNormalization",
        "empty",
        "stops",
        _HEAD + "(float[N,4,3,3] x, float[4] s, float[4] b) => (float[N,4,3,3] y)"
        "{ y = GroupNormalization<num_groups=2>(x, s, b) }",
    ),
    Limit(
        "onnxruntime",
        "Reshape",
        "empty",
        "stops",
        _HEAD + "(float[N,4,3,3] x, int64[3] shape) => (float[N,2,c] y) { y = Reshape(x, shape) }",
    ),
    *(
        Limit("onnxruntime", name, "nan", "drops", f"{_HEAD}{text}")
        for name, text in (
            ("MaxPool", "(float[N,8,9,33] x) => (float[a,b,c,d] y) { y = MaxPool<kernel_shape=[3,3]>(x) }"),
            ("GlobalMaxPool", "(float[N,2,4,4] x) => (float[a,b,c,d] y) { y = GlobalMaxPool(x) }"),
            ("ReduceMax", "(float[N,8,33] x, int64[1] a) => (float[N,33] y) { y = ReduceMax<keepdims=0>(x, a) }"),
        )
    ),
    *(
        Limit(
            "onnxruntime",
            name,
            "nan",
            "drops",
            f"{_HEAD}(float[N,9] x) => (float[N,1] y) {{ i = {name}<axis=1>(x) y = GatherElements<axis=1>(x, i) }}",
        )
        for name in ("ArgMax", "ArgMin")
    ),
    *(
        Limit(
            "onnxruntime",
            name,
            "nan",
            "drops",
            f"{_HEAD}(float[3,N,2] x, float[1,{size},2] w, float[1,{size},2] r, float[1,{2 * size}] b)"
            f" => (float[a,b,c,d] y) {{ y = {name}<hidden_size=2>(x, w, r, b) }}",
        )
        for name, size in (("LSTM", 8), ("GRU", 6))
    ),
    Limit(
        "onnxruntime",
        "Clip",
        "infinite",
        "clips",
        _HEAD + "(float[N,4] x, float least) => (float[N,4] y) { y = Clip(x, least) }",
    ),
    Limit(
        "onnxruntime",
        "*",
        "subnormal",
        "vanishes",
        _HEAD + "(float[N,4] x) => (float[N,4] y) { xx = Mul(x, x) root = Sqrt(xx) y = Div(x, root) }",
    ),
)


def kinds(inputs: Mapping[str, NDArray[Any]]) -> set[Kind]:
    """What is unusual about the inputs of a case."""
    found: set[Kind] = set()
    arrays = [array.astype(np.float64) for array in inputs.values() if bounds.is_floating(array.dtype)]
    if any(not array.size for array in inputs.values()):
        found.add("empty")
    if any(np.isnan(array).any() for array in arrays):
        found.add("nan")
    if any(np.isinf(array).any() for array in arrays):
        found.add("infinite")
    largest = max((float(np.abs(array).max(initial=0)) for array in arrays), default=0.0)
    if 0 < largest < SUBNORMAL:
        found.add("subnormal")
    return found


def known(runtime: str, operators: Collection[str], case: Case, ways: Collection[Way]) -> Limit | None:
    """The first limit of ``runtime`` that excuses a case in a model with these operators, in one of these ways."""
    if runtime.split(" ")[0] not in {limit.runtime for limit in LIMITS}:
        return None
    met = kinds(case.inputs)
    for limit in LIMITS:
        ours = limit.runtime == runtime.split(" ")[0] and limit.kind in met and limit.way in ways
        if ours and (limit.operator == "*" or limit.operator in operators):
            return limit
    return None


def right_in_float64(case: Case, exact: Callable[[], Mapping[str, NDArray[Any]]], yardstick: str) -> bool:
    """Whether a model itself gives the answers of a case, or cannot be asked."""
    try:
        own = exact()
    except OnnxpoolError:
        return True
    for name, answer in case.answers.items():
        if own[name].shape != answer.shape:
            return False
        bound = bounds.network(answer, np.float64, case.yardstick[name], yardstick)
        if not bounds.measure(own[name], case.nearest(name, own[name]), bound.allowed).within:
            return False
    return True
