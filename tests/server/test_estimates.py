"""Estimated starts: the arithmetic, and the arithmetic on a real job store."""

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cryomamba_core.events import Progress
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.jobs import JobConfig, JobProgress, JobRecord, JobState, Source
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.estimates import Estimates, start_times
from cryomamba_server.engine.records import now
from cryomamba_server.engine.schema import jobs
from cryomamba_server.engine.store import JobStore

GRID = VoxelGrid(shape=(10, 10, 10), voxel_size=(10.0, 10.0, 10.0))
LARGE = VoxelGrid(shape=(20, 10, 10), voxel_size=(10.0, 10.0, 10.0))


@pytest.mark.parametrize(
    ("slots", "remaining", "durations", "starts"),
    [
        (1, [], [5.0, 5.0], [0.0, 5.0]),
        (1, [3.0], [5.0, 7.0, 1.0], [3.0, 8.0, 15.0]),
        (2, [3.0], [5.0, 7.0, 1.0], [0.0, 3.0, 5.0]),
        (2, [9.0, 4.0], [1.0, 1.0], [4.0, 5.0]),
        (1, [None], [5.0], [None]),
        (2, [None, 4.0], [2.0, None, 1.0], [4.0, 6.0, None]),
        (2, [None], [None, 1.0], [0.0, None]),
        (1, [2.0], [None, 1.0], [2.0, None]),
        (1, [-1.0], [1.0], [0.0]),
        (1, [2.0, 7.0], [1.0], [7.0]),
        (0, [], [1.0], [None]),
    ],
)
def test_each_waiting_job_takes_the_first_free_slot(slots, remaining, durations, starts):
    assert start_times(slots, remaining, durations) == starts


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def store(database):
    return JobStore(database)


def add(store, owner="ada", grid=GRID, model="m"):
    config = JobConfig(source=Source(path="/a.mrc"), runner="r", model=model)
    record = JobRecord(id=str(uuid.uuid4()), owner=owner, state=JobState.QUEUED, config=config, created_at=now())
    return store.add_job(record, grid, "a.mrc").id


def run_for(database, store, seconds, **values):
    """A completed job that has taken so long."""
    job_id = add(store, **values)
    store.claim("cpu")
    store.complete(job_id, 1, (), {})
    with database.writing() as connection:
        connection.execute(
            jobs.update()
            .where(jobs.c.id == job_id)
            .values(started_at=(now() - timedelta(seconds=seconds)).isoformat(), finished_at=now().isoformat())
        )


def begun(database, job_id, seconds):
    """Let a running job have started so long ago."""
    with database.writing() as connection:
        connection.execute(
            jobs.update().where(jobs.c.id == job_id).values(started_at=(now() - timedelta(seconds=seconds)).isoformat())
        )


def report(store, job_id, eta, seq=1):
    progress = JobProgress(stage="segmenting", done=1, total=2, unit="tiles", fraction=0.5, eta_seconds=eta)
    store.advance(job_id, 1, [Progress(seq=seq, at=now(), progress=progress)])


def test_nothing_is_claimed_to_be_known_before_a_job_has_ended(database, store):
    estimates = Estimates(database, slots=1)
    assert estimates.newcomer("ada", runner="r", model="m", voxels=1000) == (0.0, None)
    add(store)
    store.claim("cpu")
    waiting = add(store)
    assert estimates.starts([waiting]) == {waiting: None}
    assert estimates.newcomer("ada", runner="r", model="m", voxels=1000) == (None, None)


def test_jobs_are_expected_to_take_as_long_for_a_voxel_as_those_before(database, store):
    run_for(database, store, 10.0)
    run_for(database, store, 40.0, grid=LARGE)
    run_for(database, store, 1.0, model="quick")
    estimates = Estimates(database, slots=1)
    _, seconds = estimates.newcomer("ada", runner="r", model="m", voxels=6000)
    assert seconds == pytest.approx(100.0, rel=0.01)
    _, quick = estimates.newcomer("ada", runner="r", model="quick", voxels=6000)
    assert quick == pytest.approx(6.0, rel=0.02)
    assert estimates.newcomer("ada", runner="other", model="m", voxels=6000)[1] is None


def test_the_running_job_says_when_it_ends(database, store):
    run_for(database, store, 10.0)
    running = add(store)
    store.claim("cpu")
    report(store, running, 500.0)
    first, second = add(store), add(store)
    starts = Estimates(database, slots=1).starts([first, second])
    assert starts[first] == pytest.approx(500.0, abs=5)
    assert starts[second] == pytest.approx(starts[first] + 10.0, rel=0.01)


def test_a_running_job_that_does_not_know_is_judged_by_those_before_it(database, store):
    run_for(database, store, 100.0)
    running = add(store, grid=LARGE)
    store.claim("cpu")
    report(store, running, None)
    begun(database, running, 50.0)
    waiting = add(store)
    assert Estimates(database, slots=1).starts([waiting])[waiting] == pytest.approx(150.0, abs=5)


def test_turns_of_owners_count(database, store):
    run_for(database, store, 10.0, owner="ada")
    add(store)
    store.claim("cpu")
    ada = [add(store, owner="ada") for _ in range(3)]
    bob = add(store, owner="bob")
    estimates = Estimates(database, slots=1)
    starts = estimates.starts([*ada, bob])
    assert sorted(starts, key=starts.get) == [bob, *ada]
    newcomer, _ = estimates.newcomer("eve", runner="r", model="m", voxels=1000)
    assert starts[bob] < newcomer < starts[ada[-1]]


def test_an_estimate_that_is_good_enough_is_not_made_again(database, store):
    estimates = Estimates(database, slots=1)
    waiting = add(store)
    looks = []
    sa.event.listen(database._reader, "begin", looks.append)
    for _ in range(5):
        estimates.starts([waiting])
    assert len(looks) == 1
    later = add(store)
    assert later in estimates.starts([later])
