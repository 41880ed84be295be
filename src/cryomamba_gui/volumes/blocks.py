"""How planes of a file are read: which together, and in which pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attrs import frozen

from cryomamba_core.geometry import Index3, Region, VoxelGrid

#: Neighbouring planes that are read together, by the place of their axis in the file's order. Across sections
#: a plane lies in one piece. Across rows it is a row of each section: a seek costs more than a few rows. Across
#: columns it is a voxel of each row, and readers pass over whole rows: more planes cost next to nothing.
TOGETHER = (1, 4, 32)

#: But never more than fit in so many bytes, unless a single plane does not.
BLOCK_BYTES = 64 << 20

#: A piece passes over about so many bytes of the file: between pieces, a reader can change its mind.
PIECE_BYTES = 16 << 20

#: And over so many sections where each costs a seek.
PIECE_SEEKS = 64


@frozen(kw_only=True)
class Block:
    """Neighbouring planes that are read together.

    Attributes
    ----------
    axis
        Which they are perpendicular to, by its place in ZYX.
    first, stop
        Indices of the first plane and of the one behind the last.
    """

    axis: int
    first: int
    stop: int

    def holds(self, axis: int, index: int) -> bool:
        """Whether a plane is one of these."""
        return axis == self.axis and self.first <= index < self.stop


class Blocks:
    """The blocks of a volume.

    Parameters
    ----------
    grid
        Of the volume.
    itemsize
        Bytes of a voxel.
    """

    def __init__(self, grid: VoxelGrid, itemsize: int) -> None:
        self._grid = grid
        self._itemsize = itemsize

    def plane_shape(self, axis: int) -> tuple[int, int]:
        """Shape of a plane across `axis`, its axes in the order of ZYX."""
        rows, columns = (size for other, size in enumerate(self._grid.shape) if other != axis)
        return rows, columns

    def block_of(self, axis: int, index: int) -> Block:
        """The block that holds a plane."""
        wish = TOGETHER[self._grid.stored_axes.index(axis)]
        depth = max(1, min(wish, BLOCK_BYTES // (math.prod(self.plane_shape(axis)) * self._itemsize)))
        first = index // depth * depth
        return Block(axis=axis, first=first, stop=min(first + depth, self._grid.shape[axis]))

    def region(self, block: Block) -> Region:
        """The voxels of a block."""
        start, stop = [0, 0, 0], list(self._grid.shape)
        start[block.axis], stop[block.axis] = block.first, block.stop
        return Region(start=start, stop=stop)

    def pieces(self, region: Region) -> Iterator[Region]:
        """A region in the pieces in which to read it, in the order of the file."""
        axes = self._grid.stored_axes
        shape = region.shape
        split = axes[0] if shape[axes[0]] > 1 else axes[1]
        step = max(1, PIECE_BYTES // max(1, self._passed(shape, split)))
        if shape[axes[1]] < self._grid.shape[axes[1]]:
            step = min(step, PIECE_SEEKS)
        for first in range(region.start[split], region.stop[split], step):
            start, stop = list(region.start), list(region.stop)
            start[split], stop[split] = first, min(first + step, region.stop[split])
            yield Region(start=start, stop=stop)

    def _passed(self, shape: Index3, split: int) -> int:
        """Bytes of the file that a slice of a region across `split` passes over; whole rows, as they may be read so."""
        axes = self._grid.stored_axes
        row = self._grid.shape[axes[2]] * self._itemsize
        return row if split == axes[1] else row * shape[axes[1]]
