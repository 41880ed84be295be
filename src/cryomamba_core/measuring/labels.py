"""One pass over a label volume that measures every label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, Vector3, VoxelGrid, slab_depth, to_index
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import Label
from cryomamba_core.measures import LabelStatistics
from cryomamba_core.measuring.components import ComponentCounter
from cryomamba_core.measuring.surface import DIRECTIONS, count_crossings, crossing_areas

#: Å³ in a nm³ and Å² in a nm².
CUBIC, SQUARE = 1000.0, 100.0

#: Voxels of a slab: the numbered pieces of one take 4 bytes a voxel.
SLAB_VOXELS = 4 << 20


def measure_labels(
    labels: LabelArray,
    grid: VoxelGrid,
    names: Iterable[Label],
    *,
    on_slab: Callable[[int], None] | None = None,
) -> tuple[LabelStatistics, ...]:
    """Measure each label, slab by slab.

    Parameters
    ----------
    labels
        ZYX, of the grid's shape.
    grid
        Gives lengths.
    names
        The labels to measure; others count as background.
    on_slab
        Called with the number of sections that are done; may raise to stop.

    Returns
    -------
    statistics
        One entry for each of `names`, in their order.
    """
    from scipy import ndimage

    tallies = {label.value: _Tally(label, grid) for label in names}
    for slab in grid.whole.slabs(slab_depth(grid.shape, voxels=SLAB_VOXELS)):
        start, stop = slab.start[0], slab.stop[0]
        overlap = min(1, start)
        block = labels[start - overlap : stop]
        boxes: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(block, max_label=max(tallies, default=0))
        for value, tally in tallies.items():
            box = boxes[value - 1]
            if box is None:
                tally.skip()
            else:
                tally.add(block, box, overlap=overlap, first=start)
        if on_slab is not None:
            on_slab(stop)
    return tuple(tally.statistics() for tally in tallies.values())


class _Tally:
    """What is counted of one label."""

    def __init__(self, label: Label, grid: VoxelGrid) -> None:
        self._label = label
        self._grid = grid
        self._along = [np.zeros(size, np.int64) for size in grid.shape]
        self._crossings = np.zeros(len(DIRECTIONS), np.int64)
        self._components = ComponentCounter(grid.shape[1:])

    def skip(self) -> None:
        self._components.skip()

    def add(self, block: NDArray[np.uint8], box: tuple[slice, ...], *, overlap: int, first: int) -> None:
        """Count in a slab: `box` holds the label in `block`, which starts `overlap` sections before `first`."""
        _, y, x = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
        mask = block[:, y, x] == self._label.value
        self._crossings += count_crossings(mask, overlap=overlap)
        own = mask[overlap:]
        self._components.add(own, (y.start, x.start))
        starts = (first, y.start, x.start)
        for axis, (counts, start) in enumerate(zip(self._along, starts, strict=True)):
            others = tuple(other for other in range(3) if other != axis)
            counts[start : start + own.shape[axis]] += np.count_nonzero(own, axis=others)

    def statistics(self) -> LabelStatistics:
        voxels = int(self._along[0].sum())
        return LabelStatistics(
            value=self._label.value,
            name=self._label.name,
            voxels=voxels,
            volume_nm3=voxels * self._grid.voxel_volume / CUBIC,
            surface_area_nm2=float(self._crossings @ crossing_areas(self._grid.voxel_size)) / SQUARE,
            components=self._components.count,
            bounding_box=self._bounding_box() if voxels else None,
            centroid=self._centroid(voxels) if voxels else None,
        )

    def _bounding_box(self) -> Region:
        filled = [np.flatnonzero(counts) for counts in self._along]
        return Region(start=to_index(part[0] for part in filled), stop=to_index(part[-1] + 1 for part in filled))

    def _centroid(self, voxels: int) -> Vector3:
        z, y, x = (float(counts @ np.arange(len(counts))) / voxels for counts in self._along)
        return self._grid.position((z, y, x))
