"""A disk that is full: the job says so, nothing half-made stays, and the engine lives."""

import mrcfile
import numpy as np
import pytest
import trio
from attrs import evolve
from engines import DEADLINE, OWNER, heard, make_host, make_settings, make_tomogram, steps
from small_disks import fill

from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_core.events import Completed
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobState
from cryomamba_server.engine.engine import open_engine

MIB = 1 << 20
#: MiB of the small disk.
DISK_MIB = 16
#: The labels of this volume, and their file, take 2 MiB each.
SHAPE = (32, 256, 256)


@pytest.fixture
def settings(small_disk):
    return make_settings(small_disk / "data")


@pytest.fixture
def tomogram(tmp_path):
    return make_tomogram(tmp_path / "a.npy", SHAPE)


async def queue(settings, tomogram, monkeypatch, *, max_voxels=1000):
    """Accept a job while there is room, by an engine that has no slot to run it."""
    monkeypatch.setattr("cryomamba_server.engine.intake.SPARE_BYTES", 0)
    idle = evolve(settings, devices=())
    async with open_engine(make_host(idle, mrc), idle) as engine:
        return (
            await engine.submit(steps(tomogram, artifacts=("mask.mrc",), depth=8, max_voxels=max_voxels), owner=OWNER)
        ).id


@pytest.mark.parametrize(
    ("leave", "max_voxels"), [(MIB, 1000), (3 * MIB, 1000), (3 * MIB, 1 << 24)], ids=["labels", "artifact", "preview"]
)
async def test_a_job_that_fills_the_disk_fails_by_that_name_and_works_when_there_is_room(
    settings, tomogram, monkeypatch, small_disk, leave, max_voxels
):
    job_id = await queue(settings, tomogram, monkeypatch, max_voxels=max_voxels)
    ballast = fill(small_disk, leave=leave)
    async with open_engine(make_host(settings, mrc), settings) as engine:
        [*_, last] = await heard(engine, job_id)
        record = await engine.job(job_id, owner=OWNER)
        assert (record.state, record.error.code) == (JobState.FAILED, "storage/full")
        assert record.error.retryable
        directory = JobDirectory(settings.jobs_dir / job_id)
        assert not directory.labels_path.exists()
        assert not list(directory.artifacts_path.iterdir())
        assert not list(engine.storage.list("artifacts/"))

        ballast.unlink()
        await engine.retry(job_id, owner=OWNER)
        assert isinstance((await heard(engine, job_id, after=last.seq))[-1], Completed)
        with mrcfile.open(settings.data_dir / "artifacts" / job_id / "mask.mrc") as mask:
            np.testing.assert_array_equal(mask.data, np.load(tomogram) > 0)


async def test_an_engine_whose_store_cannot_write_waits_for_room_and_loses_nothing(
    settings, tomogram, monkeypatch, small_disk, caplog
):
    job_id = await queue(settings, tomogram, monkeypatch)
    ballast = fill(small_disk, leave=0)
    async with open_engine(make_host(settings, mrc), settings) as engine:
        with trio.fail_after(DEADLINE):
            while "no job can be started" not in caplog.text:
                await trio.sleep(0.01)
        assert (await engine.job(job_id, owner=OWNER)).state is JobState.QUEUED
        ballast.unlink()
        assert isinstance((await heard(engine, job_id))[-1], Completed)
