"""What is removed, what stays, and that a crash in between costs nothing."""

import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta

import engines
import pytest
import trio
from attrs import evolve

from cryomamba_core.errors import StorageError, UnknownJob, UnknownObject, UnknownUpload
from cryomamba_core.jobs import JobState, Source
from cryomamba_core.protocol.uploads import UploadRequest
from cryomamba_server.engine import retention as retention_module
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.engine.expiry import ExpiryStore
from cryomamba_server.engine.retention import Retention, RetentionPolicy

#: A worker that waits for a file called open in its job directory.
HELD = "\nwhile not (directory.path / 'open').exists(): time.sleep(0.01)\n" + engines.SUCCEED
LONG_AGO = datetime.now(UTC) - timedelta(days=30)
MONTH = 30 * 24 * 3600


class Rounds:
    """Makes rounds of the clean-up and counts what they remove."""

    def __init__(self, engine, settings, **policy):
        self.removed = Counter()
        values = {"upload_hours": 72.0, "keep_jobs_days": 7.0, "keep_files_days": 7.0, **policy}
        self._retention = Retention(
            engine,
            jobs_dir=settings.jobs_dir,
            policy=RetentionPolicy(**values),
            on_removed=lambda kind, count: self.removed.update({kind: count}),
        )

    async def make(self):
        self.removed.clear()
        await self._retention.clean_up()
        return dict(self.removed)


def age(settings, table, column, *, where="1", to=LONG_AGO):
    """Let records have happened long ago."""
    with closing(sqlite3.connect(settings.data_dir / "cryomamba.sqlite")) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (to.isoformat(),))


def age_files(folder):
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - MONTH,) * 2)


def contents(settings, area):
    return [path for path in (settings.data_dir / area).rglob("*") if path.is_file() and "+" not in str(path)]


async def ended(engine, config, owner=engines.OWNER):
    job = await engine.submit(config, owner=owner)
    await engines.heard(engine, job.id)
    return job.id


async def test_an_old_job_goes_with_its_results_and_a_young_one_stays(settings, tomogram):
    async with engines.scripted_engine(settings) as engine:
        old, young = [await ended(engine, engines.steps(tomogram)) for _ in range(2)]
        age(settings, "jobs", "finished_at", where=f"id = '{old}'")
        assert await Rounds(engine, settings).make() == {"job": 1}
        with pytest.raises(UnknownJob):
            await engine.job(old, owner=None)
        assert (await engine.job(young, owner=None)).state is JobState.COMPLETED
        assert {info.key.split("/")[1] for info in engine.storage.list("artifacts/")} == {young}
        assert [folder.name for folder in settings.jobs_dir.iterdir()] == [young]


async def test_a_job_that_runs_or_waits_stays_however_old(settings, tomogram, monkeypatch):
    monkeypatch.setattr("cryomamba_server.engine.looking.CANCEL_GRACE", 0.1)  # the worker that is held hears no order
    async with engines.scripted_engine(settings, HELD) as engine:
        jobs = [await engine.submit(engines.steps(tomogram), owner=engines.OWNER) for _ in range(2)]
        await engines.heard(engine, jobs[0].id, until=lambda event: getattr(event, "state", "") == JobState.RUNNING)
        age(settings, "jobs", "created_at")
        assert await Rounds(engine, settings).make() == {}
        assert len(await engine.jobs(owner=None)) == 2
        for job in jobs:
            await engine.cancel(job.id, owner=None)


async def test_nothing_is_ever_removed_where_nothing_else_is_set(settings, tomogram):
    async with engines.scripted_engine(settings) as engine:
        stored = await engine.add_file(tomogram, owner="ada")
        job = await ended(engine, engines.steps(tomogram))
        age(settings, "jobs", "finished_at")
        age(settings, "files", "created_at")
        assert await Rounds(engine, settings, keep_jobs_days=0, keep_files_days=0).make() == {}
        assert (await engine.job(job, owner=None)).artifacts
        assert engine.storage.read((contents(settings, "raw")[0]).relative_to(settings.data_dir).as_posix(), 0, 1)
        assert stored.size == tomogram.stat().st_size


async def test_a_file_that_no_job_used_goes_and_what_another_owner_has_of_it_stays(settings, tomogram):
    async with engines.scripted_engine(settings) as engine:
        for owner in ("ada", "ben"):
            stored = await engine.add_file(tomogram, owner=owner)
        age(settings, "files", "created_at", where="owner = 'ada'")
        rounds = Rounds(engine, settings)
        assert await rounds.make() == {"file": 1}
        config = evolve(engines.steps(tomogram), source=Source(file_id=stored.id))
        with pytest.raises(UnknownObject):
            await engine.submit(config, owner="ada")
        assert (await engine.plan(config, owner="ben")).run.tiles
        age(settings, "files", "created_at")
        assert await rounds.make() == {"file": 1}
        assert contents(settings, "raw") == []


