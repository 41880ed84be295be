"""How long it takes until something happens: the import of the core, and ``cryomamba --help``.

    python benchmarks/import_time.py

Medians over fresh processes, after one that warms the disk cache. Exits with 1 if a limit is exceeded.
"""

from __future__ import annotations

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
    ("import cryomamba_core.plugins", [sys.executable, "-c", "import cryomamba_core.plugins"], 0.25),
    ("cryomamba --help", [str(COMMAND), "--help"], 0.5),
    ("cryomamba --version", [str(COMMAND), "--version"], 0.5),
]


def main() -> int:
    """Measure and print a table."""
    print(f"median of {RUNS} processes, seconds of wall time, Python {sys.version.split()[0]}\n")
    print(f"{'what':32} {'median':>8} {'worst':>8} {'limit':>8}")
    too_slow = False
    for name, command, limit in MEASURED:
        seconds = [measure(command) for _ in range(RUNS + 1)][1:]
        median = statistics.median(seconds)
        shown = "" if limit is None else f"{limit:8.2f}"
        exceeded = limit is not None and median > limit
        too_slow |= exceeded
        print(f"{name:32} {median:8.3f} {max(seconds):8.3f} {shown:>8}{'  exceeded' if exceeded else ''}")
    return int(too_slow)


def measure(command: list[str]) -> float:
    """Seconds that a process takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
