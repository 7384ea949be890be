"""How errors are spread: histograms, maps, and their pictures."""

import re

import numpy as np
import pytest

from onnxpool.validation import as_svg, spread


def test_histogram_counts_elements_by_ulp():
    answer = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    ulp = 2.0**-23
    actual = np.array([1, 1 + ulp, 1 + 3 * ulp, 1 + 1024 * ulp, 1 + 1025 * ulp, 2], np.float32)
    counts = dict(zip((*spread.EDGES, "more", "odd"), spread.histogram(actual, answer), strict=True))
    assert {edge: count for edge, count in counts.items() if count} == {0: 1, 1: 1, 4: 1, 1024: 1, "more": 2}


def test_histogram_of_half_an_ulp_and_of_whole_numbers():
    rounded = spread.histogram(np.float16([1 / 3]), np.array([1 / 3]))
    assert rounded[spread.EDGES.index(0.5)] == 1
    counted = spread.histogram(np.array([5, 7]), np.array([5.0, 4.0]))
    assert (counted[0], counted[spread.EDGES.index(4)]) == (1, 1)


def test_histogram_counts_what_is_not_finite_on_one_side():
    actual = np.float32([np.nan, np.nan, np.inf, -np.inf, 1.0, np.inf])
    answer = np.array([np.nan, 1.0, np.inf, np.inf, np.nan, 1.0])
    assert spread.histogram(actual, answer)[-1] == 4
    assert sum(spread.histogram(actual, answer)) == 4


def test_heat_is_the_worst_share_of_each_block():
    answer, actual = np.zeros((2, 1, 48, 48)), np.zeros((2, 1, 48, 48), np.float32)
    actual[0, 0, 3, 0], actual[1, 0, 2, 0], actual[1, 0, 47, 47] = 1, 4, np.nan
    rows = np.array(spread.heat(actual, answer, 8.0))
    assert rows.shape == (24, 48)
    assert rows[1, 0] == 0.5
    assert rows[23, 47] == np.inf
    assert np.count_nonzero(rows) == 2
    assert spread.heat(actual[:, 0, 2, :3], answer[:, 0, 2, :3], 8.0) == ((0.0, 0.0, 0.0), (0.5, 0.0, 0.0))


def test_heat_of_vectors_numbers_and_nothing():
    assert spread.heat(np.float32([1, 2]), np.array([1.0, 3.0]), np.array([1.0, 2.0])) == ((0.0, 0.5),)
    assert spread.heat(np.float32(2), np.array(1.0), 1.0) == ((1.0,),)
    assert spread.heat(np.zeros((0, 3)), np.zeros((0, 3)), 1.0) == ()
    assert spread.heat(np.float32([np.inf, np.nan]), np.array([np.inf, np.nan]), 1.0) == ((0.0, 0.0),)
    assert spread.heat(np.float32([np.inf]), np.array([1.0]), 1.0) == ((np.inf,),)
    assert spread.heat(np.array([True, False]), np.array([1.0, 1.0]), 1.0) == ((0.0, 1.0),)


def test_the_picture_of_a_histogram_has_a_bar_for_every_bin_that_has_elements():
    counts = [0] * (len(spread.EDGES) + 2)
    counts[0], counts[3], counts[-1] = 9, 99, 12_345
    drawn = as_svg.histogram(counts)
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert heights == pytest.approx([90 * np.log10(count + 1) / np.log10(12_346) for count in (9, 99, 12_345)], abs=0.1)
    assert "12k<" in drawn
    assert "9 up to 0, 99 up to 2, 12345 up to NaN, inf" in drawn
    assert "<rect" not in as_svg.histogram([0] * len(counts))


def test_the_picture_of_a_map_is_darker_and_red_where_it_is_worse():
    drawn = as_svg.heat([[0.0, 0.05, 1.0], [1.5, 40.0, 100.0]])
    steps = dict(re.findall(r'class="step(\d)" d="([^"]+)"', drawn))
    assert steps == {
        "2": "M1 0h1v1h-1z",
        "5": "M2 0h1v1h-1z",
        "6": "M0 1h1v1h-1z",
        "7": "M1 1h1v1h-1z",
        "8": "M2 1h1v1h-1z",
    }
    assert 'viewBox="0 0 3 2"' in drawn
    assert "map of 2 by 3 blocks, worst 10000.0% of what is allowed" in drawn
