"""What wrong elements suggest: one planted pattern after the other, and silence where there is none."""

import numpy as np
import pytest

from onnxpool.validation import patterns

ANSWER = np.random.default_rng(0).normal(size=(2, 4, 5, 5)) + 5


def planted(place, factor=1.1):
    actual = ANSWER.astype(np.float32)
    rng = np.random.default_rng(1)
    actual[place] *= (factor + rng.uniform(0, 0.5, actual[place].shape)).astype(np.float32)
    return patterns.of_elements(actual, ANSWER, 1e-5)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ((2, 4, 7, 5), "height and width are transposed"),
        ((4, 2, 5, 7), "axes [0, 1] are in another order"),
        ((2, 4, 4, 7), "its last row or column is missing: is ceil_mode off, or padding smaller?"),
        ((2, 4, 4, 6), "its last row or column is missing: is ceil_mode off, or padding smaller?"),
        ((2, 4, 6, 7), "it has a row or column too many: is ceil_mode on, or padding larger?"),
        ((2, 4, 35), "it has 3 axes in place of 4"),
        ((2, 4, 5, 7), ""),
        ((1, 4, 5, 7), ""),
        ((2, 4, 1, 1), ""),
    ],
)
def test_shapes(actual, expected):
    assert patterns.of_shapes(actual, (2, 4, 5, 7)) == expected


def test_places():
    border = np.ones((2, 4, 5, 5), bool)
    border[..., 1:-1, 1:-1] = False
    assert planted(border) == "only elements along the border are wrong: look at the padding and whether it counts"
    assert "ceil_mode" in planted((..., -1))
    assert "ceil_mode" in planted((..., -1, slice(None)))
    assert planted((slice(None), [1, 3])) == "only channels 1, 3 of 4 are wrong"
    assert planted(...) == ""


def test_factors_and_axes():
    assert (
        patterns.of_elements((2.5 * ANSWER).astype("float32"), ANSWER, 1e-5)
        == "every wrong element is 2.5 times its answer"
    )
    assert patterns.of_elements(ANSWER.swapaxes(2, 3), ANSWER, 1e-5) == "height and width are transposed"
    volume = np.random.default_rng(0).normal(size=(1, 1, 3, 4, 3))
    assert patterns.of_elements(volume.swapaxes(2, 4), volume, 1e-5) == "axes 2, 4 are swapped"


def test_overflow():
    actual = ANSWER.astype(np.float16)
    actual[0, 0, 0, 0] = np.nan
    assert "overflows float16 or is undefined" in patterns.of_elements(actual, ANSWER, 1e-1)
    assert "overflow" not in patterns.of_elements(ANSWER, np.where(ANSWER > 5, np.nan, ANSWER), 1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3), (3,), ()])
def test_shapes_without_an_inside(shape):
    answer = np.full(shape, 2.0)
    several = answer.size > 1
    assert patterns.of_elements(answer + 1, answer, 1e-5) == (
        "every wrong element is 1.5 times its answer" if several else ""
    )
    assert patterns.of_elements(answer, answer, 0) == ""
