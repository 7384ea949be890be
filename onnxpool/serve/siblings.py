"""What several processes of one server have counted, told as one: metrics and statistics.

Each tells the others by a Unix socket in a folder that is theirs alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import orjson

_ASKED_S = 1.0
"""How long another process may take to tell what it has counted; one that is about to start tells nothing."""


class Counting(Protocol):
    """What a process knows of itself."""

    def metrics_text(self) -> bytes:
        """For Prometheus."""

    def statistics(self) -> dict[str, Any]:
        """As the protocol has them."""


class Siblings:
    """The processes of one server, as one of them sees them."""

    def __init__(self, folder: Path, number: int, count: int) -> None:
        self._folder = folder
        self._number = number
        self._count = count

    @asynccontextmanager
    async def telling(self, service: Counting) -> AsyncIterator[None]:
        """Tell the others what this process has counted."""

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told = {"metrics": service.metrics_text().decode(), "statistics": service.statistics()["model_stats"]}
            writer.write(orjson.dumps(told))
            with suppress(OSError):
                await writer.drain()
            writer.close()

        path = self._folder / str(self._number)
        path.unlink(missing_ok=True)  # of the process that was here before
        async with await asyncio.start_unix_server(tell, path):
            yield

    async def ask(self) -> dict[int, dict[str, Any]]:
        """What each has counted, by its number; without those that do not answer."""
        found = await asyncio.gather(*map(self._ask, range(self._count)))
        return {number: one for number, one in enumerate(found) if one is not None}

    async def _ask(self, number: int) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_ASKED_S):
                reader, writer = await asyncio.open_unix_connection(self._folder / str(number))
                try:
                    told: dict[str, Any] = orjson.loads(await reader.read())
                    return told
                finally:
                    writer.close()
        except (OSError, TimeoutError, orjson.JSONDecodeError):
            return None


def joined(texts: dict[int, str]) -> str:
    """Prometheus' text of several processes as one, each series with the number of its process."""
    families: dict[str, list[str]] = defaultdict(list)
    for number, text in texts.items():
        label, family, fresh = f'process="{number}"', "", False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                fresh = family not in families
            if line.startswith("#"):
                families[family] += [line] if fresh else []
            elif line:
                name, brace, rest = line.partition("{")
                name, space, value = (name, "", "") if brace else line.partition(" ")
                families[family].append(f"{name}{{{label},{rest}" if brace else f"{name}{{{label}}}{space}{value}")
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def summed(statistics: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Statistics of the same models in several processes: numbers are added, but for the time of the last one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in (model for process in statistics for model in process):
        key = (one["name"], one["version"])
        found[key] = _added(found[key], one) if key in found else one
    return list(found.values())


def _added(one: Any, other: Any, name: str = "") -> Any:
    if isinstance(one, dict):
        return {key: _added(one[key], other[key], key) for key in one}
    if isinstance(one, int):
        return max(one, other) if name == "last_inference" else one + other
    return one
