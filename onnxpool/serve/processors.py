"""How many processors this process may use: by its affinity, and by the limits of its control groups.

    affinity                   taskset, cpuset.cpus
    cgroup 2                   cpu.max of its group and of every group above: "200000 100000" are two processors
    cgroup 1                   cpu.cfs_quota_us over cpu.cfs_period_us, likewise

A container with two processors on a machine with 64 would start 63 threads otherwise, which wait for each other.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def processors(root: Path = _ROOT) -> int:
    """At least 1; part of a processor counts as one. ``root`` is where proc and sys are."""
    affinity = getattr(os, "sched_getaffinity", None)
    here = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([here, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Every limit that holds, in processors."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, place = line.split(":", 2)
        path = PurePosixPath(place.lstrip("/"))
        for group in (path, *path.parents):
            if number == "0":
                yield from _quota(_words(root / "sys/fs/cgroup" / group / "cpu.max"))
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / group
                words = [_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
                yield from _quota([word for found in words for word in found])


def _quota(words: list[str]) -> Iterator[float]:
    """Time over period; none where there is no limit, which is spelled max or -1."""
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []
