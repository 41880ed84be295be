"""The engine with real worker processes that run a short script in the place of a model."""

import threading
from functools import partial

import engines
import pytest
import trio
import trio.testing
from engines import OWNER, heard, scripted_engine, steps

from cryomamba_core.durable import sha256_of
from cryomamba_core.errors import (
    IdempotencyConflict,
    IllegalTransition,
    InvalidParameter,
    MissingFile,
    StorageFull,
    UnknownFormat,
    UnknownJob,
    UnknownModel,
    UnknownObject,
    UnknownPlugin,
)
from cryomamba_core.events import Completed, Failed, PreviewReady, Progress, StateChanged
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.job_directory import JobDirectory
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_server.engine import engine as engine_module

WITH_PREVIEW = """
import numpy as np
from cryomamba_core.geometry import Region
from cryomamba_core.previews import Preview
def preview(sequence):
    log.preview(Preview.pack(np.zeros(spec.grid.shape, np.uint8), sequence=sequence, factor=1, grid=spec.grid,
                             covered=spec.grid.whole, provisional=True))
"""


def kinds(events):
    return [event.state.value if isinstance(event, StateChanged) else event.type for event in events]


async def test_a_job_ends_with_durable_artifacts_that_are_what_the_worker_wrote(settings, tomogram):
    async with scripted_engine(settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        assert job.state is JobState.QUEUED
        events = await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert kinds(events) == ["queued", "running", "completed"]
    assert record.state is JobState.COMPLETED
    assert (record.attempt, record.queue_position) == (1, None)
    assert record.created_at <= record.started_at <= record.finished_at
    [artifact] = record.artifacts
    stored = settings.data_dir / "artifacts" / job.id / "stats.json"
    assert stored.stat().st_size == artifact.size
    assert sha256_of(stored) == artifact.sha256
    assert not list((settings.jobs_dir / job.id / "artifacts").iterdir())


async def test_the_first_preview_changes_the_state_and_comes_with_the_newest_picture(settings, tomogram):
    script = WITH_PREVIEW + "preview(1); preview(2); log.progress('segmenting', 1, 2, 'tiles');" + engines.SUCCEED
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = await heard(engine, job.id)
    assert kinds(events)[:3] == ["queued", "running", "previewing"]
    shown = [event for event in events if isinstance(event, PreviewReady)]
    assert shown[-1].preview.sequence == 2
    assert [event.progress.done for event in events if isinstance(event, Progress)][-1] == 1
    assert [event.seq for event in events] == sorted({event.seq for event in events})


async def test_a_listener_that_comes_back_hears_what_it_missed_and_nothing_twice(settings, tomogram):
    async with scripted_engine(settings) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        everything = await heard(engine, job.id)
        for known in everything:
            rest = await heard(engine, job.id, after=known.seq)
            assert [event.seq for event in rest] == [event.seq for event in everything if event.seq > known.seq]


async def test_a_slow_listener_gets_the_newest_progress_and_every_state(settings, tomogram, tmp_path):
    gate = tmp_path / "gate"
    script = WITH_PREVIEW + (
        f"log.progress('segmenting', 0, 9, 'tiles')\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "preview(1)\n"
        "for done in range(1, 9):\n    log._last_progress = 0; log.progress('segmenting', done, 9, 'tiles')\n"
        + engines.SUCCEED
    )
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = []
        async for event in engine.events(job.id, owner=OWNER):
            events.append(event)
            if isinstance(event, Progress) and not gate.exists():
                gate.touch()
                await heard(engine, job.id)  # somebody else hears it all before this listener asks again
    assert kinds(events) == ["queued", "running", "progress", "previewing", "preview", "progress", "completed"]
    assert [event.progress.done for event in events if isinstance(event, Progress)] == [0, 8]


async def test_observers_hear_of_every_state_after_it_is_recorded(settings, tomogram):
    told = []

    class Observer:
        @hookimpl
        def cryomamba_job_changed(self, record):
            told.append(record)

    async with scripted_engine(settings, plugins=[Observer()]) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id)
    assert [record.state for record in told] == [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED]


async def test_what_the_worker_says_went_wrong_is_in_the_record(settings, tomogram):
    script = "log.failed(ErrorInfo.of(UnusableVolume('all voxels are equal', hint='look at it')))"
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert isinstance(events[-1], Failed)
    assert record.state is JobState.FAILED
    assert (record.error.code, record.error.hint) == ("input/unusable-volume", "look at it")
    assert record.attempt == 1


