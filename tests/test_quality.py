"""tools/quality: what its measures must give where the answer is known, and that the page says what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import quality
import quality_network as network
import quality_page as page
import quality_pictures as pictures

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data():
    found = network.digits(0, "digits")
    return network.Digits(*(part[:200] for part in vars(found).values()))


# --- networks


def test_polyphase_pooling_alone_does_not_depend_on_places(data):
    for pooling, exact in (("AdaptivePolyphasePool", True), ("every second cell", False)):
        trained = network.trained(pooling, data, 0, 1)
        still, moved = (network.scores(trained, x) for x in (data.test_images, data.test_images.roll((1, 1), (2, 3))))
        assert torch.allclose(still, moved, atol=1e-4) == exact, pooling
        found = network.in_the_network(trained, data, 0)
        assert set(found) == set(network.MEASURES)
        assert found["consistency"] == 100 or not exact


def test_digits_are_divided_anew_and_overlap_nowhere():
    first, again, other = (network.digits(seed, "digits") for seed in (0, 0, 1))
    assert first is again
    assert not torch.equal(first.images, other.images)
    assert (len(first.images), len(first.test_images)) == (1000, 797)
    known = {x.numpy().tobytes() for x in network.pictures("digits")[0]}
    for found in (first, other):
        trained, tested = ({x.numpy().tobytes() for x in part} for part in (found.images, found.test_images))
        assert not trained & tested
        assert trained | tested == known


@pytest.mark.parametrize("name", [*network.POOLINGS, *network.HEADS])
def test_every_row_starts_from_the_same_network(name):
    base, other = network.made("MaxPool", 3), network.made(name, 3)
    for i in (0, 2, 4):
        assert torch.equal(base[i][0].weight, other[i][0].weight)
    x = torch.rand(2, 1, network.SIZE, network.SIZE)
    with torch.no_grad():
        assert other.eval()(x).shape == (2, 10)
        assert other[:2](x).shape == (2, 8, 6, 6)
    assert network.parameters(name) == sum(p.numel() for i in (1, 3, 5) for p in other[i].parameters())


@pytest.mark.parametrize("name", list(network.POOLINGS))
def test_all_poolings_keep_the_ring(name):
    """A shift by two moves the pooled map by one, also where parameters are none of those that training starts from."""
    torch.manual_seed(0)
    x, pool = torch.rand(1, 4, network.SIZE, network.SIZE), network.POOLINGS[name](4).eval()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        found = pool(x.roll((2, 2), (2, 3))).roll((-1, -1), (2, 3))
        assert torch.allclose(found, pool(x), atol=1e-5)


def test_information_is_exact_where_pixels_are_kept(data):
    """Four channels that hold a picture's four phases give it back; one phase alone does not."""
    phases = torch.nn.Conv2d(1, 4, 2, bias=False)
    phases.weight.data = torch.eye(4).reshape(4, 1, 2, 2)
    ring = torch.nn.Sequential(torch.nn.CircularPad2d((0, 1, 0, 1)), phases)
    one = torch.nn.Identity()
    assert network.information(torch.nn.Sequential(ring, network.Strided()), data) > 90
    assert 5 < network.information(torch.nn.Sequential(one, network.Strided()), data) < 30


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, data):
    monkeypatch.setattr(network, "digits", lambda *_: data)
    trained = []

    def run(row, _data, seed, epochs):
        trained.append((row, seed, epochs))
        return {"accuracy": 1.0 + seed}

    monkeypatch.setattr(network, "run", run)
    path = tmp_path / "out" / "networks.jsonl"
    quality.train_all(["MaxPool", "AvgPool"], range(1), 8, "digits", path)
    with path.open("a") as file:
        file.write('{"row": "MaxPool", "seed": 1, "fou')  # killed while it wrote
    done = quality.train_all(["MaxPool", "AvgPool"], range(2), 8, "digits", path)
    assert trained == [("MaxPool", 0, 8), ("AvgPool", 0, 8), ("MaxPool", 1, 8), ("AvgPool", 1, 8)]
    assert done["MaxPool", 1] == {"accuracy": 2.0}
    assert len(done) == 4


