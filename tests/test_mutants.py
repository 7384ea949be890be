"""tools/mutants in a short form: observable mutants are caught by numbers or structure, right networks pass."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import mutants
import mutants_kinds as kinds
import mutants_localise as localise
import mutants_networks as networks
import numpy as np

from onnxpool.golden import bounds

SHORT = (
    *("weight x 1.001", "weight x 1.0001", "weight x 1.00001", "one element + 1e-3", "weight in float16"),
    *("all weights x -3, nodes renamed", "two weights exchanged", "constant x 1.001", "epsilon x 10", "Erf is Tanh"),
    *("a node left out", "cast to float16 and back", "a value + 1e-4", "batch reversed", "an output renamed"),
    *("an output more", "an input more", "batch fixed", "output in float64"),
)


@pytest.fixture(scope="module")
def subject():
    return mutants.Subject(networks.make("layer norm"))


def test_there_are_kinds_and_networks_enough():
    assert len(kinds.KINDS) > 80
    assert len(networks.ZOO) == 30
    assert 2 * len(networks.MORE) + 3 * len(networks.ZOO) >= 120
    assert set(SHORT) <= set(kinds.KINDS)


def test_mutants_are_caught_and_the_right_network_passes(subject):
    found = list(mutants.mutants(subject, SHORT))
    assert len(found) > 12
    assert [one for one in found if one.outcome == "missed"] == []
    assert sum(one.outcome == "caught" for one in found) > 10
    assert subject.judged(subject.model)[0] in ("passed", "noted")


def test_a_gate_that_allows_too_much_is_seen(subject, monkeypatch):
    monkeypatch.setattr(bounds, "YARDSTICK_FACTOR", 4e3)
    found = list(mutants.mutants(subject, ("weight x 1.0001",)))
    assert [one.outcome for one in found] == ["missed"]


def test_faults_are_planted_in_networks_enough_and_only_they_are_planted(subject):
    assert len(localise.FAULTS) >= 24
    assert len({network for network, _ in localise.FAULTS}) >= 12
    assert {kind for _, kind in localise.FAULTS} <= set(kinds.KINDS)
    names = {node.op_type: node.name for node in subject.model.graph}
    for kind, op_types in (
        ("epsilon x 10", {"LayerNormalization"}),
        ("Erf is Tanh", {"Erf"}),
        ("weight x 1.001", None),
    ):
        mutant = subject.model.clone()
        assert kinds.KINDS[kind].change(mutant, np.random.default_rng(0))
        found = localise.planted(subject.model, mutant)
        assert len(found) == 1
        assert op_types is None or found == {names[one] for one in op_types}
    mutant = subject.model.clone()
    assert kinds.KINDS["a value + 1e-4"].change(mutant, np.random.default_rng(0))
    before = {node.name for node in subject.model.graph}
    assert localise.planted(subject.model, mutant) == {node.name for node in mutant.graph} - before
    assert localise.planted(subject.model, subject.model.clone()) == set()
