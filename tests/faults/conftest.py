"""Fixtures for tests that kill, fill and take away."""

import os

import engines
import pytest
import trio
from small_disks import small_disk_at

from cryomamba_core.job_directory import JobDirectory


@pytest.fixture(autouse=True)
def installed_strangers(tmp_path, monkeypatch):
    """Workers find the strangers' runner, which waits for files, as an installed distribution."""
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    monkeypatch.delenv("CRYOMAMBA_CONFIG", raising=False)


@pytest.fixture
def settings(tmp_path):
    settings = engines.make_settings(tmp_path / "data")
    yield settings
    for process in engines.workers_of(settings.data_dir):
        process.kill()


@pytest.fixture
def tomogram(tmp_path):
    return engines.make_tomogram(tmp_path / "a.npy")


@pytest.fixture
def gate(tmp_path):
    """A folder; the runner goes on to a section when a file of its number is there. Section 0 is open."""
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / "0").touch()
    return folder


@pytest.fixture
def engine_process(settings):
    """Starts engines in processes of their own; ``die_at`` names where one is killed."""
    started = []

    def start(*, die_at=""):
        started.append(engines.EngineProcess(settings.data_dir, environment={**os.environ, "DIE_AT": die_at}))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def until(settings):
    """Waits for a worker to have said something, by its own event file; the deadline is the test runner's."""

    async def wait(job_id, condition):
        directory = JobDirectory(settings.jobs_dir / job_id)
        with trio.fail_after(engines.DEADLINE):
            while not any(condition(event) for event, _ in directory.events()):
                await trio.sleep(0.01)

    return wait


@pytest.fixture
def no_worker(settings):
    """Waits until no worker is left."""

    async def wait():
        with trio.fail_after(engines.DEADLINE):
            while engines.workers_of(settings.data_dir):
                await trio.sleep(0.01)

    return wait


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system in memory, of as many MiB as the module's `DISK_MIB` says."""
    with small_disk_at(tmp_path / "small", request.module.DISK_MIB) as folder:
        yield folder