async def test_a_worker_that_ends_without_a_word_is_tried_again_and_then_fails_with_its_last_lines(settings, tomogram):
    script = "print('no luck', flush=True); sys.exit(3)"
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        events = await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert kinds(events) == ["queued", "running", "queued", "running", "error"]
    assert "exit status 3" in events[2].reason
    assert record.error.code == "job/worker-died"
    assert "no luck" in record.error.message
    assert record.attempt == settings.max_attempts == 2


async def test_a_worker_without_a_heartbeat_is_ended_and_taken_for_lost(tmp_path, tomogram):
    settings = engines.make_settings(tmp_path / "data", stale_seconds=0.3, max_attempts=1)
    async with scripted_engine(settings, "time.sleep(600)") as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
    assert record.error.code == "job/worker-died"
    assert "no sign of life" in record.error.message
    assert not engines.workers_of(settings.data_dir)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("a = make('stats.json', '{}'); make('stats.json', 'other'); log.completed((a,))", "not what the worker wrote"),
        ("a = make('a', ''); (directory.artifacts_path / 'a').unlink(); log.completed((a,))", "left no artifact"),
        ("log.completed((Artifact(name='../job.json', media_type='', size=0, sha256=''),))", "no plain file"),
    ],
)
async def test_a_job_is_not_completed_without_the_artifacts_that_its_worker_promised(
    settings, tomogram, script, reason
):
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
        assert record.state is JobState.FAILED
        assert reason in record.error.message
        assert not list(engine.storage.list(f"artifacts/{job.id}/"))
        with pytest.raises(UnknownObject):
            await engine.artifact(job.id, "stats.json", owner=OWNER)


async def test_a_queued_job_is_canceled_at_once_and_can_be_retried(settings, tomogram):
    async with scripted_engine(settings, slots=()) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        assert (await engine.cancel(job.id, owner=OWNER)).state is JobState.CANCELED
        assert (await engine.cancel(job.id, owner=OWNER)).state is JobState.CANCELED
        assert kinds(await heard(engine, job.id)) == ["queued", "canceled"]
        assert (await engine.retry(job.id, owner=OWNER)).state is JobState.QUEUED
        with pytest.raises(IllegalTransition):
            await engine.retry(job.id, owner=OWNER)


async def test_a_running_job_ends_canceled_when_its_worker_obeys(settings, tomogram):
    script = "\nwhile not directory.cancel_ordered: time.sleep(0.01)\nlog.state(JobState.CANCELED); sys.exit(10)"
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id, until=lambda event: event.seq == 2)
        record = await engine.cancel(job.id, owner=OWNER)
        assert kinds(await heard(engine, job.id)) == ["queued", "running", "canceled"]
    assert record.state is JobState.CANCELED
    assert record.finished_at is not None


async def test_a_job_that_is_quicker_than_the_order_to_cancel_stays_completed(settings, tomogram):
    script = "\nwhile not directory.cancel_ordered: time.sleep(0.01)\n" + engines.SUCCEED
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id, until=lambda event: event.seq == 2)
        assert (await engine.cancel(job.id, owner=OWNER)).state is JobState.COMPLETED


async def test_a_worker_that_does_not_obey_is_ended(settings, tomogram, monkeypatch):
    monkeypatch.setattr("cryomamba_server.engine.looking.CANCEL_GRACE", 0.2)
    async with scripted_engine(settings, "directory.labels_path.touch(); time.sleep(600)") as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        await heard(engine, job.id, until=lambda event: event.seq == 2)
        assert (await engine.cancel(job.id, owner=OWNER)).state is JobState.CANCELED
        assert not engines.workers_of(settings.data_dir)
        assert not JobDirectory(settings.jobs_dir / job.id).labels_path.exists()


async def test_a_retry_goes_on_under_the_same_numbers_with_fresh_attempts(settings, tomogram, tmp_path):
    good = tmp_path / "good"
    script = f"\nif not os.path.exists({str(good)!r}): sys.exit(3)\n" + engines.SUCCEED
    async with scripted_engine(settings, script) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        first = await heard(engine, job.id)
        good.touch()
        await engine.retry(job.id, owner=OWNER)
        second = await heard(engine, job.id, after=first[-1].seq)
        record = await engine.job(job.id, owner=OWNER)
    assert kinds(second) == ["queued", "running", "completed"]
    assert second[0].seq == first[-1].seq + 1
    assert (record.attempt, record.error) == (3, None)


async def test_owners_take_turns(settings, tomogram, tmp_path):
    async with scripted_engine(settings, slots=()) as idle:
        jobs = [(await idle.submit(steps(tomogram), owner=owner)).id for owner in ("ada", "ada", "ada", "bob", "eve")]
        positions = [(await idle.job(job_id, owner=None)).queue_position for job_id in jobs]
        assert positions == [0, 3, 4, 1, 2]
        assert (await idle.plan(steps(tomogram), owner="bob")).queue_position == 4
        assert (await idle.plan(steps(tomogram), owner="new")).queue_position == 3
    async with scripted_engine(settings) as engine:
        for job_id in jobs:
            await heard(engine, job_id)
        assert engine.executor.started == [jobs[place] for place in (0, 3, 4, 1, 2)]


