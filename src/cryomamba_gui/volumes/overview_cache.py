"""Overviews on disk, so that a tomogram is surveyed once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from cryomamba_core.durable import PARTIAL, replacing
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_gui.volumes.overview import Overview

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of all overviews together; beyond, those that were not used for the longest time go.
MOST_BYTES = 2 << 30

#: Seconds after which a file that was not finished is nobody's.
ABANDONED = 3600.0

#: Changes with what is written.
FORMAT = 1

_SUFFIX = ".npz"


def default_overview_folder() -> Path:
    """The platform's folder for what can be made again."""
    return Path(platformdirs.user_cache_dir("cryomamba", appauthor=False)) / "overviews"


def overview_key(path: Path, status: os.stat_result, reading: dict[str, str]) -> str:
    """The name of a tomogram's overview.

    Parameters
    ----------
    path
        The file; links are followed.
    status
        Its size and time of change count.
    reading
        How its voxels were read: whatever else makes them others.
    """
    parts = [FORMAT, str(path.resolve()), status.st_size, status.st_mtime_ns, reading]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class OverviewCache:
    """A folder of overviews. What is wrong with it is logged and goes no further.

    Parameters
    ----------
    folder
        Made when there is something to keep; readable by its owner only.
    most_bytes
        Of all overviews together.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def load(self, key: str, fine: VoxelGrid) -> Overview | None:
        """The overview of a tomogram on grid `fine`; None if there is none that is whole."""
        path = self._path(key)
        try:
            overview = _read(path, fine)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the overview %s cannot be read: %s", path, error)
            return None
        except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("the overview %s is damaged and left out: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return overview

    def save(self, key: str, overview: Overview) -> None:
        """Keep an overview, and make room for it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(self._path(key)) as partial:
                _write(partial, overview)
            self._tidy()
        except OSError as error:
            log.warning("an overview could not be kept in %s: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _tidy(self) -> None:
        oldest = time.time() - ABANDONED
        left = self._most_bytes
        found = [(path.stat(), path) for path in self._folder.iterdir()]
        for status, path in sorted(found, key=lambda entry: entry[0].st_mtime_ns, reverse=True):
            if path.name.endswith(PARTIAL):
                if status.st_mtime < oldest:
                    path.unlink(missing_ok=True)
            elif path.suffix == _SUFFIX:
                left -= status.st_size
                if left < 0:
                    path.unlink(missing_ok=True)


def _write(path: Path, overview: Overview) -> None:
    grey = overview.statistics
    with path.open("wb") as stream:
        np.savez(
            stream,
            factor=np.int64(overview.factor),
            voxels=overview.voxels,
            statistics=np.array([grey.minimum, grey.maximum, grey.mean, grey.standard_deviation]),
            histogram=overview.histogram,
            edges=overview.edges,
            not_finite=np.int64(overview.not_finite),
        )


def _read(path: Path, fine: VoxelGrid) -> Overview:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
        factor = int(kept["factor"])
        minimum, maximum, mean, deviation = (float(value) for value in kept["statistics"])
        voxels, histogram, edges = kept["voxels"], kept["histogram"], kept["edges"]
        not_finite = int(kept["not_finite"])
    grid = fine.coarsen(factor)
    if voxels.shape != grid.shape or voxels.dtype != np.float32 or edges.shape != (histogram.size + 1,):
        raise ValueError("it is of another shape than the tomogram")
    voxels.flags.writeable = False
    return Overview(
        factor=factor,
        grid=grid,
        voxels=voxels,
        statistics=IntensityStatistics(minimum=minimum, maximum=maximum, mean=mean, standard_deviation=deviation),
        histogram=histogram,
        edges=edges,
        not_finite=not_finite,
    )
