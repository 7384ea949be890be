"""The tables of times in the documentation: as tools/bench_page.py writes them of one run, and what is said of them."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

from bench_page import COLUMNS, GROUPS, HOSTS, NETWORKS, OPERATORS, rows, table  # noqa: E402

PAGE = (ROOT / "docs/explanation/performance.md").read_text(encoding="utf-8")
CELL = re.compile(r"([0-9.]+) \(([0-9.]+)-([0-9.]+)\)")


def result(operator, way, median_s, low_s=None, high_s=None):
    quartiles_s = [median_s if low_s is None else low_s, median_s if high_s is None else high_s]
    return {"operator": operator, "way": way, "median_s": median_s, "quartiles_s": quartiles_s}


def group(name, *results, threads=1, dtype="float32"):
    return {
        "name": name,
        "dtype": dtype,
        "threads": threads,
        "provider": "CPUExecutionProvider",
        "results": list(results),
    }


def test_rows_by_hand():
    run = {
        "groups": [
            group("8x64x112x112 2x2", result("SoftPool", "native", 9.0), threads=2),
            group("8x64x112x112 2x2", result("SoftPool", "native", 9.0), dtype="float16"),
            group("lip_resnet50 1x3x224x224", result("lip_resnet50", "native", 0.1044), result("", "MaxPool", 0.2)),
            group(
                "8x64x112x112 2x2",
                result("", "MaxPool", 0.00123, 0.0012, 0.00129),
                result("SoftPool", "native", 0.0000412),
                result("StochasticPool", "native", None),
                result("StochasticPool", "standard form", 1.2345),
            ),
        ]
    }
    assert list(rows(run, ["native", "standard form", "MaxPool"])) == [
        "| SoftPool, 8x64x112x112, 2x2 | 0.0412 (0.0412-0.0412) |  | 1.23 (1.2-1.29) |",
        "| local importance, the same |  |  | 1.23 (1.2-1.29) |",
        "| stochastic, the same |  | 1230 (1230-1230) | 1.23 (1.2-1.29) |",
        "| LIP-ResNet-50, 1x3x224x224 | 104 (104-104) |  | 200 (200-200) |",
    ]
    assert table(run, {"native": "here"}).splitlines()[:2] == ["| | here |", "|---|---|"]


def found(columns):
    """The lines of the page's table with this head, in cells."""
    head = table({"groups": []}, columns).splitlines()
    lines = PAGE.splitlines()
    assert lines.count(head[0]) == 1
    start = lines.index(head[0])
    assert lines[start + 1] == head[1]
    body = lines[start + 2 :]
    body = body[: next(i for i, line in enumerate(body) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


@pytest.mark.parametrize("columns", [COLUMNS, HOSTS], ids=["operators", "hosts"])
def test_the_page_has_every_row_with_medians_between_quartiles(columns):
    labels = [f"{spoken}, {called}" for called in GROUPS.values() for spoken in OPERATORS.values()]
    shown = found(columns)
    assert len(shown) == len(labels) + len(NETWORKS)
    for cells, label in zip(shown, [*labels, *NETWORKS.values()], strict=True):
        assert cells[0] in (label, f"{label.partition(',')[0]}, the same")
        assert len(cells) == len(columns) + 1
        assert cells[1]
        for cell in filter(None, cells[1:]):
            middle, low, high = map(float, CELL.fullmatch(cell).groups())
            assert 0 < low <= middle <= high


def ratios(columns, above, below, chosen):
    """The least and the largest of one median over another in these rows."""
    names = [*columns]
    medians = [[float(CELL.fullmatch(cells[1 + names.index(way)])[1]) for way in (above, below)] for cells in chosen]
    values = [one / other for one, other in medians]
    return min(values), max(values)


def said(pattern):
    return tuple(map(float, re.search(pattern, " ".join(PAGE.split())).groups()))


def test_what_is_said_follows_from_the_tables():
    alone = [cells for cells in found(COLUMNS) if cells[0].startswith("SoftPool, ") and "end to end" not in cells[0]]
    large = found(HOSTS)[:6]
    assert [cells[0] for cells in large[::3]] == ["SoftPool, 8x64x112x112, 3x3 s2 p1", "SoftPool, 8x64x112x112, 2x2"]
    for pattern, columns, above, below, chosen in (
        (r"a native SoftPool alone costs ([0-9.]+) to ([0-9.]+) MaxPools", COLUMNS, "native", "MaxPool", alone),
        (
            r"([0-9.]+) to ([0-9.]+) times as fast as the standard form",
            HOSTS,
            "OpenVINO standard",
            "OpenVINO native",
            large,
        ),
        (r"([0-9.]+) to ([0-9.]+) times what the same kernels take in ONNX", HOSTS, "OpenVINO native", "native", large),
    ):
        assert said(pattern) == pytest.approx(ratios(columns, above, below, chosen), rel=0.02), pattern
