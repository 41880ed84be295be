"""The previews of shards, put together to one of the whole volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, VoxelGrid, to_index
from cryomamba_core.previews import Preview, PreviewPolicy, preview_factor


class ShardPreviews:
    """Keeps the newest preview of each shard, of its own rows.

    Parameters
    ----------
    grid
        Grid of the source.
    axis
        Along which the shards lie.
    dtype
        Type of the labels.
    policy
        How the job is previewed.
    """

    def __init__(self, grid: VoxelGrid, axis: int, dtype: np.dtype[Any], policy: PreviewPolicy) -> None:
        self._axis = axis
        self._dtype = dtype
        self._factor = preview_factor(grid.shape, max(1, policy.max_voxels))
        self._grid = grid.coarsen(self._factor)
        self._pieces: dict[int, _Piece] = {}

    def take(self, number: int, rows: range, preview: Preview) -> None:
        """Take in the newest preview of a shard whose rows are `rows`."""
        picked = [slice(None)] * 3
        picked[self._axis] = slice(rows.start // self._factor, -(-rows.stop // self._factor))
        start, stop = list(preview.covered.start), list(preview.covered.stop)
        start[self._axis] = max(start[self._axis], rows.start)
        stop[self._axis] = min(stop[self._axis], rows.stop)
        if start[self._axis] < stop[self._axis]:
            covered = Region(start=to_index(start), stop=to_index(stop))
            labels = preview.labels()[tuple(picked)].copy()  # a view would keep all of the preview
            self._pieces[number] = _Piece(place=tuple(picked), labels=labels, covered=covered)

    def snapshot(self) -> Preview:
        """All of them; where two shards share a coarse voxel, the label of either goes before the background."""
        labels = np.zeros(self._grid.shape, self._dtype)
        for piece in self._pieces.values():
            np.copyto(labels[piece.place], piece.labels, where=piece.labels != 0)
        regions = [piece.covered for piece in self._pieces.values()] or [Region(start=(0, 0, 0), stop=(0, 0, 0))]
        return Preview.pack(
            labels,
            sequence=1,
            factor=self._factor,
            grid=self._grid,
            covered=Region(
                start=to_index(min(region.start[axis] for region in regions) for axis in range(3)),
                stop=to_index(max(region.stop[axis] for region in regions) for axis in range(3)),
            ),
            provisional=True,
        )


@frozen(kw_only=True, eq=False)
class _Piece:
    place: tuple[slice, ...]
    labels: NDArray[Any]
    covered: Region
