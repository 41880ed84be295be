"""Damaged headers by the thousand, in a process that may not grow: each file is read, or refused in our own words.

The test runs this file as a program: a process whose memory is limited cannot be the one that tests.
"""

import gzip
import json
import resource
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import mrcfile
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryomamba_backends.formats.mrc.reader import MrcReader
from cryomamba_backends.formats.nifti.reader import NiftiReader
from cryomamba_backends.formats.nrrd.reader import NrrdReader
from cryomamba_core.errors import InputError, StorageError
from cryomamba_core.interfaces.readers import FIRST_BYTES

#: By how much the process may grow.
GROWTH = 128 << 20
EXAMPLES = 1500
SHAPE = (6, 5, 4)
#: Numbers that header fields are set to.
NUMBERS = [0, 1, -1, 2, 77, 127, 128, 255, 352, 1024, 65535, 1 << 20, 2**31 - 1, -(2**31)]
FLOATS = [0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf")]
#: Where MRC has its cell and NIfTI its voxel sizes: floats that are hit too rarely by chance.
LENGTHS = [40, 44, 48, 80, 84, 88]
#: What a line of an NRRD header is replaced by.
LINES = [
    b"sizes: 0 0 0",
    b"sizes: 99999999999999999999 4 4",
    b"sizes: -4 5 6",
    b"sizes: 4 5",
    b"dimension: 3000000000",
    b"type: block",
    b"encoding: bzip2",
    b"encoding: gzip",
    b"space directions: (nan,0,0) (0,inf,0) (0,0,1e400)",
    b"space directions: none none none",
    b"data file: /etc/passwd",
    b"datafile: LIST",
    b"line skip: 99999999999999",
    b"byte skip: -1",
    b"endian: middle",
    b"kinds: " + b"x" * 5000,
    b"\xff\xfe: \x00",
    b"",
]


def examples(folder):
    """Name → bytes of a good file; those called "channels" hold two."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    with mrcfile.new(folder / "a.mrc") as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1e-6, 1e-6, 1e-6, 1.0])), folder / "a.nii")
    nifti = (folder / "a.nii").read_bytes()
    both = np.stack([voxels, voxels + 1])
    mrcfile.write(folder / "both.mrc", both, voxel_size=10.0)
    nibabel.save(nibabel.Nifti1Image(both.T, np.diag([1e-6, 1e-6, 1e-6, 1.0])), folder / "both.nii")
    head = (
        "NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 5 6\nencoding: raw\nendian: little\n"
        "space: left-posterior-superior\nspace directions: (1e-6,0,0) (0,1e-6,0) (0,0,1e-6)\nspace origin: (0,0,0)\n\n"
    )
    return {
        ".mrc": (folder / "a.mrc").read_bytes(),
        ".nii": nifti,
        ".nii.gz": gzip.compress(nifti, mtime=0),
        ".nrrd": head.encode() + voxels.tobytes(),
        "channels.mrc": (folder / "both.mrc").read_bytes(),
        "channels.nii": (folder / "both.nii").read_bytes(),
        "channels.nrrd": head.replace("dimension: 3", "dimension: 4")
        .replace("sizes: 4 5 6", "sizes: 4 5 6 2")
        .replace("(0,0,1e-6)\n", "(0,0,1e-6) none\n")
        .encode()
        + both.tobytes(),
    }


@st.composite
def damaged(draw, good, suffix):
    """A file with a few fields of its header replaced, perhaps cut short or made longer."""
    data = bytearray(gzip.decompress(good) if suffix == ".nii.gz" else good)
    for _ in range(draw(st.integers(0, 4))):
        if suffix == ".nrrd" and draw(st.booleans()):
            lines = bytes(data).split(b"\n")
            lines[draw(st.integers(0, min(9, len(lines) - 1)))] = draw(st.sampled_from(LINES))
            data = bytearray(b"\n".join(lines))
            continue
        width = draw(st.sampled_from([1, 2, 4]))
        anywhere = st.integers(0, min(len(data), 400) // width - 1).map(lambda place, w=width: place * w)
        start = draw(anywhere if suffix == ".nrrd" else st.one_of(anywhere, anywhere, st.sampled_from(LENGTHS)))
        field = draw(
            st.one_of(
                st.binary(min_size=width, max_size=width),
                st.sampled_from(NUMBERS).map(lambda n, w=width: (n % (1 << 8 * w)).to_bytes(w, "little")),
                st.sampled_from(FLOATS).map(lambda f, w=width: struct.pack("<f", f)[:w]),
            )
        )
        data[start : start + width] = field
    kept = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    data = data[:kept] + draw(st.sampled_from([b"", b"", b"\0", b"x" * 100]))
    if suffix == ".nii.gz":
        packed = gzip.compress(bytes(data), mtime=0)
        return packed[: draw(st.one_of(st.just(len(packed)), st.integers(0, len(packed))))]
    return bytes(data)


def read_all(reader, path, data):
    """Do with a file what a server and a job do."""
    path.write_bytes(data)
    reader.can_read(path, data[:FIRST_BYTES])
    read = 0
    with suppress(InputError, StorageError):
        reader.validate(data[:FIRST_BYTES], len(data))
        with reader.open(path) as volume:
            for channel in volume.channels:
                for region in channel.grid.whole.slabs(2):
                    read += channel.read(region).nbytes
    with suppress(InputError, StorageError), reader.open(path, voxel_size=(10.0, 10.0, 10.0)) as volume:
        json.dumps(volume.metadata, allow_nan=False)
    return read


def fuzz(name, folder):
    """Read damaged files of a kind, once memory is limited."""
    good, suffix = examples(folder)[name], name[name.index(".") :]
    reader = {".mrc": MrcReader, ".nrrd": NrrdReader}.get(suffix, NiftiReader)()
    path = folder / f"damaged{suffix}"
    assert read_all(reader, path, good) > 0  # and everything is imported
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes = [0, 0]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(good, suffix))
    def read(data):
        outcomes[read_all(reader, path, data) > 0] += 1

    read()
    print(*outcomes)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory cannot be limited here")
@pytest.mark.parametrize("name", [".mrc", ".nii", ".nii.gz", ".nrrd", "channels.mrc", "channels.nii", "channels.nrrd"])
def test_a_damaged_file_is_read_or_refused_in_little_memory(name, tmp_path):
    command = [sys.executable, __file__, name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    refused, read = map(int, done.stdout.split())
    assert min(refused, read) > EXAMPLES // 50, "both must be tried; nearly any byte spoils a header of text"


if __name__ == "__main__":
    fuzz(sys.argv[1], Path(tempfile.mkdtemp(dir=sys.argv[2])))
