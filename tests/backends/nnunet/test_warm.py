"""Two jobs of one process: the second finds the networks loaded, and gives what a process of its own gives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryomamba_backends.local_executor.executor import LocalExecutor
from cryomamba_backends.local_executor.processes import WorkerProcess
from cryomamba_core.errors import UnusableModel
from cryomamba_core.events import Failed
from cryomamba_core.interfaces import Resources
from cryomamba_core.job_directory import EXIT_FAILED, JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_core.wire import load_json

mrcfile = pytest.importorskip("mrcfile", reason="the tomogram is an MRC file")

PATIENCE = 240
#: Two rows of tiles of the model that comes with the package would take a minute on a slow machine; this is one tile.
SHAPE = (24, 28, 32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", threads=1, warm_seconds=3600)


@pytest.fixture
def model(settings: Settings) -> str:
    """A copy of the model that comes with the package, whose files a test can touch."""
    import cryomamba_backends.nnunet.runner as module

    [bundled] = [folder for folder in module.BUNDLED.iterdir() if (folder / "model.json").is_file()]
    shutil.copytree(bundled, settings.models_dir / "copy")
    return "copy"


@pytest.fixture
def tomogram(tmp_path: Path) -> Path:
    path = tmp_path / "tomogram.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
        mrc.voxel_size = 10.0
    return path


def make(settings: Settings, tomogram: Path, model: str, name: str) -> JobDirectory:
    with PluginHost.discover(settings).reader_for(tomogram).open(tomogram) as volume:
        grid = volume.grid
    spec = JobSpec(
        job_id=name,
        config=JobConfig(source=Source(path=str(tomogram)), runner="nnunet", model=model, artifacts=("mrc",)),
        source=str(tomogram),
        source_name=tomogram.name,
        grid=grid,
        device="cpu",
        threads=1,
    )
    directory = JobDirectory(settings.jobs_dir / name)
    directory.begin_attempt(spec)
    return directory


def run(executor: LocalExecutor, directory: JobDirectory) -> tuple[int | None, int]:
    """Exit status, and number of the process."""
    handle = executor.start(directory.path, Resources(threads=1))
    ended = executor.wait(handle, PATIENCE)
    assert ended is not None
    return ended.code, load_json(handle.token, WorkerProcess).pid


def log_of(directory: JobDirectory) -> str:
    return directory.log_path.read_text()


def labels_of(directory: JobDirectory) -> bytes:
    with mrcfile.open(directory.artifacts_path / "mask.mrc") as mrc:
        labels: bytes = mrc.data.tobytes()
        return labels


def test_networks_stay_loaded_for_the_next_job_until_their_files_change(
    settings: Settings, model: str, tomogram: Path
) -> None:
    executor = LocalExecutor(settings)
    first, second, third = (make(settings, tomogram, model, name) for name in ("1", "2", "3"))
    try:
        status, pid = run(executor, first)
        assert status == 0, log_of(first)
        assert "weights" in log_of(first)
        assert run(executor, second) == (0, pid)
        assert "weights" not in log_of(second)
        assert "is used again" in log_of(second)
        assert labels_of(first) == labels_of(second)
        for weights in (settings.models_dir / model).glob("*.safetensors"):
            changed = bytearray(weights.read_bytes())
            changed[-1] ^= 1
            times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
            weights.write_bytes(changed)
            os.utime(weights, ns=times)
        assert run(executor, third) == (EXIT_FAILED, pid)
        [*_, last] = [event for event, _ in third.events()]
        assert isinstance(last, Failed)
        assert last.error.code == UnusableModel.code
    finally:
        executor.close()
