"""How long it takes until something happens: the import of the core, and ``cryomamba --help``.

    python benchmarks/import_time.py

Medians over fresh processes, after one that warms the disk cache. Exits with 1 if a limit is exceeded.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 9
COMMAND = Path(sys.executable).with_name("cryomamba")

#: What, command, limit in seconds (None: for comparison).
MEASURED: list[tuple[str, list[str], float | None]] = [
    ("python -c pass", [sys.executable, "-c", "pass"], None),
    ("import cryomamba_core", [sys.executable, "-c", "import cryomamba_core"], 0.25),
    ("import cryomamba_core.plugins", [sys.executable, "-c", "import cryomamba_core.plugins"], None),
    ("cryomamba --help", [str(COMMAND), "--help"], 0.5),
    ("cryomamba --version", [str(COMMAND), "--version"], 0.5),
]


def main() -> int:
    """Measure and print a table."""
    print(f"{RUNS} processes each, seconds, Python {sys.version.split()[0]}; a limit is for the median\n")
    print(f"{'what':32} {'median':>8} {'worst':>8} {'CPU':>8} {'limit':>8}")
    too_slow = False
    for name, command, limit in MEASURED:
        measured = [measure(command) for _ in range(RUNS + 1)][1:]
        median, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        shown = "" if limit is None else f"{limit:8.2f}"
        exceeded = limit is not None and median > limit
        too_slow |= exceeded
        worst = max(wall for wall, _ in measured)
        print(f"{name:32} {median:8.3f} {worst:8.3f} {cpu:8.3f} {shown:>8}{'  exceeded' if exceeded else ''}")
    return int(too_slow)


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds of wall time and of processor time that a process takes."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
