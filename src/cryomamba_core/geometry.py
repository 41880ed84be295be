"""Where voxels are: regions of an array and the grid that places it in space.

Arrays are ZYX, lengths are in Å, and a position is that of a voxel's centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Self, SupportsFloat, SupportsInt

import numpy as np
from attrs import evolve, field, frozen
from numpy.typing import NDArray

from cryomamba_core import wording
from cryomamba_core.errors import InputError, UnusableVoxelSize

#: Part of a voxel that one and the same voxel may be off in two headers of one grid: they round what they hold.
SAME_PLACE = 0.01

Index3 = tuple[int, int, int]
Vector3 = tuple[float, float, float]


def to_index(value: Iterable[SupportsInt]) -> Index3:
    """Three whole numbers (z, y, x) from any iterable of three numbers."""
    z, y, x = (int(part) for part in value)
    return z, y, x


def to_vector(value: Iterable[SupportsFloat]) -> Vector3:
    """Three real numbers (z, y, x) from any iterable of three numbers."""
    z, y, x = (float(part) for part in value)
    return z, y, x


@frozen(kw_only=True)
class Region:
    """Three half-open index ranges of a ZYX array.

    Attributes
    ----------
    start
        First index (z, y, x), inclusive, in voxels.
    stop
        Last index (z, y, x), exclusive, in voxels; never below `start`.
    """

    start: Index3 = field(converter=to_index)
    stop: Index3 = field(converter=to_index)

    def __attrs_post_init__(self) -> None:
        if any(a < 0 or b < a for a, b in zip(self.start, self.stop, strict=True)):
            raise InputError(f"region {self.start} to {self.stop} is not a range of indices")

    @classmethod
    def of_shape(cls, shape: Index3) -> Self:
        """The region that covers a whole array of `shape` (z, y, x)."""
        return cls(start=(0, 0, 0), stop=shape)

    @property
    def shape(self) -> Index3:
        """Extent (z, y, x) in voxels."""
        return to_index(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index expression for a ZYX array."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def shifted(self, offset: Index3) -> Self:
        """The same extent, moved by `offset` (z, y, x) voxels."""
        return evolve(
            self,
            start=to_index(a + d for a, d in zip(self.start, offset, strict=True)),
            stop=to_index(b + d for b, d in zip(self.stop, offset, strict=True)),
        )

    def intersection(self, other: Region) -> Region:
        """What both regions share; a region of size zero where they share nothing."""
        start = to_index(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = to_index(max(a, min(b, c)) for a, b, c in zip(start, self.stop, other.stop, strict=True))
        return Region(start=start, stop=stop)

    def contains(self, other: Region) -> bool:
        """Whether `other` lies wholly inside."""
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            b <= a for a, b in zip(self.stop, other.stop, strict=True)
        )

    def slabs(self, depth: int) -> Iterator[Region]:
        """Cut along Z into regions of at most `depth` rows, in ascending order."""
        for z in range(self.start[0], self.stop[0], depth):
            yield Region(start=(z, *self.start[1:]), stop=(min(z + depth, self.stop[0]), *self.stop[1:]))


def slab_depth(shape: Index3, *, voxels: int = 2 << 20) -> int:
    """How many Z rows of an array of `shape` (z, y, x) hold about `voxels` voxels; at least one."""
    return max(1, min(shape[0], voxels // max(1, shape[1] * shape[2])))


@frozen(kw_only=True)
class VoxelGrid:
    """A regular, axis-aligned grid of voxels in space. All geometry arithmetic lives here.

    Attributes
    ----------
    shape
        Number of voxels (z, y, x); all positive.
    voxel_size
        Distance of neighbouring voxel centres (z, y, x) in Å; all positive and finite.
    origin
        Position of the centre of voxel (0, 0, 0), (z, y, x) in Å.
    stored_axes
        Axes of the array as the source file stores it, slowest first, each named by its
        place in ZYX: ``(0, 1, 2)`` for the usual order, ``(1, 2, 0)`` for an MRC file
        with MAPC, MAPR, MAPS = 3, 1, 2.
    """

    shape: Index3 = field(converter=to_index)
    voxel_size: Vector3 = field(converter=to_vector)
    origin: Vector3 = field(converter=to_vector, default=(0.0, 0.0, 0.0))
    stored_axes: Index3 = field(converter=to_index, default=(0, 1, 2))

    def __attrs_post_init__(self) -> None:
        if min(self.shape) < 1:
            raise InputError(f"a volume of shape {self.shape} (z, y, x) has no voxels")
        if not all(math.isfinite(size) and size > 0 for size in self.voxel_size):
            raise UnusableVoxelSize(
                f"voxel size {self.voxel_size} Å (z, y, x) is not a length",
                hint="give the true one with --voxel-size, in Å",
            )
        if not all(math.isfinite(part) for part in self.origin):
            raise InputError(f"origin {self.origin} Å (z, y, x) is not a position")
        if sorted(self.stored_axes) != [0, 1, 2]:
            raise InputError(f"{self.stored_axes} is not an order of the three axes")

    @property
    def whole(self) -> Region:
        """The region of all voxels."""
        return Region.of_shape(self.shape)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in Å³."""
        return math.prod(self.voxel_size)

    @property
    def stored_shape(self) -> Index3:
        """Shape of the array as the source file stores it, slowest axis first."""
        return to_index(self.shape[axis] for axis in self.stored_axes)

    def region(self, start: Index3, stop: Index3) -> Region:
        """The region from `start` to `stop` (z, y, x), clipped to the grid."""
        return self.whole.intersection(Region(start=start, stop=stop))

    def position(self, index: Vector3) -> Vector3:
        """Position (z, y, x) in Å of a (fractional) voxel index (z, y, x)."""
        return to_vector(o + i * s for o, i, s in zip(self.origin, index, self.voxel_size, strict=True))

    def crop(self, region: Region) -> Self:
        """The grid of the voxels of `region`, at the same place in space."""
        if not self.whole.contains(region):
            raise InputError(f"region {region.start} to {region.stop} lies outside a grid of shape {self.shape}")
        z, y, x = region.start
        return evolve(self, shape=region.shape, origin=self.position((z, y, x)))

    def coarsen(self, factor: int) -> Self:
        """The grid whose voxel i covers voxels [i·factor, (i+1)·factor) of this one on each axis.

        A coarse voxel's centre lies (factor − 1)/2 fine voxels beyond the centre of the first
        fine voxel that it covers. The last coarse voxel of an axis may reach beyond the volume.
        """
        if factor < 1:
            raise InputError(f"a grid cannot be coarsened by {factor}", hint="use a factor of 1 or more")
        half = (factor - 1) / 2
        return evolve(
            self,
            shape=to_index(-(-size // factor) for size in self.shape),
            voxel_size=to_vector(size * factor for size in self.voxel_size),
            origin=self.position((half, half, half)),
        )

    def differences(self, other: VoxelGrid) -> tuple[str, ...]:
        """What keeps the voxels of `other` from lying on those of this grid, in words; nothing if they do.

        A voxel may be off by `SAME_PLACE` of its size because of the origins, and as much because of the voxel sizes,
        at any place of the volume. In which order a file stores the axes makes no difference.
        """
        found = []
        if other.shape != self.shape:
            found.append(f"{wording.shape(other.shape)} voxels (z, y, x) instead of {wording.shape(self.shape)}")
        if any(
            abs(theirs - ours) * count > SAME_PLACE * ours
            for ours, theirs, count in zip(self.voxel_size, other.voxel_size, self.shape, strict=True)
        ):
            found.append(f"a voxel size of {_exactly(other.voxel_size)} Å instead of {_exactly(self.voxel_size)} Å")
        if any(
            abs(theirs - ours) > SAME_PLACE * size
            for ours, theirs, size in zip(self.origin, other.origin, self.voxel_size, strict=True)
        ):
            found.append(f"its origin at {_exactly(other.origin)} Å instead of {_exactly(self.origin)} Å")
        return tuple(found)

    def affine(self) -> NDArray[np.float64]:
        """The 4 × 4 matrix from a homogeneous index (z, y, x, 1) to a position (z, y, x, 1) in Å."""
        matrix = np.diag((*self.voxel_size, 1.0))
        matrix[:3, 3] = self.origin
        return matrix

    def with_voxel_size(self, voxel_size: Vector3) -> Self:
        """The grid with another voxel size (z, y, x) in Å; voxel 0 keeps its place."""
        return evolve(self, voxel_size=voxel_size)


def _exactly(lengths: Vector3) -> str:
    """Three lengths with every digit in which two of them may differ."""
    return f"({', '.join(f'{length:.9g}' for length in lengths)})"
