"""Every method in every runtime that is here, in every form that it takes, against float64."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from exported import first_axis

import onnxpool
from onnxpool import nn
from onnxpool.golden import collect, from_torch
from onnxpool.golden.inputs import generate as inputs_that_can_hurt
from onnxpool.pools import METHODS
from onnxpool.runtimes import RUNTIMES
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import fuzz_runtimes

CASES = ("ordinary", "image", "negative", "huge", "zeros", "nan", "inf", "-inf")
"""Not ``constant``: ONNX Runtime's GlobalAveragePool sums 1024 equal numbers less exactly than the bound allows."""


def available(name):
    reason = RUNTIMES[name].why_not({"dtypes": ["float32"], "module": True, "outputs": ["y"]})
    return pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=reason))


class Every(torch.nn.Module):
    """All spellings of all methods, of inputs of each rank; each of another multiple, so that none is another's."""

    def __init__(self):
        super().__init__()
        spellings = [spelling for method in METHODS.values() for spelling in method.modules]
        names = {name: getattr(nn, name) for name in nn.__all__}
        torch.manual_seed(0)
        self.pools = torch.nn.ModuleList(eval(spelling, names) for spelling in spellings)

    def forward(self, x1, x2, x3):
        xs = {(rank, 2): x for rank, x in enumerate((x1, x2, x3), start=1)} | {(1, 1): x1.transpose(1, 2)}
        return tuple(pool(xs[pool.rank, first_axis(pool)] * (1 + i / 64)) for i, pool in enumerate(self.pools))


@pytest.fixture(scope="module")
def every():
    """The model, and float64 answers to some cases."""
    network = Every().eval()
    xs = (torch.randn(2, 3, 9), torch.randn(2, 3, 9, 8), torch.randn(1, 3, 6, 5, 4))
    free = ({0: "n", 2: "l"}, {0: "n2", 2: "h", 3: "w"}, {0: "n3"})
    model = onnxpool.export(network, xs, dynamic_shapes=free, golden=False)
    with mock.patch.object(collect, "generate", few):  # each case costs a dozen runs of the network
        golden = from_torch.record(network, model)
    assert {case.name for case in golden.cases} > set(CASES)
    return model, golden


def few(inputs, example=None):
    """Of all cases those in ``CASES``, and two of other sizes, none of them 0."""
    cases = list(inputs_that_can_hurt(inputs, example))
    yield from (case for case in cases if case[0] in CASES)
    yield from [case for case in cases if case[0].startswith("sizes") and case_sizes(case[1]).isdisjoint({0})][:2]


def case_sizes(feeds):
    return {size for x in feeds.values() for size in x.shape}


@pytest.mark.parametrize("name", [available(name) for name in RUNTIMES if name != "pytorch"])
def test_every_method_in_every_runtime(every, name):
    report = validate(*every, on=None if name == "onnxruntime" else [name], threads=1)  # as it comes
    assert report.passed, sentences(report)[:20]
    assert any(run.verdict in ("passed", "noted") for run in report.runs)


def test_every_method_where_denormal_numbers_are_0(every, monkeypatch):
    variant = replace(RUNTIMES["onnxruntime"], variants=({"denormals": "zero"},))
    monkeypatch.setitem(RUNTIMES, "onnxruntime", variant)
    report = validate(*every, on=["onnxruntime"], threads=1)
    assert report.passed, sentences(report)[:20]
    assert {run.options.get("denormals") for run in report.runs} == {"zero"}


# --- random windows


@pytest.mark.parametrize("name", [available(name) for name in fuzz_runtimes.RUNTIMES_HERE])
def test_random_windows(name):
    commands = {name: RUNTIMES[name].command(sys.executable)}
    counts = fuzz_runtimes.fuzz(10, 1, list(fuzz_runtimes.WAYS), commands)
    assert {what for _, _, what in counts} == {"right"}
    assert sum(counts.values()) >= 10 * len(fuzz_runtimes.WAYS) - 5, "a few may have windows of NaN alone"


def test_a_wrong_answer_is_found(monkeypatch, capsys):
    way = fuzz_runtimes.WAYS["MaxPool"]
    monkeypatch.setitem(fuzz_runtimes.WAYS, "MaxPool", replace(way, answer=lambda case, x: way.answer(case, x) + 1))
    commands = {"onnxruntime": RUNTIMES["onnxruntime"].command(sys.executable)}
    counts = fuzz_runtimes.fuzz(3, 1, ["MaxPool"], commands)
    assert counts["onnxruntime", "MaxPool", "wrong"] > 0
    assert re.search(r"onnxruntime: Case\(method='MaxPool'.*error", capsys.readouterr().out)
