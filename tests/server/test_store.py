"""The job store: legal transitions, numbering of events, and what a late word changes."""

import uuid

import pytest
from attrs import evolve

from cryomamba_core.errors import ErrorInfo, IllegalTransition, TooManyJobs, UnknownJob
from cryomamba_core.events import PreviewReady, Progress
from cryomamba_core.files import FileRecord
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import WorkerHandle
from cryomamba_core.jobs import TRANSITIONS, JobConfig, JobProgress, JobRecord, JobState, Source
from cryomamba_server.engine import removals
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import now
from cryomamba_server.engine.removals import Removal
from cryomamba_server.engine.store import JobStore, News

GRID = VoxelGrid(shape=(2, 3, 4), voxel_size=(10, 10, 10))
ERROR = ErrorInfo(code="job/worker-died", message="gone", retryable=True)


@pytest.fixture
def store(tmp_path):
    database = Database(tmp_path)
    store = JobStore(database)
    yield store
    database.close()


def add(store, owner="ada"):
    config = JobConfig(source=Source(path="/a.mrc"), runner="steps", model="steps", voxel_size=(1.5, 2.0, 2.5))
    record = JobRecord(id=str(uuid.uuid4()), owner=owner, state=JobState.QUEUED, config=config, created_at=now())
    return store.add_job(record, GRID, "a.mrc")


def progress(seq, done=1):
    report = JobProgress(stage="segmenting", done=done, total=9, unit="tiles", fraction=done / 9)
    return Progress(seq=seq, at=now(), progress=report)


def preview(seq):
    return PreviewReady(seq=seq, at=now())


def events_of(store, job_id):
    return list(store.events_behind(job_id, after=0).events)


def test_a_record_comes_back_as_it_was_stored(store):
    job = add(store)
    assert evolve(store.job(job.id), queue_position=None) == evolve(job, queue_position=None)
    assert store.claim("cpu").grid == GRID


def test_a_claimed_job_is_running_with_a_new_attempt_and_only_once(store):
    job = add(store)
    work = store.claim("cuda:0")
    assert (work.id, work.record.state, work.record.attempt, work.device) == (job.id, JobState.RUNNING, 1, "cuda:0")
    assert store.claim("cpu") is None
    assert [found.id for found in store.active()] == [job.id]


def test_only_the_newest_progress_and_preview_are_kept_and_numbers_ascend(store):
    job = add(store)
    store.claim("cpu")
    store.advance(job.id, 1, [progress(1), preview(2), progress(3), preview(4), progress(5, done=5)])
    store.advance(job.id, 1, [progress(6, done=6)])
    events = events_of(store, job.id)
    assert [event.type for event in events] == ["state", "state", "state", "preview", "progress"]
    assert [event.seq for event in events] == [1, 2, 3, 4, 6]
    assert store.job(job.id).progress.done == 6
    assert store.job(job.id).state is JobState.PREVIEWING


def test_events_that_are_taken_in_again_change_nothing(store):
    job = add(store)
    store.claim("cpu")
    told = [progress(1), preview(2), progress(3)]
    before = store.advance(job.id, 1, told)
    assert store.advance(job.id, 1, told) == before
    assert store.advance(job.id, 1, [*told, progress(4)]).last_seq == before.last_seq + 1


@pytest.mark.parametrize("change", ["set_handle", "advance", "complete", "fail", "cancel", "lose", "put_back"])
def test_whoever_speaks_of_an_earlier_attempt_changes_nothing(store, change):
    job = add(store)
    store.claim("cpu")
    store.lose(job.id, 1, ERROR, max_attempts=2)
    store.claim("cpu")
    before = store.job(job.id)
    arguments = {
        "set_handle": (WorkerHandle(executor="local", token="t"),),
        "advance": ([progress(1)],),
        "complete": ((), {}),
        "fail": (ERROR,),
        "cancel": (),
        "lose": (ERROR,),
        "put_back": ("for now",),
    }[change]
    keywords = {"max_attempts": 2} if change == "lose" else {}
    assert getattr(store, change)(job.id, 1, *arguments, **keywords) is None
    assert store.job(job.id) == before


def test_a_lost_worker_is_replaced_until_there_were_too_many(store):
    job = add(store)
    store.claim("cpu")
    assert store.lose(job.id, 1, ERROR, max_attempts=2).state is JobState.QUEUED
    store.claim("cpu")
    failed = store.lose(job.id, 2, ERROR, max_attempts=2)
    assert (failed.state, failed.error, failed.attempt) == (JobState.FAILED, ERROR, 2)
    store.retry(job.id)
    store.claim("cpu")
    assert store.lose(job.id, 3, ERROR, max_attempts=2).state is JobState.QUEUED


