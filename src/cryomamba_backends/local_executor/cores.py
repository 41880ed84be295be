"""Which cores there are, and how workers that run at the same time divide them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

#: Where Linux says which of its CPUs are one core.
CPUS = Path("/sys/devices/system/cpu")


def usable_cores() -> tuple[tuple[int, ...], ...]:
    """The cores that this process may use, each by the numbers of its CPUs: two where it runs two threads at once."""
    affinity = getattr(os, "sched_getaffinity", None)
    numbers = sorted(affinity(0)) if affinity else range(os.cpu_count() or 1)
    cores: dict[str, list[int]] = {}
    for number in numbers:
        cores.setdefault(_siblings(number), []).append(number)
    return tuple(tuple(core) for core in cores.values())


def shares(cores: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """The numbers of the CPUs of `count` workers: cores that lie together, as evenly as can be.

    Workers of which there are more than cores keep to none.
    """
    if count > len(cores) or not hasattr(os, "sched_setaffinity"):
        return [()] * count
    bounds = [round(index * len(cores) / count) for index in range(count + 1)]
    return [tuple(number for core in cores[first:stop] for number in core) for first, stop in pairwise(bounds)]


def _siblings(number: int) -> str:
    try:
        return (CPUS / f"cpu{number}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(number)
