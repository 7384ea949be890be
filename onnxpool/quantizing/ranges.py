"""How large the values of a float32 model become on samples, and by how much others may be larger."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxpool.dtypes import Array
from onnxpool.golden.inputs import Feeds
from onnxpool.graph import forms, subgraph
from onnxpool.quantizing.inside import largest_inside
from onnxpool.run.session import load

MARGIN = 4.0
"""How far below the largest number of float16 values stay: other inputs than the samples have larger ones."""

FURTHER = 1000.0
"""So many times the numbers that were seen are to stay below it, too, where few of them are much larger than others."""

_TOP, _LEAST_COUNT = 64, 32


@dataclass(frozen=True)
class Seen:
    """Of each value the least and the largest number, and how much larger others may come; of each node the largest
    inside.
    """

    ranges: dict[str, tuple[float, float]]
    margins: dict[str, float]
    inside: dict[str, float]

    def largest(self, name: str) -> float:
        """The largest magnitude of a value."""
        least, most = self.ranges.get(name, (0.0, 0.0))
        return float(np.maximum(abs(least), abs(most)))


def seen_in(base: ir.Model, every: Iterable[Feeds]) -> Seen:
    """Every value of the model in ONNX Runtime, on all samples; NaN where one of them leads to NaN."""
    floats = {
        str(value.name): np.zeros(0, np.float32)
        for node in base.graph
        for value in node.outputs
        if value.name and value.dtype == ir.DataType.FLOAT
    }
    opened = load(forms.to_form(subgraph.opened(base, floats), "function"), kernels="off")
    weights = {
        str(name): value.const_value.numpy()
        for name, value in base.graph.initializers.items()
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT
    }
    ranges = {name: (float(array.min()), float(array.max())) for name, array in weights.items() if array.size}
    inside: dict[str, float] = {}
    tops: dict[str, Array] = {}
    counts: dict[str, int] = {}
    for feeds in every:
        arrays = {**weights, **feeds, **opened.run(feeds)}
        for name, array in arrays.items():
            if name in weights or array.dtype != np.float32 or not array.size:
                continue
            least, most = float(array.min()), float(array.max())
            before = ranges.get(name, (least, most))
            ranges[name] = (float(np.minimum(before[0], least)), float(np.maximum(before[1], most)))
            tops[name] = np.sort(np.concatenate([tops.get(name, np.zeros(0)), _top(array)]))[-_TOP:]
            counts[name] = counts.get(name, 0) + array.size
        wide: dict[str, Array] = {name: array for name, array in arrays.items() if array.dtype == np.float32}
        for node in base.graph:
            inside[str(node.name)] = max(inside.get(str(node.name), 0.0), largest_inside(node, wide))
    margins = {name: _margin(top, counts[name]) for name, top in tops.items()}
    return Seen(ranges, margins, inside)


def _top(array: Array) -> Array:
    """The largest magnitudes."""
    flat = np.abs(array).reshape(-1)
    return np.asarray(np.partition(flat, -_TOP)[-_TOP:] if flat.size > _TOP else flat, np.float64)


def _margin(top: Array, count: int) -> float:
    """How many times the largest of ``count`` numbers one of :data:`FURTHER` times as many may be: by the index of a
    tail that falls as a power (Hill, Annals of Statistics, 1975), as that of a reciprocal does, and at least
    :data:`MARGIN`.
    """
    some = top[-min(_TOP, count // 4) :]
    if count < _LEAST_COUNT or not some.size or not 0 < some[0] <= some[-1] < np.inf:
        return MARGIN
    return max(MARGIN, float(FURTHER ** np.mean(np.log(some / some[0]))))
