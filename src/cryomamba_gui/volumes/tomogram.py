"""A tomogram that is open in a window."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from psygnal import Signal

from cryomamba_core.errors import CryoMambaError, MissingFile, SourceChanged
from cryomamba_core.geometry import Vector3, VoxelGrid
from cryomamba_core.interfaces.readers import VolumeReader
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import HeaderWarning
from cryomamba_gui.volumes.coarse import CoarseVolume, coarse_factor
from cryomamba_gui.volumes.contrast import Contrast, histogram_edges, sample_contrast
from cryomamba_gui.volumes.overview import Overview
from cryomamba_gui.volumes.overview_cache import OverviewCache, default_overview_folder, overview_key
from cryomamba_gui.volumes.planes import PlaneStore
from cryomamba_gui.volumes.shared import SharedVolume
from cryomamba_gui.volumes.surveying import survey


class Tomogram:
    """A file's header, a sample of its grey values, its planes and, after a while, an overview of it.

    Made by `open`. `close` ends its thread and gives back its files.

    Attributes
    ----------
    surveyed
        Emitted with the `Overview` **by the thread that called** `survey`.
    path
        The file.
    size
        Of the file, in bytes.
    reader
        Name of the reader, e.g. ``mrc``.
    planes
        The voxels, for napari.
    overview
        None until `survey` has ended.
    """

    surveyed = Signal(Overview)

    def __init__(
        self,
        *,
        path: Path,
        reader: VolumeReader,
        voxel_size: Vector3 | None,
        status: os.stat_result,
        volume: SharedVolume,
        contrast: Contrast,
        cache: OverviewCache,
    ) -> None:
        self.path = path
        self.size: int = status.st_size
        self.reader: str = reader.name
        self.planes = PlaneStore(volume, fill=contrast.middle, on_read=self._require_unchanged)
        self.overview: Overview | None = None
        self._open_again: Callable[[], SharedVolume] = lambda: SharedVolume(reader.open(path, voxel_size=voxel_size))
        self._status = status
        self._volume = volume
        self._contrast = contrast
        self._cache = cache
        self._closed = False

    @classmethod
    def open(
        cls,
        host: PluginHost,
        path: Path,
        *,
        voxel_size: Vector3 | None = None,
        cache: OverviewCache | None = None,
    ) -> Self:
        """Open a tomogram: its header, a few sections and the middle one are read. Blocks; for a thread.

        Parameters
        ----------
        host
            Knows the readers.
        path
            The file.
        voxel_size
            Voxel size (z, y, x) in Å to use instead of the header's.
        cache
            Where overviews are kept; None for the user's own.

        Raises
        ------
        InputError
            If there is no such file, no reader takes it, or it cannot be right.
        """
        reader = host.reader_for(path)
        status = path.stat()
        volume = SharedVolume(reader.open(path, voxel_size=voxel_size))
        try:
            tomogram = cls(
                path=path,
                reader=reader,
                voxel_size=voxel_size,
                status=status,
                volume=volume,
                contrast=sample_contrast(volume),
                cache=cache or OverviewCache(default_overview_folder()),
            )
            tomogram.planes.read_now(0, (volume.grid.shape[0] - 1) // 2)
        except BaseException as error:
            volume.close()
            if isinstance(error, OSError) and not isinstance(error, CryoMambaError):
                raise MissingFile(
                    f"{path} cannot be read: {error.strerror or error}", hint="check that its disk is still there"
                ) from error
            raise
        return tomogram

    @property
    def grid(self) -> VoxelGrid:
        """Shape, voxel size and place."""
        return self._volume.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels, in native byte order."""
        return self._volume.dtype

    @property
    def warnings(self) -> tuple[HeaderWarning, ...]:
        """What looks wrong in the header."""
        return self._volume.warnings

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What exporters of the same format need; JSON types only."""
        return self._volume.metadata

    @property
    def contrast(self) -> tuple[float, float]:
        """Grey values to show black and white: the 0.5th and 99.5th percentile of a sample."""
        return self._contrast.limits

    @property
    def contrast_range(self) -> tuple[float, float]:
        """What the contrast can sensibly be moved in."""
        return self._contrast.range

    def survey(self, on_progress: Callable[[int, int], None], cancelled: Callable[[], bool]) -> Overview | None:
        """Load the overview, or read the whole file once to make it. Blocks, for minutes; for a thread.

        While it goes on, `planes` shows coarse what is there. Sets `overview` and emits `surveyed`.

        Parameters
        ----------
        on_progress
            Called with the number of sections that are done and that there are.
        cancelled
            Asked several times a second; `close` cancels too.

        Returns
        -------
        overview
            None if it was cancelled.

        Raises
        ------
        InputError, OSError
            If the file cannot be read.
        """
        key = overview_key(self.path, self._status, self._reading)
        overview = self._cache.load(key, self.grid)
        if overview is None:
            overview = self._make_overview(on_progress, cancelled)
            if overview is None:
                return None
            if self._unchanged:
                self._cache.save(key, overview)
        self.planes.use(
            CoarseVolume(fine=self.grid, factor=overview.factor, voxels=overview.voxels, fill=self._contrast.middle)
        )
        self.overview = overview
        self.surveyed.emit(overview)
        return overview

    def close(self) -> None:
        """End the reading thread and the survey, and give back the file; may be called twice."""
        self._closed = True
        self.planes.close()
        self._volume.close()

    @property
    def _reading(self) -> dict[str, str]:
        grid = self.grid
        return {
            "reader": self.reader,
            "dtype": self.dtype.name,
            "shape": str(grid.shape),
            "stored axes": str(grid.stored_axes),
            "factor": str(coarse_factor(grid.shape)),
        }

    def _make_overview(self, on_progress: Callable[[int, int], None], cancelled: Callable[[], bool]) -> Overview | None:
        def stopped() -> bool:
            return self._closed or cancelled()

        coarse = CoarseVolume.blank(self.grid, coarse_factor(self.grid.shape), self._contrast.middle)
        self.planes.use(coarse)
        volume = self._volume if self._packed else self._open_again()
        try:
            return survey(
                volume,
                coarse,
                edges=histogram_edges(self._contrast, self.dtype),
                on_progress=on_progress,
                cancelled=stopped,
            )
        except Exception:
            if self._closed:
                return None
            raise
        finally:
            if volume is not self._volume:
                volume.close()

    @property
    def _packed(self) -> bool:
        """Whether the file is smaller than its voxels: opening it again could mean to unpack it again."""
        return self.size < self.grid.voxels * self.dtype.itemsize

    @property
    def _unchanged(self) -> bool:
        """Whether the file at the path is still the one that was opened."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self._status.st_size, self._status.st_mtime_ns)

    def _require_unchanged(self) -> None:
        """Raise if the file was written to; one that was moved or removed can still be read."""
        if self.path.exists() and not self._unchanged:
            raise SourceChanged(
                f"{self.path.name} was written to since it was opened",
                hint="open it again: what is shown may be a mixture of old and new",
            )
