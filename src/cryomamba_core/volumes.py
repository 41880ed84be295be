"""A tomogram that is read piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.errors import UnusableVolume
from cryomamba_core.geometry import Region, VoxelGrid, slab_depth


@frozen(kw_only=True)
class HeaderWarning:
    """Something in a header that is allowed but hardly true.

    Attributes
    ----------
    code
        Stable name such as ``header/voxel-size-one``.
    message
        One lower-case clause.
    hint
        The override that fixes it.
    """

    code: str
    message: str
    hint: str = ""


#: Channels of a volume; a file of more holds a time series or a set of particles.
MOST_CHANNELS = 64


class Volume(ABC):
    """A 3D volume on a grid; only what is asked for is read. Of one with several channels it is the first.

    Implementations may be used by one thread at a time. `close` may be called twice.
    """

    @property
    @abstractmethod
    def grid(self) -> VoxelGrid:
        """Shape, voxel size and place of the volume."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels, in native byte order."""

    @abstractmethod
    def read(self, region: Region) -> NDArray[Any]:
        """Read the voxels of `region`.

        Parameters
        ----------
        region
            Inside the grid.

        Returns
        -------
        array
            ZYX, of the region's shape and `dtype`, writable, C-contiguous.
        """

    @property
    def channels(self) -> tuple[Volume, ...]:
        """A volume for each channel, all on the same grid, of which the first is this one. They are closed with it."""
        return (self,)

    @property
    def warnings(self) -> tuple[HeaderWarning, ...]:
        """What looks wrong in the header."""
        return ()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What exporters of the same format need to write the header back; JSON types only.

        One key names the format, e.g. ``{"mrc": {"nstart": [0, 0, 0], …}}``.
        """
        return {}

    def close(self) -> None:  # noqa: B027  # an optional hook
        """Give back what is held open; nothing by default."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@frozen(kw_only=True)
class IntensityStatistics:
    """Grey values of a volume, in the units of the file.

    Attributes
    ----------
    minimum, maximum, mean
        Over all voxels.
    standard_deviation
        Of the population (divided by the number of voxels).
    """

    minimum: float
    maximum: float
    mean: float
    standard_deviation: float


class IntensityTally:
    """Summarises grey values that come piece by piece, in float64.

    Means and variances are combined as in Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979), so a large offset costs no precision.

    Attributes
    ----------
    count
        How many values were added.
    minimum, maximum
        Of these; infinite, the wrong way round, before there is one.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.minimum: float = np.inf
        self.maximum: float = -np.inf
        self._mean = 0.0
        self._squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add finite values, at least one; the array is overwritten."""
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        piece_mean = float(values.mean())
        delta, total = piece_mean - self._mean, self.count + values.size
        values -= piece_mean
        np.square(values, out=values)  # not a BLAS product: its threads wait for each other by spinning
        self._squares += float(values.sum()) + delta * delta * self.count * values.size / total
        self._mean += delta * values.size / total
        self.count = total

    @property
    def statistics(self) -> IntensityStatistics:
        """Of all values so far, at least one."""
        return IntensityStatistics(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=self._mean,
            standard_deviation=float(np.sqrt(self._squares / self.count)),
        )


def measure_intensity(volume: Volume, *, on_slab: Callable[[int], None] | None = None) -> IntensityStatistics:
    """Read a volume once, slab by slab, and summarise its grey values in float64.

    Parameters
    ----------
    volume
        The volume.
    on_slab
        Called with the number of sections that are done; may raise to stop.

    Raises
    ------
    UnusableVolume
        If a voxel is NaN or infinite, or if all voxels are equal: neither can be normalised.
    """
    grid = volume.grid
    tally = IntensityTally()
    for region in grid.whole.slabs(slab_depth(grid.shape)):
        slab = volume.read(region).astype(np.float64, copy=False)
        if not np.isfinite(float(slab.min()) + float(slab.max())):
            bad = int(np.count_nonzero(~np.isfinite(slab)))
            raise UnusableVolume(
                f"{bad} voxels between sections {region.start[0]} and {region.stop[0] - 1} are not finite numbers",
                hint="replace NaN and infinity, for example by the mean, and try again",
            )
        tally.add(slab)
        if on_slab is not None:
            on_slab(region.stop[0])
    if tally.minimum == tally.maximum:
        raise UnusableVolume(
            f"all voxels have the value {tally.minimum:g}",
            hint="the file holds no image: check that it was written completely",
        )
    return tally.statistics
