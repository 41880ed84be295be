"""Workers of the nnU-Net runner that are killed at random moments: what comes out is what had come out."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import engines
import mrcfile
import numpy as np
import pytest

from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_backends.nnunet.runner import BUNDLED
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, Source

# no importorskip: the session that runs the files which have it would run this one a second time
pytestmark = [
    pytest.mark.skipif(find_spec("torch") is None, reason="nnU-Net models need PyTorch"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the worker's disk is spied upon in /proc"),
]

PATCH = 16
SHAPE = (120, 24, 24)
#: Tiles that start at the same section, and all of them.
STEP, TILES = 4, 56
#: In each of the two modes: 20 in all.
KILLS = 10
#: Seconds up to which a kill comes after the tile that it was drawn for: a few tiles long.
AFTER = 0.05


@pytest.fixture
def small_tiles(settings):
    """The demonstration's model in tiles of 16 voxels."""
    folder = settings.models_dir / "small-tiles"
    shutil.copytree(BUNDLED / "cryomamba-demo", folder)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [PATCH] * 3
    (folder / "plans.json").write_text(json.dumps(plans))
    return "small-tiles"


@pytest.fixture
def noise(tmp_path):
    """A tomogram of blobs in noise."""
    random_source = np.random.default_rng(5)
    blobs = np.kron(random_source.normal(size=[size // 8 for size in SHAPE]), np.ones((8, 8, 8)))
    with mrcfile.new(tmp_path / "noise.mrc") as file:
        file.set_data((blobs + random_source.normal(size=SHAPE)).astype(np.float32))
        file.voxel_size = 10.0
    return tmp_path / "noise.mrc"


@pytest.fixture
def worker(settings, small_tiles, noise):
    """Runs one attempt at a job to its end, as `doomed` has it, and returns its exit status."""
    process = subprocess.Popen(
        [sys.executable, str(engines.TESTS / "doomed.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CRYOMAMBA_DATA_DIR": str(settings.data_dir), "CRYOMAMBA_THREADS": "1"},
    )
    attempts = itertools.count(1)

    def run(directory, *, mode, **doom):
        config = JobConfig(
            source=Source(path=str(noise)),
            runner="nnunet",
            model=small_tiles,
            params={"mode": mode, "mirroring": False, "coarse": "off", "spacing": "voxels"},
            artifacts=("mask.mrc",),
        )
        with MrcReader().open(noise) as volume:
            spec = JobSpec(
                job_id=directory.path.name,
                config=config,
                source=str(noise),
                source_name=noise.name,
                grid=volume.grid,
                device="cpu",
                threads=1,
                attempt=next(attempts),
            )
        directory.begin_attempt(spec)
        process.stdin.write(json.dumps({"path": str(directory.path), **doom}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_worker_that_is_killed_at_random_moments_ends_with_the_same_bytes(mode, worker, settings):
    undisturbed, killed = (JobDirectory(settings.jobs_dir / name) for name in ("undisturbed", "killed"))
    assert worker(undisturbed, mode=mode) == 0
    expected = labels_of(undisturbed)
    assert len(set(expected)) > 1
    section = SHAPE[1] * SHAPE[2]

    seed = int(os.environ.get("KILLS_SEED", "5"))
    chance = random.Random(f"{mode} {seed}")
    moments = sorted((chance.randrange(1, TILES - 2 * STEP), chance.uniform(0, AFTER)) for _ in range(KILLS))
    print(f"KILLS_SEED={seed}: killed after tiles and seconds {moments}")
    for tiles, seconds in moments:
        assert worker(killed, mode=mode, tiles=tiles, seconds=seconds) == -signal.SIGKILL
        cut_power(killed)
        checkpoint = killed.checkpoint()
        rows = checkpoint.rows if checkpoint else 0
        assert killed.labels_path.read_bytes()[: rows * section] == expected[: rows * section]
    assert worker(killed, mode=mode) == 0
    assert labels_of(killed) == expected
    assert most_repeated(killed) <= 2 * STEP, "more than a whole step, besides the one that was interrupted"


def labels_of(directory):
    """The labels that a completed job has made."""
    return mrcfile.read(directory.artifacts_path / "mask.mrc").astype(np.uint8).tobytes()


def cut_power(directory):
    """Leave of the labels what was synced, as a machine does that loses its power."""
    durable = directory.path / "durable"
    size = directory.labels_path.stat().st_size
    directory.labels_path.write_bytes((durable.read_bytes() if durable.exists() else b"").ljust(size, b"\0"))


def most_repeated(directory):
    """How many tiles an attempt did again, at most, that the one before it had said were done."""
    lines = [[int(word) for word in line.split()] for line in (directory.path / "tiles").read_text().splitlines()]
    assert {total for _, _, total in lines} == {TILES}
    spans = [list(group) for _, group in itertools.groupby(lines, key=lambda line: line[0])]
    return max(before[-1][1] - after[0][1] + 1 for before, after in itertools.pairwise(spans))