def test_a_job_whose_worker_is_lost_keeps_its_place(store):
    first, second = add(store), add(store)
    store.claim("cpu")
    store.lose(first.id, 1, ERROR, max_attempts=2)
    assert (store.job(first.id).queue_position, store.job(second.id).queue_position) == (0, 1)


def test_a_lost_worker_of_a_job_that_was_to_stop_is_not_replaced(store):
    job = add(store)
    store.claim("cpu")
    record, canceled = store.request_cancel(job.id)
    assert (record.state, canceled) == (JobState.RUNNING, False)
    assert store.active()[0].cancel_requested
    assert store.lose(job.id, 1, ERROR, max_attempts=2).state is JobState.CANCELED


@pytest.mark.parametrize("state", [state for state in JobState if JobState.QUEUED not in TRANSITIONS[state]])
def test_only_failed_and_canceled_jobs_can_be_retried(store, state):
    job = add(store)
    if state is not JobState.QUEUED:
        store.claim("cpu")
        store.complete(job.id, 1, (), {"numpy": "2"})
        assert store.job(job.id).versions == {"numpy": "2"}
    with pytest.raises(IllegalTransition):
        store.retry(job.id)


def test_the_end_of_a_job_is_the_last_event_until_a_retry(store):
    job = add(store)
    store.claim("cpu")
    assert not store.events_behind(job.id, after=2).ended
    store.fail(job.id, 1, ERROR)
    end = store.events_behind(job.id, after=2)
    assert ([event.error for event in end.events], end.ended) == ([ERROR], True)
    assert store.events_behind(job.id, after=3) == News(events=(), ended=True)
    store.retry(job.id)
    assert not store.events_behind(job.id, after=2).ended
    assert [event.state for event in store.events_behind(job.id, after=3).events] == [JobState.QUEUED]


def test_two_stores_on_one_folder_see_each_others_changes(store, tmp_path):
    database = Database(tmp_path)
    other = JobStore(database)
    job = add(store)
    assert other.claim("cpu").id == job.id
    assert store.job(job.id).state is JobState.RUNNING
    database.close()


def test_a_job_that_does_not_exist_is_unknown(store):
    for method in (store.job, store.retry, store.request_cancel):
        with pytest.raises(UnknownJob):
            method("none")


def test_only_so_many_jobs_of_one_owner_may_wait(store, monkeypatch):
    monkeypatch.setattr("cryomamba_server.engine.store.MOST_QUEUED", 3)
    jobs = [add(store) for _ in range(3)]
    with pytest.raises(TooManyJobs, match="3 of your jobs") as refused:
        add(store)
    assert refused.value.hint
    assert refused.value.retryable
    assert add(store, owner="bob").queue_position == 1
    store.claim("cpu")
    assert add(store)
    store.request_cancel(jobs[1].id)
    assert add(store)
    with pytest.raises(TooManyJobs):
        store.retry(jobs[1].id)
    assert len(store.jobs(owner="ada")) == 5


def test_a_job_for_which_no_worker_could_be_started_keeps_its_place_and_its_attempts(store):
    first, second = add(store), add(store)
    for attempt in (1, 2, 3):
        store.claim("cpu")
        assert store.put_back(first.id, attempt, "for now").state is JobState.QUEUED
        assert (store.job(first.id).queue_position, store.job(second.id).queue_position) == (0, 1)
    store.claim("cpu")
    assert store.lose(first.id, 4, ERROR, max_attempts=2).state is JobState.QUEUED
    store.claim("cpu")
    store.request_cancel(first.id)
    assert store.put_back(first.id, 5, "for now").state is JobState.CANCELED


def test_what_a_canceled_job_left_is_noted_until_it_is_removed_or_gone_on_from(store):
    for end in (store.cleared, store.retry):
        job = add(store)
        store.request_cancel(job.id)
        assert store.uncleared() == [job.id]
        end(job.id)
        assert store.uncleared() == []


def test_a_second_copy_of_the_same_content_is_to_be_removed(store):
    record = FileRecord(id="a" * 64, name="a.mrc", size=3, sha256="a" * 64, created_at=now())
    for key in ("raw/sent.mrc", "raw/sent.mrc", "raw/copied.mrc"):
        store.add_file(record, key, owner="ada")
    assert store.file(record.id).key == "raw/sent.mrc"
    with store._reading() as connection:
        assert removals.noted(connection, Removal.CONTENT) == ["raw/copied.mrc"]
