"""A job of the stranger's runner, run inside the process of a test."""

import numpy as np
import pytest
import strangers

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.job_directory import JobDirectory, JobSpec
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.previews import PreviewPolicy
from cryomamba_core.settings import Settings
from cryomamba_core.worker import taking
from cryomamba_core.worker.context import StopOrders
from cryomamba_core.worker.reporting import EventLog
from cryomamba_core.worker.run import JobRun

SHAPE = (6, 5, 4)


def make_tomogram(path):
    """Noise, below and above zero."""
    np.save(path, np.random.default_rng(3).normal(size=SHAPE).astype(np.float32))
    return path


def make_host(data_dir):
    """A host that knows the stranger's plugins only."""
    host = PluginHost(Settings(data_dir=data_dir))
    assert not host.register(strangers, name="strangers").error
    return host


def make_directory(tmp_path, tomogram, **params):
    spec = JobSpec(
        job_id="j",
        config=JobConfig(
            source=Source(path=str(tomogram)),
            runner="steps",
            params=params,
            label="a",
            preview=PreviewPolicy(interval_seconds=0),
        ),
        source=str(tomogram),
        source_name="a.npy",
        grid=VoxelGrid(shape=SHAPE, voxel_size=(10, 10, 10)),
        device="cpu",
    )
    directory = JobDirectory(tmp_path / "job")
    directory.begin_attempt(spec)
    return directory


def run_here(directory, host):
    spec = directory.spec()
    log, orders = EventLog(directory, attempt=spec.attempt), StopOrders(directory)
    return JobRun(directory=directory, spec=spec, host=host, log=log, orders=orders).execute()


def events_of(directory, kind):
    return [event for event, _ in directory.events() if isinstance(event, kind)]


def fail_after_two_rows(tmp_path, tomogram, host, monkeypatch, **params):
    """A first attempt that ends after two rows, whose labels are then turned over: the next one takes them as they lie.

    Returns the labels that the job should end with.
    """
    monkeypatch.setattr(taking, "CHECKPOINT_INTERVAL", 0)
    directory = make_directory(tmp_path, tomogram, fault="raises", depth=2, **params)
    with pytest.raises(ArithmeticError):
        run_here(directory, host)
    assert directory.checkpoint().rows == 2
    expected = (np.load(tomogram) > 0).astype(np.uint8)
    final = [slice(None)] * 3
    final[params["axis"]] = slice(2)
    with directory.open_labels(directory.spec().grid, np.dtype(np.uint8), create=True) as labels:
        lying = labels[:]
        assert np.array_equal(lying[tuple(final)], expected[tuple(final)])
        lying[tuple(final)] ^= 1
        expected[tuple(final)] ^= 1
        labels.write(directory.spec().grid.whole, lying)
    return expected