# --- photographs


@pytest.mark.parametrize("name", list(pictures.SMALLER))
def test_small_pictures_lie_where_the_photograph_does(name):
    """A gentle ramp, made small and large again, is itself: no row is punished for lying half a pixel aside."""
    ramp = torch.linspace(1.0, 1.3, 96)
    x = (ramp[:, None] + ramp[None, :]).expand(1, 3, 96, 96).contiguous()
    step, smaller = (ramp[1] - ramp[0]).item(), pictures.SMALLER[name]
    inner = (pictures.enlarged(smaller.of(x), smaller.middle) - x)[..., 24:-24, 24:-24]
    # a maximum of the nine of 3x3, twice, lies three steps up and three to the right of the mean
    aside = {"MaxPool": 3, "MaxBlurPool": 3, "MaxPool 3x3": 6}.get(name, 0)
    assert inner.mean().item() == pytest.approx(aside * step, abs=0.1 * step)


def test_pixels_are_read_exactly_where_they_are_a_linear_map_of_the_cells():
    x, _ = pictures.photograph("flower.jpg")
    x = x[..., :80, :120]
    small = pictures.SMALLER["box"].of(x)
    assert torch.allclose(small, torch.nn.functional.avg_pool2d(x, 4), atol=1e-5)
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    found = pictures.read(small, large, small, large)
    assert torch.allclose(found, large, atol=1e-4)
    assert not torch.allclose(pictures.read(small, x, small, x), x, atol=0.1)


def test_measures_of_photographs():
    """A mean smooths, the maximum is too bright, and DPID keeps more than the box filter."""
    box, dpid, greatest = (pictures.measured(pictures.SMALLER[name]) for name in ("box", "DPID", "MaxPool"))
    for name in ("error", "at edges"):
        assert np.mean(box[name]) < np.mean(greatest[name])
    assert 20 < np.mean(box["detail"]) < np.mean(dpid["detail"]) < 100
    assert np.mean(box["information"]) > np.mean(greatest["information"]) > 5
    assert len(box["error"]) == 48
    assert len(box["at edges"]) < 48  # the sky has no edges


# --- statistics, and the page


def test_intervals():
    """Of 1, 2, 3: 4.303 of Student's t with two degrees of freedom, over the root of 3."""
    assert page.interval([1.0, 2.0, 3.0]).half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert str(page.interval([1.0, 2.0, 3.0])) == "2.0\u00a0±\u00a02.5"
    assert str(page.Measured(2.0, 0.5, True)) == "**2.0\u00a0±\u00a00.5**"
    assert page.difference([3.0, 5.0], [1.0, 2.0]).mean == 2.5


