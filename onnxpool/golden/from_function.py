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
from onnxpool.golden.collect import collect, moved
from onnxpool.golden.file import Answers, Golden
from onnxpool.golden.inputs import Feeds
from onnxpool.graph.forms import Model, read


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

    def yardstick(feeds: Feeds, answers: Answers) -> dict[str, float]:
        changed = answer(moved(feeds, np.random.default_rng(0)))
        return {name: nodes * bounds.measure(changed[name], answers[name], 0).max_abs for name in answers}

    golden = collect(
        model,
        answer,
        yardstick,
        source="the given function",
        yardstick_source="a rounding of each input, per node",
        only=only,
    )
    return replace(golden, fingerprints={"nodes": {}, "functions": {}})
