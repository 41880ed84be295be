"""What one pass over a tomogram tells: a coarse volume, statistics and a histogram."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.volumes import IntensityStatistics


@frozen(kw_only=True, eq=False)
class Overview:
    """A whole tomogram, small enough for memory.

    Attributes
    ----------
    factor
        Edge in voxels of the cubes that became one voxel; 1 for a small tomogram.
    grid
        Of `voxels`: the tomogram's, coarsened by the factor.
    voxels
        ZYX means of the finite voxels of each cube, float32, read-only.
    statistics
        Of all finite voxels; of NaN where there are none.
    histogram
        How many voxels are in each of 256 bins; those beyond the first and the last edge are counted in
        the outermost bins. int64.
    edges
        Of the bins, ascending; 257.
    not_finite
        How many voxels are NaN or infinite.
    """

    factor: int
    grid: VoxelGrid
    voxels: NDArray[np.float32]
    statistics: IntensityStatistics
    histogram: NDArray[np.int64]
    edges: NDArray[np.float64]
    not_finite: int
