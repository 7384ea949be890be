"""tools/quality: what its measures must give where the answer is known."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import quality


@pytest.fixture(scope="module")
def data():
    found = quality.digits()
    return quality.Digits(*(part[:200] for part in vars(found).values()))


def test_polyphase_pooling_alone_does_not_depend_on_places(data):
    for pooling, exact in (("AdaptivePolyphasePool", True), ("every second cell", False)):
        network = quality.trained(pooling, data, 0, 1)
        with torch.no_grad():
            still, moved = (network(x) for x in (data.test_images, data.test_images.roll((1, 1), (2, 3))))
        assert torch.allclose(still, moved, atol=1e-4) == exact, pooling
        measured = quality.in_the_network(network, data, 0)
        assert set(measured) == {"accuracy", "consistency", "noise", "gap"}
        assert measured["consistency"] == 100 or not exact


def test_pictures_alone():
    """Every second pixel keeps its slopes, a mean of four smooths them, and pixels that are kept tell more."""
    keeps, smooths = (quality.POOLINGS[name](1) for name in ("every second cell", "AvgPool"))
    assert quality.detail(keeps) == pytest.approx(100)
    assert 20 < quality.detail(smooths) < 90
    assert 15 < quality.information(keeps) < quality.information(smooths) < 60


def test_intervals():
    """Of 1, 2, 3: 4.303 of Student's t with two degrees of freedom, over the root of 3."""
    assert quality.interval([1.0, 2.0, 3.0]).half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert str(quality.interval([1.0, 2.0, 3.0])) == "2.0 ± 2.5"
    assert str(quality.Measured(2.0)) == "2.0"


@pytest.mark.parametrize("name", list(quality.POOLINGS))
def test_every_pooling_halves_the_size(name):
    with torch.no_grad():
        assert quality.POOLINGS[name](3).eval()(torch.rand(1, 3, 12, 8)).shape == (1, 3, 6, 4)
