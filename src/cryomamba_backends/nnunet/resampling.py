"""Rows of a volume at the voxel size of its model, and scores back on the rows of the volume, piece by piece.

Bit by bit as stock nnU-Net has them, or in single precision; see `cryomamba_backends.nnunet.splines` and
`cryomamba_backends.nnunet.torch_interpolation`. A row of either
grid needs only rows of the other one that lie close, so that little of them is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.grid_change import GridChange, Transfer
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.splines import cubic, halo, linear, linear_exactly
from cryomamba_backends.nnunet.sweep import BLOCK_VOXELS as SCORED_VOXELS
from cryomamba_backends.nnunet.torch_interpolation import TorchInterpolation
from cryomamba_core.geometry import Index3, slab_depth

if TYPE_CHECKING:
    import torch

#: Voxels that are resampled at a time, and the rows that are even where a row has more of them.
BLOCK_VOXELS = 2 << 20
LEAST_ROWS = 8


@frozen(kw_only=True, eq=False)
class Extremes:
    """Smallest and largest voxel of what is resampled at once: of the box, or of each section across an axis."""

    low: Any
    high: Any


def measure_extremes(rows: Rows, change: GridChange) -> Extremes | None:
    """Read all rows and find between what the resampled ones are clipped; None where each row tells, or nothing is."""
    if change.data.sections == 0 or change.data.by_torch:
        return None
    along = None if change.data.sections is None else (0, 3 - change.data.sections)
    low: Any = np.inf
    high: Any = -np.inf
    depth = slab_depth(change.source, voxels=BLOCK_VOXELS)
    for first in range(0, change.source[0], depth):
        slab = rows(first, min(first + depth, change.source[0]))
        low, high = np.minimum(low, slab.min(axis=along)), np.maximum(high, slab.max(axis=along))
    return Extremes(low=low, high=high)


class ResampledRows:
    """Reads rows at the voxel size of a model; call it with ascending rows, and none of the volume's is read twice.

    Rows are made in the same blocks whoever asks for which of them, so that they are always the same.

    Parameters
    ----------
    rows
        Reads those of the volume.
    change
        From the volume's grid to the model's.
    exact
        Whether bit by bit as stock nnU-Net.
    channel
        Which of the volume's channels it is.
    """

    def __init__(self, rows: Rows, change: GridChange, *, exact: bool, channel: int = 0) -> None:
        self._change, self._exact, self._channel = change, exact, channel
        self._by_torch = change.data_by_torch
        self._extremes = measure_extremes(rows, change)
        self._centres = [change.to_target(axis) for axis in range(3)]
        self._held = _HeldRows(rows, change.source)
        self._block: tuple[int, NDArray[np.float32]] | None = None

    def __call__(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows [first, stop) of the model's grid."""
        asked = np.empty((stop - first, *self._change.target[1:]), np.float32)
        depth = _block_rows(self._change)
        for start in range(first - first % depth, stop, depth):
            block = self._block_at(start, min(start + depth, self._change.target[0]))
            low, high = max(start, first), min(start + len(block), stop)
            asked[low - first : high - first] = block[low - start : high - start]
        return asked

    def _block_at(self, first: int, stop: int) -> NDArray[np.float32]:
        if self._block is None or self._block[0] != first:
            made = np.empty((stop - first, *self._change.target[1:]), np.float32)
            if self._by_torch is not None:
                self._rows_by_torch(self._by_torch, first, stop, made)
            elif self._change.data.sections == 0:
                self._rows_by_themselves(first, stop, made)
            else:
                self._rows_of_slab(first, stop, made)
            self._block = first, made
        return self._block[1]

    def _rows_by_torch(self, by_torch: TorchInterpolation, first: int, stop: int, made: NDArray[np.float32]) -> None:
        import torch

        slab = self._held.rows(int(by_torch.lower[first]), int(by_torch.upper[stop - 1]) + 1)
        made[...] = by_torch.values(torch.from_numpy(slab)[None], range(first, stop), self._channel)[0].numpy()

    def _rows_by_themselves(self, first: int, stop: int, made: NDArray[np.float32]) -> None:
        """Resample each row, from the nearest one."""
        known: int | None = None
        for row, wanted in enumerate(self._centres[0][first:stop].astype(int)):
            if wanted == known:
                made[row] = made[row - 1]
                continue
            known = int(wanted)
            held = self._held.rows(known, known + 1)[0]
            if held.shape == made.shape[1:]:
                made[row] = held
                continue
            values = cubic(held, self._centres[1:], first=0, rows=len(held), exact=self._exact)
            np.clip(values, held.min(), held.max(), out=made[row], casting="same_kind")

    def _rows_of_slab(self, first: int, stop: int, made: NDArray[np.float32]) -> None:
        """Resample along all axes, or within each section across the second or third."""
        assert self._extremes is not None
        rows = self._centres[0][first:stop]
        reach = halo(exact=self._exact)
        low = max(0, math.floor(rows[0]) - 1 - reach)
        slab = self._held.rows(low, min(self._change.source[0], math.floor(rows[-1]) + 3 + reach))
        whole = {"first": low, "rows": self._change.source[0], "exact": self._exact}
        across = self._change.data.sections
        if across is None:
            values = cubic(slab, [rows, *self._centres[1:]], **whole)
            np.clip(values, self._extremes.low, self._extremes.high, out=made, casting="same_kind")
            return
        within = [axis for axis in (1, 2) if axis != across]
        same = all(self._change.source[axis] == self._change.target[axis] for axis in (0, *within))
        places = [rows, self._centres[within[0]]]
        for section, wanted in zip(np.moveaxis(made, across, 0), self._centres[across].astype(int), strict=True):
            held = np.take(slab, wanted, across)
            if same:
                section[...] = held[first - low : stop - low]
                continue
            values = cubic(held, places, **whole)
            np.clip(values, self._extremes.low[wanted], self._extremes.high[wanted], out=section, casting="same_kind")


