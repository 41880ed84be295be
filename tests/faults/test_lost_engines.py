"""Engines that are killed: no job is lost, run twice or said to run when nobody is at it."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
import trio
from engines import DEADLINE, OWNER, heard, make_host, open_gate, steps, workers_of

from cryomamba_core.errors import StorageDamaged
from cryomamba_core.events import Completed, Failed, PreviewReady, StateChanged
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobState
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.engine.store import JobStore


def is_preview(event):
    return isinstance(event, PreviewReady)


def is_completed(event):
    return isinstance(event, Completed)


def stored(settings, job_id):
    """The record as it lies on the disk, without an engine."""
    database = Database(settings.data_dir)
    store = JobStore(database)
    try:
        return store.job(job_id)
    finally:
        database.close()


def uncleared(settings):
    """Completed jobs of which there may be something that only a worker needed, as it lies on the disk."""
    with closing(sqlite3.connect(settings.data_dir / "cryomamba.sqlite")) as database:
        return [name for (name,) in database.execute("SELECT name FROM removals WHERE kind = 'work'")]


def begun(settings, job_id):
    """The attempt whose job directory is ready; 0 before the first."""
    try:
        return JobDirectory(settings.jobs_dir / job_id).spec().attempt
    except StorageDamaged:
        return 0


def assert_completed_once(settings, tomogram, events, record, *, attempt):
    assert [event.type for event in events].count("completed") == 1
    assert (record.state, record.attempt) == (JobState.COMPLETED, attempt)
    assert record.versions["cryomamba"]
    labels = np.load(settings.data_dir / "artifacts" / record.id / "mask.npy")
    np.testing.assert_array_equal(labels, np.load(tomogram) > 0)
    assert not workers_of(settings.data_dir)
    assert not JobDirectory(settings.jobs_dir / record.id).labels_path.exists()


async def test_a_worker_outlives_its_engine_and_the_next_engine_goes_on_listening(
    settings, tomogram, gate, engine_process, until, no_worker
):
    first = engine_process()
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    await until(job_id, is_preview)
    [worker] = workers_of(settings.data_dir)
    first.kill()
    assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
    async with open_engine(make_host(settings), settings) as engine:
        assert (await engine.job(job_id, owner=OWNER)).state.active
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        open_gate(gate)
        events = await heard(engine, job_id)
        record = await engine.job(job_id, owner=OWNER)
    await no_worker()
    assert_completed_once(settings, tomogram, events, record, attempt=1)


@pytest.mark.parametrize("recorded", [True, False], ids=["", "before it was recorded which worker it is"])
async def test_a_job_that_was_completed_while_nobody_listened_is_completed_when_the_next_engine_opens(
    settings, tomogram, gate, engine_process, until, no_worker, recorded
):
    first = engine_process()
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    await until(job_id, is_preview)
    first.kill()
    open_gate(gate)
    await until(job_id, is_completed)
    await no_worker()
    assert stored(settings, job_id).state.active  # without an engine nobody has noticed
    assert not (settings.data_dir / "artifacts").exists()
    if not recorded:
        with closing(sqlite3.connect(settings.data_dir / "cryomamba.sqlite")) as database, database:
            database.execute("UPDATE jobs SET executor = NULL, token = NULL")
    async with open_engine(make_host(settings), settings) as engine:
        record = await engine.job(job_id, owner=OWNER)
        events = await heard(engine, job_id)
    assert_completed_once(settings, tomogram, events, record, attempt=1)


async def test_when_both_are_killed_the_next_engine_starts_another_worker(
    settings, tomogram, gate, engine_process, until
):
    first = engine_process()
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    await until(job_id, is_preview)
    [worker] = workers_of(settings.data_dir)
    first.kill()
    worker.kill()
    assert stored(settings, job_id).state.active  # without an engine nobody has noticed
    open_gate(gate)
    async with open_engine(make_host(settings), settings) as engine:
        events = await heard(engine, job_id)
        record = await engine.job(job_id, owner=OWNER)
    assert_completed_once(settings, tomogram, events, record, attempt=2)


async def test_when_both_are_killed_too_often_the_job_fails_as_soon_as_an_engine_opens(
    settings, tomogram, gate, engine_process, until, no_worker
):
    job_id = None
    for attempt in range(1, settings.max_attempts + 1):
        process = engine_process()
        job_id = job_id or process.submit(steps(tomogram, gate=str(gate), resumes=False))
        with trio.fail_after(DEADLINE):
            while begun(settings, job_id) != attempt:
                await trio.sleep(0.01)
        await until(job_id, is_preview)
        process.kill()
        for worker in workers_of(settings.data_dir):
            worker.kill()
        await no_worker()  # one that is still dying would be followed to its end
    async with open_engine(make_host(settings), settings) as engine:
        record = await engine.job(job_id, owner=OWNER)
        assert record.state is JobState.FAILED
        assert record.error.code == "job/worker-died"
        assert isinstance((await heard(engine, job_id))[-1], Failed)


@pytest.mark.parametrize(
    "place",
    [
        "cryomamba_core.job_directory:JobDirectory.begin_attempt",
        "cryomamba_backends.local_executor.executor:LocalExecutor.start",
        "cryomamba_server.engine.store:JobStore.set_handle",
        "cryomamba_server.engine.store:JobStore.advance",
        "cryomamba_server.engine.store:JobStore.complete",
    ],
)
async def test_wherever_an_engine_is_killed_the_next_one_ends_the_job_once_with_one_worker(
    settings, tomogram, gate, engine_process, place, no_worker
):
    open_gate(gate)
    first = engine_process(die_at=place)
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    first.wait()
    assert stored(settings, job_id).state.active  # without an engine nobody has noticed
    async with open_engine(make_host(settings), settings) as engine:
        events = await heard(engine, job_id)
        record = await engine.job(job_id, owner=OWNER)
    await no_worker()
    assert_completed_once(settings, tomogram, events, record, attempt=1)


@pytest.mark.parametrize(
    "place",
    ["cryomamba_core.job_directory:JobDirectory.clear_labels", "cryomamba_server.engine.store:JobStore.cleared"],
)
@pytest.mark.parametrize("noted", [True, False], ids=["as it is", "control"])
async def test_what_a_killed_engine_left_of_a_completed_job_the_next_one_clears(
    settings, tomogram, engine_process, no_worker, monkeypatch, place, noted
):
    """Without the note of it, a second copy of the results stays for ever."""
    first = engine_process(die_at=place)
    job_id = first.submit(steps(tomogram))
    first.wait()
    await no_worker()
    directory = JobDirectory(settings.jobs_dir / job_id)
    assert stored(settings, job_id).state is JobState.COMPLETED
    assert bool(list(directory.artifacts_path.iterdir())) == place.endswith("clear_labels")
    assert uncleared(settings) == [job_id]
    if not noted:
        monkeypatch.setattr(JobStore, "uncleared", lambda _: [])
    async with open_engine(make_host(settings), settings) as engine:
        second = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, second.id)
        with trio.fail_after(DEADLINE):
            while noted and uncleared(settings):
                await trio.sleep(0.01)
        assert (await engine.job(job_id, owner=OWNER)).artifacts
    assert bool(list(directory.artifacts_path.iterdir())) == (not noted and place.endswith("clear_labels"))


async def test_an_engine_that_is_killed_before_it_recorded_its_worker_does_not_get_a_second_one(
    settings, tomogram, gate, engine_process, until
):
    first = engine_process(die_at="cryomamba_server.engine.store:JobStore.set_handle")
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    first.wait()
    [worker] = workers_of(settings.data_dir)
    async with open_engine(make_host(settings), settings) as engine:
        await until(job_id, is_preview)
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        assert (await engine.cancel(job_id, owner=OWNER)).state is JobState.CANCELED
        assert not workers_of(settings.data_dir)


async def test_an_engine_that_did_not_look_for_the_worker_would_start_a_second_one(
    settings, tomogram, gate, engine_process, monkeypatch
):
    async def look_for_nothing(_):
        return False

    monkeypatch.setattr("cryomamba_server.engine.supervision.Supervision._find", look_for_nothing)
    first = engine_process(die_at="cryomamba_server.engine.store:JobStore.set_handle")
    first.submit(steps(tomogram, gate=str(gate)))
    first.wait()
    async with open_engine(make_host(settings), settings):
        assert len(workers_of(settings.data_dir)) == 2


async def test_an_order_to_cancel_survives_the_engine_that_took_it(
    settings, tomogram, gate, engine_process, until, no_worker
):
    first = engine_process()
    job_id = first.submit(steps(tomogram, gate=str(gate)))
    await until(job_id, is_preview)
    first.kill()
    database = Database(settings.data_dir)
    store = JobStore(database)
    store.request_cancel(job_id)
    database.close()
    async with open_engine(make_host(settings), settings) as engine:
        [*_, last] = await heard(engine, job_id)
    assert isinstance(last, StateChanged)
    assert last.state is JobState.CANCELED
    await no_worker()
