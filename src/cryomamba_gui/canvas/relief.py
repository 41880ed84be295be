"""A mask that is too large for 3D, made coarse."""

from __future__ import annotations

from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from cryomamba_core.geometry import slab_depth
from cryomamba_core.label_file import LabelArray
from cryomamba_core.previews import PreviewPolicy, coarsen_labels, preview_factor

#: Masks of more voxels are not shown in 3D as they are: all of it would go to the graphics card.
LARGE = 64 << 20
#: Voxels that are coarsened at a time.
SLAB_VOXELS = 4 << 20


def relief_factor(shape: tuple[int, int, int]) -> int:
    """Fine voxels for each coarse voxel that bring a mask of `shape` (z, y, x) to the size of a preview."""
    return preview_factor(shape, PreviewPolicy().max_voxels)


async def make_relief(mask: LabelArray, factor: int) -> NDArray[Any]:
    """Coarsen a mask in a thread, slab by slab; a cancel ends it after the slab at hand.

    Parameters
    ----------
    mask
        ZYX labels.
    factor
        Fine voxels for each coarse voxel, on every axis.

    Returns
    -------
    coarse
        ZYX labels on `VoxelGrid.coarsen` of the mask's grid.
    """
    return await trio.to_thread.run_sync(_coarsen, mask, factor)


def _coarsen(mask: LabelArray, factor: int) -> NDArray[Any]:
    z, y, x = mask.shape
    shape = tuple(-(-size // factor) for size in (z, y, x))
    coarse = np.zeros(shape, mask.dtype)
    depth = max(1, slab_depth((z, y, x), voxels=SLAB_VOXELS) // factor) * factor
    for start in range(0, z, depth):
        trio.from_thread.check_cancelled()
        slab = coarsen_labels(mask[start : start + depth], factor)
        coarse[start // factor : start // factor + len(slab)] = slab
    return coarse