def scores_on_source(
    scores: Callable[[int], Iterator[tuple[int, torch.Tensor]]], change: GridChange, *, first_row: int, exact: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Bring scores from the model's grid to that of the volume.

    Parameters
    ----------
    scores
        Given a row of the model's grid, yields pieces from there on in ascending order and without a gap:
        their first row, and scores (heads, z, y, x) that last until the next.
    change
        From the volume's grid to the model's.
    first_row
        Of the volume, from which on scores are wanted.
    exact
        Whether bit by bit as stock nnU-Net, from scores in half precision.

    Yields
    ------
    row, scores
        The same on the grid of the volume.
    """
    import torch

    if not change.changes:
        yield from scores(first_row)
        return
    centres = [change.to_source(axis) for axis in range(3)]
    by_torch = change.scores_by_torch if exact else None
    lower = np.clip(np.floor(centres[0]), 0, change.target[0] - 1).astype(np.intp)
    upper = np.minimum(lower + 1, change.target[0] - 1) if by_torch is None else by_torch.upper
    row, rows = first_row, change.source[0]
    held: torch.Tensor | None = None
    start = 0
    for at, piece in scores(int(lower[row])):
        if held is None:
            held, start = piece.clone(), at
        else:
            held = torch.cat([held[:, lower[row] - start :], piece], 1) if lower[row] < at else piece.clone()
            start = min(int(lower[row]), at)
        depth = _score_rows(change, heads=len(held))
        ready = int(np.searchsorted(upper, start + held.shape[1]))
        for first in range(row, ready, depth):
            stop = min(first + depth, ready)
            slab = held[:, lower[first] - start : upper[stop - 1] + 1 - start]
            places = [centres[0][first:stop] - lower[first], *centres[1:]]
            if by_torch is not None:
                yield first, by_torch.values(slab, range(first, stop))
            else:
                yield first, _linear_exactly(slab, places) if exact else linear(slab, places)
        row = max(row, ready)
        if row == rows:
            return


def resampling_bytes(change: GridChange, *, channels: int, heads: int, exact: bool) -> int:
    """What resampling both ways holds at its peak, in bytes: scores wait while further rows are made."""
    if not change.changes:
        return 0
    rows = _block_rows(change)
    spread = math.ceil(rows * change.source[0] / change.target[0])
    planes = [math.prod(shape[1:]) for shape in (change.source, change.target)]
    single, double = 4, 8
    if change.data.by_torch:
        held = (spread + 2) * planes[0] * single
        between = _torch_bytes(change.data, change.source, change.target, rows=rows)
    else:
        held = (spread + 2 * halo(exact=exact) + 4) * planes[0] * single
        between = (spread + 4) * planes[0] * double * 3 + rows * planes[1] * (2 * single + double)
    further = (channels - 1) * (held + rows * planes[1] * single)
    return held + further + between + resampled_scores_bytes(change, heads=heads, exact=exact)


def resampled_scores_bytes(change: GridChange, *, heads: int, exact: bool) -> int:
    """What resampling scores holds at its peak, in bytes: some wait while further rows are made."""
    if not change.changes:
        return 0
    half, single, double = 2, 4, 8
    score = half if exact else single
    waiting = 2 * heads * SCORED_VOXELS * score
    if exact and change.scores.by_torch:
        rows = _score_rows(change, heads=heads)
        return waiting + heads * _torch_bytes(change.scores, change.target, change.source, rows=rows)
    plane = math.prod(change.source[1:])
    return max(BLOCK_VOXELS, heads * plane) * (double + score) + waiting


def _torch_bytes(transfer: Transfer, source: Index3, target: Index3, *, rows: int) -> int:
    """What PyTorch holds of a channel while it makes some rows: those that it reads and makes, and what is between."""
    single = 4
    read = (math.ceil(rows * source[0] / target[0]) + 2) * math.prod(source[1:])
    made = rows * math.prod(target[1:])
    # sections are copied to where their axis is that of channels, and back
    between = 0 if transfer.sections is None else read + max(read, made)
    # what was made before is still held, and all is copied to where it is wanted
    return (2 * read + 4 * made + between) * single


def _score_rows(change: GridChange, *, heads: int) -> int:
    """How many rows of the volume's scores are made at a time."""
    return max(1, BLOCK_VOXELS // (heads * math.prod(change.source[1:])))


def _block_rows(change: GridChange) -> int:
    """How many rows at the model's voxel size are resampled at a time."""
    largest = max(math.prod(change.source) // change.source[0], math.prod(change.target[1:]))
    return max(LEAST_ROWS, BLOCK_VOXELS // largest)


def _linear_exactly(slab: torch.Tensor, places: list[NDArray[np.float64]]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.stack([linear_exactly(head, places) for head in slab.numpy()]))


class _HeldRows:
    """The rows that were asked for last; those that are asked for again are not read again."""

    def __init__(self, rows: Rows, extent: Index3) -> None:
        self._read, self._extent = rows, extent
        self._voxels = np.empty((0, *extent[1:]), np.float32)
        self._start = self._stop = 0

    def rows(self, low: int, high: int) -> NDArray[np.float32]:
        """Rows [low, high); neither is lower than before unless all begins anew."""
        if low < self._start:
            self._start = self._stop = low
        kept = max(0, self._stop - low)
        dropped = self._stop - kept - self._start
        last = self._stop
        self._start = self._stop = low  # nothing is held if an error comes
        target = self._voxels
        if high - low > len(target):
            target = np.empty((high - low, *self._extent[1:]), np.float32)
        if dropped or target is not self._voxels:
            for row in range(kept):
                target[row] = self._voxels[row + dropped]
        self._voxels = target
        depth = slab_depth(self._extent, voxels=BLOCK_VOXELS)
        for first in range(low + kept, high, depth):
            stop = min(first + depth, high)
            target[first - low : stop - low] = self._read(first, stop)
        self._start, self._stop = low, max(high, last)
        return target[: high - low]