async def test_a_file_that_a_job_used_lately_stays_though_it_was_sent_long_ago(settings, tomogram):
    async with engines.scripted_engine(settings) as engine:
        stored = await engine.add_file(tomogram, owner=engines.OWNER)
        age(settings, "files", "created_at")
        await ended(engine, evolve(engines.steps(tomogram), source=Source(file_id=stored.id)))
        rounds = Rounds(engine, settings)
        assert await rounds.make() == {}
        age(settings, "files", "last_used_at")
        assert await rounds.make() == {"file": 1}


@pytest.mark.parametrize("protected", [True, False])
async def test_a_file_that_a_waiting_job_needs_stays(settings, tomogram, monkeypatch, protected):
    """Without the look at jobs that have not ended, the file goes from under the job."""
    if not protected:
        monkeypatch.setattr(retention_module.ExpiryStore, "_needed", lambda *_: set())
    async with engines.scripted_engine(settings, HELD) as engine:
        stored = await engine.add_file(tomogram, owner=engines.OWNER)
        config = evolve(engines.steps(tomogram), source=Source(file_id=stored.id))
        first = await engine.submit(engines.steps(tomogram), owner=engines.OWNER)
        await engines.heard(engine, first.id, until=lambda event: getattr(event, "state", "") == JobState.RUNNING)
        waiting = await engine.submit(config, owner=engines.OWNER)
        age(settings, "files", "created_at")
        age(settings, "files", "last_used_at")
        assert await Rounds(engine, settings).make() == ({} if protected else {"file": 1})
        for job in (first, waiting):
            settings.jobs_dir.joinpath(job.id).mkdir(exist_ok=True)
            (settings.jobs_dir / job.id / "open").touch()
        await engines.heard(engine, waiting.id)
        state = (await engine.job(waiting.id, owner=None)).state
        assert state is (JobState.COMPLETED if protected else JobState.FAILED)


async def test_an_upload_that_nobody_goes_on_with_goes_with_its_room_on_the_disk(settings):
    async with engines.scripted_engine(settings) as engine:
        upload = await engine.uploads.begin(UploadRequest(filename="a.npy", size=100_000), owner="ada")
        rounds = Rounds(engine, settings)
        assert await rounds.make() == {}
        age(settings, "uploads", "touched_at")
        assert (await rounds.make())["upload"] >= 1
        with pytest.raises(UnknownUpload):
            await engine.uploads.status(upload.upload_id, owner="ada")
        assert list((settings.data_dir / "raw" / "+partial").iterdir()) == []


def told_of_unnamed(caplog):
    return [record.args for record in caplog.records if "no record names" in record.getMessage()]


async def test_whole_content_that_no_record_names_stays_however_old_and_is_told_of_once(settings, tomogram, caplog):
    async with engines.scripted_engine(settings) as engine:
        await engine.add_file(tomogram, owner="ada")
        await ended(engine, engines.steps(tomogram))
        unknown = "01890000-0000-7000-8000-000000000000"
        for key in ("raw/left.npy", f"artifacts/{unknown}/mask.npy", "artifacts/stranger/mask.npy"):
            engine.storage.publish(tomogram, key)
        for name in (unknown, "notes"):
            (settings.jobs_dir / name).mkdir()
            (settings.jobs_dir / name / "job.json").write_text("{}")
        before = everything(settings)
        for area in ("raw", "artifacts", "jobs"):
            age_files(settings.data_dir / area)
        rounds = Rounds(engine, settings)
        for _ in range(2):
            assert await rounds.make() == {}
        assert everything(settings) == before
        size = tomogram.stat().st_size
        assert told_of_unnamed(caplog) == [
            (1, "raw/", size, "raw/left.npy"),
            (2, "artifacts/", 2 * size, unknown),
            (2, str(settings.jobs_dir), 4, unknown),
        ]


