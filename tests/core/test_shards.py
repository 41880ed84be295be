"""The workers of a job's shards, played by functions: how they are started, followed and given up."""

import threading
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve

from cryomamba_core.errors import ErrorInfo, OutOfMemory, PluginFault, ShardsUnavailable, WorkerDied
from cryomamba_core.events import PreviewReady, Progress
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Executor, JobCanceled, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import Checkpoint, JobDirectory, JobSpec, ShardResult
from cryomamba_core.jobs import JobConfig, JobState, Source
from cryomamba_core.previews import PreviewBuilder, PreviewPolicy
from cryomamba_core.settings import Settings
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_core.worker import shards
from cryomamba_core.worker.context import StopOrders
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.shard_previews import ShardPreviews
from cryomamba_core.worker.shards import Shard, ShardCrew

GRID = VoxelGrid(shape=(12, 5, 7), voxel_size=(10.0, 10.0, 10.0))
BOUNDS = (0, 5, 8, 12)
LIVES = WorkerExit(code=0, reason="lives")


class PlayedExecutor(Executor):
    """Its workers are calls of `play(directory, spec)`, which returns how it ended, or `LIVES`."""

    name = "played"

    def __init__(self, play, *, places=3):
        self._play, self._count = play, places
        self.started, self.running, self.ended = [], {}, []

    def slots(self):
        return ("cpu",)

    def places(self, resources, devices, count):
        return [evolve(resources, threads=1) for _ in range(min(count, self._count))]

    def start(self, job_dir, resources):
        handle = WorkerHandle(executor=self.name, token=f"{job_dir.name}/{len(self.started)}")
        directory = JobDirectory(job_dir)
        self.started.append(job_dir.name)
        self.running[handle.token] = self._play(directory, directory.spec())
        assert len(self.running) <= self._count
        return handle

    def reattach(self, handle):
        return handle.token in self.running

    def wait(self, handle, timeout):
        if self.running.get(handle.token) is LIVES:
            return None
        return self.running.pop(handle.token, WorkerExit(code=None, reason="gone"))

    def cancel(self, handle, grace=10.0):
        self.ended.append((handle.token, grace))
        self.running.pop(handle.token, None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(shards, "LOOK_INTERVAL", 0)


@pytest.fixture
def directory(tmp_path):
    directory = JobDirectory(tmp_path / "job")
    directory.begin_attempt(
        JobSpec(
            job_id="j",
            config=JobConfig(
                source=Source(path="/a"), runner="steps", shards=3, preview=PreviewPolicy(interval_seconds=0)
            ),
            source="/a",
            source_name="a",
            grid=GRID,
            device="cpu",
        )
    )
    return directory


INTENSITY = IntensityStatistics(minimum=0.0, maximum=1.0, mean=0.5, standard_deviation=0.1)


def crew(directory, executor, *, bounds=BOUNDS, intensity=INTENSITY, source="a digest", **settings):
    return ShardCrew(
        directory=directory,
        executor=executor,
        settings=Settings(data_dir=directory.path, **settings),
        bounds=bounds,
        axis=0,
        intensity=intensity,
        source=source,
        source_state=(1, 2, 3),
        dtype=np.dtype(np.uint8),
        log=EventLog(directory, attempt=1),
        orders=StopOrders(directory),
    )


def succeed(directory, spec, *, notes=()):
    log = EventLog(directory, attempt=spec.attempt)
    log.state(JobState.RUNNING)
    rows = spec.shard.stop - spec.shard.first
    log.progress("inspecting", 1, 1, "sections")
    log.progress("segmenting", 1, 10 * rows, "tiles")
    log.progress("segmenting", 10 * rows, 10 * rows, "tiles")
    directory.write_result(ShardResult(notes=("the same of all", *notes), peak_rss_bytes=7))
    log.completed(())
    return WorkerExit(code=0, reason="exit status 0")


def reports(directory):
    return [event.progress for event, _ in directory.events() if isinstance(event, Progress)]


def test_every_shard_is_told_its_rows_and_their_words_are_put_together(directory):
    told = []

    def play(shard, spec):
        told.append((spec.shard.number, spec.shard.first, spec.shard.stop, spec.threads, spec.attempt))
        return succeed(shard, spec, notes=(f"of shard {spec.shard.number}",))

    result = crew(directory, PlayedExecutor(play)).run()
    assert told == [(1, 0, 5, 1, 1), (2, 5, 8, 1, 1), (3, 8, 12, 1, 1)]
    assert result.notes == ("the same of all", "of shard 1", "of shard 2", "of shard 3")
    assert result.peak_rss_bytes == 21


def test_progress_of_all_is_one_and_never_falls(directory):
    crew(directory, PlayedExecutor(succeed, places=1)).run()
    found = reports(directory)
    assert {(report.stage, report.unit) for report in found} == {("segmenting", "tiles")}
    assert (found[-1].done, found[-1].total) == (120, 120)
    done = [report.fraction for report in found]
    assert done == sorted(done)


def test_shards_wait_for_a_free_place(directory):
    executor = PlayedExecutor(succeed, places=1)  # it fails when more run at a time
    crew(directory, executor).run()
    assert executor.started == ["1", "2", "3"]


def test_what_a_shard_fails_with_fails_the_job_and_ends_the_others(directory, capfd):
    def play(shard, spec):
        if spec.shard.number != 2:
            return LIVES
        shard.log_path.write_text("a line of the worker\n")
        EventLog(shard, attempt=1).failed(ErrorInfo.of(OutOfMemory("no room", hint="make some")))
        return WorkerExit(code=11, reason="exit status 11")

    executor = PlayedExecutor(play)
    with pytest.raises(OutOfMemory, match="no room") as caught:
        crew(directory, executor).run()
    assert caught.value.hint == "make some"
    assert not executor.running
    assert "a line of the worker" in capfd.readouterr().err


def test_a_lost_worker_is_replaced_as_often_as_allowed(directory):
    lost = WorkerExit(code=-9, reason="killed by signal 9")

    def play(shard, spec):
        return lost if spec.shard.number == 2 and spec.attempt < 3 else succeed(shard, spec)

    executor = PlayedExecutor(play)
    result = crew(directory, executor, max_attempts=3).run()
    assert sorted(executor.started) == ["1", "2", "2", "2", "3"]
    assert [note for note in result.notes if "lost" in note] == [
        "worker 1 of 3 of shard 2 was lost: killed by signal 9; another one did what was left of it",
        "worker 2 of 3 of shard 2 was lost: killed by signal 9; another one did what was left of it",
    ]
    directory.clear_labels()
    with pytest.raises(WorkerDied, match="worker 2 of 2 of shard 2 was lost: killed by signal 9") as caught:
        crew(directory, PlayedExecutor(play), max_attempts=2).run()
    assert "jobs retry j" in caught.value.hint


def test_a_worker_whose_heart_does_not_beat_is_lost(directory):
    def play(shard, spec):
        return LIVES if spec.shard.number == 1 and spec.attempt == 1 else succeed(shard, spec)

    result = crew(directory, PlayedExecutor(play), stale_seconds=0.01).run()
    assert "gave no sign of life" in result.notes[0]


def test_a_worker_that_is_done_is_ended_and_not_waited_for(directory):
    def play(shard, spec):
        succeed(shard, spec)
        return LIVES

    executor = PlayedExecutor(play, places=1)  # the place of each is free at once, too
    assert crew(directory, executor).run().peak_rss_bytes == 21
    assert executor.ended == [("1/0", 0), ("2/1", 0), ("3/2", 0)]


def test_a_worker_that_is_done_without_a_result_is_lost(directory):
    def play(shard, spec):
        succeed(shard, spec)
        if spec.shard.number == 1 and spec.attempt == 1:
            shard.write_result("no result")
        return LIVES

    result = crew(directory, PlayedExecutor(play)).run()
    assert "it was done, but what it had to say cannot be read" in result.notes[0]


def test_the_order_to_cancel_ends_every_worker(directory):
    def play(shard, spec):
        if spec.shard.number == 3:
            directory.order_cancel()
        return LIVES

    executor = PlayedExecutor(play)
    with pytest.raises(JobCanceled):
        crew(directory, executor).run()
    assert not executor.running
    assert sorted(token for token, _ in executor.ended) == ["1/0", "2/1", "3/2"]


def test_the_next_attempt_ends_what_is_left_and_keeps_what_is_done(directory):
    def play(shard, spec):
        if spec.shard.number == 1:
            return succeed(shard, spec)
        shard.write_checkpoint(Checkpoint(rows=spec.shard.first + 1, dtype="uint8"))
        if spec.shard.number == 3:
            raise KeyboardInterrupt
        return LIVES

    with pytest.raises(KeyboardInterrupt):
        crew(directory, PlayedExecutor(play)).run()
    second = PlayedExecutor(succeed)
    shards.end_left(directory, second)
    assert second.ended == [("1/0", 0), ("2/1", 0)]
    crew(directory, second).run()
    assert second.started == ["2", "3"]
    assert directory.shard(2).checkpoint() == Checkpoint(rows=6, dtype="uint8")
    assert directory.shard(2).spec().attempt == 2


def test_what_was_done_of_other_rows_is_not_gone_on_from(directory):
    crew(directory, PlayedExecutor(succeed)).run()
    directory.shard(2).write_checkpoint(Checkpoint(rows=8, dtype="uint8"))
    executor = PlayedExecutor(succeed)
    crew(directory, executor, bounds=(0, 5, 9, 12)).run()
    assert executor.started == ["2", "3"]
    assert directory.shard(2).checkpoint() is None


@pytest.mark.parametrize(
    "other", [{"source": "another digest"}, {"intensity": evolve(INTENSITY, mean=0.25)}], ids=["bytes", "grey values"]
)
def test_what_was_done_of_another_tomogram_is_not_gone_on_from(directory, other):
    crew(directory, PlayedExecutor(succeed)).run()
    directory.shard(2).write_checkpoint(Checkpoint(rows=8, dtype="uint8"))
    executor = PlayedExecutor(succeed)
    crew(directory, executor, **other).run()
    assert executor.started == ["1", "2", "3"]
    assert directory.shard(2).checkpoint() is None


class FindingExecutor(PlayedExecutor):
    """Finds the workers of its `lost` handles, by the name of their directories."""

    lost = ()

    def find(self, job_dir):
        found = [token for token in self.lost if token.partition("/")[0] == job_dir.name]
        return WorkerHandle(executor=self.name, token=found[0]) if found else None


def test_a_worker_whose_handle_was_not_written_is_ended_too(directory):
    for number in (1, 4):
        directory.shard(number).path.mkdir(parents=True)
    executor = FindingExecutor(succeed)
    executor.lost = ("4/0",)  # of a shard that there is no more
    shards.end_left(directory, executor)
    assert executor.ended == [("4/0", 0)]


def test_a_worker_that_may_have_started_is_ended(directory):
    class Failing(FindingExecutor):
        def start(self, job_dir, resources):
            if job_dir.name == "2":
                self.lost = ("2/1",)
                raise OSError("too many open files")
            return super().start(job_dir, resources)

    executor = Failing(lambda *_: LIVES)
    with pytest.raises(OSError, match="too many open files"):
        crew(directory, executor).run()
    assert [token for token, _ in executor.ended] == ["2/1", "1/0"]


def test_an_executor_without_a_place_for_shards_is_named(directory):
    with pytest.raises(PluginFault, match="executor played has 0 places for 3 shards"):
        crew(directory, PlayedExecutor(succeed, places=0)).run()


def test_time_in_which_nobody_could_look_makes_no_worker_stale(directory, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(shards, "time", SimpleNamespace(monotonic=lambda: clock.now))
    shard = Shard(number=1, rows=range(3), directory=directory)
    shard.begin(directory.spec())
    assert shard.silent_for() == 0
    clock.now += 3600
    assert shard.silent_for() == shards.LONG_LOOK
    for _ in range(20):
        clock.now += 0.5
        silent = shard.silent_for()
    assert silent == shards.LONG_LOOK + 10
    EventLog(directory, attempt=1).state(JobState.RUNNING)
    shard.read_events()
    assert shard.silent_for() == 0


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "lost"])
def test_the_order_to_cancel_goes_before_how_a_shard_has_ended(directory, fails):
    def play(shard, spec):
        directory.order_cancel()
        if fails:
            EventLog(shard, attempt=1).failed(ErrorInfo.of(OutOfMemory("no room")))
        return WorkerExit(code=11, reason="exit status 11")

    with pytest.raises(JobCanceled):
        crew(directory, PlayedExecutor(play), max_attempts=1).run()


