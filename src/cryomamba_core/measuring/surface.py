"""Surface area from crossings of lattice lines, by the Crofton formula.

A line through a body enters and leaves it at its surface, so that counting the changes between
neighbouring voxels along many directions measures the surface. In contrast to the triangles of marching
cubes on a binary mask, which overestimate the area of a sphere by 9 %, the estimate is unbiased for a
surface without a preferred direction; a flat wall that follows an axis comes out 8 % too small.

Sources: D. Legland, K. Kiêu, M.-F. Devaux, "Computation of Minkowski measures on 2D and 3D binary images",
Image Analysis and Stereology 26 (2007) 83–92, for 13 directions and their weights by Voronoi cells on the
sphere; G. Lehmann, D. Legland, "Efficient N-dimensional surface estimation using Crofton formula and
run-length encoding", Insight Journal (2012), for anisotropic voxels.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import Index3, Vector3

#: One of each pair of opposite directions to the 26 neighbours of a voxel (z, y, x); none points to −z.
DIRECTIONS: tuple[Index3, ...] = tuple(
    direction for direction in itertools.product((0, 1), (-1, 0, 1), (-1, 0, 1)) if direction > (0, 0, 0)
)


def crossing_areas(voxel_size: Vector3) -> NDArray[np.float64]:
    """The surface area in Å² that one change between neighbours stands for, for each of `DIRECTIONS`.

    Parameters
    ----------
    voxel_size
        (z, y, x) in Å.
    """
    from scipy.spatial import SphericalVoronoi

    steps = np.array(DIRECTIONS) * np.array(voxel_size)
    lengths = np.linalg.norm(steps, axis=1)
    units = steps / lengths[:, None]
    cells = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
    weights = cells[: len(DIRECTIONS)] / (2 * math.pi)
    areas: NDArray[np.float64] = 2 * weights * math.prod(voxel_size) / lengths
    return areas


def count_crossings(mask: NDArray[np.bool_], *, overlap: int) -> NDArray[np.int64]:
    """Count the changes between neighbours along each of `DIRECTIONS`.

    Parameters
    ----------
    mask
        ZYX piece of a body.
    overlap
        How many of its first sections (0 or 1) belong to the piece before: changes within them are
        left out, changes from them to the next section are counted.

    Returns
    -------
    counts
        One number for each direction.
    """
    own = mask[overlap:]
    counts = [_changes(mask, direction) if direction[0] else _changes(own, direction) for direction in DIRECTIONS]
    return np.array(counts, np.int64)


def _changes(mask: NDArray[np.bool_], direction: Index3) -> int:
    here = tuple(slice(max(0, -step), size - max(0, step)) for step, size in zip(direction, mask.shape, strict=True))
    there = tuple(slice(max(0, step), size + min(0, step)) for step, size in zip(direction, mask.shape, strict=True))
    return int(np.count_nonzero(mask[here] != mask[there]))
