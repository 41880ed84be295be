"""What the second network of a cascade is told: the labels of the first, one channel each, at its own voxel size.

As stock nnU-Net has it with batchgenerators from 0.25.5 on: where labels are resampled, each is interpolated linearly
and the highest wins; of several as high it is that of the nearest voxel, if it is among them. Where PyTorch resamples
them it is the lowest. Zeros around what the volume shows are no background then, but a label of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cryomamba_backends.nnunet.grid_change import GridChange
from cryomamba_backends.nnunet.splines import indicators_exactly

#: Label of zeros around what the volume shows.
OUTSIDE = -1

#: Given a row of the volume's box, yields pieces from there on in ascending order: first row, labels (z, y, x).
LabelPieces = Callable[[int], Iterator[tuple[int, NDArray[np.integer]]]]


class GuideRows:
    """Reads rows of channels; call it with ascending rows, and the first network runs as far as they need it.

    Parameters
    ----------
    labels
        Of the first network, with `OUTSIDE` where it belongs.
    change
        From the volume's grid to that of the second network.
    values
        The label of each channel.
    """

    def __init__(self, labels: LabelPieces, change: GridChange, values: Sequence[int]) -> None:
        self._labels, self._change, self._values = labels, change, tuple(values)
        self._centres = [change.labels_to_target(axis) for axis in range(3)]
        self._by_torch = change.labels_by_torch
        self._pieces: Iterator[tuple[int, NDArray[np.integer]]] | None = None
        self._held = np.empty((0, *change.source[1:]), np.int32)
        self._start = 0

    def anew(self) -> GuideRows:
        """The same from the beginning, for a sweep that begins anew at any row."""
        return GuideRows(self._labels, self._change, self._values)

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self._values)

    def __call__(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows [first, stop) of the second network's grid, as (channels, z, y, x)."""
        resampled = self._resampled(first, stop) if self._change.changes else self._rows(first, stop)
        return np.stack([resampled == value for value in self._values]).astype(np.float32)

    def _resampled(self, first: int, stop: int) -> NDArray[np.int32]:
        if self._by_torch is not None:
            slab = self._rows(int(self._by_torch.lower[first]), int(self._by_torch.upper[stop - 1]) + 1)
            return self._by_torch.labels(slab, range(first, stop))
        rows = self._centres[0][first:stop]
        last = self._change.source[0] - 1
        low, high = (int(np.clip(np.floor(row), 0, last)) for row in (rows[0], rows[-1]))
        slab = self._rows(low, min(high + 1, last) + 1)
        places = [rows - low, *self._centres[1:]]
        nearest = slab[np.ix_(*(_nearest(place, count) for place, count in zip(places, slab.shape, strict=True)))]
        highest = np.zeros(nearest.shape)
        winner = np.full(nearest.shape, OUTSIDE, np.int32)
        of_nearest = np.zeros(nearest.shape)
        for label in np.unique(slab):
            share = indicators_exactly(slab == label, places)
            np.copyto(of_nearest, share, where=nearest == label)
            np.copyto(winner, label, where=share > highest)
            np.maximum(highest, share, out=highest)
        np.copyto(winner, nearest, where=of_nearest == highest)
        return winner

    def _rows(self, first: int, stop: int) -> NDArray[np.int32]:
        """Labels of rows [first, stop) of the volume; the first is never lower than before."""
        if self._pieces is None:
            self._pieces, self._start = self._labels(first), first
        parts = [self._held[first - self._start :]]
        reached = self._start + len(self._held)
        self._start = max(first, self._start)
        while reached < stop:
            _, piece = next(self._pieces)
            parts.append(piece[max(0, first - reached) :].astype(np.int32))
            reached += len(piece)
        self._held = np.concatenate(parts)
        return self._held[: stop - first]


def _nearest(places: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    return np.floor(np.clip(places, 0, count - 1) + 0.5).astype(np.intp)