async def test_a_job_store_that_was_moved_away_takes_nothing_with_it(settings, tomogram, tmp_path, caplog):
    """As the hint about a damaged one says: jobs are forgotten then, results stay."""
    async with engines.scripted_engine(settings) as engine:
        await engine.add_file(tomogram, owner="ada")
        job = await ended(engine, engines.steps(tomogram))
        assert await Rounds(engine, settings).make() == {}
    assert not told_of_unnamed(caplog)
    before = everything(settings)
    assert settings.data_dir / "artifacts" / job / "stats.json" in before
    for area in ("raw", "artifacts", "jobs"):
        age_files(settings.data_dir / area)
    (settings.data_dir / "cryomamba.sqlite").rename(tmp_path / "moved.sqlite")
    for policy in ({}, {"keep_jobs_days": 0, "keep_files_days": 0}):
        async with engines.scripted_engine(settings) as engine:
            assert await Rounds(engine, settings, **policy).make() == {}
            assert await engine.jobs(owner=None) == []
        assert everything(settings) == before
    assert [where for _, where, *_ in told_of_unnamed(caplog)] == 2 * ["raw/", "artifacts/", str(settings.jobs_dir)]
    (tmp_path / "moved.sqlite").replace(settings.data_dir / "cryomamba.sqlite")
    async with engines.scripted_engine(settings) as engine:
        assert (await engine.job(job, owner=None)).artifacts


def everything(settings):
    """What was sent and what was made, whole."""
    return {*contents(settings, "raw"), *contents(settings, "artifacts"), *contents(settings, "jobs")}


async def test_what_cannot_be_removed_holds_up_nothing_else_and_is_tried_again(settings, tomogram, monkeypatch):
    async with engines.scripted_engine(settings) as engine:
        jobs = sorted([await ended(engine, engines.steps(tomogram)) for _ in range(2)])
        age(settings, "jobs", "finished_at")
        rounds, remove = Rounds(engine, settings), Retention._remove_results

        def stuck(self, job_id):
            if job_id == jobs[0]:
                raise StorageError("this folder is held")
            remove(self, job_id)

        with monkeypatch.context() as patch:
            patch.setattr(Retention, "_remove_results", stuck)
            assert await rounds.make() == {"job": 2}
        assert [folder.name for folder in settings.jobs_dir.iterdir()] == [jobs[0]]
        assert await rounds.make() == {}
        assert list(settings.jobs_dir.iterdir()) == list(engine.storage.list("artifacts/")) == []


CLEAN = """
import sys, trio, engines
from test_retention import Rounds
from cryomamba_server.engine.engine import open_engine
settings = engines.make_settings(sys.argv[1])
async def main():
    engines.die_at(sys.argv[2])
    async with open_engine(engines.make_host(settings), settings) as engine:
        await Rounds(engine, settings).make()
trio.run(main)
"""


@pytest.mark.parametrize(
    ("place", "noted"),
    [
        ("cryomamba_server.engine.retention:Retention._remove_results", True),
        ("cryomamba_server.engine.retention:Retention._remove_results", False),
        ("cryomamba_backends.filesystem.storage:FilesystemStorage.delete", True),
        ("cryomamba_server.engine.expiry:ExpiryStore.removed", True),
        ("cryomamba_server.engine.expiry:ExpiryStore.remove_content", True),
    ],
)
async def test_what_a_killed_round_left_the_next_one_removes(settings, tomogram, monkeypatch, place, noted):
    """Without the notes of what the removed records stood for it would stay for ever."""
    if not noted:
        monkeypatch.setattr(ExpiryStore, "forgotten", lambda *_: [])
    async with engines.scripted_engine(settings) as engine:
        await engine.add_file(tomogram, owner="ada")
        await ended(engine, engines.steps(tomogram))
    age(settings, "jobs", "finished_at")
    age(settings, "files", "created_at")
    paths = os.pathsep.join([str(engines.TESTS), str(engines.TESTS / "server")])
    words = [sys.executable, "-c", CLEAN, str(settings.data_dir), place]
    process = await trio.run_process(words, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert process.returncode == -9
    async with open_engine(engines.make_host(settings), settings) as engine:
        await Rounds(engine, settings).make()
        assert await engine.jobs(owner=None) == []
        assert (list(engine.storage.list()) == []) == noted
        assert (list(settings.jobs_dir.iterdir()) == []) == noted
        assert await Rounds(engine, settings).make() == {}


async def test_only_the_process_that_schedules_cleans_up(settings, tomogram, monkeypatch, autojump_clock):
    rounds = []

    async def note(self):
        rounds.append(self)

    monkeypatch.setattr(Retention, "clean_up", note)
    async with (
        engines.scripted_engine(settings) as first,
        engines.scripted_engine(settings) as second,
        trio.open_nursery() as nursery,
    ):
        mine, other = [Rounds(engine, settings)._retention for engine in (first, second)]
        for retention in (mine, other):
            nursery.start_soon(retention.run)
        await trio.sleep(2 * retention_module.ROUND_SECONDS + 1)
        nursery.cancel_scope.cancel()
    assert set(rounds) == {mine}
    assert len(rounds) == 3
