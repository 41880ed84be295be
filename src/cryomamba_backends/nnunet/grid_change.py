"""From the grid of a volume to that of a model and back: how many voxels there are, and where the new ones lie."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import Index3, Vector3, to_index

#: Voxels longer than this on one axis, by the ratio to the shortest, are resampled section by section.
ANISOTROPIC = 3.0


@frozen(kw_only=True)
class GridChange:
    """Two grids over the same box; axes are those of the sweep.

    Attributes
    ----------
    source
        Extent of the box in voxels of the volume.
    target
        Its extent in voxels of the model's size.
    sections
        Axis across which sections are resampled each by itself, with the nearest one taken along it;
        None where all axes are alike.
    """

    source: Index3
    target: Index3
    sections: int | None

    @classmethod
    def between(cls, extent: Index3, size: Vector3, wanted: Vector3, *, separate: bool | None = None) -> Self:
        """The grids of a box of `extent` voxels of `size` and of voxels as `wanted`, by stock nnU-Net's rules.

        Parameters
        ----------
        extent, size, wanted
            In the axes of the sweep; lengths in one unit.
        separate
            Whether sections across the axis of the longest voxels are resampled by themselves; None to
            judge by how long they are.
        """
        target = to_index(round(have / want * count) for have, want, count in zip(size, wanted, extent, strict=True))
        return cls(source=extent, target=target, sections=_sections(size, wanted, separate=separate))

    @classmethod
    def none(cls, extent: Index3) -> Self:
        """One grid, taken for both."""
        return cls(source=extent, target=extent, sections=None)

    @property
    def changes(self) -> bool:
        """Whether anything has to be resampled."""
        return self.source != self.target

    def to_target(self, axis: int) -> NDArray[np.float64]:
        """Where voxels of the model's size lie along an axis, in voxels of the volume."""
        return self._centres(axis, self.source[axis], self.target[axis])

    def to_source(self, axis: int) -> NDArray[np.float64]:
        """Where voxels of the volume lie along an axis, in voxels of the model's size."""
        return self._centres(axis, self.target[axis], self.source[axis])

    def rows_on_target(self, rows: range) -> range:
        """Rows of the model's grid, along the first axis, that scores on some rows of the volume's are made of."""
        if not self.changes:
            return rows
        centres = np.clip(np.floor(self.to_source(0)), 0, self.target[0] - 1).astype(int)
        return range(int(centres[rows.start]), min(int(centres[rows.stop - 1]) + 2, self.target[0]))

    def _centres(self, axis: int, count: int, wanted: int) -> NDArray[np.float64]:
        """Centres of `wanted` equal parts of `count` voxels; whole numbers across sections."""
        centres = (np.arange(wanted, dtype=np.float64) + 0.5) * (count / wanted) - 0.5
        return np.clip(np.floor(centres + 0.5), 0, count - 1) if axis == self.sections else centres


def _sections(size: Vector3, wanted: Vector3, *, separate: bool | None) -> int | None:
    if separate is False:
        return None
    long = [spacing for spacing in (size, wanted) if separate or max(spacing) / min(spacing) > ANISOTROPIC]
    if not long:
        return None
    longest = [axis for axis in range(3) if max(long[0]) / long[0][axis] == 1]
    return longest[0] if len(longest) == 1 else None
