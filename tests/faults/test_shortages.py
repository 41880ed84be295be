"""A server that is out of descriptors for a while: no job is the worse for it, and no worker is lost sight of.

The want is a real one: the limit is lowered so far that this process cannot open anything at all.
"""

import errno
import resource
from contextlib import contextmanager

import engines
import numpy as np
import pytest
import trio
from engines import DEADLINE, OWNER, heard, make_host, make_settings, open_gate, scripted_engine, steps, workers_of

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_core.errors import JobError
from cryomamba_core.events import Completed, PreviewReady, StateChanged
from cryomamba_core.interfaces import WorkerExit
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobState
from cryomamba_server.engine import publishing, scheduler, supervision
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.engine.supervision import Supervision
from cryomamba_server.engine.troubles import is_shortage

#: Standard input, output and error have the only numbers that are left.
NO_DESCRIPTORS = 3


@contextmanager
def shortage():
    """A time in which this process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (NO_DESCRIPTORS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fail_at_first(monkeypatch, kind, method, times=2):
    """Let the first calls of a method be made during a shortage; returns the errors that they raised."""
    raised, real = [], getattr(kind, method)

    def call(*arguments, **keywords):
        if len(raised) == times:
            return real(*arguments, **keywords)
        with shortage():
            try:
                return real(*arguments, **keywords)
            except Exception as error:
                raised.append(error)
                raise

    monkeypatch.setattr(kind, method, call)
    return raised


def take_out_patience(monkeypatch):
    """Let whatever fails once have failed, as it was before."""

    async def once(_, call, *args):
        return await trio.to_thread.run_sync(call, *args)

    monkeypatch.setattr(Supervision, "_insist", once)
    for module in (supervision, publishing):
        monkeypatch.setattr(module, "may_pass", lambda _: False)


def is_preview(event):
    return isinstance(event, PreviewReady)


def states(events):
    return [event.state.value for event in events if isinstance(event, StateChanged)]


def assert_completed(settings, tomogram, record):
    assert record.state is JobState.COMPLETED, record.error
    assert record.versions["cryomamba"]
    labels = np.load(settings.data_dir / "artifacts" / record.id / "mask.npy")
    np.testing.assert_array_equal(labels, np.load(tomogram) > 0)


@pytest.mark.parametrize("patient", [True, False], ids=["as it is", "control"])
async def test_a_worker_that_cannot_be_looked_at_for_a_while_goes_on(
    settings, tomogram, gate, monkeypatch, caplog, patient
):
    if not patient:
        take_out_patience(monkeypatch)
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram, gate=str(gate)), owner=OWNER)
        await heard(engine, job.id, until=is_preview)
        [worker] = workers_of(settings.data_dir)
        with shortage(), trio.fail_after(DEADLINE):
            while ("has to wait" if patient else "cannot go on") not in caplog.text:
                await trio.sleep(0.01)
        if not patient:
            await heard(engine, job.id)
            record = await engine.job(job.id, owner=OWNER)
            assert record.state is JobState.FAILED
            assert str(settings.data_dir) not in record.error.message
            return
        assert [process.pid for process in workers_of(settings.data_dir)] == [worker.pid]
        assert (await engine.job(job.id, owner=OWNER)).state.active
        open_gate(gate)
        assert isinstance((await heard(engine, job.id))[-1], Completed)
        record = await engine.job(job.id, owner=OWNER)
    assert record.attempt == 1
    assert_completed(settings, tomogram, record)


@pytest.mark.parametrize("patient", [True, False], ids=["as it is", "control"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [(JobDirectory, "begin_attempt"), (LocalExecutor, "start")],
    ids=["its directory", "its process"],
)
async def test_a_job_for_which_no_worker_can_be_started_waits_again(
    tmp_path, tomogram, monkeypatch, kind, method, patient
):
    settings = make_settings(tmp_path / "data", max_attempts=1)
    monkeypatch.setattr(scheduler, "REST_SECONDS", 0.01)
    if not patient:
        take_out_patience(monkeypatch)
    raised = fail_at_first(monkeypatch, kind, method)
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert raised
    assert all(map(is_shortage, raised))
    if not patient:
        assert record.state is JobState.FAILED
        return
    assert states(events)[:6] == 3 * ["queued", "running"]
    assert record.attempt == 3, "the two that never began do not count: one attempt is allowed"
    assert_completed(settings, tomogram, record)


async def test_a_worker_that_came_up_though_its_start_failed_is_followed(settings, tomogram, monkeypatch):
    real = LocalExecutor.start

    def start(self, *arguments):
        real(self, *arguments)
        raise OSError(errno.EMFILE, "its number cannot be kept")

    monkeypatch.setattr(LocalExecutor, "start", start)
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert "queued" not in states(events)[1:]
    assert record.attempt == 1
    assert_completed(settings, tomogram, record)


@pytest.mark.parametrize("patient", [True, False], ids=["as it is", "control"])
async def test_a_result_that_cannot_be_stored_for_a_while_is_stored_later(settings, tomogram, monkeypatch, patient):
    if not patient:
        take_out_patience(monkeypatch)
    raised = fail_at_first(monkeypatch, FilesystemStorage, "publish")
    async with open_engine(make_host(settings), settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert raised
    assert all(map(is_shortage, raised))
    if not patient:
        assert record.state is JobState.FAILED
        return
    assert_completed(settings, tomogram, record)


@pytest.mark.parametrize("place", ["cryomamba_server.engine.store:JobStore.complete"])
@pytest.mark.parametrize("patient", [True, False], ids=["as it is", "control"])
async def test_a_result_that_a_killed_engine_had_stored_survives_a_shortage_of_the_next_one(
    settings, tomogram, engine_process, monkeypatch, no_worker, place, patient
):
    first = engine_process(die_at=place)
    job_id = first.submit(steps(tomogram))
    first.wait()
    await no_worker()
    if not patient:
        take_out_patience(monkeypatch)
    raised = fail_at_first(monkeypatch, FilesystemStorage, "publish")
    async with open_engine(make_host(settings), settings) as engine:
        await heard(engine, job_id)
        record = await engine.job(job_id, owner=OWNER)
    assert raised
    if not patient:
        assert record.state is JobState.FAILED
        assert not list((settings.data_dir / "artifacts").rglob("mask.npy"))
        return
    assert record.attempt == 1
    assert_completed(settings, tomogram, record)


SLEEPER = "\nwhile not (directory.path / 'open').exists(): time.sleep(0.01)\n" + engines.SUCCEED


async def test_a_slot_is_not_given_back_while_its_worker_cannot_be_ended(settings, tomogram, monkeypatch):
    held, tries = [], []
    async with scripted_engine(settings, "directory.labels_path.touch(); time.sleep(600)") as engine:
        cancel = engine.executor.cancel
        first, second = [await engine.submit(steps(tomogram), owner=OWNER) for _ in range(2)]
        await heard(engine, first.id, until=lambda event: event.seq == 2)

        def stuck(handle, grace=10.0):
            """As of a process that hangs in a network disk."""
            tries.append(handle)
            if len(tries) < 4:
                held.append([(work.id, work.record.state) for work in trio.from_thread.run(active)])
                raise JobError("the process cannot be ended")
            cancel(handle, grace)

        async def active():
            return await engine.ledger.call(engine.ledger.store.active)

        monkeypatch.setattr(engine.executor, "cancel", stuck)
        monkeypatch.setattr("cryomamba_server.engine.looking.CANCEL_GRACE", 0.05)
        assert (await engine.cancel(first.id, owner=OWNER)).state is JobState.CANCELED
        assert held == 3 * [[(first.id, JobState.RUNNING)]]
        assert engine.executor.started[0] == first.id
        monkeypatch.setattr(engine.executor, "cancel", cancel)
        await engine.cancel(second.id, owner=OWNER)
    assert not workers_of(settings.data_dir)


@pytest.mark.parametrize("sure", [True, False], ids=["as it is", "control"])
async def test_a_worker_that_its_executor_loses_sight_of_is_not_taken_for_gone(settings, tomogram, monkeypatch, sure):
    if not sure:

        async def believe(_):
            return True

        monkeypatch.setattr(Supervision, "_is_gone", believe)
    async with scripted_engine(settings, SLEEPER) as engine:
        wait, blind = engine.executor.wait, []

        def see_nothing_once(handle, timeout):
            if timeout and not blind:
                blind.append(handle)
                return WorkerExit(code=None, reason="it seems to be gone")
            return wait(handle, timeout)

        monkeypatch.setattr(engine.executor, "wait", see_nothing_once)
        job = await engine.submit(steps(tomogram), owner=OWNER)
        with trio.fail_after(DEADLINE):
            while not blind:
                await trio.sleep(0.01)
        if not sure:
            await heard(engine, job.id, until=lambda event: getattr(event, "reason", ""))
            await engine.cancel(job.id, owner=OWNER)
            return
        (settings.jobs_dir / job.id / "open").touch()
        assert states(await heard(engine, job.id)) == ["queued", "running"]
        assert (await engine.job(job.id, owner=OWNER)).attempt == 1
        assert engine.executor.started == [job.id]
