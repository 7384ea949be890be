"""Answers from any function of float64 arrays, such as one of NumPy or of another framework.

It computes in float64 alone, so that there is no error of its own to measure. The yardstick is how far its answers move
when every input moves by one ULP of the model's type, once for each node of the model, since each rounds like an input
was.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxpool.errors import GoldenError
from onnxpool.golden import bounds
from onnxpool.golden.choices import of_runs
from onnxpool.golden.collect import Measured, collect, moved
from onnxpool.golden.file import Answers, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.graph.forms import Model, read

DRAWS = 2
"""How many times the inputs are moved; the largest change counts."""


def record(function: Callable[[Feeds], Mapping[str, Any]], model: Model, *, only: str | None = None) -> Golden:
    """The answers of any function ``{name: float64 array} -> {name: array}`` to every case that fits ``model``.

    ``only`` as in :func:`collect`. Raises :class:`GoldenError` where it answers no case.
    """
    model = read(model)
    nodes = len(model.graph)

    def answer(feeds: Feeds) -> Answers:
        answers = function(feeds)
        names = {str(value.name) for value in model.graph.outputs}
        if set(answers) != names:
            raise GoldenError(f"the reference gave {sorted(answers)}; the model has the outputs {sorted(names)}")
        return {name: np.asarray(array, np.float64) for name, array in answers.items()}

    dtypes = {str(value.name): str(np.dtype(value.dtype.numpy())) for value in model.graph.outputs if value.dtype}

    def yardstick(feeds: Feeds, answers: Answers) -> Measured:
        runs = [answer(moved(feeds, np.random.default_rng(seed))) for seed in range(DRAWS)]
        yardsticks, choices = {}, {}
        for name, right in answers.items():
            dtype = dtypes.get(name, "float32")
            found = [one[name] for one in runs if one[name].shape == right.shape]
            curve, choices[name] = of_runs(right, found, floating=bounds.is_floating(dtype), dtype=dtype)
            yardsticks[name] = curve.scaled(nodes)
        return Measured(yardsticks, {name: one for name, one in choices.items() if len(one.places)})

    golden = collect(
        model,
        answer,
        yardstick,
        source="the given function",
        yardstick_source="a rounding of each input, per node",
        only=only,
    )
    return replace(golden, fingerprints={"nodes": {}, "functions": {}})
