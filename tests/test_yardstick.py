"""The yardstick of a network: constants apart, several roundings, outputs that jump; each seen to catch and to pass."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import parser

import onnxpool
from onnxpool.golden import bounds, choices, file, from_torch, magnitude, perturbed
from onnxpool.golden.choices import Choices, Pointed
from onnxpool.validation.as_text import sentences
from onnxpool.validation.validate import validate

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import mutants_networks as networks


def exported(name: str, seed: int = 0):
    """A network of the zoo, its model and its answers."""
    network = networks.make(name, seed)
    model = onnxpool.export(network.module, network.args, dynamic_shapes=network.dynamic, golden=False, check=False)
    return network, model, from_torch.record(network.module, model, network.args)


# --- by magnitude


def test_a_constant_is_apart_and_neighbours_are_together():
    answer = np.array([0.5, -2.0, 1.5, 3.0, 0.0, -1e9])
    curve = magnitude.of_errors(answer, np.array([1e-7, 3e-7, 0.0, 1e-7, 2e-7, 64.0]))
    assert curve.at(answer).tolist() == [3e-7] * 5 + [64.0]
    assert curve.at(np.array([np.nan, 1e12])).tolist() == [3e-7, 64.0]
    assert curve.scaled(2).largest == 128
    assert magnitude.of_errors(np.array([np.inf]), np.array([np.nan])).at(np.ones(2)).tolist() == [0, 0]


def test_where_there_are_enough_elements_far_ones_do_not_count():
    answer = np.concatenate([np.linspace(1, 2, 100), np.linspace(1000, 2000, 100)])
    curve = magnitude.of_errors(answer, np.concatenate([np.full(100, 1e-7), np.full(100, 1e-4)]))
    assert curve.at(np.array([1.5, 1500.0])).tolist() == [1e-7, 1e-4]


def test_bound_by_magnitude_at_hand_values():
    curve = magnitude.ByMagnitude((1, 30), (1e-6, 64.0))
    bound = bounds.network(np.array([1.5, -1e9]), "float32", curve, "PyTorch's own error")
    assert bound.allowed.tolist() == pytest.approx([4e-6 + 2 * 2**-23, 4 * 64 + 2 * 64.0])
    assert bounds.network(np.array([1, 2]), "int64", curve, "").allowed.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["planted constant"])
def test_another_checkpoint_behind_a_large_constant_is_caught(name):
    _, model, golden = exported(name)
    assert validate(model, golden, forms=["standard"]).exit_status == 0
    for i, node in enumerate(model.graph):
        node.name = f"renamed_{i}"
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 1:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(-3), name=value.name)
    report = validate(model, golden, forms=["standard"])
    assert report.exit_status == 1, sentences(report)


# --- other roundings


def test_exact_numbers_stay_and_others_move_by_an_ulp_at_most():
    x = np.float32([0, 1, -0.5, 3, np.inf, np.nan, 0.1, 0.7, 1e30])
    moved = np.stack([perturbed.shaken(x, np.random.default_rng(seed)) for seed in range(40)])
    np.testing.assert_array_equal(moved[:, :6], np.broadcast_to(x[:6], (40, 6)))
    assert (moved[:, 6:] != x[6:]).any(axis=0).all()
    assert (np.abs(moved[:, 6:] - x[6:]) <= np.spacing(x[6:])).all()


@pytest.mark.parametrize("seed", range(8))
def test_numbers_that_cancel_may_be_added_in_another_order(seed):
    """One after the other errs far more than PyTorch, which adds in a tree; so do its runs that round otherwise."""
    x = np.random.default_rng(seed).standard_normal((2, 3, 19, 19, 19)).astype(np.float32)
    x -= x.mean(axis=(2, 3, 4), keepdims=True)
    answer = x.astype(np.float64).mean(axis=(2, 3, 4))
    one_by_one = np.add.accumulate(x.reshape(2, 3, -1), axis=-1, dtype=np.float32)[..., -1] / 19**3
    runs = []
    for draw in range(4):
        with perturbed.in_torch(draw):
            runs.append(torch.from_numpy(x).mean((2, 3, 4)).numpy().astype(np.float64))
    curve, _ = choices.of_runs(answer, runs, floating=True, dtype="float32")
    assert bounds.measure(one_by_one, answer, bounds.network(answer, "float32", curve, "").allowed).within
    assert not bounds.measure(one_by_one + 1e-5, answer, bounds.network(answer, "float32", curve, "").allowed).within


def test_operators_of_pytorch_round_otherwise_and_saturating_ones_by_an_absolute_error():
    x = torch.full((1000,), -20.3)
    with perturbed.in_torch(3):
        scaled, saturated, moved = x * 0.1, torch.sigmoid(x), torch.cat([x, x]).relu()
    assert 0 < (scaled - x * 0.1).abs().max() <= 2 * np.spacing(np.float32(2.03))
    assert 1e-8 < (saturated - torch.sigmoid(x)).abs().max() <= 2.0**-23 + 1e-12
    assert torch.equal(moved, torch.cat([x, x]).relu())


@pytest.mark.parametrize("name", ["instance norm", "standard deviation", "detector"])
def test_right_networks_that_amplify_rounding_pass(name):
    _, model, golden = exported(name, seed=1)
    report = validate(model, golden, forms=["standard"])
    assert report.exit_status == 0, sentences(report)


# --- outputs that jump


def test_indices_are_judged_by_what_they_point_at():
    values = np.array([[1.0, 3.0, 3.0 + 1e-9, 2.0], [np.nan, 1.0, np.nan, 0.0]])
    pointed = Pointed(values, -1, "float32", magnitude.ByMagnitude((0,), (1e-7,)))
    answer = np.array([[2, 1], [0, 1]], np.float64)
    assert pointed.same(np.array([[1, 2], [2, 1]]), answer).all()
    assert pointed.same(np.array([[3, 2], [1, 9]]), answer).tolist() == [[False, True], [False, False]]
    np.testing.assert_array_equal(pointed.at(np.array([[3, 0], [1, 9]])), [[2, 1], [1, np.nan]])
    along = Pointed(values.T.copy().T[None], 1, "float32", magnitude.ByMagnitude((0,), (1e-7,)))
    assert along.same(np.array([[[1, 2]], [[2, 1]]]).transpose(1, 2, 0), answer.T[None]).all()
    whole = Pointed(values[0], -1, "float32", magnitude.ByMagnitude((0,), (1e-7,)))
    assert whole.same(np.array(1), np.array(2.0)).all()


def test_one_element_may_be_otherwise_and_no_other():
    answer = np.zeros(5)
    chosen = Choices(np.array([3]), np.array([[0.0, 7.0]]))
    came = np.array([0, 0, 7, 7, 0])
    assert choices.nearest(answer, came, chosen).tolist() == [0, 0, 0, 7, 0]
    assert choices.nearest(answer, np.array([0, 0, 0, 6, 0]), chosen).tolist() == [0, 0, 0, 7, 0]
    curve, found = choices.of_runs(answer, [np.array([0, 0, 0, 1.0, 0])], floating=False, dtype="uint8")
    assert (found.places.tolist(), curve.largest) == ([3], 0)


def test_a_jump_does_not_count_as_an_error_and_a_spread_does():
    rng = np.random.default_rng(0)
    answer = rng.normal(size=1000)
    runs = [answer + 1e-7 * rng.normal(size=1000) for _ in range(5)]
    for i in (1, 3):
        runs[i][17] += 1  # in some runs here, in others there
    curve, found = choices.of_runs(answer, runs, floating=True, dtype="float32")
    assert found.places.tolist() == [17]
    assert curve.largest < 1e-6
    for i, run in enumerate(runs):
        run[400] += 0.3 * i + 0.1  # anywhere
    curve, found = choices.of_runs(answer, runs, floating=True, dtype="float32")
    assert found.places.tolist() == [17]
    assert curve.largest > 0.9
    runs[1][100:200] += 1  # too many to be jumps
    curve, found = choices.of_runs(answer, runs, floating=True, dtype="float32")
    assert found.places.tolist() == []


def test_further_runs_find_more_choices_and_allow_no_more():
    answer = np.arange(1.0, 1001.0)
    one, other = answer.copy(), answer.copy()
    one[3], other[5] = 5, 7
    curve, found = choices.of_runs(answer, [answer, answer, one], [answer, other], floating=True, dtype="float32")
    assert found.places.tolist() == [3, 5]
    assert curve.largest == 0


def test_a_small_number_in_a_large_channel_errs_as_its_channel():
    rng = np.random.default_rng(0)
    answer = rng.normal(size=(2, 2, 8, 8)) * np.array([1e-4, 1e2])[:, None, None]
    error = np.broadcast_to(np.array([1e-11, 1e-5])[:, None, None], answer.shape).copy()
    answer[0, 1, 0, 0], error[0, 1, 0, 0] = 1e-4, 0
    curve = magnitude.of_errors(answer, error)
    allowed = curve.at(answer)
    assert allowed[0, 1, 0, 0] == 1e-5
    assert allowed[:, 0].max() < 1e-10


@pytest.mark.parametrize("name", ["best five", "max with indices"])
def test_outputs_that_jump_pass_and_others_are_caught(name, tmp_path):
    _, model, golden = exported(name)
    file.save(golden, tmp_path / "net.golden.npz")
    golden = file.load(tmp_path / "net.golden.npz")
    report = validate(model, golden, forms=["standard"])
    assert report.exit_status == 0, sentences(report)
    assert all(case.pointed for case in golden.cases)
    weight = next(v for v in model.graph.initializers.values() if v.const_value.size > 20)
    array = weight.const_value.numpy().copy()
    array.flat[5] += np.float32(0.02)
    weight.const_value = ir.tensor(array, name=weight.name)
    assert validate(model, golden, forms=["standard"]).exit_status == 1


# --- old operators


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_below_opset_13_is_over_all_axes_from_its_own_on(op):
    """onnx's reference evaluator takes it for the newer one."""
    text = '<ir_version: 7, opset_import: ["" : 11]> g (float[N,3,4] x) => (float[N,3,4] y)'
    report = validate(parser.parse_model(f"{text} {{ y = {op}(x) }}"), on=["onnxruntime", "reference"])
    assert report.exit_status == 0, sentences(report)
    assert {run.verdict for run in report.runs if run.runtime == "reference"} == {"skipped"}
    assert any("computes Softmax of opsets below 13 by the newer rule" in told for told in sentences(report))
