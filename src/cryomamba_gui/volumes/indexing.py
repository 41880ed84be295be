"""Basic indexing, as numpy has it, of an array that is not in memory."""

from __future__ import annotations

import operator
from typing import Any

from attrs import frozen

from cryomamba_core.geometry import Index3, Region


@frozen(kw_only=True)
class Selection:
    """Voxels that an index expression selects.

    Attributes
    ----------
    ranges
        Indices (z, y, x), absolute, possibly in descending order.
    dropped
        Which axes (z, y, x) the result lacks, as they were given a number.
    """

    ranges: tuple[range, range, range]
    dropped: tuple[bool, bool, bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return tuple(len(part) for part, drop in zip(self.ranges, self.dropped, strict=True) if not drop)

    @property
    def region(self) -> Region:
        """The smallest region that holds all that is selected; something must be."""
        lows = [min(part[0], part[-1]) for part in self.ranges]
        return Region(start=lows, stop=[max(part[0], part[-1]) + 1 for part in self.ranges])

    @property
    def plane_axis(self) -> int | None:
        """The axis on which a single plane is selected; None if there is not exactly one such axis."""
        numbered = [axis for axis in range(3) if self.dropped[axis]]
        single = numbered or [axis for axis in range(3) if len(self.ranges[axis]) == 1]
        return single[0] if len(single) == 1 else None

    def within(self, start: Index3) -> tuple[int | slice, int | slice, int | slice]:
        """The index expression for an array of which voxel 0 is voxel `start` (z, y, x) of the whole."""
        z, y, x = (
            part[0] - first if drop else as_slice(range(part.start - first, part.stop - first, part.step))
            for part, drop, first in zip(self.ranges, self.dropped, start, strict=True)
        )
        return z, y, x


def select(key: Any, shape: Index3) -> Selection:
    """Resolve numbers, slices and an ellipsis against a ZYX shape.

    Raises
    ------
    IndexError
        As numpy does, and for arrays, masks and new axes.
    """
    parts = list(key) if isinstance(key, tuple) else [key]
    ellipses = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    place = ellipses[0] if ellipses else len(parts)
    given = parts[:place] + parts[place + 1 :]
    if len(given) > 3:
        raise IndexError(f"too many indices for a volume: it has 3 axes, {len(given)} were indexed")
    parts = given[:place] + [slice(None)] * (3 - len(given)) + given[place:]
    resolved = [_resolve(part, size, axis) for axis, (part, size) in enumerate(zip(parts, shape, strict=True))]
    (z, drop_z), (y, drop_y), (x, drop_x) = resolved
    return Selection(ranges=(z, y, x), dropped=(drop_z, drop_y, drop_x))


def as_slice(part: range) -> slice:
    """The slice that selects a range of indices; none of them negative."""
    if part.step < 0 and part.stop < 0:
        return slice(part.start, None, part.step)
    return slice(part.start, part.stop, part.step)


def _resolve(part: Any, size: int, axis: int) -> tuple[range, bool]:
    if isinstance(part, slice):
        return range(*part.indices(size)), False
    if part is None or isinstance(part, bool):
        raise IndexError("only numbers, slices and an ellipsis select voxels of a volume on disk")
    try:
        index = operator.index(part)
    except TypeError as error:
        raise IndexError("only numbers, slices and an ellipsis select voxels of a volume on disk") from error
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {size}")
    index %= size
    return range(index, index + 1), True