def test_previews_of_shards_make_that_of_the_volume(directory):
    random = np.random.default_rng(5)
    labels = random.integers(0, 3, GRID.shape, np.uint8)
    policy = PreviewPolicy(max_voxels=40)  # coarse voxels of 3: the bounds lie within them
    whole = PreviewBuilder(GRID, labels, policy)
    whole.add_final(GRID.whole)
    merged = ShardPreviews(GRID, 0, labels.dtype, policy)
    assert not merged.snapshot().labels().any()
    for number, (first, stop) in enumerate(pairwise(BOUNDS), 1):
        own = PreviewBuilder(GRID, labels, policy)
        own.add_final(GRID.region((first, 0, 0), (stop, *GRID.shape[1:])))
        merged.take(number, range(first, stop), own.snapshot())
        assert merged.snapshot().covered == GRID.region((0, 0, 0), (stop, *GRID.shape[1:]))
    np.testing.assert_array_equal(merged.snapshot().labels(), whole.snapshot().labels())
    assert merged.snapshot().provisional
    assert all(piece.labels.base is None for piece in merged._pieces.values())  # none keeps a whole preview


def test_previews_are_announced_and_numbered(directory):
    def play(shard, spec):
        builder = PreviewBuilder(GRID, np.ones(GRID.shape, np.uint8), PreviewPolicy())
        builder.add_final(GRID.region((spec.shard.first, 0, 0), (spec.shard.stop, *GRID.shape[1:])))
        EventLog(shard, attempt=1).preview(builder.snapshot())
        return succeed(shard, spec)

    crew(directory, PlayedExecutor(play, places=1)).run()
    announced = [event for event, _ in directory.events() if isinstance(event, PreviewReady)]
    assert len(announced) == 3
    assert directory.preview().sequence == 3
    assert directory.preview().labels().all()


def test_an_executor_runs_no_shards_unless_it_says_how(directory):
    class Whole(PlayedExecutor):
        places = Executor.places

    with pytest.raises(ShardsUnavailable, match="executor played") as caught:
        crew(directory, Whole(succeed)).run()
    assert (caught.value.code, caught.value.hint) == ("plugin/no-shards", "ask for one shard")


def test_no_thread_is_left(directory):
    before = set(threading.enumerate())
    executor = PlayedExecutor(lambda shard, spec: LIVES if spec.shard.number < 3 else succeed(shard, spec))
    with pytest.raises(WorkerDied):
        crew(directory, executor, stale_seconds=0.01, max_attempts=1).run()
    assert set(threading.enumerate()) <= before
