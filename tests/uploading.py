"""Tomograms as bytes, and their parts, for tests of uploads."""

import base64
import hashlib
import tempfile
from contextlib import aclosing, asynccontextmanager
from functools import cache
from pathlib import Path

import engines
import mrcfile
import numpy as np

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_backends.formats.mrc import plugin as mrc
from cryomamba_backends.formats.nifti import plugin as nifti
from cryomamba_backends.formats.nrrd import plugin as nrrd
from cryomamba_core.protocol.uploads import UploadRequest
from cryomamba_server.engine.engine import open_engine
from cryomamba_server.engine.upload_rules import UploadRules

#: Bytes of a part in these tests.
PART = 4096


@cache  # mrcfile writes the time into it
def mrc_bytes(seed=0, shape=(4, 40, 50)):
    """An MRC file of random voxels, as mrcfile writes it; its last part is a short one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mrc"
        with mrcfile.new(path) as file:
            file.set_data(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
            file.voxel_size = 10.0
        return path.read_bytes()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def digest(data):
    """The value of ``Content-Digest``."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def split(data, size=PART):
    """The parts of a file."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def request(data, filename="a.mrc", **values):
    """What a client says of a file first."""
    return UploadRequest(filename=filename, size=len(data), **values)


async def pieces(data, size=1000):
    """A body as it arrives."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def send(uploads, status, data, indices=None, *, owner="ada"):
    """Send parts, all by default, one after the other."""
    parts = split(data, status.part_size)
    for index in range(len(parts)) if indices is None else indices:
        await send_part(uploads, status, index, parts[index], owner=owner)


async def send_part(uploads, status, index, part, *, owner="ada", said=None):
    """Send one part, with the digest of `said` in the place of its own."""
    async with aclosing(pieces(part)) as body:
        return await uploads.receive(
            status.upload_id,
            index,
            owner=owner,
            length=len(part),
            sha256=sha256(part if said is None else said),
            body=body,
        )


@asynccontextmanager
async def opened(settings, **rules):
    """An engine that takes small parts."""
    upload_rules = UploadRules(**{"part_size": PART, **rules})
    host = engines.make_host(settings, mrc, nifti, nrrd)
    async with open_engine(host, settings, upload_rules=upload_rules) as engine:
        yield engine


def stored(settings):
    """Keys of what is in the storage, and how many files are unfinished there."""
    storage = FilesystemStorage(settings.data_dir)
    return [info.key for info in storage.list("raw/")], len(list((settings.data_dir / "raw" / "+partial").iterdir()))


async def complete(uploads, data=None, *, owner="ada", **values):
    """Send a whole file, `mrc_bytes` by default."""
    data = mrc_bytes() if data is None else data
    status = await uploads.begin(request(data, **values), owner=owner)
    await send(uploads, status, data, owner=owner)
    return await uploads.complete(status.upload_id, owner=owner)
