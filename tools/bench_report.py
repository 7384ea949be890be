"""What tools/bench measured, as values: medians, quartiles and ratios of medians; as tables, JSON and a picture.

Times are in seconds. A ratio is one median over another of the same round-robin, so that both met the same machine.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

COPY, MAX, AVERAGE = "copy", "MaxPool", "AveragePool"
NATIVE, FUNCTION, STANDARD = "native", "function form", "standard form"
NAIVE, PYTORCH, COMPILED, MODULE = "naive graph", "PyTorch", "torch.compile", "onnxpool.nn"
COMPOSITION, TORCH_MAX = "onnxpool.nn, no library", "max_pool"
OPTIMISED = "native, optimised"
OPENVINO, OPENVINO_STANDARD = "OpenVINO native", "OpenVINO standard"
NORMAL = "normal values"


@dataclass(frozen=True)
class Result:
    """One way to compute one pooling: ``operator`` is empty for ways that are the same for all operators.

    ``share`` is the largest error over the allowed error, None where there was nothing to compare. Ways with a larger
    share than 1, or that failed (``fault`` says how), have no times.
    """

    operator: str
    way: str
    share: float | None
    fault: str = ""
    times_s: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        """The median time; NaN without times."""
        return statistics.median(self.times_s) if self.times_s else math.nan

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """Between these lies the middle half of the times; NaN without times."""
        if len(self.times_s) < 2:
            return self.median_s, self.median_s
        low, _, high = statistics.quantiles(self.times_s, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Group:
    """All ways that were measured in turns: on one input, with so many threads, on one provider."""

    name: str
    dtype: str
    threads: int
    provider: str
    results: tuple[Result, ...]
    absent: tuple[str, ...] = field(default=())

    def find(self, operator: str, way: str) -> Result | None:
        """The result of this way; the ways that serve all operators are found for each."""
        found = (r for r in self.results if r.way == way and r.operator in ("", operator))
        return next(found, None)

    def ratio(self, result: Result, way: str) -> float:
        """How many times as long ``result`` took as that ``way`` of its operator: below 1 is faster. NaN without it."""
        other = self.find(result.operator, way)
        return result.median_s / other.median_s if other else math.nan

    def __str__(self) -> str:
        """Its title."""
        place = self.provider.removesuffix("ExecutionProvider")
        return f"{self.name}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}, {place}"


# --- as tables


def table(group: Group) -> Table:
    """Every way of one group: its time, and that in times of MaxPool, standard form, PyTorch, and of normal data."""
    found = Table(title=str(group), title_justify="left")
    against = [
        way for way in (COPY, MAX, TORCH_MAX, STANDARD, PYTORCH, NORMAL) if any(r.way == way for r in group.results)
    ]
    for column in ("", "", "ms", "quartiles", *(f"x {way}" for way in against), "error / allowed"):
        found.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for result in group.results:
        low, high = result.quartiles_s
        times = (
            [result.fault or "WRONG", ""] if not result.times_s else [_ms(result.median_s), f"{_ms(low)}-{_ms(high)}"]
        )
        share = "" if result.share is None else f"{result.share:.2g}"
        ratios = (_ratio(group.ratio(result, way)) for way in against)
        found.add_row(result.operator, result.way, *times, *ratios, share)
    return found


def summary(groups: Sequence[Group]) -> Table:
    """Our native operators: times in milliseconds, in times of MaxPool, and how often faster than the other ways."""
    found = Table(title="native kernels", title_justify="left")
    for column in (
        "input",
        "operator",
        "ms",
        "x copy",
        "x MaxPool",
        "x AveragePool",
        "x function",
        "x standard",
        "x PyTorch",
    ):
        found.add_column(column, justify="left" if column in ("input", "operator") else "right", no_wrap=True)
    for group in groups:
        for result in group.results:
            if result.way == NATIVE:
                ratios = (group.ratio(result, way) for way in (COPY, MAX, AVERAGE, FUNCTION, STANDARD, PYTORCH))
                found.add_row(str(group), result.operator, _ms(result.median_s), *map(_ratio, ratios))
    return found


def _ms(time_s: float) -> str:
    return f"{1000 * time_s:.3g}"


def _ratio(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


# --- as JSON

_RATIOS = (COPY, MAX, AVERAGE, FUNCTION, STANDARD, PYTORCH, NORMAL)


def to_json(groups: Sequence[Group], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything measured; what is not a number (a median without times) is null."""
    return {"machine": machine, "groups": [_group(group) for group in groups]}


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "dtype": group.dtype,
        "threads": group.threads,
        "provider": group.provider,
        "absent": list(group.absent),
        "results": [
            {
                "operator": result.operator,
                "way": result.way,
                "error_over_allowed": _number(result.share),
                "fault": result.fault,
                "median_s": _number(result.median_s),
                "quartiles_s": [_number(quartile) for quartile in result.quartiles_s],
                "ratios": {way: _number(group.ratio(result, way)) for way in _RATIOS},
                "times_s": list(result.times_s),
            }
            for result in group.results
        ],
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def write_json(found: dict[str, Any], path: Path) -> None:
    """Write it to ``path``, which appears only when it is complete."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(found, file, indent=1, allow_nan=False)
    Path(file.name).replace(path)


# --- as a picture

_COLORS = {
    NATIVE: "#1a7f37",
    FUNCTION: "#4a9fd8",
    STANDARD: "#a6c8e0",
    PYTORCH: "#e07b39",
    COMPILED: "#f0b080",
    MODULE: "#c05a90",
}
_OTHER = "#9a9a9a"
_WIDTH, _ROW, _HEAD, _LABEL, _VALUE, _MARGIN = 900, 22, 40, 250, 70, 24


def picture(groups: Sequence[Group]) -> Image.Image:
    """One panel of bars per group: medians on a logarithmic axis of its own, a line from quartile to quartile."""
    heights = [_HEAD + _ROW * len(group.results) + _MARGIN for group in groups]
    rows = [max(heights[i : i + 2]) for i in range(0, len(groups), 2)]
    sheet = Image.new("RGB", (2 * _WIDTH + _MARGIN, sum(rows) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, group in enumerate(groups):
        _panel(draw, group, _MARGIN + i % 2 * _WIDTH, _MARGIN + sum(rows[: i // 2]))
    return sheet


def _panel(draw: ImageDraw.ImageDraw, group: Group, left: int, top: int) -> None:
    draw.text((left, top), f"{group}: ms, logarithmic", "black", ImageFont.load_default(size=19))
    timed = [result for result in group.results if result.times_s]
    if not timed:
        return
    least, most = min(r.quartiles_s[0] for r in timed) / 2, max(r.quartiles_s[1] for r in timed)
    begin, length = left + _LABEL, _WIDTH - _LABEL - _VALUE - 2 * _MARGIN

    def place(time_s: float) -> float:
        return begin + length * math.log(time_s / least) / math.log(most / least)

    font = ImageFont.load_default(size=15)
    for result, y in zip(group.results, _rows(top), strict=False):
        draw.text((begin - 10, y), f"{result.operator} {result.way}".strip(), "black", font, anchor="rm")
        if not result.times_s:
            draw.text((begin, y), result.fault or "WRONG", "#c00000", font, anchor="lm")
            continue
        end, (low, high) = place(result.median_s), map(place, result.quartiles_s)
        draw.rectangle((begin, y - 7, end, y + 7), _COLORS.get(result.way, _OTHER))
        draw.line((low, y, high, y), "black", 2)
        draw.text((max(end, high) + 6, y), _ms(result.median_s), "black", font, anchor="lm")


def _rows(top: int) -> Iterator[int]:
    y = top + _HEAD
    while True:
        yield y
        y += _ROW
