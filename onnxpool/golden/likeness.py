"""How alike two vectors are, in one number each: cosine and signal-to-noise ratio."""

import math

import numpy as np

from onnxpool.dtypes import Array


def likeness(result: Array, answer: Array) -> tuple[float, float]:
    """Cosine and signal-to-noise ratio in decibels of two finite vectors."""
    scale = max(np.abs(result).max(), np.abs(answer).max()) or 1.0  # squares of scaled numbers stay in range
    result, answer = result / scale, answer / scale
    lengths, noise = np.linalg.norm(result) * np.linalg.norm(answer), np.linalg.norm(result - answer)
    if noise == 0:
        return 1.0, math.inf
    cosine = float(np.clip(result @ answer / lengths, -1, 1)) if lengths else 0.0
    signal = np.linalg.norm(answer)
    return cosine, float(20 * np.log10(signal / noise)) if signal else -math.inf