def test_what_separates():
    """p of the differences 1, 2, 3: t is 3.464 with two degrees of freedom. Holm stops at the first that fails."""
    assert page.chance([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == pytest.approx(0.0742, abs=1e-4)
    assert page.chance([1.0, 2.0], [1.0, 2.0]) == 1
    assert page.chance([2.0, 3.0], [1.0, 2.0]) == 0
    assert page.holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert page.holm({"a": 0.01, "b": 0.03, "c": 0.04}) == {"a"}
    assert page.holm({"a": 0.02, "b": 0.02, "c": 0.02}) == set()
    values = {"x": {"m": [1.0, 2.0, 3.0]}, "y": {"m": [2.0, 3.0, 4.0]}, "z": {"m": [1.0, 2.5, 3.0]}}
    assert {row: found["m"].differs for row, found in page.summary(values, "x", ["m"]).items()} == {
        "x": False,
        "y": True,
        "z": False,
    }


def test_a_row_far_below_is_written_and_leaves_the_others_room():
    rows = {"one": page.Measured(1.0, 0.5), "two": page.Measured(-30.0, 2.0), "three": page.Measured(-1.0, 0.5)}
    whole, cut = (page.forest("", "", rows, least=least) for least in (-np.inf, -3))
    assert (whole.count("<circle"), cut.count("<circle")) == (3, 2)
    assert "−30.0 ± 2.0" in cut
    assert "−30.0 ± 2.0" not in whole
    assert ">−35<" in whole  # a minus sign
    assert ">−3<" in cut


def test_the_page_says_what_was_measured():
    facts = json.loads(quality.as_json(json.loads((ROOT / quality.FACTS).read_text(encoding="utf-8"))))
    text = (ROOT / quality.PAGE).read_text(encoding="utf-8")
    assert quality.written(text, page.tables(facts)) == text
    assert (ROOT / quality.FACTS).read_text(encoding="utf-8") == quality.as_json(facts)
    for name, drawing in page.drawings(facts).items():
        assert (ROOT / quality.PICTURES / name).read_text(encoding="utf-8") == drawing
    assert set(facts["networks"]) == {*network.POOLINGS, *list(network.HEADS)[1:]}
    assert set(facts["photographs"]) == set(pictures.SMALLER)
    assert all(len(found[name]) == len(facts["seeds"]) for found in facts["networks"].values() for name in found)


def test_the_advice_follows_from_the_numbers():
    """What the page says in words, of the means in its JSON."""
    facts = json.loads((ROOT / quality.FACTS).read_text(encoding="utf-8"))
    means = {
        part: {row: {name: page.interval(found[name]).mean for name in found} for row, found in facts[part].items()}
        for part in ("networks", "photographs")
    }
    nets, photographs = means["networks"], means["photographs"]

    def rises(measure, *rows, of=nets):
        found = [of[row][measure] for row in rows]
        assert found == sorted(found), (measure, dict(zip(rows, found, strict=True)))

    polyphase = "AdaptivePolyphasePool, blurred"
    rises(
        "consistency", "every second cell", "convolution 3x3", "MaxPool", "SoftPool", "AvgPool", "BlurPool", polyphase
    )
    assert nets[polyphase]["consistency"] == nets["AdaptivePolyphasePool"]["consistency"] == 100
    unequal = page.summary({row: facts["networks"][row] for row in network.POOLINGS}, "MaxPool", ["consistency"])
    assert unequal["TreePool"]["consistency"].differs
    rises("consistency", "TreePool", "MaxPool")
    assert unequal["LocalImportancePool 3x3"]["consistency"].differs
    rises("consistency", "MaxPool", "LocalImportancePool 3x3")
    for low in ("every second cell", "AdaptivePolyphasePool", "MixedPool", "S3DetailPreservingPool", "StochasticPool"):
        rises("accuracy", low, "MaxPool", "AvgPool")
    assert max(network.POOLINGS, key=lambda row: nets[row]["accuracy"]) == "LocalImportancePool 3x3"
    rises("accuracy", "MixedPool", "S3DetailPreservingPool", "StochasticPool")
    for name in ("accuracy", "consistency", "noise", "impulses", "information"):
        rises(name, "MaxPool", "AvgPool")
    rises("gap", "BlurPool", "AvgPool", "MaxPool")
    rises("noise", "MaxPool", "AvgPool", "LocalImportancePool 3x3")
    rises("noise", "MaxPool", "convolution 3x3")
    for end in ("maximum", "GeM", "SoftPool"):
        assert nets[f"at the end: {end}"]["accuracy"] > nets["MaxPool"]["accuracy"]
    rises("error", "Lanczos", "DPID, lambda 0.5", "box", "DPID", "SoftPool", "every second cell", of=photographs)
    assert min(photographs, key=lambda row: photographs[row]["error"]) == "Lanczos"
    assert max(photographs.keys() - {"every second cell"}, key=lambda row: photographs[row]["detail"]) == "DPID"
