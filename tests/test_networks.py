"""Networks over sound and over volumes: exported with sizes that may change, and equal to PyTorch in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import onnxpool
from onnxpool import nn
from onnxpool.run import native_library
from onnxpool.validation.as_text import sentences

NATIVE = native_library.why_missing() is None
native = pytest.mark.skipif(not NATIVE, reason="without the native library")
WAYS = [
    ("standard", "off"),
    ("function", "off"),
    pytest.param("function", "require", marks=native),
    pytest.param("custom", "require", marks=native),
]
"""Form and kernels."""


class Sound(torch.nn.Module):
    """A raw waveform ``(N, 1, length)`` to scores ``(N, 5)``. The dilation gives the functions their exact bodies."""

    rank, axes = 1, {0: "batch", 2: "length"}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(1, 8, 9, stride=2, padding=4),
            torch.nn.ReLU(),
            nn.SoftPool1d(4, stride=2, padding=1, dilation=2),
            torch.nn.Conv1d(8, 8, 5, padding=2),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            nn.StochasticPool1d(3, stride=2, padding=1, ceil_mode=True),
            torch.nn.Conv1d(8, 12, 3, padding=1),
            nn.LocalImportancePool1d(nn.ProjectionLogit1d(12, zero=False)),
        )
        self.head = torch.nn.Linear(12, 5)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(sound).mean(2))


class Volume(torch.nn.Module):
    """A film or a scan ``(N, 2, depth, height, width)`` to a map ``(N, 3, ...)`` of a size that follows the input's."""

    rank, axes = 3, {0: "batch", 2: "depth", 3: "height", 4: "width"}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(2, 4, 3, padding=1),
            torch.nn.ReLU(),
            nn.SoftPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            torch.nn.Conv3d(4, 4, 3, padding=1),
            torch.nn.ReLU(),
            nn.StochasticPool3d(2, ceil_mode=True),
            nn.LocalImportancePool3d(nn.SimplifiedLogit3d(4, zero=False), 3, 1, 1),
            torch.nn.Conv3d(4, 3, 1),
        )

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.layers(volume)


NETWORKS: list[tuple[Callable[[], Any], list[tuple[int, ...]]]] = [
    (Sound, [(2, 1, 400), (1, 1, 97), (3, 1, 1601), (4, 1, 64)]),
    (Volume, [(2, 2, 6, 12, 16), (1, 2, 3, 9, 7), (3, 2, 4, 8, 21)]),
]
"""Networks, and sizes to run: the first is the example of the export."""


@pytest.fixture(scope="module", params=NETWORKS, ids=["sound", "volume"])
def exported(request, tmp_path_factory):
    """The network, the file of its model, and the sizes to run."""
    make, sizes = request.param
    network = make()
    for _ in range(3):  # statistics of the batch norm that are not those of a new layer
        network(torch.randn(sizes[0]))
    path = tmp_path_factory.mktemp("networks") / "network.onnx"
    onnxpool.export(network.eval(), (torch.randn(sizes[0]),), path, dynamic_shapes=(network.axes,))
    return network, path, sizes


@pytest.mark.parametrize(("form", "use"), WAYS)
def test_every_way_gives_what_pytorch_gives_in_float64(exported, form, use):
    network, path, sizes = exported
    session = onnxpool.load(onnxpool.to_form(path, form), kernels=use, threads=1)
    assert [place.op_type for place in session.placements if place.native] == (
        ["SoftPool", "StochasticPool", "LocalImportancePool"] if use == "require" else []
    )
    for seed, size in enumerate(sizes):
        x = torch.randn(size, generator=torch.manual_seed(seed))
        right = float64(network, x)
        (y,) = session.run({session.inputs[0].name: x.numpy()}).values()
        assert y.dtype == np.float32
        assert right.std() > 0.05, "an answer that hardly depends on the input proves little"
        np.testing.assert_allclose(y, right, rtol=0, atol=3e-6 * np.abs(right).max(), err_msg=str(size))


def float64(network: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        try:
            return network.double()(x.double()).numpy()
        finally:
            network.float()


def test_validation_passes(exported):
    _, path, _ = exported
    report = onnxpool.validate(path)
    assert report.passed, "\n".join(sentences(report))
    assert {run.verdict for run in report.runs if not run.kernels} == {"passed"}
    assert {run.verdict for run in report.runs if run.kernels} == {"passed" if NATIVE else "skipped"}
    varied = {result.case for result in report.runs[0].results if result.case.startswith(("batch", "sizes"))}
    assert len(varied) >= 3


def test_samples_of_a_batch_do_not_meet(exported):
    """Whatever one sample holds, its neighbours get what they get alone."""
    _, path, sizes = exported
    session = onnxpool.load(path, threads=1)
    name = session.inputs[0].name
    x = torch.randn((3, *sizes[0][1:]), generator=torch.manual_seed(9)).numpy()
    x[1] = np.nan
    (together,) = session.run({name: x}).values()
    assert np.isnan(together[1]).all()
    for i in (0, 2):
        (alone,) = session.run({name: x[i : i + 1]}).values()
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.fixture(scope="module", params=[1, 3], ids=["1d", "3d"])
def three(request):
    """Three poolings in a row as a model, and its input: on every line along the last axis pairs of 1, 3, 2, 2."""
    rank = request.param
    soft, stochastic = (getattr(nn, f"{name}{rank}d")(2) for name in ("SoftPool", "StochasticPool"))
    logit = getattr(nn, f"ProjectionLogit{rank}d")(1)
    importance = getattr(nn, f"LocalImportancePool{rank}d")(logit, 2, 2, 0)
    x = torch.tensor([1.0, 1, 3, 3, 2, 2, 2, 2]).expand(1, 1, *[8] * rank).contiguous()
    return onnxpool.export(torch.nn.Sequential(soft, stochastic, importance), (x,), golden=False), x.numpy()


@pytest.mark.parametrize(("form", "use"), WAYS)
def test_three_poolings_by_hand(three, form, use):
    """Equal cells 1, 3, 2, 2; of pairs (1 + 9) / (1 + 3) = 2.5 and 2; and their mean, 2.25: nothing is learned yet."""
    model, x = three
    session = onnxpool.load(onnxpool.to_form(model, form), kernels=use, threads=1)
    (y,) = session.run({session.inputs[0].name: x}).values()
    np.testing.assert_allclose(y, np.full((1,) * x.ndim, 2.25), rtol=0, atol=5e-7)


@pytest.mark.parametrize(("make", "sizes"), NETWORKS, ids=["sound", "volume"])
def test_they_learn(make, sizes):
    """Through all three poolings, with stochastic pooling drawing: steps along the gradient bring the loss down."""
    network, x = make(), torch.randn(sizes[0], generator=torch.manual_seed(5))
    target = torch.zeros_like(network.eval()(x))
    steps = torch.optim.SGD(network.parameters(), lr=0.05)

    def loss(training: bool) -> torch.Tensor:
        return torch.nn.functional.mse_loss(network.train(training)(x), target)

    before = loss(training=False).item()
    for _ in range(30):
        steps.zero_grad()
        loss(training=True).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        steps.step()
    assert loss(training=False).item() < 0.5 * before
