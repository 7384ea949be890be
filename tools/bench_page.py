"""The tables of docs/explanation/performance.md, of one run of tools/bench: python tools/bench_page.py FILE.

FILE is what its --json wrote. Milliseconds, medians with quartiles in brackets.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_report import (
    FUNCTION,
    MAX,
    MODULE,
    NAIVE,
    NATIVE,
    OPENVINO,
    OPENVINO_STANDARD,
    PYTORCH,
    STANDARD,
)

OPERATORS = {"SoftPool": "SoftPool", "LocalImportancePool": "local importance", "StochasticPool": "stochastic"}

GROUPS = {
    "8x64x112x112 3x3 s2 p1": "8x64x112x112, 3x3 s2 p1",
    "8x64x112x112 2x2": "8x64x112x112, 2x2",
    "8x256x13x13 5x5 s1 p2": "8x256x13x13, 5x5 s1 p2",
    "1x2048x7x7 7x7 s1": "1x2048x7x7, global",
    "ResNet stem 1x3x224x224": "a ResNet's stem, end to end",
    "MobileNet-like 1x3x224x224": "a MobileNet with four poolings, end to end",
}
"""The groups of a run, and what the page calls them."""

NETWORKS = {
    "lip_resnet50": "LIP-ResNet-50, 1x3x224x224",
    "softpool_resnet50": "SoftPool-ResNet-50, 1x3x224x224",
}

COLUMNS = {
    NATIVE: "native",
    FUNCTION: "function form",
    STANDARD: "standard form",
    NAIVE: "naive graph",
    PYTORCH: "naive PyTorch",
    MODULE: "`onnxpool.nn`",
    MAX: "MaxPool",
}
HOSTS = {NATIVE: "ONNX Runtime, native", OPENVINO: "OpenVINO, native", OPENVINO_STANDARD: "OpenVINO, standard form"}

Results = dict[tuple[str, str], dict[str, Any]]


def rows(run: dict[str, Any], columns: Sequence[str]) -> Iterator[str]:
    """A line of the table for each operator and network that the run has, float32 on one thread."""
    chosen = {
        group["name"]: {(result["operator"], result["way"]): result for result in group["results"]}
        for group in run["groups"]
        if (group["dtype"], group["threads"], group["provider"]) == ("float32", 1, "CPUExecutionProvider")
    }
    for name, called in GROUPS.items():
        for i, (operator, spoken) in enumerate(OPERATORS.items()):
            label = f"{spoken}, {called}" if i == 0 else f"{spoken}, the same"
            if name in chosen:
                yield _row(label, chosen[name], operator, columns)
    for name, called in NETWORKS.items():
        if f"{name} 1x3x224x224" in chosen:
            yield _row(called, chosen[f"{name} 1x3x224x224"], name, columns)


def _row(label: str, results: Results, operator: str, columns: Sequence[str]) -> str:
    cells = [_cell(results.get((operator, way)) or results.get(("", way))) for way in columns]
    return f"| {' | '.join([label, *cells])} |"


def _cell(result: dict[str, Any] | None) -> str:
    if result is None or result["median_s"] is None:
        return ""
    middle, low, high = (_ms(time_s) for time_s in (result["median_s"], *result["quartiles_s"]))
    return f"{middle} ({low}-{high})"


def _ms(time_s: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{1000 * time_s:.3g}'):g}"


def table(run: dict[str, Any], columns: dict[str, str]) -> str:
    """The whole table."""
    head = [f"| {' | '.join(['', *columns.values()])} |".replace("|  |", "| |"), "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*head, *rows(run, list(columns))])


def main() -> None:
    """Print both tables."""
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(table(run, COLUMNS), table(run, HOSTS), sep="\n\n")


if __name__ == "__main__":
    main()
