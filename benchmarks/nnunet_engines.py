"""Stock nnU-Net, our exact mode and our fast mode side by side: time, memory, labels, and when something is seen.

::

    python benchmarks/nnunet_engines.py [--model FOLDER] [--shape 96 192 192] [--mirroring] [--stub]

Every run has a process of its own. With ``--stub`` a copy of the input replaces the network, which shows memory at
large shapes in a short time; its labels mean nothing then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from attrs import asdict
from rig.nnunet import ENGINES, Task, demo_model, measure, write_volume
from rig.report import Figure, report

#: Voxels that are compared at a time.
PIECE = 1 << 22


def agreement(found: Path, expected: Path) -> tuple[float, float]:
    """Part of the voxels that differ, and the least Dice of a label."""
    ours, theirs = (np.memmap(path, np.uint8, "r") for path in (found, expected))
    different = 0
    both = np.zeros(256, np.int64)
    each = np.zeros(256, np.int64)
    for first in range(0, len(ours), PIECE):
        mine, other = ours[first : first + PIECE], theirs[first : first + PIECE]
        different += np.count_nonzero(mine != other)
        both += np.bincount(mine[mine == other].ravel(), minlength=256)
        each += np.bincount(mine.ravel(), minlength=256) + np.bincount(other.ravel(), minlength=256)
    present = each > 0
    return float(different / ours.size), float((2 * both[present] / each[present]).min())


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="trained-model folder; the demo's model if left out")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 192, 192), help="z y x")
    parser.add_argument("--mirroring", action="store_true", help="average over mirrored tiles")
    parser.add_argument("--stub", action="store_true", help="a network without work")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options = parser.parse_args()
    figures, courses = [], {}
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.mrc"
        write_volume(volume, tuple(options.shape))
        model = options.model or demo_model(Path(folder) / "demo-model")
        for engine in options.engines:
            task = Task(
                engine=engine,
                model=str(model),
                volume=str(volume),
                stub=options.stub,
                mirroring=options.mirroring,
                threads=options.threads,
            )
            course = courses[engine] = measure(task, labels=Path(folder) / f"{engine}.raw")
            figures += [
                Figure(name=f"{engine}: wall time", value=course.seconds, unit="s"),
                Figure(name=f"{engine}: memory added to a process that is ready", value=course.added, unit="MiB"),
                Figure(name=f"{engine}: peak resident size", value=course.peak, unit="MiB"),
            ]
            if course.planned is not None:
                used = course.peak - course.imported
                figures.append(Figure(name=f"{engine}: memory planned / used", value=course.planned / used, unit=""))
            for name, seconds in (("coarse labels everywhere", course.coarse), ("first final labels", course.final)):
                if seconds is not None:
                    part = 100 * seconds / course.seconds
                    figures.append(Figure(name=f"{engine}: {name} after", value=part, unit="% of the wall time"))
            if engine != "stock" and "stock" in courses:
                stock = courses["stock"]
                different, dice = agreement(Path(folder) / f"{engine}.raw", Path(folder) / "stock.raw")
                most = 1e-12 if engine == "exact" else None
                figures += [
                    Figure(name=f"{engine}: voxels that differ from stock", value=different, unit="", most=most),
                    Figure(name=f"{engine}: least Dice of a label", value=dice, unit=""),
                    Figure(name=f"{engine}: stock's time / its own", value=stock.seconds / course.seconds, unit="×"),
                    Figure(
                        name=f"{engine}: memory that stock adds / its own", value=stock.added / course.added, unit="×"
                    ),
                ]
    shape = " × ".join(map(str, options.shape))
    title = f"nnU-Net engines on {shape}{', mirrored' * options.mirroring}{', without a network' * options.stub}"
    return report(title, figures, courses={engine: asdict(course) for engine, course in courses.items()})


if __name__ == "__main__":
    sys.exit(main())
