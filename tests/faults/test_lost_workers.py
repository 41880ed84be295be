"""Workers that are killed: their jobs end, and end well."""

import numpy as np
import pytest
import strangers
from engines import KEPT, OWNER, heard, make_host, open_gate, steps, workers_of

from cryomamba_core.events import Completed, Failed, PreviewReady, StateChanged
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobState
from cryomamba_server.engine.engine import open_engine


def is_preview(event):
    return isinstance(event, PreviewReady)


async def test_a_killed_worker_is_replaced_and_the_labels_are_right(settings, tomogram, gate):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram, gate=str(gate), doubt=1), owner=OWNER)
        events = await heard(engine, job.id, until=is_preview)
        [worker] = workers_of(settings.data_dir)
        worker.kill()
        open_gate(gate)
        events += await heard(engine, job.id, after=events[-1].seq)
        record = await engine.job(job.id, owner=OWNER)
    [requeued] = [event for event in events if getattr(event, "reason", "")]
    assert requeued.state is JobState.QUEUED
    assert "SIGKILL" in requeued.reason
    assert (record.state, record.attempt) == (JobState.COMPLETED, 2)
    labels = np.load(settings.data_dir / "artifacts" / job.id / "mask.npy")
    np.testing.assert_array_equal(labels, np.load(tomogram) > 0)
    companion = np.load(settings.data_dir / "artifacts" / job.id / "doubt.npy")
    np.testing.assert_array_equal(companion, strangers.doubts(np.load(tomogram)))


async def test_a_job_whose_workers_are_all_killed_fails_with_the_reason(settings, tomogram, gate):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram, gate=str(gate), resumes=False), owner=OWNER)
        after = 0
        for _ in range(settings.max_attempts):
            events = await heard(engine, job.id, after=after, until=is_preview)
            after = events[-1].seq
            [worker] = workers_of(settings.data_dir)
            worker.kill()
        [*_, last] = await heard(engine, job.id, after=after)
        record = await engine.job(job.id, owner=OWNER)
        assert isinstance(last, Failed)
        assert record.error == last.error
        assert (record.error.code, record.error.retryable) == ("job/worker-died", True)
        assert "SIGKILL" in record.error.message
        assert job.id in record.error.hint

        open_gate(gate)
        await engine.retry(job.id, owner=OWNER)
        assert isinstance((await heard(engine, job.id, after=last.seq))[-1], Completed)


async def test_a_canceled_job_leaves_no_process_and_no_file_of_its_work(settings, tomogram, gate):
    directory = None
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram, gate=str(gate)), owner=OWNER)
        await heard(engine, job.id, until=is_preview)
        directory = JobDirectory(settings.jobs_dir / job.id)
        assert directory.labels_path.exists()  # what is to be gone was there
        record = await engine.cancel(job.id, owner=OWNER)
    assert record.state is JobState.CANCELED
    assert not workers_of(settings.data_dir)
    assert {path.name for path in directory.path.iterdir()} <= KEPT
    assert not list(directory.artifacts_path.iterdir())
    assert not (settings.data_dir / "artifacts").exists()


@pytest.mark.parametrize("order", ["cancel, kill", "kill, cancel"])
async def test_a_worker_that_is_killed_while_it_is_to_stop_leaves_a_canceled_job(settings, tomogram, gate, order):
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram, gate=str(gate)), owner=OWNER)
        await heard(engine, job.id, until=is_preview)
        [worker] = workers_of(settings.data_dir)
        worker.suspend()
        if order == "kill, cancel":
            worker.kill()
            record = await engine.cancel(job.id, owner=OWNER)
        else:
            JobDirectory(settings.jobs_dir / job.id).order_cancel()
            worker.kill()
            [*_, end] = await heard(engine, job.id)
            assert isinstance(end, StateChanged)
            record = await engine.job(job.id, owner=OWNER)
    assert record.state is JobState.CANCELED
    assert not JobDirectory(settings.jobs_dir / job.id).labels_path.exists()
