"""A volume in memory, for tests of runners and exporters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryomamba_core.geometry import Region, Vector3, VoxelGrid
from cryomamba_core.volumes import Volume


class ArrayVolume(Volume):
    """An array as a volume; keeps account of what was read.

    Parameters
    ----------
    array
        ZYX voxels, or several channels of them, CZYX. They are not copied.
    grid
        Where they lie, of the array's shape; None for one made of the next two.
    voxel_size
        Voxel size (z, y, x) in Å.
    origin
        Position of the centre of voxel 0 (z, y, x) in Å.

    Attributes
    ----------
    reads
        Every region that was read, in order.
    closed
        Whether `close` was called.
    """

    def __init__(
        self,
        array: ArrayLike,
        *,
        grid: VoxelGrid | None = None,
        voxel_size: Vector3 = (10.0, 10.0, 10.0),
        origin: Vector3 = (0.0, 0.0, 0.0),
    ) -> None:
        given = np.asarray(array)
        if given.ndim not in (3, 4):
            raise ValueError(f"a volume has three axes, or four with that of its channels, not {given.ndim}")
        channels = given if given.ndim == 4 else given[None]
        self._array: NDArray[Any] = channels[0]
        z, y, x = self._array.shape
        self._grid = grid or VoxelGrid(shape=(z, y, x), voxel_size=voxel_size, origin=origin)
        if self._grid.shape != (z, y, x):
            raise ValueError(f"an array of shape {(z, y, x)} does not fill a grid of shape {self._grid.shape}")
        self.reads: list[Region] = []
        self.closed: bool = False
        self._further = tuple(ArrayVolume(channel, grid=self._grid) for channel in channels[1:])

    @property
    def grid(self) -> VoxelGrid:
        """Shape, voxel size and place of the volume."""
        return self._grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels, in native byte order."""
        return self._array.dtype.newbyteorder("=")

    @property
    def channels(self) -> tuple[Volume, ...]:
        """A volume for each channel."""
        return self, *self._further

    def read(self, region: Region) -> NDArray[Any]:
        """A copy of the voxels of `region`; raises ValueError outside the grid."""
        if not self._grid.whole.contains(region):
            raise ValueError(f"region {region.start} to {region.stop} lies outside shape {self._grid.shape}")
        self.reads.append(region)
        return np.array(self._array[region.slices], self.dtype, order="C")

    def close(self) -> None:
        """Note that the volume was closed."""
        self.closed = True
