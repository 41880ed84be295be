"""Files to send, and what this computer needs to copy one."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

MIB = 1 << 20
HEADER = 1024
#: Bytes 224 to 303 of an MRC file are its first label, where anything may stand.
LABEL = 224


def make_tomogram(path: Path, mib: int, *, sparse: bool = False) -> Path:
    """An MRC file of int8 voxels, its size in MiB but for the header; of noise, or full of holes that read as 0."""
    make_header(path, (mib, 1024, 1024))
    with path.open("r+b") as stream:
        stream.seek(HEADER)
        if sparse:
            stream.truncate(HEADER + mib * MIB)
        else:
            noise = os.urandom(16 * MIB)
            for done in range(0, mib, 16):
                stream.write(noise[: min(16, mib - done) * MIB])
    return path


def make_header(path: Path, shape: tuple[int, int, int]) -> None:
    """The header of an MRC file of int8 voxels, and nothing else."""
    with mrcfile.new_mmap(path, shape, mrc_mode=0, overwrite=True) as mrc:
        mrc.voxel_size = 10.0
    os.truncate(path, HEADER)


def make_volume(path: Path, voxels: NDArray[np.int8]) -> Path:
    """An MRC file of given voxels, ZYX."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(voxels)
        mrc.voxel_size = 10.0
    return path


def make_new(path: Path, name: str) -> None:
    """Change a tomogram's label, so that no server knows its content."""
    with path.open("r+b") as stream:
        stream.seek(LABEL)
        stream.write(name.encode().ljust(80))


def warm_up(folder: Path, mib: int) -> None:
    """Have the system's memory for files used once, so that it comes quickly."""
    path, piece = folder / "warm", bytes(16 * MIB)
    with path.open("wb") as stream:
        for _ in range(0, mib, 16):
            stream.write(piece)
    path.unlink()


def copy_rate(paths: list[Path], target: Path) -> float:
    """MB/s at which one thread copies files and hashes them on the way."""
    started, done = time.perf_counter(), 0
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as source, target.open("wb") as copy:
            while piece := source.read(MIB):
                digest.update(piece)
                copy.write(piece)
        done += path.stat().st_size
    rate = done / (time.perf_counter() - started) / 1e6
    target.unlink()
    return rate