async def test_as_many_jobs_run_at_a_time_as_there_are_slots(settings, tomogram, tmp_path):
    script = f"\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n" + engines.SUCCEED
    async with scripted_engine(settings, script, slots=("cuda:0", "cuda:1")) as engine:
        jobs = [(await engine.submit(steps(tomogram), owner=OWNER)).id for _ in range(3)]
        for job_id in jobs[:2]:
            await heard(engine, job_id, until=lambda event: event.seq == 2)
        active = await engine.ledger.call(engine.ledger.store.active)
        assert sorted(work.device for work in active) == ["cuda:0", "cuda:1"]
        assert (await engine.job(jobs[2], owner=OWNER)).queue_position == 0
        (tmp_path / "go").touch()
        for job_id in jobs:
            await heard(engine, job_id)


async def test_the_same_key_names_the_same_job_and_no_other_request(settings, tomogram):
    async with scripted_engine(settings, slots=()) as engine:
        first = await engine.submit(steps(tomogram), owner=OWNER, idempotency_key="k")
        again = await engine.submit(steps(tomogram), owner=OWNER, idempotency_key="k")
        assert again.id == first.id
        other = await engine.submit(steps(tomogram), owner="bob", idempotency_key="k")
        assert other.id != first.id
        with pytest.raises(IdempotencyConflict, match="another request"):
            await engine.submit(steps(tomogram, depth=2), owner=OWNER, idempotency_key="k")
        assert len(await engine.jobs(owner=OWNER)) == 1


async def test_what_belongs_to_another_owner_does_not_exist(settings, tomogram):
    async with scripted_engine(settings, slots=()) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        sent = await engine.add_file(tomogram, owner=OWNER)
        for method in (engine.job, engine.cancel, engine.retry):
            with pytest.raises(UnknownJob):
                await method(job.id, owner="bob")
        with pytest.raises(UnknownJob):
            await anext(engine.events(job.id, owner="bob"))
        with pytest.raises(UnknownObject):
            await engine.submit(JobConfig(source=Source(file_id=sent.id), runner="steps"), owner="bob")
        assert not await engine.jobs(owner="bob")


async def test_jobs_are_listed_newest_first_by_pages(settings, tomogram):
    async with scripted_engine(settings, slots=()) as engine:
        ids = [(await engine.submit(steps(tomogram), owner=OWNER)).id for _ in range(5)]
        assert [job.id for job in await engine.jobs(owner=OWNER, limit=2)] == [ids[4], ids[3]]
        assert [job.id for job in await engine.jobs(owner=OWNER, before=ids[3])] == [ids[2], ids[1], ids[0]]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"runner": "none-such"}, UnknownPlugin),
        ({"runner": None, "model": "none-such"}, UnknownModel),
        ({"runner": None, "model": None}, UnknownModel),
        ({"model": "none-such"}, UnknownModel),
        ({"params": {"depth": "one"}}, InvalidParameter),
        ({"params": {"depht": 1}}, InvalidParameter),
        ({"artifacts": ("mask.xyz",)}, UnknownPlugin),
        ({"source": Source(path="relative.npy")}, InvalidParameter),
        ({"source": Source(path="/none/such.npy")}, MissingFile),
        ({"source": Source(path=__file__)}, UnknownFormat),
        ({"source": Source(file_id="0" * 64)}, UnknownObject),
    ],
)
async def test_a_request_that_cannot_work_is_refused_before_anything_is_recorded(settings, tomogram, changes, error):
    config = JobConfig(**({"source": Source(path=str(tomogram)), "runner": "steps"} | changes))
    async with scripted_engine(settings) as engine:
        with pytest.raises(error) as refused:
            await engine.submit(config, owner=OWNER)
        assert refused.value.hint or error in (InvalidParameter, MissingFile)
        assert not await engine.jobs(owner=None)
        assert not settings.jobs_dir.exists()


async def test_a_request_is_recorded_with_everything_it_left_open(settings, tomogram):
    config = JobConfig(source=Source(path=str(tomogram)), model="steps", artifacts=("npy", "manifest.json"))
    async with scripted_engine(settings, slots=()) as engine:
        stored = (await engine.submit(config, owner=OWNER)).config
    assert (stored.runner, stored.model, stored.label) == ("steps", "steps", "a.npy")
    assert stored.artifacts == ("mask.npy",)
    left_open = {"gate": "", "depth": 1, "fault": "", "resumes": True, "axis": 0, "doubt": 0, "sure": False}
    assert stored.params == left_open


