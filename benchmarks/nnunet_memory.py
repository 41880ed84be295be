"""Peak memory of our nnU-Net runner and of stock nnU-Net when a tomogram doubles along the axis of the sweep.

::

    python benchmarks/nnunet_memory.py [--model FOLDER] [--shape 192 192 192] [--stub] [--mirroring]

Every run has a process of its own. What is printed is what it adds to a process that has imported everything, loaded
the model and run one tile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from attrs import asdict
from rig.nnunet import ENGINES, Task, demo_model, measure, write_volume
from rig.report import Figure, report

LIMIT_MIB = 32


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="trained-model folder; the demo's model if left out")
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 192), help="z y x; the longest, z, is doubled")
    parser.add_argument("--mirroring", action="store_true", help="average over mirrored tiles")
    parser.add_argument("--stub", action="store_true", help="a network without work")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    z, y, x = options.shape
    if z < max(y, x):
        parser.error("z must be the longest axis, so that every engine sweeps along it")
    added: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    courses = []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or demo_model(Path(folder) / "demo-model")
        volume = Path(folder) / "volume.mrc"
        for depth in (z, 2 * z):
            write_volume(volume, (depth, y, x))
            for engine in ENGINES:
                task = Task(
                    engine=engine,
                    model=str(model),
                    volume=str(volume),
                    stub=options.stub,
                    mirroring=options.mirroring,
                    threads=options.threads,
                )
                course = measure(task)
                added[engine].append(course.added)
                courses.append({"engine": engine, "shape": [depth, y, x], **asdict(course)})
    figures = []
    for engine, (first, second) in added.items():
        most = None if engine == "stock" else LIMIT_MIB
        figures += [
            Figure(name=f"{engine}: {z} × {y} × {x}", value=first, unit="MiB"),
            Figure(name=f"{engine}: {2 * z} × {y} × {x}", value=second, unit="MiB"),
            Figure(name=f"{engine}: what doubling added", value=second - first, unit="MiB", most=most),
        ]
    return report("peak memory when a tomogram doubles", figures, courses=courses)


if __name__ == "__main__":
    sys.exit(main())
