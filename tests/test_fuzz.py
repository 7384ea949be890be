"""tools/fuzz itself: it finds a planted fault, shrinks it, shows it again, and draws the same from the same seed."""

import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import fuzz
from fuzz import Case, Finding, Values, batches, check, search

from onnxpool.pools import OPERATORS
from onnxpool.window import Window

ROOT = Path(__file__).parent.parent


def test_recipes_by_hand():
    ramp = Values("ramp", 2.0, planted=((1, inf), (6, -1.0)))  # 6 is past the end: position 2
    np.testing.assert_array_equal(ramp.array((2, 2), "float32"), np.array([[0, inf], [-1, 6]], np.float32))
    assert ramp.array((0, 3), "float16").shape == (0, 3)
    assert Values("normal", 1.0, 5).array((4,), "bfloat16").dtype == ml_dtypes.bfloat16
    assert np.ptp(Values("levels", 1.0, 1).array((400,), "float64")) > 80
    upper = np.abs(Values("upper", 1.0, 1).array((400,), "float64"))
    assert np.median(upper[:200]) > 1000
    assert upper[300:].max() < 10
    assert np.isinf(Values("ramp", 1e5).array((2,), "float16")[1])


def test_what_holds_is_no_finding():
    check(Case("SoftPool", Window.of(1, 2), "float32", 18, (((1, 1, 2), (Values("ramp"),)),)))
    assert search("StochasticPool", 0, examples=3) is None
    tiny, ramp = Values("upper", 1.12e-44, 1), Values("ramp")  # below the normal numbers
    check(Case("LocalImportancePool", Window.of(2, 3), "float32", 18, (((1, 1, 4, 5), (tiny, ramp)),)))


@pytest.fixture
def wrong(monkeypatch):
    """A definition that has a half too much wherever a window holds more than 3."""
    node = OPERATORS["SoftPool"]

    def reference(window, x):
        y = node.reference(window, x)
        return np.where(np.nan_to_num(y) > 3, y + np.abs(y) / 2, y)

    monkeypatch.setitem(fuzz.OPERATORS, "SoftPool", replace(node, reference=reference))


def test_a_fault_is_found_shrunk_and_shown_again(wrong):
    finding = search("SoftPool", 0)
    assert finding is not None
    ((shape, _),) = finding.case.inputs
    assert np.prod(shape) <= 8
    assert np.prod(finding.case.window.kernel) == 1
    assert "error over allowed" in str(finding)
    with pytest.raises(Finding):
        exec(str(finding.case), {})


def test_a_finding_ends_with_a_count_and_a_program(monkeypatch, capsys):
    case = Case("SoftPool", Window.of(1, 2), "float32", 18, ())
    monkeypatch.setattr(fuzz, "search", lambda *_: Finding(case, "wrong"))
    assert fuzz.fuzz(["SoftPool"], 0, 0, 1) == 1
    text = capsys.readouterr().out
    assert "check(Case(operator='SoftPool'" in text
    assert "SoftPool             FAIL  1 batches" in text


def test_the_program_that_is_shown_runs():
    case = Case("SoftPool", Window.of(1, 2), "float16", 18, (((1, 1, 3), (Values(planted=((0, inf),)),)),))
    done = subprocess.run([sys.executable, "-c", str(case)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_batches_take_turns():
    assert list(batches(["a", "b"], 7, 0, 2)) == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]
    assert list(batches(["a", "b"], 7, 0, None)) == [("a", 7), ("b", 7)]


def test_a_batch_is_the_same_every_time(monkeypatch):
    drawn = []
    monkeypatch.setattr(fuzz, "check", drawn.append)
    assert search("LocalImportancePool", 3, examples=20) is None
    half = len(drawn)
    assert search("LocalImportancePool", 3, examples=20) is None
    assert half >= 20
    assert drawn[:half] == drawn[half:]
    assert len({case.dtype for case in drawn}) >= 3, "of 4; which, depends on hypothesis' release"
