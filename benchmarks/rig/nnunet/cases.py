"""What is run, how it went, and the options that all benchmarks of nnU-Net models take."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import asdict, frozen

from cryomamba_core.wire import from_plain

BENCHMARKS = Path(__file__).parents[2]

#: Where ``nox -s bench`` installs the peers: beside what the project itself needs, not into it.
PEERS = BENCHMARKS.parent / "build" / "peers"

#: Name of a contestant → what it is called in tables.
CONTESTANTS: Mapping[str, str] = {
    "stock": "stock nnUNetPredictor",
    "konfai": "KonfAI",
    "monai": "MONAI sliding window",
    "exact": "CryoMamba exact",
    "fast": "CryoMamba fast",
    "fast-bfloat16": "CryoMamba fast, bfloat16",
    "fast-single": "CryoMamba fast, single precision",
}

#: Those that are this project's.
OURS = ("exact", "fast", "fast-bfloat16", "fast-single")


@frozen(kw_only=True)
class Case:
    """A model and a volume.

    Attributes
    ----------
    trained
        The model as a trained-model folder.
    data_dir
        A data directory in which the same model is installed.
    volume
        An MRC file of single-precision voxels.
    stub
        Whether a network without work replaces the real one: the volume may then be large while the run is short, and
        the sums, which are what grows, stay the real ones. Its labels mean nothing.
    mirroring
        Whether tiles are mirrored on all axes.
    threads
        Of PyTorch.
    device
        Where stock and ours run.
    """

    trained: str
    data_dir: str
    volume: str
    stub: bool = False
    mirroring: bool = False
    threads: int = 2
    device: str = "cpu"


@frozen(kw_only=True)
class Spent:
    """Seconds by the clock, and those of all processors together, which other programs hardly change."""

    wall: float = 0.0
    processor: float = 0.0


@frozen(kw_only=True)
class Outcome:
    """How it went.

    Attributes
    ----------
    missing
        What has to be installed for this contestant; nothing below then means anything.
    whole
        From the first file that is opened, weights included, to the last label.
    network
        How much of it the network ran.
    passes
        How often it ran.
    base, peak
        Largest resident size of the process in MiB: after all imports, and at the end.
    coarse, final
        Seconds to a provisional label for every voxel, and to the first final ones; None where there are none.
    rows
        Rows of tiles along the sweep of ours; 0 for others.
    planned
        What our plan says that a run adds to `base`, in MiB; None for others, and for a stub.
    vram, vram_planned
        The most that tensors held on a GPU at a time, and what our plan says of it, in MiB; 0 on the CPU.
    note
        What else is to be known of the run.
    """

    missing: str = ""
    whole: Spent = Spent()
    network: Spent = Spent()
    passes: int = 0
    base: float = 0.0
    peak: float = 0.0
    coarse: float | None = None
    final: float | None = None
    rows: int = 0
    planned: float | None = None
    vram: float = 0.0
    vram_planned: float = 0.0
    note: str = ""

    @property
    def added(self) -> float:
        """MiB that the run adds to a process that has imported everything."""
        return self.peak - self.base


def measure(contestant: str, case: Case, *, labels: Path | None = None) -> Outcome:
    """Run a case in a process of its own, and keep its labels as raw uint8 if asked to."""
    told = json.dumps({"contestant": contestant, "case": asdict(case), "labels": str(labels) if labels else None})
    paths = [str(BENCHMARKS), str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "rig.nnunet", told],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    return from_plain(json.loads(done.stdout.strip().splitlines()[-1]), Outcome)


def arguments(
    description: str,
    *,
    shape: tuple[int, int, int],
    contestants: Sequence[str] = ("stock", "konfai", "monai", "exact", "fast"),
) -> argparse.ArgumentParser:
    """The options of every benchmark of nnU-Net models; a benchmark may add its own."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", type=Path, help="trained-model folder; the demo's model if left out")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the installation of the model, for ours"
    )
    parser.add_argument("--shape", type=int, nargs=3, default=shape, help="z y x (default: %(default)s)")
    parser.add_argument("--mirroring", action="store_true", help="average over mirrored tiles")
    parser.add_argument("--stub", action="store_true", help="a network without work")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="of stock and ours: cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS), default=list(contestants))
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables here, as Markdown")
    return parser
