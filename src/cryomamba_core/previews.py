"""The small label volume that is shown while a job runs."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_core.companions import Companion, binned_sums, rounded_means
from cryomamba_core.errors import InvalidParameter, StorageDamaged
from cryomamba_core.geometry import Index3, Region, VoxelGrid, to_index
from cryomamba_core.label_file import LabelArray
from cryomamba_core.labels import LabelBlock

#: Voxels that an engine lets a preview have, at least, if it has any, and at most: from coarser ones nobody sees much,
#: and finer ones are too much for whoever sends and draws them.
LEAST_VOXELS, MOST_VOXELS = 1000, 1 << 24

#: Voxels of the source that are coarsened at a time.
PIECE_VOXELS = 4 << 20

#: By how much a companion's preview has fewer voxels than that of the labels: it hardly compresses.
COMPANION_PART = 8

#: By how much all of them together have fewer, however many there are: more than four are each coarser than that.
COMPANIONS_PART = 2


@frozen(kw_only=True)
class PreviewPolicy:
    """How a job is to be previewed.

    Attributes
    ----------
    max_voxels
        The preview is coarsened until it holds no more voxels than this; 0 for no previews.
    interval_seconds
        The least time between two previews.
    """

    max_voxels: int = field(default=64 * 256 * 256)
    interval_seconds: float = 0.5

    def __attrs_post_init__(self) -> None:
        if self.max_voxels < 0 or not 0 <= self.interval_seconds < math.inf:
            raise InvalidParameter("a preview has neither less than 0 voxels nor less than 0 seconds")


@frozen(kw_only=True)
class PreviewCompanion:
    """A coarse companion of the labels.

    Attributes
    ----------
    name
        Of `Companion`.
    factor
        Voxels of the source for each of its own, on every axis: it is coarser than the labels of the preview.
    grid
        Its grid.
    payload
        The ZYX array of the grid's shape, a byte for each voxel, compressed by zlib: means of what is final.
    label
        Of `Companion`.
    """

    name: str
    factor: int
    grid: VoxelGrid
    payload: bytes = field(repr=False)
    label: int | None = None

    def values(self) -> NDArray[np.uint8]:
        """The array; raises `StorageDamaged` if the payload does not hold it."""
        data = _inflated(self.payload, self.grid.voxels, f"the preview of {self.name}")
        return np.frombuffer(data, np.uint8).reshape(self.grid.shape)


@frozen(kw_only=True)
class Preview:
    """A coarse label volume and what it covers.

    Attributes
    ----------
    sequence
        Counts the previews of a job from 1.
    factor
        Fine voxels for each coarse voxel, on every axis.
    grid
        The coarse grid (`VoxelGrid.coarsen` of the source's).
    covered
        The box, in fine voxels of the source, around what holds labels by now.
    provisional
        Whether any of it will still change.
    dtype
        ``uint8`` or ``uint16``.
    payload
        The ZYX array of the grid's shape, little-endian, compressed by zlib.
    companions
        What the runner gives beside the labels.
    """

    sequence: int
    factor: int
    grid: VoxelGrid
    covered: Region
    provisional: bool
    dtype: str
    payload: bytes = field(repr=False)
    companions: tuple[PreviewCompanion, ...] = ()

    @classmethod
    def pack(
        cls,
        labels: NDArray[Any],
        *,
        sequence: int,
        factor: int,
        grid: VoxelGrid,
        covered: Region,
        provisional: bool,
        companions: tuple[PreviewCompanion, ...] = (),
    ) -> Self:
        """Compress `labels`, a ZYX array of the coarse grid's shape."""
        little = np.ascontiguousarray(labels, dtype=labels.dtype.newbyteorder("<"))
        return cls(
            sequence=sequence,
            factor=factor,
            grid=grid,
            covered=covered,
            provisional=provisional,
            dtype=labels.dtype.name,
            payload=zlib.compress(little.tobytes(), level=1),
            companions=companions,
        )

    def labels(self) -> NDArray[Any]:
        """The coarse labels, ZYX, of the grid's shape.

        Raises
        ------
        StorageDamaged
            If the payload does not hold that many labels; no more than that is decompressed.
        """
        dtype = np.dtype(self.dtype).newbyteorder("<")
        data = _inflated(self.payload, self.grid.voxels * dtype.itemsize, f"preview {self.sequence}")
        return np.frombuffer(data, dtype).reshape(self.grid.shape)


def _inflated(payload: bytes, expected: int, name: str) -> bytes:
    """What zlib has compressed, if that is as many bytes as expected."""
    try:
        data = zlib.decompressobj().decompress(payload, expected + 1)
    except zlib.error as error:
        raise StorageDamaged(f"{name} cannot be decompressed") from error
    if len(data) != expected:
        raise StorageDamaged(f"{name} does not hold {expected} bytes of voxels")
    return data


def preview_factor(shape: Index3, max_voxels: int) -> int:
    """The smallest factor that brings a volume of `shape` (z, y, x) to at most `max_voxels` voxels."""
    factor = 1
    while np.prod([-(-size // factor) for size in shape], dtype=np.int64) > max_voxels:
        factor += 1
    return factor


def coarsen_labels(labels: NDArray[Any], factor: int, offset: Index3 = (0, 0, 0)) -> NDArray[Any]:
    """Coarsen labels so that thin structures survive.

    A coarse voxel takes the most frequent label of its block that is not background, the lowest of
    several equally frequent ones, and background only where the block holds nothing else.

    Parameters
    ----------
    labels
        ZYX labels of a piece of a volume.
    factor
        Fine voxels for each coarse voxel, on every axis.
    offset
        Index (z, y, x) of the piece's first voxel in the volume, modulo `factor`: blocks are those
        of the volume, so the first and last blocks of a piece may be partly filled.

    Returns
    -------
    coarse
        ZYX labels; element 0 is the block that holds the piece's first voxel.
    """
    before = [start % factor for start in offset]
    padding = [(first, -(first + size) % factor) for first, size in zip(before, labels.shape, strict=True)]
    padded = np.pad(labels, padding)
    z, y, x = (size // factor for size in padded.shape)
    blocks = padded.reshape(z, factor, y, factor, x, factor)
    best = np.zeros((z, y, x), labels.dtype)
    most = np.zeros((z, y, x), np.int32)
    for value in np.unique(labels):
        if value == 0:
            continue
        count = np.count_nonzero(blocks == value, axis=(1, 3, 5)).astype(np.int32)
        ahead = count > most
        best[ahead] = value
        most[ahead] = count[ahead]
    return best


class PreviewBuilder:
    """Keeps a coarse label volume up to date while the labels arrive.

    Parameters
    ----------
    grid
        Grid of the source.
    labels
        The fine label volume that final blocks are written to, ZYX of the grid's shape. It is read
        around each final block, so that a coarse voxel on the border of two blocks is right too.
    policy
        How coarse the preview is.
    companions
        What comes with the labels; the more there are, the coarser are their previews.
    """

    def __init__(
        self, grid: VoxelGrid, labels: LabelArray, policy: PreviewPolicy, companions: Iterable[Companion] = ()
    ) -> None:
        self._fine = grid
        self._fine_labels = labels
        self.factor: int = preview_factor(grid.shape, max(1, policy.max_voxels))
        self.grid: VoxelGrid = grid.coarsen(self.factor)
        self._labels = np.zeros(self.grid.shape, labels.dtype)
        self._final = np.zeros(self.grid.shape, np.int32)
        self._covered: Region | None = None
        self._final_voxels = 0
        self._sequence = 0
        kinds = tuple(companions)
        most = max(1, policy.max_voxels // max(COMPANION_PART, COMPANIONS_PART * len(kinds)))
        self._companions = {kind.name: _CompanionBuilder(kind, grid, most) for kind in kinds}

    def add_provisional(self, block: LabelBlock) -> None:
        """Take in labels that a later block will replace; they never replace final ones."""
        coarse = coarsen_labels(block.labels, self.factor, block.region.start)
        target = self._coarse(block.region).slices
        np.copyto(self._labels[target], coarse, where=self._final[target] == 0)
        self._extend(block.region)

    def add_final(self, region: Region) -> None:
        """Take in a region of the fine label volume that has just become final."""
        for target in self._pieces(self._coarse(region)):
            self._add_piece(region, target)
        self._final_voxels += region.size
        self._extend(region)

    def _pieces(self, target: Region) -> Iterator[Region]:
        """A coarse region in pieces of up to `PIECE_VOXELS` fine voxels, or of one coarse voxel."""
        most = max(1, PIECE_VOXELS // self.factor**3)
        edges = list(target.shape)
        for axis in range(3):
            rest = edges[axis + 1 :]
            edges[axis] = max(1, min(edges[axis], most // max(1, math.prod(rest))))
        ranges = (range(start, stop, edge) for start, stop, edge in zip(target.start, target.stop, edges, strict=True))
        for corner in itertools.product(*ranges):
            ends = zip(corner, edges, target.stop, strict=True)
            yield Region(start=corner, stop=to_index(min(at + edge, stop) for at, edge, stop in ends))

    def _add_piece(self, region: Region, target: Region) -> None:
        k = self.factor
        aligned = self._fine.region(to_index(a * k for a in target.start), to_index(b * k for b in target.stop))
        coarse = coarsen_labels(self._fine_labels[aligned.slices], k)
        final = self._final[target.slices]
        final += self._overlap(region, target)
        complete = final >= self._overlap(aligned, target)
        np.copyto(self._labels[target.slices], coarse, where=complete | (coarse != 0))

    def add_companions(self, region: Region, values: Mapping[str, NDArray[np.uint8]]) -> None:
        """Take in companions of a region that has just become final, each voxel once."""
        for name, piece in values.items():
            self._companions[name].add(region, piece)

    def _coarse(self, region: Region) -> Region:
        k = self.factor
        return Region(start=to_index(a // k for a in region.start), stop=to_index(-(-b // k) for b in region.stop))

    def _overlap(self, region: Region, target: Region) -> NDArray[np.int32]:
        """How many voxels of `region` each coarse voxel of `target` covers."""
        axes = []
        for axis in range(3):
            first = np.arange(target.start[axis], target.stop[axis]) * self.factor
            shared = np.minimum(first + self.factor, region.stop[axis]) - np.maximum(first, region.start[axis])
            axes.append(np.maximum(shared, 0).astype(np.int32))
        counts: NDArray[np.int32] = axes[0][:, None, None] * axes[1][:, None] * axes[2]
        return counts

    def _extend(self, region: Region) -> None:
        known = self._covered or region
        self._covered = Region(
            start=to_index(min(a, b) for a, b in zip(known.start, region.start, strict=True)),
            stop=to_index(max(a, b) for a, b in zip(known.stop, region.stop, strict=True)),
        )

    def snapshot(self) -> Preview:
        """The preview as it stands; each call has the next sequence number."""
        self._sequence += 1
        return Preview.pack(
            self._labels,
            sequence=self._sequence,
            factor=self.factor,
            grid=self.grid,
            covered=self._covered or Region(start=(0, 0, 0), stop=(0, 0, 0)),
            provisional=self._final_voxels < self._fine.voxels,
            companions=tuple(builder.snapshot() for builder in self._companions.values()),
        )


class _CompanionBuilder:
    """Keeps a coarse companion up to date."""

    def __init__(self, companion: Companion, grid: VoxelGrid, max_voxels: int) -> None:
        self._companion = companion
        self._factor = preview_factor(grid.shape, max_voxels)
        self._grid = grid.coarsen(self._factor)
        self._sums = np.zeros(self._grid.shape, np.uint64)
        self._counts = np.zeros(self._grid.shape, np.uint64)

    def add(self, region: Region, values: NDArray[np.uint8]) -> None:
        if not values.size:
            return
        sums, counts = binned_sums(values, self._factor, region.start)
        start = to_index(at // self._factor for at in region.start)
        target = Region(start=start, stop=to_index(at + n for at, n in zip(start, sums.shape, strict=True))).slices
        self._sums[target] += sums
        self._counts[target] += counts

    def snapshot(self) -> PreviewCompanion:
        means = rounded_means(self._sums, self._counts)
        payload = zlib.compress(means.tobytes(), level=1)
        return PreviewCompanion(
            name=self._companion.name,
            factor=self._factor,
            grid=self._grid,
            payload=payload,
            label=self._companion.label,
        )
