"""A coarse copy of a volume, as far as it has been made, and planes of it at full size."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cryomamba_core.geometry import Index3, Region, VoxelGrid, to_index

#: A coarse volume has at most so many voxels: 112 MiB, as much again on the graphics card.
MOST_VOXELS = 28 << 20

#: And at most so many along each axis: textures of software OpenGL are no larger.
LONGEST_AXIS = 1024


def coarse_factor(shape: Index3) -> int:
    """The smallest factor with which a volume of `shape` (z, y, x) is coarsened to a size that can be turned in 3D."""
    factor = max(1, max(-(-size // LONGEST_AXIS) for size in shape))
    while np.prod([-(-size // factor) for size in shape]) > MOST_VOXELS:
        factor += 1
    return factor


class CoarseVolume:
    """Means of cubes of voxels.

    Parameters
    ----------
    fine
        Grid of the volume.
    factor
        Edge of a cube in voxels.
    voxels
        ZYX means, float32, of the shape of ``fine.coarsen(factor)``.
    fill
        What a cube is whose mean is not known.

    Attributes
    ----------
    factor, voxels, fill
        As given.
    """

    def __init__(self, *, fine: VoxelGrid, factor: int, voxels: NDArray[np.float32], fill: float = 0.0) -> None:
        self._fine = fine
        self.factor = factor
        self.voxels = voxels
        self.fill = fill

    @classmethod
    def blank(cls, fine: VoxelGrid, factor: int, fill: float) -> Self:
        """One of which nothing is known: every voxel is `fill`."""
        return cls(fine=fine, factor=factor, voxels=np.full(fine.coarsen(factor).shape, fill, np.float32), fill=fill)

    def put(self, region: Region, means: NDArray[np.float32]) -> None:
        """Set the means of the cubes of `region`, whose start (z, y, x) is a multiple of the factor."""
        start = to_index(value // self.factor for value in region.start)
        self.voxels[tuple(slice(a, a + n) for a, n in zip(start, means.shape, strict=True))] = means

    def plane(self, axis: int, index: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A plane at full size: each voxel is the mean of its cube.

        Parameters
        ----------
        axis
            Which the plane is perpendicular to, by its place in ZYX.
        index
            Of the plane, in voxels of the volume.
        dtype
            Of the result; means are rounded and cut off to fit whole numbers.
        """
        height, width = (size for other, size in enumerate(self._fine.shape) if other != axis)
        small = as_dtype(np.take(self.voxels, index // self.factor, axis=axis), dtype)
        if self.factor == 1:
            return small
        wide = np.repeat(small, self.factor, axis=1)[:, :width]
        return np.repeat(wide, self.factor, axis=0)[:height]


def as_dtype(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Values rounded and cut off to fit a type of whole numbers; converted only, to fit another."""
    wanted = np.dtype(dtype)
    if wanted.kind in "iu":
        bounds = np.iinfo(wanted)
        values = np.clip(np.rint(values), bounds.min, bounds.max)
    with np.errstate(over="ignore"):
        return values.astype(wanted, copy=False)