async def test_a_job_that_does_not_fit_on_the_disk_is_refused(settings, tomogram, monkeypatch):
    monkeypatch.setattr("cryomamba_server.engine.intake.SPARE_BYTES", 1 << 60)
    async with scripted_engine(settings) as engine:
        with pytest.raises(StorageFull, match="free"):
            await engine.submit(steps(tomogram), owner=OWNER)


async def test_the_same_content_is_kept_once_and_can_be_segmented(settings, tomogram, tmp_path):
    copy = tmp_path / "b.npy"
    copy.write_bytes(tomogram.read_bytes())
    told = []
    async with scripted_engine(settings) as engine:
        first = await engine.add_file(tomogram, owner=OWNER, on_piece=lambda done, total: told.append((done, total)))
        second = await engine.add_file(copy, owner="bob")
        assert first.id == second.id == first.sha256 == sha256_of(tomogram)
        assert (first.name, second.name) == ("a.npy", "b.npy")
        assert [info.key for info in engine.storage.list("raw/")] == [f"raw/{first.id}.npy"]
        assert told[-1] == (first.size, first.size)
        job = await engine.submit(JobConfig(source=Source(file_id=first.id), runner="steps"), owner=OWNER)
        assert isinstance((await heard(engine, job.id))[-1], Completed)
        assert job.config.label == "a.npy"


async def test_leaving_keeps_what_is_queued_and_the_next_engine_runs_it(settings, tomogram):
    async with scripted_engine(settings, slots=()) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
    async with scripted_engine(settings) as engine:
        assert isinstance((await heard(engine, job.id))[-1], Completed)


async def test_an_error_in_the_block_is_raised_as_it_is(settings):
    with pytest.raises(UnknownJob):
        async with scripted_engine(settings) as engine:
            await engine.job("none", owner=None)


async def test_a_retry_waits_until_what_a_canceled_job_left_is_removed(settings, tomogram, monkeypatch):
    clearing, cleared, clear = trio.Event(), threading.Event(), engine_module.clear
    token = trio.lowlevel.current_trio_token()

    def clear_slowly(directory):
        trio.from_thread.run_sync(clearing.set, trio_token=token)
        cleared.wait(60)
        clear(directory)

    monkeypatch.setattr(engine_module, "clear", clear_slowly)
    async with scripted_engine(settings, slots=()) as engine:
        job = await engine.submit(steps(tomogram), owner=OWNER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(engine.cancel, job.id, owner=OWNER))
            await clearing.wait()
            nursery.start_soon(partial(engine.retry, job.id, owner=OWNER))
            await trio.testing.wait_all_tasks_blocked()
            assert (await engine.job(job.id, owner=OWNER)).state is JobState.CANCELED
            cleared.set()
        assert (await engine.job(job.id, owner=OWNER)).state is JobState.QUEUED
        assert await engine.ledger.call(engine.ledger.store.uncleared) == []


async def test_results_that_find_no_room_in_the_storage_are_kept_for_a_retry(settings, tomogram, monkeypatch):
    def be_full(*_):
        raise StorageFull("there is no room for mask.npy", hint="wait")

    async with scripted_engine(settings) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.storage, "publish", be_full)
            job = await engine.submit(steps(tomogram), owner=OWNER)
            last = (await heard(engine, job.id))[-1]
        record = await engine.job(job.id, owner=OWNER)
        assert (record.state, record.error.code) == (JobState.FAILED, "storage/full")
        assert "nothing is computed anew" in record.error.hint
        directory = JobDirectory(settings.jobs_dir / job.id)
        kept = {file.name for file in directory.artifacts_path.iterdir()}
        await engine.retry(job.id, owner=OWNER)
        with trio.fail_after(60):
            done = (await heard(engine, job.id, after=last.seq))[-1]
        assert isinstance(done, Completed)
        assert kept == {artifact.name for artifact in done.artifacts}
        assert (await engine.job(job.id, owner=OWNER)).attempt == 2
        assert directory.spec().attempt == 1, "a second worker was started"


async def test_a_fault_of_the_storage_fails_the_job_and_the_engine_goes_on(settings, tomogram, monkeypatch):
    async with scripted_engine(settings) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.storage, "publish", lambda *_: 1 / 0)
            job = await engine.submit(steps(tomogram), owner=OWNER)
            await heard(engine, job.id)
        record = await engine.job(job.id, owner=OWNER)
        assert (record.state, record.error.code) == (JobState.FAILED, "internal/fault")
        await engine.retry(job.id, owner=OWNER)
        with trio.fail_after(60):
            assert isinstance((await heard(engine, job.id, after=record.attempt + 2))[-1], Completed)
