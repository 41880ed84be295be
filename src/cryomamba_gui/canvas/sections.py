"""Search for the next section of a mask that is worth a look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import trio
from numpy.typing import NDArray

from cryomamba_core.geometry import Index3, Region, slab_depth
from cryomamba_core.label_file import LabelArray

#: Tells for each voxel of a region whether it is looked for.
Sought = Callable[[Region], NDArray[np.bool_]]
Direction = Literal[-1, 1]

#: Sections that are looked at together: those along Y and X share the rows that are read for them.
TOGETHER = (4, 64, 64)
#: Voxels that are looked at together.
VOXELS = 4 << 20


def with_label(mask: LabelArray, value: int) -> Sought:
    """Voxels of one label."""
    return lambda region: np.equal(mask[region.slices], value)


def with_change(mask: LabelArray, original: LabelArray) -> Sought:
    """Voxels that differ from those of another mask."""
    return lambda region: np.not_equal(mask[region.slices], original[region.slices])


async def find_section(shape: Index3, axis: int, section: int, direction: Direction, sought: Sought) -> int | None:
    """The nearest section that holds what is sought; a thread searches, and a cancel ends it soon.

    Parameters
    ----------
    shape
        Extent (z, y, x) of the mask.
    axis
        Of the sections, by its place in ZYX.
    section
        Index where the search begins; this section is not looked at.
    direction
        1 for later sections, -1 for earlier ones.
    sought
        What is looked for.
    """
    return await trio.to_thread.run_sync(_find, shape, axis, section, direction, sought)


def _find(shape: Index3, axis: int, section: int, direction: Direction, sought: Sought) -> int | None:
    for start, stop in _batches(shape[axis], axis, section, direction):
        found = np.zeros(stop - start, np.bool_)
        for region in _slabs(shape, axis, start, stop):
            trio.from_thread.check_cancelled()
            others = tuple(other for other in range(3) if other != axis)
            hits = np.asarray(sought(region).any(axis=others))
            first = region.start[axis] - start
            found[first : first + len(hits)] |= hits
        indices = np.flatnonzero(found)
        if len(indices):
            return start + int(indices[0] if direction > 0 else indices[-1])
    return None


def _batches(size: int, axis: int, section: int, direction: Direction) -> Iterator[tuple[int, int]]:
    together = TOGETHER[axis]
    if direction > 0:
        for start in range(section + 1, size, together):
            yield start, min(start + together, size)
    else:
        for stop in range(section, 0, -together):
            yield max(0, stop - together), stop


def _slabs(shape: Index3, axis: int, start: int, stop: int) -> Iterator[Region]:
    first: list[int] = [0, 0, 0]
    last: list[Any] = list(shape)
    first[axis], last[axis] = start, stop
    region = Region(start=first, stop=last)
    yield from region.slabs(slab_depth(region.shape, voxels=VOXELS))
