"""What a sweep asks for: normalised voxels, rows after rows along its axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.normalisation import Normalise
from cryomamba_core.geometry import Index3, Region
from cryomamba_core.volumes import Volume

#: ``rows(first, stop)``: normalised voxels (stop - first, y, x) from row `first` on, as a contiguous array in the
#: axes of the sweep, whole on the other two.
Rows = Callable[[int, int], NDArray[np.float32]]


@frozen(kw_only=True, eq=False)
class NormalisedRows:
    """Rows of a volume that is not resampled.

    Attributes
    ----------
    volume
        What is segmented.
    box
        The part of it that is not zero, in its own axes (z, y, x).
    axes
        Axis (z, y, x) of the volume that each axis of the sweep is.
    normalise
        The model's normalisation, measured on `box`.
    """

    volume: Volume
    box: Region
    axes: Index3
    normalise: Normalise = field(repr=False)

    def __call__(self, first: int, stop: int) -> NDArray[np.float32]:
        """Read rows `first` to `stop` of the box."""
        axis = self.axes[0]
        start, end = list(self.box.start), list(self.box.stop)
        start[axis], end[axis] = self.box.start[axis] + first, self.box.start[axis] + stop
        voxels = self.volume.read(Region(start=start, stop=end)).transpose(self.axes)
        slab = np.ascontiguousarray(voxels, dtype=np.float32)
        self.normalise(slab)
        return slab
