"""One tomogram by one worker on one core, and by two shards on two cores: time, and labels.

::

    python benchmarks/nnunet_shards.py [--model NAME] [--shape 1632 64 96] [--mode fast|exact] [--shards 2]

The demo's model unless `--model` names another that is installed in CRYOMAMBA_DATA_DIR; tiles are mirrored. Each run is
a job as ``cryomamba segment`` makes it, with the start of its processes, the hash of the source and the export of the
mask. The runs take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen
from rig.nnunet.models import write_volume
from rig.report import Figure, report

from cryomamba_core.artifacts import Manifest
from cryomamba_core.wire import load_json

COMMAND = Path(sys.executable).with_name("cryomamba")

#: What two shards on two cores must reach: the row of tiles that both run, and the start of processes, take some.
LEAST = 1.8


@frozen(kw_only=True)
class Run:
    """A job that is done.

    Attributes
    ----------
    seconds
        From the first byte that its worker read to the last that it wrote.
    wall
        From the command to its end, in seconds.
    peak
        The most memory of all its workers, in MiB.
    labels
        SHA-256 of the mask.
    notes
        Of the manifest.
    """

    seconds: float
    wall: float
    peak: float
    labels: str
    notes: tuple[str, ...]


def run(volume: Path, out: Path, *, shards: int, model: str, mode: str) -> Run:
    """Segment a volume by some shards, on as many cores."""
    cores = sorted(os.sched_getaffinity(0))[:shards]
    command = [COMMAND, "segment", volume, "--model", model, "--shards", str(shards), "--out", out, "--overwrite"]
    command += ["--artifact", "mask.mrc", "--artifact", "manifest.json"]
    command += ["--param", f"mode={mode}", "--param", "coarse=off", "--param", "spacing=voxels"]
    started = time.monotonic()
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CRYOMAMBA_THREADS": str(shards)},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    wall = time.monotonic() - started
    manifest = load_json((out / f"{volume.stem}.manifest.json").read_bytes(), Manifest)
    return Run(
        seconds=(manifest.finished_at - manifest.started_at).total_seconds(),
        wall=wall,
        peak=manifest.peak_rss_bytes / 2**20,
        labels=manifest.artifacts[0].sha256,
        notes=manifest.notes,
    )


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cryomamba-demo")
    parser.add_argument("--shape", type=int, nargs=3, default=(1632, 64, 96), help="z y x")
    parser.add_argument("--mode", choices=("fast", "exact"), default="fast")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < options.shards:
        parser.error(f"{options.shards} shards need as many cores")
    alone, shared = [], []
    with tempfile.TemporaryDirectory() as folder:
        volume = write_volume(Path(folder) / "volume.mrc", tuple(options.shape))
        for _ in range(options.rounds):
            for shards, runs in ((1, alone), (options.shards, shared)):
                runs.append(run(volume, Path(folder) / "out", shards=shards, model=options.model, mode=options.mode))
    seconds = [statistics.median(each.seconds for each in runs) for runs in (alone, shared)]
    differ = len({each.labels for each in (*alone, *shared)}) - 1
    name = f"{options.shards} shards on {options.shards} cores"
    figures = [
        Figure(name="one worker on one core", value=seconds[0], unit="s"),
        Figure(name=name, value=seconds[1], unit="s"),
        Figure(name="one worker's time / that of the shards", value=seconds[0] / seconds[1], unit="×", least=LEAST),
        Figure(name="one worker: peak resident size", value=max(each.peak for each in alone), unit="MiB"),
        Figure(name="shards: peak resident sizes, all together", value=max(each.peak for each in shared), unit="MiB"),
        Figure(name="masks that are not like the first", value=differ, unit="", most=1),
    ]
    shape = " × ".join(map(str, options.shape))
    return report(
        f"one tomogram of {shape}, mode={options.mode}: one worker and {name}",
        figures,
        wall={"one": [each.wall for each in alone], "shards": [each.wall for each in shared]},
        notes=shared[0].notes,
    )


if __name__ == "__main__":
    sys.exit(main())
