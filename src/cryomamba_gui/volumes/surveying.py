"""The pass over a file that makes an overview."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomamba_core.geometry import Region, VoxelGrid
from cryomamba_core.volumes import IntensityStatistics, IntensityTally, Volume
from cryomamba_gui.volumes.coarse import CoarseVolume
from cryomamba_gui.volumes.overview import Overview

#: Voxels that are read at a time, unless a few rows have more: 16 MB of float32 and about as much again.
TILE_VOXELS = 4 << 20

#: Voxels that are summarised at a time: in float64 they fit the cache of a processor core.
PIECE_VOXELS = 1 << 15

OnProgress = Callable[[int, int], None]
Cancelled = Callable[[], bool]


def survey(
    volume: Volume,
    coarse: CoarseVolume,
    *,
    edges: NDArray[np.float64],
    on_progress: OnProgress,
    cancelled: Cancelled,
) -> Overview | None:
    """Read a volume once and summarise it in bounded memory.

    Parameters
    ----------
    volume
        Used by this thread alone.
    coarse
        Blank; it is filled as the pass goes on, and may be looked at meanwhile.
    edges
        Of the histogram's bins, evenly spaced.
    on_progress
        Called with the number of sections that are done and that there are, along the file's slowest axis.
    cancelled
        Asked between pieces of about `TILE_VOXELS` voxels.

    Returns
    -------
    overview
        None if it was cancelled.
    """
    grid = volume.grid
    counts = _Counts(edges)
    slowest = grid.stored_axes[0]
    for region in _tiles(grid, coarse.factor):
        if cancelled():
            return None
        tile = volume.read(region)
        finite = _finite(tile)
        counts.add(tile, finite)
        coarse.put(region, _block_means(tile, finite, coarse))
        on_progress(region.stop[slowest], grid.shape[slowest])
    coarse.voxels.flags.writeable = False
    return Overview(
        factor=coarse.factor,
        grid=grid.coarsen(coarse.factor),
        voxels=coarse.voxels,
        statistics=counts.statistics,
        histogram=counts.histogram,
        edges=edges,
        not_finite=grid.voxels - counts.finite,
    )


def _tiles(grid: VoxelGrid, factor: int) -> Iterator[Region]:
    """The grid in pieces that hold whole cubes, in the order of the file."""
    section_axis, row_axis, _ = grid.stored_axes
    sections, rows, width = grid.stored_shape
    depth = factor * max(1, TILE_VOXELS // (factor * rows * width))
    height = rows
    if factor * rows * width > TILE_VOXELS:
        height = factor * max(1, TILE_VOXELS // (factor * factor * width))
    for section in range(0, sections, depth):
        for row in range(0, rows, height):
            start, stop = [0, 0, 0], list(grid.shape)
            start[section_axis], stop[section_axis] = section, min(section + depth, sections)
            start[row_axis], stop[row_axis] = row, min(row + height, rows)
            yield Region(start=start, stop=stop)


def _finite(tile: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which voxels are finite; None if all are."""
    if tile.dtype.kind != "f":
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(tile.sum(dtype=np.float64)):  # a single NaN or infinity would stay in the sum
            return None
    finite = np.isfinite(tile)
    return None if finite.all() else finite


class _Counts:
    """Statistics and histogram of what was read so far."""

    def __init__(self, edges: NDArray[np.float64]) -> None:
        self.histogram: NDArray[np.int64] = np.zeros(edges.size - 1, np.int64)
        self._first = float(edges[0])
        self._per_unit = np.float32((edges.size - 1) / (edges[-1] - edges[0]))
        self._tally = IntensityTally()
        self._values = np.empty(PIECE_VOXELS)
        self._bins = np.empty(PIECE_VOXELS, np.float32)
        self._indices = np.empty(PIECE_VOXELS, np.intp)

    def add(self, tile: NDArray[Any], finite: NDArray[np.bool_] | None) -> None:
        flat = tile.reshape(-1) if finite is None else tile[finite]
        last = np.float32(self.histogram.size - 1)
        for first in range(0, flat.size, PIECE_VOXELS):
            size = min(PIECE_VOXELS, flat.size - first)
            values, bins, indices = self._values[:size], self._bins[:size], self._indices[:size]
            values[...] = flat[first : first + size]
            with np.errstate(over="ignore", invalid="ignore"):  # what is too large for a sum is infinite in it
                np.subtract(values, self._first, out=bins, casting="same_kind")
                bins *= self._per_unit
                np.clip(bins, np.float32(0), last, out=bins)
                indices[...] = bins
                self._tally.add(values)
            self.histogram += np.bincount(indices, minlength=self.histogram.size)

    @property
    def finite(self) -> int:
        return self._tally.count

    @property
    def statistics(self) -> IntensityStatistics:
        if self._tally.count:
            return self._tally.statistics
        return IntensityStatistics(minimum=np.nan, maximum=np.nan, mean=np.nan, standard_deviation=np.nan)


def _block_means(tile: NDArray[Any], finite: NDArray[np.bool_] | None, coarse: CoarseVolume) -> NDArray[np.float32]:
    """Means of the finite voxels of each cube; what the coarse volume was blank with where there are none."""
    factor = coarse.factor
    limits = np.finfo(np.float32)
    if tile.dtype == np.float64:
        tile = np.clip(tile, limits.min / factor**3, limits.max / factor**3)
    if finite is None:
        sums = _block_sums(tile, factor)
        sizes = [np.minimum(factor, size - np.arange(0, size, factor)) for size in tile.shape]
        z, y, x = (size.astype(np.float32) for size in sizes)
        sums /= z[:, None, None] * y[:, None] * x
        return sums
    sums = _block_sums(np.where(finite, tile, 0), factor)
    counts = _block_sums(finite, factor)
    blank = np.float32(coarse.fill)
    return np.where(counts > 0, sums / np.maximum(counts, 1), blank)


def _block_sums(values: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Sums of cubes, those at the far faces possibly smaller; along the slow axes first, where they are cheap."""
    for axis in range(3):
        shape = list(values.shape)
        shape[axis] = -(-shape[axis] // factor)
        sums = np.zeros(shape, np.float32)
        for offset in range(min(factor, values.shape[axis])):
            part = values[_along(axis, slice(offset, None, factor))]
            sums[_along(axis, slice(part.shape[axis]))] += part
        values = sums
    return values


def _along(axis: int, picked: slice) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, picked)
