"""Shards whose workers are killed: each is redone alone, from its own checkpoint, and nothing of the job is left."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import trio
import unprotected
from attrs import evolve
from engines import DEADLINE, KEPT, OWNER, heard, make_host, open_gate, steps, workers_of

from cryomamba_core.artifacts import Manifest
from cryomamba_core.errors import StorageDamaged
from cryomamba_core.events import Failed, PreviewReady
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobState
from cryomamba_core.wire import load_json
from cryomamba_server.engine.engine import open_engine

#: Rows that both shards have labelled before one is killed.
FINAL = [0, 3, 4]


def shared(tomogram, gate):
    """A job of two shards: sections 0 to 2, and 3 to 5."""
    return evolve(steps(tomogram, gate=str(gate)), shards=2)


async def until(holds):
    with trio.fail_after(DEADLINE):
        while not holds():
            await trio.sleep(0.01)


def reached(directory, number):
    checkpoint = directory.shard(number).checkpoint()
    return checkpoint.rows if checkpoint else 0


def attempt_of(directory, number):
    try:
        return directory.shard(number).spec().attempt
    except StorageDamaged:
        return 0


def worker_at(settings, path):
    [process] = [each for each in workers_of(settings.data_dir) if Path(each.cmdline()[-1]) == path]
    return process


def runs(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def some_rows_final(engine, job, settings, gate):
    """The job's directory, when `FINAL` rows are; they are turned over in the label file, to tell who labelled them."""
    open_gate(gate, *FINAL)
    directory = JobDirectory(settings.jobs_dir / job.id)
    await heard(engine, job.id, until=lambda event: isinstance(event, PreviewReady))
    await until(lambda: reached(directory, 1) == 1 and reached(directory, 2) == 5)
    grid = directory.spec().grid
    with directory.open_labels(grid, np.dtype(np.uint8), update=True) as labels:
        for row in FINAL:
            section = grid.region((row, 0, 0), (row + 1, *grid.shape[1:]))
            labels.write(section, labels[section.slices] ^ 1)
    return directory


def truth(tomogram, *, turned):
    labels = (np.load(tomogram) > 0).astype(np.uint8)
    if turned:
        labels[FINAL] ^= 1
    return labels


def results(settings, job):
    folder = settings.data_dir / "artifacts" / job.id
    return np.load(folder / "mask.npy"), load_json((folder / "manifest.json").read_bytes(), Manifest)


@pytest.mark.parametrize("without", ["", "redoing of one shard alone"], ids=["as it is", "control"])
async def test_a_shard_whose_worker_is_killed_is_redone_alone(settings, tomogram, gate, tmp_path, monkeypatch, without):
    unprotected.install(tmp_path / "site")
    monkeypatch.setenv("UNPROTECTED", without)
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(shared(tomogram, gate), owner=OWNER)
        directory = await some_rows_final(engine, job, settings, gate)
        other = worker_at(settings, directory.shard(1).path)
        worker_at(settings, directory.shard(2).path).kill()
        await until(lambda: attempt_of(directory, 2) == 2)
        assert runs(other) is not bool(without)
        open_gate(gate)
        await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    labels, manifest = results(settings, job)
    np.testing.assert_array_equal(labels, truth(tomogram, turned=not without))
    assert (record.state, record.attempt, record.config.shards) == (JobState.COMPLETED, 1, 2)
    assert manifest.shards == 2
    assert manifest.notes[0] == "2 shards along Z, cut at 3"
    assert any("of shard 2 was lost: killed by signal 9" in note for note in manifest.notes)
    assert not workers_of(settings.data_dir)
    assert not list(directory.path.glob("shards"))


async def test_after_the_worker_of_the_job_is_killed_every_shard_goes_on_from_its_own_checkpoint(
    settings, tomogram, gate
):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(shared(tomogram, gate), owner=OWNER)
        directory = await some_rows_final(engine, job, settings, gate)
        left = [worker_at(settings, directory.shard(number).path) for number in (1, 2)]
        worker_at(settings, directory.path).kill()
        await until(lambda: attempt_of(directory, 1) == attempt_of(directory, 2) == 2)
        assert not any(map(runs, left))
        open_gate(gate)
        await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    labels, manifest = results(settings, job)
    np.testing.assert_array_equal(labels, truth(tomogram, turned=True))
    assert (record.state, record.attempt) == (JobState.COMPLETED, 2)
    assert {"attempt 2 at shard 1 went on from section 1", "attempt 2 at shard 2 went on from section 5"} <= set(
        manifest.notes
    )


async def test_a_canceled_job_of_shards_leaves_no_process_and_no_file_of_its_work(settings, tomogram, gate):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(shared(tomogram, gate), owner=OWNER)
        directory = await some_rows_final(engine, job, settings, gate)
        assert len(workers_of(settings.data_dir)) == 3
        record = await engine.cancel(job.id, owner=OWNER)
    assert record.state is JobState.CANCELED
    assert not workers_of(settings.data_dir)
    assert {path.name for path in directory.path.iterdir()} <= KEPT


async def test_a_job_fails_when_the_workers_of_one_shard_are_all_killed_and_can_be_retried(settings, tomogram, gate):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(shared(tomogram, gate), owner=OWNER)
        directory = JobDirectory(settings.jobs_dir / job.id)
        for attempt in range(1, settings.max_attempts + 1):
            await until(
                lambda attempt=attempt: (
                    attempt_of(directory, 2) == attempt and next(directory.shard(2).events(), None) is not None
                )
            )
            worker_at(settings, directory.shard(2).path).kill()
        [*_, last] = await heard(engine, job.id)
        assert isinstance(last, Failed)
        assert (last.error.code, last.error.retryable) == ("job/worker-died", True)
        assert "worker 2 of 2 of shard 2 was lost: killed by signal 9" in last.error.message
        assert not workers_of(settings.data_dir)
        open_gate(gate)
        await engine.retry(job.id, owner=OWNER)
        await heard(engine, job.id, after=last.seq)
        assert (await engine.job(job.id, owner=OWNER)).state is JobState.COMPLETED
    np.testing.assert_array_equal(results(settings, job)[0], truth(tomogram, turned=False))
