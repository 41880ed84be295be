"""Finished jobs of the threshold runner, and masks of chosen voxels."""

import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import trio
from drawn_labels import NAMES, ArrayVolume, some_labels

from cryomamba_core.interfaces import Credentials
from cryomamba_core.jobs import JobConfig, Source
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_gui.masks.mask import EditedMask
from cryomamba_gui.masks.opening import open_mask

DEADLINE = 120


@pytest.fixture
def mask(tmp_path):
    """A mask of 12 × 20 × 16 voxels with the labels of `NAMES`."""
    with EditedMask.create(tmp_path / "job", ArrayVolume(some_labels()), NAMES) as mask:
        yield mask


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """Every plugin of our own."""
    return PluginHost.discover(Settings(data_dir=tmp_path_factory.mktemp("data")), only="cryomamba")


def write_tomogram(path, axes):
    """Blobs, as MRC with a place of their own; `axes` are MAPC, MAPR, MAPS."""
    noise = np.random.default_rng(6).normal(size=(26, 34, 30))
    smooth = np.fft.ifftn(np.fft.fftn(noise) * np.exp(-2 * sum(k**2 * 9 for k in _frequencies(noise.shape)))).real
    with mrcfile.new(path) as mrc:
        mrc.set_data((smooth / smooth.std()).astype(np.float32))
        mrc.voxel_size = 7.5
        mrc.header.origin = (-150.0, 75.0, 300.0)
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes


def _frequencies(shape):
    return np.meshgrid(*(np.fft.fftfreq(size) * np.pi for size in shape), indexing="ij")


async def _run(host, tomogram, folder):
    async with host.transport_for("local:").open("local:", Credentials()) as session:
        with trio.fail_after(DEADLINE):
            job = await session.submit(JobConfig(source=Source(path=str(tomogram)), runner="threshold"))
            async for _ in session.events(job.id):
                pass
            record = await session.job(job.id)
            assert record.error is None
            for artifact in record.artifacts:
                await session.download(job.id, artifact, folder / artifact.name)


@pytest.fixture(scope="session", params=[(1, 2, 3), (3, 1, 2)], ids=["stored as ZYX", "stored as YXZ"])
def finished(request, host, tmp_path_factory):
    """A folder with the artifacts of a job, and the tomogram."""
    folder = tmp_path_factory.mktemp("finished")
    write_tomogram(folder / "tomogram.mrc", request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYOMAMBA_DATA_DIR", str(host.settings.data_dir))
        trio.run(_run, host, folder / "tomogram.mrc", folder)
    return folder


@pytest.fixture
def job(finished, tmp_path) -> Path:
    """A copy of the folder of a finished job."""
    return Path(shutil.copytree(finished, tmp_path / "job"))


@pytest.fixture
def jobs_mask(host, job):
    """The mask of a finished job, open."""
    with open_mask(host, job / "mask.mrc") as mask:
        yield mask
