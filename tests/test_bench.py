"""The figures that tools/bench reports: medians, quartiles, ratios, and what it writes; and what it will not time."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_torch
import torch
from bench import TURN_S, Network, judged, measure
from bench_networks import SMALL
from bench_report import (
    COPY,
    FUNCTION,
    MAX,
    NATIVE,
    OPENVINO,
    OPENVINO_STANDARD,
    PYTORCH,
    STANDARD,
    Group,
    Result,
    picture,
    summary,
    table,
    to_json,
    write_json,
)
from bench_ways import (
    BENCHED,
    CPU,
    DATA,
    Absent,
    Case,
    Reordered,
    Way,
    native,
    session,
    share_of_allowed,
    ways,
)
from onnx import parser
from rich.console import Console

from onnxpool.window import Window


@pytest.fixture
def group():
    results = (
        Result("", MAX, 0.0, times_s=(0.004, 0.001, 0.002, 0.003, 0.010)),
        Result("SoftPool", NATIVE, 0.25, times_s=(0.006, 0.006, 0.006)),
        Result("SoftPool", STANDARD, 0.5, times_s=(0.060, 0.030, 0.012)),
        Result("SoftPool", PYTORCH, math.inf),
        Result("StochasticPool", STANDARD, 0.5, times_s=(1.0,)),
    )
    return Group("1x1x4x4 2x2", "float32", 2, CPU, results, ("StochasticPool native: no such kernel",))


def shown(found):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(found)
    return console.export_text()


def test_medians_and_quartiles_by_hand(group):
    largest, native, standard, wrong, once = group.results
    assert largest.median_s == 0.003
    assert largest.quartiles_s == (0.002, 0.004)
    assert native.quartiles_s == (0.006, 0.006)
    assert standard.quartiles_s == pytest.approx((0.021, 0.045))
    assert once.quartiles_s == (1.0, 1.0)
    assert math.isnan(wrong.median_s)


def test_ratios_are_of_medians_and_of_one_operator(group):
    largest, native, standard, wrong, once = group.results
    assert group.ratio(native, MAX) == pytest.approx(2)
    assert group.ratio(native, STANDARD) == pytest.approx(0.2)
    assert group.ratio(standard, STANDARD) == 1
    assert group.ratio(once, STANDARD) == 1
    assert math.isnan(group.ratio(native, PYTORCH))
    assert math.isnan(group.ratio(native, COPY))
    assert math.isnan(group.ratio(wrong, MAX))
    assert math.isnan(group.ratio(largest, STANDARD))


def test_json(group, tmp_path):
    path = tmp_path / "bench.json"
    write_json(to_json([group], {"processors": 2}), path)
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
    found = json.loads(path.read_text())
    assert found["machine"] == {"processors": 2}
    (told,) = found["groups"]
    assert (told["name"], told["dtype"], told["threads"], told["provider"]) == ("1x1x4x4 2x2", "float32", 2, CPU)
    assert told["absent"] == ["StochasticPool native: no such kernel"]
    _, native, _, wrong, _ = told["results"]
    assert native["median_s"] == 0.006
    assert native["times_s"] == [0.006, 0.006, 0.006]
    assert native["ratios"] == {
        "copy": None,
        "MaxPool": pytest.approx(2),
        "AveragePool": None,
        "function form": None,
        "standard form": pytest.approx(0.2),
        "PyTorch": None,
        "normal values": None,
    }
    assert wrong["median_s"] is wrong["error_over_allowed"] is None
    assert wrong["times_s"] == []


def test_tables(group):
    text = shown(table(group))
    assert "1x1x4x4 2x2, float32, 2 threads, CPU" in text
    row = {line.split("│")[2].strip(): line for line in text.splitlines() if "SoftPool" in line}
    assert [cell.strip() for cell in row[NATIVE].split("│")[3:-1]] == ["6", "6-6", "2.00", "0.20", "", "0.25"]
    assert "WRONG" in row[PYTORCH]
    text = shown(summary([group]))
    assert "2.00" in text
    assert "StochasticPool" not in text  # it has no native result


def test_picture_has_a_panel_for_every_group(group):
    one, three = picture([group]), picture([group] * 3)
    assert three.height > 1.8 * one.height
    green = (np.asarray(three) == (0x1A, 0x7F, 0x37)).all(-1)
    half = three.width // 2
    assert green[: three.height // 2, :half].any()
    assert green[: three.height // 2, half:].any()
    assert green[three.height // 2 :, :half].any()
    assert not green[three.height // 2 :, half:].any()
    wrong = Group("all wrong", "float32", 1, CPU, (Result("SoftPool", NATIVE, 2.0),))
    assert picture([wrong]).height > 0


def test_wrong_failing_and_absent_ways_are_not_timed():
    def way(name, value):
        return Way("SoftPool", name, lambda: None, lambda: np.full((1, 1, 1), value))

    def fails():
        raise ZeroDivisionError

    def absent():
        raise Absent("not here")

    made = {"right": lambda: way("right", 1.0), "wrong": lambda: way("wrong", 3.0), "failing": fails, "absent": absent}
    makers = [("SoftPool", name, make) for name, make in made.items()]
    right, results, missing = judged(makers, lambda way: abs(way.output().item() - 1))
    assert [way.name for way in right] == ["right"]
    assert [(r.way, r.share, r.fault) for r in results] == [
        ("right", 0, ""),
        ("wrong", 2, ""),
        ("failing", None, "ZeroDivisionError"),
    ]
    assert missing == ["SoftPool absent: not here"]


def test_every_way_takes_part_in_every_round():
    counts = [0, 0]

    def count(i):
        counts[i] += 1

    made = [Way("", str(i), lambda i=i: count(i), lambda: None) for i in range(2)]
    times_s = measure(made, 0, clock=lambda: sum(counts) * 1e-5)
    assert [list(map(round_s, times)) for times in times_s] == [[1e-5] * 7] * 2
    assert counts == [3 + 7 * round(TURN_S / 1e-5)] * 2  # a try, then calls far below a turn are repeated


def round_s(time_s):
    return round(time_s, 9)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_way_is_right_on_ordinary_values(dtype):
    case = Case((2, 3, 9, 8), Window.of(2, 3, 2, 1), dtype, 1, CPU, 1.0)
    right, results, absent = judged(ways(case, compiled=False), lambda way: share_of_allowed(case, way))
    assert len(right) == len(results)
    assert len(right) + len(absent) == 3 + 8 * len(BENCHED)
    told = {entry.partition(":")[0].partition(" ")[2] for entry in absent}
    assert told <= {NATIVE, OPENVINO, OPENVINO_STANDARD}  # only where there is no such kernel


def test_what_is_wrong_on_large_values_is_found():
    case = Case((2, 3, 9, 8), Window.of(2, 3, 2, 1), "float32", 1, CPU, 1e3)
    _, results, _ = judged(ways(case, compiled=False), lambda way: share_of_allowed(case, way))
    shares = {(r.operator, r.way): r.share for r in results}
    assert shares["SoftPool", PYTORCH] == math.inf
    assert shares["SoftPool", FUNCTION] <= 1


@pytest.mark.parametrize("ours", [True, False])
def test_openvino_gives_the_same_pooling(ours):
    case = Case((2, 3, 9, 20), Window.of(2, 3, 2, 1), "float32", 1, CPU, 1.0)
    name = OPENVINO if ours else OPENVINO_STANDARD
    (make,) = (make for operator, way, make in ways(case, False) if (operator, way) == ("LocalImportancePool", name))
    try:
        way = make()
    except Absent as reason:
        pytest.skip(str(reason))
    way.run()
    assert way.name == name
    assert share_of_allowed(case, way) <= 1


def test_a_lone_pooling_that_reorders_channels_is_not_timed():
    """With a fixed number of channels ONNX Runtime puts MaxPool between two reorders, which take most of the time."""
    text = """<ir_version: 10, opset_import: ["": 18]> pooling (float[2,CHANNELS,9,8] x) => (float[2,CHANNELS,4,3] y) {
        y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (x)
    }"""
    models = [parser.parse_model(text.replace("CHANNELS", channels)) for channels in ("channels", "16")]
    session(models[0], 1, CPU, library=False, alone=True)
    with pytest.raises(Reordered, match="ReorderInput"):
        session(models[1], 1, CPU, library=False, alone=True)


@pytest.mark.parametrize("operator", BENCHED)
@pytest.mark.parametrize("kind", DATA)
def test_kernels_are_right_on_data_of_every_kind(kind, operator):
    case = Case((2, 3, 9, 20), Window.of(2, 3, 2, 1), "float32", 1, CPU, 1.0, kind)
    try:
        way = native(case, operator)
    except Absent as reason:
        pytest.skip(str(reason))
    way.run()
    assert share_of_allowed(case, way) <= 1
    assert np.isnan(way.output()).any() == (kind == "one NaN per plane")


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_pool_as_they_say(name):
    image = torch.randn(1, 3, 32, 32)
    for pooling in (MAX, "SoftPool"):
        network = Network(pooling, SMALL[name](pooling), image)
        counted = [node.op_type for node in network.model.graph].count(pooling)
        assert counted == {"ResNet stem": 1, "MobileNet-like": 4}[name]
        way = network.open(FUNCTION, "function", CPU, 1, library=False)
        way.run()
        assert network.share(way) <= 1


def test_the_table_of_training_in_pytorch_is_that_of_the_tool_and_says_what_the_page_says():
    page = (Path(__file__).parent.parent / "docs/explanation/performance.md").read_text()
    lines = page.split("## Training in PyTorch")[1].split("## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    made = [[cell.strip() for cell in row.strip("|").split("|")] for row in bench_torch.table((1, 2, 8, 8), 1)]
    assert rows[0] == made[0]
    assert [row[0] for row in rows[2:-1]] == [row[0] for row in made[2:]]
    assert [[cell == "" for cell in row] for row in rows[2:-1]] == [[cell == "" for cell in row] for row in made[2:]]

    def median(cell):
        return float(cell.split()[0])

    for size in bench_torch.WINDOWS:
        at = [row[0] for row in rows].index(f"SoftPool {size}, forward")
        forward, both = rows[at : at + 2]
        assert median(forward[1]) <= 0.25 * median(forward[4])
        assert median(both[1]) <= median(both[4])
    memory = next(row for row in rows if row[0].startswith("memory"))
    assert median(memory[1]) <= 1.2 * median(memory[4])
    assert median(rows[-1][1]) <= 1.03 * median(rows[-1][4]), "a step, within the noise"
