"""What tools/load measured, as values: a table, JSON, a picture. Times in seconds, throughput in requests a second."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from load_clients import Outcome
from load_hostile import Health
from load_server import Figures
from rich.console import Console
from rich.table import Table

PEER = 0
"""The ``max_batch`` of a peer's points."""


@dataclass(frozen=True)
class Point:
    """One way, with so many clients, joining at most so many rows.

    ``cpu_s`` is the server's processor time per request, ``rows`` the mean that ran together, ``run_s`` ONNX Runtime's
    time per request. ``wrong`` answers differ by more than rounding, ``other_bits`` within it.
    """

    way: str
    clients: int
    max_batch: int
    throughput: float
    median_s: float
    p99_s: float
    cpu_s: float
    rows: float
    run_s: float
    requests: int
    wrong: int = 0
    other_bits: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.way}, {self.clients} clients, max batch {self.max_batch}: {self.throughput:.0f}/s, "
            f"p50 {self.median_s * 1e3:.2f} ms, p99 {self.p99_s * 1e3:.2f} ms, {self.wrong} wrong, {self.errors}"
        )


def point(way: str, clients: int, max_batch: int, outcome: Outcome, before: Figures, after: Figures) -> Point:
    """What clients saw and what the server did meanwhile."""
    count = max(1, len(outcome.latencies_s))
    runs = max(1.0, after.runs - before.runs)
    median_s, p99_s = np.quantile(outcome.latencies_s or [np.nan], [0.5, 0.99]).tolist()
    return Point(
        way=way,
        clients=clients,
        max_batch=max_batch,
        throughput=len(outcome.latencies_s) / outcome.seconds,
        median_s=median_s,
        p99_s=p99_s,
        cpu_s=(after.cpu_s - before.cpu_s) / count,
        rows=(after.rows - before.rows) / runs,
        run_s=(after.run_s - before.run_s) / count,
        requests=len(outcome.latencies_s),
        wrong=outcome.wrong,
        other_bits=outcome.other_bits,
        errors=dict(outcome.errors),
    )


def write(folder: Path, name: str, points: Sequence[Point]) -> None:
    """Print a table; write NAME.json and NAME.svg."""
    Console(width=120).print(_table(points))
    (folder / f"{name}.json").write_text(json.dumps([asdict(one) for one in points], indent=2), encoding="utf-8")
    (folder / f"{name}.svg").write_text(_picture(name, points), encoding="utf-8")
    print(f"written: {folder / name}.json and .svg")


def _table(points: Sequence[Point]) -> Table:
    heads = ("", "clients", "joins", "a second", "p50 ms", "p99 ms", "CPU ms each", "rows a run", "other bits", "wrong")
    table = Table(*heads)
    for one in points:
        times = (f"{1e3 * seconds:.2f}" for seconds in (one.median_s, one.p99_s, one.cpu_s))
        rows = (f"{one.rows:.1f}", str(one.other_bits), str(one.wrong + sum(one.errors.values())))
        joins = "peer" if one.max_batch == PEER else str(one.max_batch)
        table.add_row(one.way, str(one.clients), joins, f"{one.throughput:.0f}", *times, *rows)
    return table


# --- the picture: throughput over clients, a line for each way

_COLOURS = {"binary": "#0072b2", "grpc": "#009e73", "json": "#d55e00", "bare": "#777"}
_LEFT, _TOP, _WIDTH, _HEIGHT = 60, 30, 420, 260


def _picture(name: str, points: Sequence[Point]) -> str:
    most = max(one.throughput for one in points)
    columns = sorted({one.clients for one in points})
    parts = [_text(_LEFT, 18, f"{name}: requests a second over clients; dashed: not joined; dotted: the peer")]
    parts += [_text(_x(columns, n), _TOP + _HEIGHT + 18, str(n)) for n in columns]
    parts += [_text(8, _y(most, most * k / 4) + 4, f"{most * k / 4:.0f}") for k in range(5)]
    for label, line in _lines(points).items():
        way, joined = label
        if way == "bare":
            y = _y(most, line[0].throughput)
            parts.append(f'<path d="M{_LEFT} {y:.0f}h{_WIDTH}" stroke="#777" stroke-dasharray="1 4"/>')
            parts.append(_text(_LEFT + _WIDTH + 6, y + 4, f"bare loop, batch {joined}"))
            continue
        path = "L".join(f"{_x(columns, one.clients):.0f} {_y(most, one.throughput):.0f}" for one in line)
        dash = {1: ' stroke-dasharray="6 4"', PEER: ' stroke-dasharray="1 3"'}.get(joined, "")
        parts.append(f'<path d="M{path}" fill="none" stroke="{_COLOURS[way]}" stroke-width="2"{dash}/>')
        if joined > 1:
            parts.append(_text(_LEFT + _WIDTH + 6, _y(most, line[-1].throughput) + 4, way, _COLOURS[way]))
    body = "\n".join(parts)
    size = f'width="{_LEFT + _WIDTH + 140}" height="{_TOP + _HEIGHT + 30}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n{body}\n</svg>\n'


def _lines(points: Sequence[Point]) -> dict[tuple[str, int], list[Point]]:
    lines: dict[tuple[str, int], list[Point]] = {}
    for one in points:
        lines.setdefault((one.way, one.max_batch), []).append(one)
    return lines


def _x(columns: Sequence[int], clients: int) -> float:
    return _LEFT + _WIDTH * columns.index(clients) / max(1, len(columns) - 1)


def _y(most: float, value: float) -> float:
    return _TOP + _HEIGHT * (1 - value / most)


def _text(x: float, y: float, text: str, colour: str = "#444") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(text)}</text>'


# --- a soak


def soaked(
    folder: Path, outcomes: dict[str, Outcome], memory: Sequence[float], health: Health, others: dict[str, object]
) -> int:
    """Print what became of a soak and write soak.json; 1 where anything was wrong."""
    tenth = max(1, len(memory) // 10)
    early, late = (statistics.median(part or [0]) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    values = {
        "health": health.to_json(),
        **others,
        "memory_mib": {"early": early, "late": late, "most": max(memory, default=0), "minutes": list(memory[::60])},
        "clients": {
            way: {
                "answers": len(outcome.latencies_s),
                "seconds": outcome.seconds,
                "wrong": outcome.wrong,
                "other_bits": outcome.other_bits,
                "errors": dict(outcome.errors),
                "malformed": dict(outcome.malformed),
            }
            for way, outcome in outcomes.items()
        },
    }
    print(json.dumps(values, indent=2))
    (folder / "soak.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    bad = [outcome for outcome in outcomes.values() if outcome.wrong or outcome.errors or not outcome.latencies_s]
    return int(bool(bad or health.errors) or late > 1.2 * early)
