"""A companion of a job's labels in the file that the job made, read as it is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import trio
from numpy.typing import NDArray

from cryomamba_core.companions import DTYPE, Companion, binned_sums, rounded_means
from cryomamba_core.errors import InputError, UnsupportedFile
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth
from cryomamba_core.plugins import PluginHost
from cryomamba_core.volumes import Volume
from cryomamba_gui.masks.disk import told_as_storage
from cryomamba_gui.volumes.coarse import coarse_factor
from cryomamba_gui.volumes.planes import PlaneStore
from cryomamba_gui.volumes.shared import SharedVolume

#: Voxels that are made coarse at a time.
SLAB_VOXELS = 4 << 20


class CompanionFile:
    """A companion that is open in a window: sections for 2D, and all of it, coarse where it is large, for 3D.

    Made by `open`. `close` ends its thread and gives back the file.

    Attributes
    ----------
    companion
        What it is.
    grid
        Where its voxels are.
    planes
        Its voxels for napari, uint8.
    """

    def __init__(self, companion: Companion, volume: Volume, grid: VoxelGrid) -> None:
        self.companion = companion
        self.grid = grid
        self._volume = SharedVolume(volume)
        self.planes = PlaneStore(self._volume)

    @classmethod
    def open(cls, host: PluginHost, path: Path, companion: Companion, source: VoxelGrid) -> Self:
        """Open the file of a companion; blocks.

        Parameters
        ----------
        host
            Its readers open the file.
        path
            Under the name that the job gave it.
        companion
            What the job says of it.
        source
            Grid of the tomogram, and so of the mask.

        Raises
        ------
        InputError
            If it cannot be read, or does not lie on the tomogram voxel by voxel, or bin by bin.
        """
        grid = source.coarsen(companion.binning)
        volume = host.reader_for(path).open(path, voxel_size=grid.voxel_size)
        if volume.grid.shape != grid.shape:
            volume.close()
            raise InputError(
                f"the {companion.name} has {volume.grid.shape} voxels (z, y, x) and should have {grid.shape}",
                hint="remove what is kept of the job here, and show it again: this file is of another one",
            )
        return cls(companion, _Bytes(volume, path), grid)

    async def whole(self) -> tuple[NDArray[np.uint8], VoxelGrid]:
        """All of it in a size that can be turned in 3D, and its grid; a thread reads, and a cancel ends it soon.

        Raises
        ------
        CryoMambaError
            If it cannot be read.
        """
        factor = coarse_factor(self.grid.shape)
        means = await trio.to_thread.run_sync(_means, self._volume, factor)
        return means, self.grid.coarsen(factor)

    def close(self) -> None:
        """End the reading thread, and give back the file; may be called twice."""
        self.planes.close()
        self._volume.close()


class _Bytes(Volume):
    """A file of numbers from 0 to 255, of whatever type, as bytes."""

    def __init__(self, volume: Volume, path: Path) -> None:
        self._volume = volume
        self._path = path

    @property
    def grid(self) -> VoxelGrid:
        return self._volume.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPE

    def read(self, region: Region) -> NDArray[np.uint8]:
        with told_as_storage(f"{self._path.name} cannot be read"):
            voxels = self._volume.read(region)
        with np.errstate(invalid="ignore"):
            values = voxels.astype(DTYPE)
        wrong = values != voxels
        if wrong.any():
            raise UnsupportedFile(
                f"{self._path.name} holds {voxels[wrong][0]:g}",
                hint="what comes with labels is whole numbers from 0 to 255: this file is something else",
            )
        return values

    def close(self) -> None:
        self._volume.close()


def _means(volume: Volume, factor: int) -> NDArray[np.uint8]:
    """Means of cubes of voxels, slab by slab."""
    shape = volume.grid.shape
    means = np.empty(volume.grid.coarsen(factor).shape, DTYPE)
    depth = max(1, slab_depth(shape, voxels=SLAB_VOXELS) // factor) * factor
    for slab in volume.grid.whole.slabs(depth):
        trio.from_thread.check_cancelled()
        values = volume.read(slab)
        first = slab.start[0] // factor
        coarse = values if factor == 1 else rounded_means(*binned_sums(values, factor))
        means[first : first + len(coarse)] = coarse
    return means
