"""The conformance suite for `Transport`: every method of a `Session`, on real jobs with real workers.

It needs pytest-trio, and an engine with the built-in MRC format, threshold runner and ``stats.json``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import trio

from cryomamba_core.errors import (
    CryoMambaError,
    ErrorInfo,
    IllegalTransition,
    InputError,
    InvalidParameter,
    OutputExists,
    UnknownJob,
    UnknownModel,
    UnknownObject,
)
from cryomamba_core.events import Completed, JobEvent, PreviewReady, Progress, StateChanged
from cryomamba_core.interfaces import Session
from cryomamba_core.jobs import JobConfig, JobRecord, JobState, Source
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.settings import Settings

#: Seconds that anything may take that must happen in the end.
PATIENCE = 120.0
#: Shape (z, y, x) of the volume that most tests segment; half of it is bright.
SHAPE = (6, 8, 10)
#: Grey value from which on a voxel is foreground.
THRESHOLD = 0.5


@pytest.mark.trio
class TransportConformance(ABC):
    """Subclass it, say how to reach an engine, and run it with pytest and pytest-trio.

    ::

        class TestMyTransport(TransportConformance):
            def open(self, settings):
                return MyTransport(settings).open("my://engine", Credentials())
    """

    @abstractmethod
    def open(self, settings: Settings) -> AbstractAsyncContextManager[Session]:
        """Connect to an engine on the data directory of `settings`; may be called while other sessions are open."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        """Settings with an empty data directory and one slot."""
        return Settings(data_dir=tmp_path / "data", devices=("cpu",), threads=1)

    @pytest.fixture
    def voxels(self) -> Any:
        """The grey values of `tomogram`, ZYX."""
        return np.random.default_rng(7).random(SHAPE, dtype=np.float32)

    @pytest.fixture
    def tomogram(self, tmp_path: Path, voxels: Any) -> Path:
        """A small MRC file."""
        return _write_mrc(tmp_path / "small.mrc", voxels)

    @pytest.fixture
    def large_tomogram(self, tmp_path: Path) -> Path:
        """An MRC file that takes a worker long enough to be canceled."""
        voxels = np.zeros((96, 512, 512), np.float32)
        voxels[0, 0, 0] = 1
        return _write_mrc(tmp_path / "large.mrc", voxels)

    async def test_the_engine_says_what_it_is(self, settings: Settings) -> None:
        async with self.open(settings) as session:
            info = await session.server_info()
        assert info.version
        assert info.api_version >= 1
        assert len(info.devices) >= 1
        assert "threshold" in info.runners
        assert "mrc" in info.exporters

    async def test_the_models_of_all_runners_are_listed(self, settings: Settings) -> None:
        async with self.open(settings) as session:
            models = await session.models()
        assert ("threshold", "threshold") in [(model.runner, model.name) for model in models]

    async def test_a_file_that_is_sent_twice_is_the_same_file(self, settings: Settings, tomogram: Path) -> None:
        told: list[tuple[int, int]] = []
        known: list[tuple[int, int]] = []
        async with self.open(settings) as session:
            first = await session.upload(
                tomogram,
                on_progress=lambda done, total: told.append((done, total)),
                on_known=lambda there, total: known.append((there, total)),
            )
            assert known == []
            second = await session.upload(tomogram, on_known=lambda there, total: known.append((there, total)))
            shares_files = (await session.server_info()).shares_files
        assert first == second
        if not shares_files:
            assert known == [(first.size, first.size)]
        assert (first.name, first.size) == ("small.mrc", tomogram.stat().st_size)
        assert first.sha256 == _sha256(tomogram)
        assert told == sorted(told)
        assert told[-1] == (first.size, first.size)

    async def test_a_file_that_no_reader_takes_is_refused(self, settings: Settings, tmp_path: Path) -> None:
        junk = tmp_path / "junk.xyz"
        junk.write_bytes(b"junk" * 1000)
        async with self.open(settings) as session:
            with pytest.raises(InputError):
                await session.upload(junk)

    async def test_a_truncated_file_is_refused(self, settings: Settings, tomogram: Path) -> None:
        tomogram.write_bytes(tomogram.read_bytes()[:-100])
        async with self.open(settings) as session:
            with pytest.raises(InputError):
                await session.upload(tomogram)

    async def test_a_plan_says_what_a_job_costs_and_starts_nothing(self, settings: Settings, tomogram: Path) -> None:
        async with self.open(settings) as session:
            plan = await session.plan(await _config(session, tomogram))
            assert plan.run.tiles > 0
            assert plan.run.ram_bytes > 0
            assert plan.disk_bytes > plan.run.disk_bytes
            assert plan.device in (await session.server_info()).devices
            assert plan.queue_position == 0
            assert not await session.jobs()

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"runner": None, "model": "no-such-model"}, UnknownModel),
            ({"params": {"no_such_parameter": 1}}, InvalidParameter),
            ({"params": {"value": "bright"}}, InvalidParameter),
            ({"artifacts": ("mask.nothing",)}, CryoMambaError),
            ({"source": Source(file_id="0" * 64)}, CryoMambaError),
        ],
    )
    async def test_what_cannot_work_is_refused_by_plan_and_by_submit(
        self, settings: Settings, tomogram: Path, changes: dict[str, Any], error: type[CryoMambaError]
    ) -> None:
        async with self.open(settings) as session:
            config = await _config(session, tomogram, **changes)
            for method in (session.plan, session.submit):
                with pytest.raises(error):
                    await method(config)
            assert not await session.jobs()

    async def test_a_job_goes_from_submit_to_download(
        self, settings: Settings, tomogram: Path, voxels: Any, tmp_path: Path
    ) -> None:
        told: list[tuple[int, int]] = []
        waits: list[ErrorInfo | None] = []
        again = tmp_path / "again.mrc"
        async with self.open(settings) as session:
            session.on_waiting = waits.append
            submitted = await session.submit(await _config(session, tomogram, label="a label"))
            assert submitted.state is JobState.QUEUED
            events = await _listen(session, submitted)
            record = await session.job(submitted.id)
            assert record.state is JobState.COMPLETED
            target = tmp_path / "mask.mrc"
            await session.download(
                record.id, "mask.mrc", target, on_progress=lambda done, total: told.append((done, total))
            )
            [known] = [artifact for artifact in record.artifacts if artifact.name == "mask.mrc"]
            await session.download(record.id, known, again)
        assert waits == [], "an engine that is there is not waited for"
        _check_order(events)
        assert [event.state for event in events if isinstance(event, StateChanged)] == [
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.PREVIEWING,
        ]
        assert any(isinstance(event, Progress) for event in events)
        done = events[-1]
        assert isinstance(done, Completed)
        assert {artifact.name for artifact in done.artifacts} == {"mask.mrc", "stats.json", "manifest.json"}
        assert [_content(artifact) for artifact in record.artifacts] == [_content(each) for each in done.artifacts]
        assert (record.attempt, record.config.label, record.error) == (1, "a label", None)
        assert record.finished_at is not None
        [mask] = [artifact for artifact in done.artifacts if artifact.name == "mask.mrc"]
        assert _content(mask)[1:] == (target.stat().st_size, _sha256(target))
        assert told[-1] == (mask.size, mask.size)
        assert again.read_bytes() == target.read_bytes()
        np.testing.assert_array_equal(_read_mrc(target), voxels >= THRESHOLD)

    async def test_previews_arrive_with_their_labels(self, settings: Settings, tomogram: Path, voxels: Any) -> None:
        async with self.open(settings) as session:
            job = await session.submit(await _config(session, tomogram))
            events = await _listen(session, job)
        previews = [event.preview for event in events if isinstance(event, PreviewReady)]
        last = previews[-1]
        assert last is not None
        assert last.factor == 1
        np.testing.assert_array_equal(last.labels(), voxels >= THRESHOLD)

    async def test_a_download_replaces_no_file_and_invents_none(
        self, settings: Settings, tomogram: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "mine").write_text("mine")
        async with self.open(settings) as session:
            job = await session.submit(await _config(session, tomogram))
            await _listen(session, job)
            with pytest.raises(OutputExists):
                await session.download(job.id, "mask.mrc", folder / "mine")
            with pytest.raises(UnknownObject):
                await session.download(job.id, "mask.nothing", folder / "new")
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("mine", "mine")]

    async def test_a_listener_that_says_where_it_was_hears_the_rest_once(
        self, settings: Settings, tomogram: Path
    ) -> None:
        async with self.open(settings) as session:
            job = await session.submit(await _config(session, tomogram))
            early = await _listen(session, job, until=lambda event: event.seq >= 2)
            late = await _listen(session, job, after=early[-1].seq)
            again = await _listen(session, job)
            ended = await _listen(session, job, after=late[-1].seq)
        _check_order([*early, *late])
        assert isinstance(late[-1], Completed)
        states = [event.seq for event in again if isinstance(event, StateChanged | Completed)]
        assert states == [event.seq for event in (*early, *late) if isinstance(event, StateChanged | Completed)]
        assert ended == []

    async def test_two_sessions_see_the_same_jobs_and_events(self, settings: Settings, tomogram: Path) -> None:
        heard: dict[str, list[JobEvent]] = {}

        async def listen(name: str, session: Session, job: JobRecord) -> None:
            heard[name] = await _listen(session, job)

        async with self.open(settings) as first, self.open(settings) as second:
            job = await first.submit(await _config(first, tomogram))
            assert [known.id for known in await second.jobs()] == [job.id]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, "first", first, job)
                nursery.start_soon(listen, "second", second, job)
        for events in heard.values():
            _check_order(events)
            assert isinstance(events[-1], Completed)
        assert heard["first"][-1].seq == heard["second"][-1].seq

    async def test_a_job_outlives_the_session_that_submitted_it(
        self, settings: Settings, tomogram: Path, large_tomogram: Path
    ) -> None:
        async with self.open(settings) as session:
            job = await session.submit(await _config(session, large_tomogram))
            waiting = await session.submit(await _config(session, tomogram))
            await _listen(session, job, until=lambda event: event.seq >= 2)
        async with self.open(settings) as session:
            for each in (job, waiting):
                assert isinstance((await _listen(session, each))[-1], Completed)
                assert (await session.job(each.id)).attempt == 1

    async def test_jobs_are_canceled_and_retried(
        self, settings: Settings, tomogram: Path, large_tomogram: Path
    ) -> None:
        async with self.open(settings) as session:
            running = await session.submit(await _config(session, large_tomogram))
            waiting = await session.submit(await _config(session, tomogram))
            assert waiting.queue_position is not None
            await _listen(session, running, until=lambda event: event.seq >= 2)
            assert (await session.cancel(waiting.id)).state is JobState.CANCELED
            assert (await session.cancel(running.id)).state is JobState.CANCELED
            assert (await session.cancel(running.id)).state is JobState.CANCELED
            last = (await _listen(session, running))[-1]
            assert isinstance(last, StateChanged)
            assert last.state is JobState.CANCELED
            assert not (await session.job(running.id)).artifacts

            before = (await _listen(session, waiting))[-1].seq
            assert (await session.retry(waiting.id)).state is JobState.QUEUED
            after = await _listen(session, waiting, after=before)
            assert isinstance(after[-1], Completed)
            _check_order(after)
            assert after[0].seq == before + 1
            with pytest.raises(IllegalTransition):
                await session.retry(waiting.id)
            assert (await session.cancel(waiting.id)).state is JobState.COMPLETED

    async def test_a_job_that_does_not_exist_is_unknown_to_every_method(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        nowhere = "00000000-0000-7000-8000-000000000000"
        async with self.open(settings) as session:
            for method in (session.job, session.cancel, session.retry):
                with pytest.raises(UnknownJob):
                    await method(nowhere)
            with pytest.raises(UnknownJob):
                await anext(session.events(nowhere))
            with pytest.raises(UnknownJob):
                await session.download(nowhere, "mask.mrc", tmp_path / "new")
        assert not (tmp_path / "new").exists()

    async def test_a_key_keeps_a_repeated_request_from_becoming_a_second_job(
        self, settings: Settings, tomogram: Path
    ) -> None:
        async with self.open(settings) as session:
            config = await _config(session, tomogram)
            first = await session.submit(config, idempotency_key="one")
            assert (await session.submit(config, idempotency_key="one")).id == first.id
            second = await session.submit(config, idempotency_key="two")
            assert {job.id for job in await session.jobs()} == {first.id, second.id}

    async def test_jobs_are_listed_newest_first_and_by_pages(self, settings: Settings, tomogram: Path) -> None:
        async with self.open(settings) as session:
            config = await _config(session, tomogram)
            ids = [(await session.submit(config)).id for _ in range(3)]
            assert [job.id for job in await session.jobs()] == ids[::-1]
            assert [job.id for job in await session.jobs(limit=1)] == [ids[2]]
            assert [job.id for job in await session.jobs(before=ids[2])] == [ids[1], ids[0]]

    async def test_an_engine_that_shares_files_opens_the_clients_paths(
        self, settings: Settings, tomogram: Path
    ) -> None:
        async with self.open(settings) as session:
            if not (await session.server_info()).shares_files:
                pytest.skip("files must be sent to it")
            config = JobConfig(source=Source(path=str(tomogram)), runner="threshold", artifacts=("stats.json",))
            job = await session.submit(config)
            assert isinstance((await _listen(session, job))[-1], Completed)
            assert tomogram.exists()


async def _config(session: Session, tomogram: Path, **changes: Any) -> JobConfig:
    """A job on a file that is sent first."""
    sent = await session.upload(tomogram)
    values: dict[str, Any] = {
        "source": Source(file_id=sent.id),
        "runner": "threshold",
        "params": {"value": THRESHOLD},
        "artifacts": ("mask.mrc", "stats.json"),
        "preview": PreviewPolicy(interval_seconds=0),
    }
    return JobConfig(**(values | changes))


async def _listen(
    session: Session, job: JobRecord, *, after: int = 0, until: Callable[[JobEvent], bool] = lambda _: False
) -> list[JobEvent]:
    """A job's events up to the first that `until` accepts, or to the end."""
    events = []
    stream = cast("Any", session.events(job.id, after=after))
    with trio.fail_after(PATIENCE):
        async with aclosing(stream):
            async for event in stream:
                events.append(event)
                if until(event):
                    break
    return events


def _check_order(events: list[JobEvent]) -> None:
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))


def _content(artifact: Any) -> tuple[str, int, str]:
    return artifact.name, artifact.size, artifact.sha256


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_mrc(path: Path, voxels: Any) -> Path:
    import mrcfile

    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
    return path


def _read_mrc(path: Path) -> Any:
    import mrcfile

    with mrcfile.open(path) as mrc:
        return np.array(mrc.data)
