"""Windows and inputs that can hurt, shared by the tests: small, seeded, named."""

import itertools

import numpy as np
import onnxruntime
import pytest

from onnxpool.window import Window

OPSET_26 = pytest.param(
    26,
    marks=pytest.mark.skipif(
        onnxruntime.__version__.startswith("1.24."), reason="ONNX Runtime 1.24 does not load models of opset 26"
    ),
)
"""The newest opset, for tests that load the model."""

WINDOWS = [
    Window.of(1, 2),
    Window.of(1, 3, 2, 1, 2, True),
    Window.of(1, 5, 1, 2),
    Window.of(2, 1),
    Window.of(2, 2),
    Window.of(2, 3, 2, 1),
    Window.of(2, 3, 2, 1, 1, True),
    Window.of(2, (2, 3), (3, 1), (1, 0), (1, 2)),
    Window.of(2, 1, 3, ceil_mode=True),
    Window.of(2, 2, 2, 2, 3),
    Window.of(3, 2),
    Window.of(3, (1, 3, 2), (1, 2, 2), (0, 1, 1), 1, True),
]

SIZES = (9, 8, 7)
"""Spatial sizes, cut to the rank: odd and even, not multiples of the strides."""


def shape(window: Window, batch: int = 2, channels: int = 3) -> tuple[int, ...]:
    return (batch, channels, *SIZES[: window.rank])


def inputs(window: Window, largest: float) -> dict[str, np.ndarray]:
    """Float64 inputs by name; ``largest`` is the largest finite value of the type that they are meant for."""
    rng = np.random.default_rng(20)
    ordinary = rng.standard_normal(shape(window))
    chance = rng.random(ordinary.shape)
    big = min(1e4, largest)
    return {
        "ordinary": ordinary,
        "batch of one": ordinary[:1],
        "empty batch": ordinary[:0],
        "size-1 channel": ordinary[:, :1],
        "constant": np.full_like(ordinary, -3.25),
        "ties": np.round(ordinary),
        "negative": -np.abs(ordinary) * 50,
        "around the guard": ordinary * 30,
        "huge": ordinary * big / 4,
        "1e4": np.where(chance < 0.5, big, -big),
        "largest": np.where(chance < 0.5, largest, -largest),
        "all largest": np.full_like(ordinary, largest),
        "tiny": ordinary * 1e-30,
        "denormal": ordinary * 1e-44,
        "far below": np.where(np.arange(ordinary.shape[-1]) < 4, ordinary, ordinary - 200),
        "masked": np.where(chance < 0.4, -np.inf, ordinary),
        "all masked": np.full_like(ordinary, -np.inf),
        "nan": np.where(chance < 0.05, np.nan, ordinary),
        "infinity": np.where(chance < 0.05, np.inf, ordinary),
        "everything": np.select([chance < 0.1, chance < 0.2, chance < 0.3], [np.nan, np.inf, -np.inf], ordinary),
    }


def geometries() -> list[tuple[Window, int]]:
    """Every small 1d window with every small input length; the law of the axes is the same for each."""
    every = itertools.product(range(1, 6), range(1, 6), (1, 2, 3), (False, True))
    windows = [Window.of(1, k, s, p, d, ceil) for k, s, d, ceil in every for p in range((d * (k - 1) + 1) // 2 + 1)]
    return list(itertools.product(windows, range(1, 12)))
