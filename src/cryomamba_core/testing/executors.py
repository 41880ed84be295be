"""The conformance suite for `Executor`: real workers are started, lost, found again and ended.

It needs the built-in MRC reader and threshold runner, which every installation has.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cryomamba_core.errors import CryoMambaError, ShardsUnavailable
from cryomamba_core.events import Completed, Failed
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.interfaces import Executor, Resources, WorkerExit, WorkerHandle
from cryomamba_core.job_directory import EXIT_FAILED, JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.settings import Settings

#: Seconds that anything may take that must happen in the end.
PATIENCE = 120.0


class ExecutorConformance(ABC):
    """Subclass it, say how to make an executor, and run it with pytest.

    ::

        class TestMyExecutor(ExecutorConformance):
            def make_executor(self, settings):
                return MyExecutor(settings)
    """

    @abstractmethod
    def make_executor(self, settings: Settings) -> Executor:
        """An executor; two that are made with equal settings can take over each other's workers."""

    def processes(self, job_dir: Path) -> list[psutil.Process]:
        """Processes of this machine that work on a job directory; empty where workers run on another."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(job_dir) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        """Settings with an empty data directory."""
        return Settings(data_dir=tmp_path / "data", devices=("cpu",), threads=1)

    @pytest.fixture
    def executor(self, settings: Settings) -> Executor:
        """The executor under test."""
        return self.make_executor(settings)

    @pytest.fixture
    def short_job(self, settings: Settings) -> Path:
        """The directory of a job that is done at once."""
        return make_job(settings, shape=(4, 5, 6), voxels=True)

    @pytest.fixture
    def broken_job(self, settings: Settings) -> Path:
        """A job directory that no worker can read."""
        folder = make_job(settings, shape=(4, 5, 6), voxels=True)
        (folder / "job.json").write_text("{", encoding="utf-8")
        return folder

    @pytest.fixture
    def long_job(self, settings: Settings, executor: Executor) -> Iterator[Path]:
        """The directory of a job that takes longer than any test: 64 GiB, none of which the disk has to hold."""
        folder = make_job(settings, shape=(4096, 4096, 4096), voxels=False)
        yield folder
        for process in self.processes(folder):
            process.kill()

    def test_an_executor_has_a_name_and_slots(self, executor: Executor) -> None:
        assert isinstance(executor, Executor)
        assert executor.name
        assert len(executor.slots()) > 0

    def test_what_a_job_may_use_is_divided_among_its_shards_or_refused(self, executor: Executor) -> None:
        [device, *_] = executor.slots()
        given = Resources(device=device, threads=4, environment={"A": "b"})
        try:
            places = executor.places(given, (device,), 3)
        except ShardsUnavailable:
            pytest.skip("the executor runs whole jobs only")
        assert 1 <= len(places) <= 3
        assert sum(place.threads for place in places) <= 4
        assert all(place.device == device and place.environment["A"] == "b" for place in places)

    def test_a_job_is_done(self, executor: Executor, short_job: Path) -> None:
        handle = executor.start(short_job, Resources(threads=1))
        ended = _wait(executor, handle)
        assert handle.executor == executor.name
        assert ended.code in (0, None), _log(short_job)
        assert ended.reason
        events = [event for event, _ in JobDirectory(short_job).events()]
        assert isinstance(events[-1], Completed)
        assert not executor.reattach(handle)

    def test_a_worker_that_fails_says_why_in_the_job_directory(self, executor: Executor, broken_job: Path) -> None:
        ended = _wait(executor, executor.start(broken_job, Resources(threads=1)))
        assert ended.code in (EXIT_FAILED, None)
        events = [event for event, _ in JobDirectory(broken_job).events()]
        assert isinstance(events[-1], Failed)
        assert "job.json" in _log(broken_job)

    def test_an_end_is_told_again_to_whoever_asks_again(self, executor: Executor, broken_job: Path) -> None:
        handle = executor.start(broken_job, Resources(threads=1))
        ended = _wait(executor, handle)
        assert executor.wait(handle, 0) == ended

    def test_waiting_for_a_busy_worker_ends_with_the_timeout(self, executor: Executor, long_job: Path) -> None:
        handle = _start_busy(executor, long_job)
        assert executor.wait(handle, 0) is None
        assert executor.wait(handle, 0.05) is None
        assert executor.reattach(handle)
        executor.cancel(handle, grace=0)

    @pytest.mark.parametrize("grace", [0.0, 10.0])
    def test_a_canceled_worker_leaves_nothing(self, executor: Executor, long_job: Path, grace: float) -> None:
        handle = _start_busy(executor, long_job)
        executor.cancel(handle, grace=grace)
        assert not executor.reattach(handle)
        assert executor.wait(handle, 0) is not None
        assert self.processes(long_job) == []

    def test_a_worker_that_does_not_react_is_ended_too(self, executor: Executor, long_job: Path) -> None:
        handle = _start_busy(executor, long_job)
        processes = self.processes(long_job)
        if not processes:
            pytest.skip("its workers do not run on this machine")
        for process in processes:
            process.suspend()
        executor.cancel(handle, grace=0.2)
        assert not executor.reattach(handle)
        assert self.processes(long_job) == []

    def test_the_order_in_the_job_directory_ends_a_worker(self, executor: Executor, long_job: Path) -> None:
        handle = _start_busy(executor, long_job)
        JobDirectory(long_job).order_cancel()
        _wait(executor, handle)
        assert self.processes(long_job) == []

    def test_a_killed_worker_is_noticed(self, executor: Executor, long_job: Path) -> None:
        handle = _start_busy(executor, long_job)
        processes = self.processes(long_job)
        if not processes:
            pytest.skip("its workers do not run on this machine")
        for process in processes:
            process.kill()
        ended = _wait(executor, handle)
        assert ended.code != 0
        assert ended.reason
        assert not executor.reattach(handle)

    def test_cancelling_what_has_ended_does_nothing(self, executor: Executor, broken_job: Path) -> None:
        handle = executor.start(broken_job, Resources(threads=1))
        ended = _wait(executor, handle)
        executor.cancel(handle)
        executor.cancel(handle, grace=0)
        assert executor.wait(handle, 0) == ended

    def test_another_executor_finds_the_worker_and_ends_it(
        self, executor: Executor, settings: Settings, long_job: Path
    ) -> None:
        handle = _start_busy(executor, long_job)
        other = self.make_executor(settings)
        assert other.reattach(handle)
        assert other.wait(handle, 0) is None
        other.cancel(handle, grace=5)
        assert not other.reattach(handle)
        assert other.wait(handle, 0) is not None
        assert _wait(executor, handle).code != 0
        assert self.processes(long_job) == []

    def test_a_worker_without_a_recorded_handle_is_found_or_not_but_never_another_one(
        self, executor: Executor, settings: Settings, long_job: Path
    ) -> None:
        other = self.make_executor(settings)
        assert other.find(long_job) is None
        handle = _start_busy(executor, long_job)
        assert other.find(long_job) in (handle, None)
        assert other.find(long_job.with_name("other")) is None
        executor.cancel(handle, grace=0)
        assert other.find(long_job) is None

    def test_two_workers_are_told_apart(self, executor: Executor, long_job: Path, broken_job: Path) -> None:
        long = _start_busy(executor, long_job)
        broken = executor.start(broken_job, Resources(threads=1))
        _wait(executor, broken)
        executor.cancel(broken)
        assert broken != long
        assert executor.reattach(long)
        executor.cancel(long, grace=0)

    @pytest.mark.parametrize("token", ["", "nonsense", "{}", "1", "[1, 2]", '{"pid": 1}'])
    def test_a_handle_of_nothing_is_a_worker_that_has_ended(self, executor: Executor, token: str) -> None:
        for name in (executor.name, "another executor"):
            handle = WorkerHandle(executor=name, token=token)
            assert executor.reattach(handle) is False
            assert executor.wait(handle, 0) is not None
            executor.cancel(handle)

    def test_a_missing_job_directory_is_refused(self, executor: Executor, tmp_path: Path) -> None:
        with pytest.raises(CryoMambaError):
            executor.start(tmp_path / "none", Resources())


def make_job(settings: Settings, *, shape: tuple[int, int, int], voxels: bool) -> Path:
    """Make the directory of a threshold job on a new MRC file.

    Parameters
    ----------
    settings
        Name the folder of the job directories.
    shape
        Shape (z, y, x) of the volume.
    voxels
        Whether the file holds random voxels; else it is a hole of the right size behind a header.
    """
    import mrcfile

    folder = settings.jobs_dir / f"job-{'x'.join(map(str, shape))}"
    folder.mkdir(parents=True)
    path = folder.parent / f"{folder.name}.mrc"
    grid = VoxelGrid(shape=shape, voxel_size=(10.0, 10.0, 10.0))
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.random.default_rng(0).integers(0, 99, shape if voxels else (1, 1, 1), dtype=np.int8))
        mrc.voxel_size = 10.0
        if not voxels:
            z, y, x = shape
            header = mrc.header
            header.nz, header.ny, header.nx = header.mz, header.my, header.mx = z, y, x
            header.cella.z, header.cella.y, header.cella.x = 10.0 * z, 10.0 * y, 10.0 * x
    if not voxels:
        with path.open("r+b") as stream:
            stream.truncate(1024 + grid.voxels)
    spec = JobSpec(
        job_id=folder.name,
        config=JobConfig(source=Source(path=str(path)), runner="threshold", model="threshold", artifacts=()),
        source=str(path),
        source_name=path.name,
        grid=grid,
        device="cpu",
        threads=1,
    )
    JobDirectory(folder).begin_attempt(spec)
    return folder


def _start_busy(executor: Executor, job_dir: Path) -> WorkerHandle:
    """Start a worker and wait until it has begun to work."""
    handle = executor.start(job_dir, Resources(threads=1))
    directory = JobDirectory(job_dir)
    _until(lambda: next(directory.events(), None) is not None or executor.wait(handle, 0.05) is not None)
    assert executor.wait(handle, 0) is None, _log(job_dir)
    return handle


def _wait(executor: Executor, handle: WorkerHandle) -> WorkerExit:
    ended = executor.wait(handle, PATIENCE)
    assert ended is not None, f"the worker still runs after {PATIENCE:g} seconds"
    return ended


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"it did not happen within {PATIENCE:g} seconds"


def _log(job_dir: Path) -> str:
    path = JobDirectory(job_dir).log_path
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
