"""The connected pieces of a label that is seen slab by slab: how many there are, and which are the largest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

#: Voxels that share a face, an edge or a corner are neighbours.
NEIGHBOURS = np.ones((3, 3, 3), np.bool_)

#: A tie is one number, two pieces of so many bits less one: sorting rows of two takes ten times as long.
_HALF = 32

#: Voxels that are counted or compared at a time: the indices of one take about 60 bytes.
_PART = 1 << 18


def number_pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the pieces within one slab.

    Parameters
    ----------
    mask
        ZYX; all sections of the slab.

    Returns
    -------
    numbers
        ZYX; 0 outside the mask. Equal masks are numbered equally.
    found
        The highest number; none below it is missing.
    """
    from scipy import ndimage

    numbers, found = ndimage.label(mask, NEIGHBOURS)
    return numbers.astype(np.int32, copy=False), int(found)  # 8 bytes for slabs that are too large anyhow


def look_up(table: NDArray[np.bool_], indices: NDArray[Any]) -> NDArray[np.bool_]:
    """``table[indices]``, without making indices of 8 bytes for all voxels at once.

    Parameters
    ----------
    table
        What to say of each index from 0.
    indices
        ZYX, contiguous, of any unsigned type or without negative values: labels, or numbers of pieces.
    """
    found = np.empty(indices.shape, np.bool_)
    for part in _parts(indices.size):
        found.reshape(-1)[part] = table.take(indices.reshape(-1)[part])
    return found


class ComponentCounter:
    """Counts connected pieces of one label from slabs in ascending order.

    Parameters
    ----------
    shape
        Extent (y, x) of a section in voxels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._ties = _Ties(shape)

    def add(self, mask: NDArray[np.bool_], corner: tuple[int, int]) -> None:
        """Take in the next slab.

        Parameters
        ----------
        mask
            ZYX; all sections of the slab, cropped to any window in Y and X that holds the label.
        corner
            Index (y, x) of the window's first voxel in a section.
        """
        self._ties.add(*number_pieces(mask), corner)

    def skip(self) -> None:
        """Take in a slab without the label."""
        self._ties.skip()

    @property
    def count(self) -> int:
        """Number of pieces so far."""
        tied, _, groups = self._ties.groups()
        return self._ties.pieces - len(tied) + groups


class LargestPieces:
    """Finds the largest connected pieces of one label from slabs in ascending order.

    What is kept of a slab is one number for each of its pieces.

    Parameters
    ----------
    shape
        Extent (y, x) of a section in voxels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._ties = _Ties(shape)
        self._sizes: list[NDArray[Any]] = []

    def add(self, mask: NDArray[np.bool_]) -> None:
        """Take in the next slab: ZYX, all sections of it."""
        if not mask.any():
            self._ties.skip()
            self._sizes.append(np.zeros(0, np.uint8))
            return
        numbers, found = number_pieces(mask)
        self._ties.add(numbers, found, (0, 0))
        self._sizes.append(_sizes(numbers, found).astype(np.min_scalar_type(mask.size)))

    def finish(self) -> list[NDArray[np.bool_]]:
        """Which pieces are the largest; nothing can be added afterwards.

        Returns
        -------
        largest
            For each slab an array with one element for each number that `number_pieces` gives there,
            and for 0: whether the voxels of that number belong to one of the largest pieces. Equals are all there.
        """
        tied, group, groups = self._ties.groups()
        ends = np.cumsum([len(sizes) for sizes in self._sizes])
        bounds = [0, *np.searchsorted(tied, ends)]
        totals = np.zeros(groups, np.int64)
        own = []
        for sizes, end, (start, stop) in zip(self._sizes, ends, itertools.pairwise(bounds), strict=True):
            own.append(tied[start:stop] - (end - len(sizes)))
            np.add.at(totals, group[start:stop], sizes[own[-1]].astype(np.int64))
        # Pieces that are tied count here too: none of them is larger than all that it is tied to.
        most = max(int(sizes.max(initial=0)) for sizes in (*self._sizes, totals))
        largest = []
        for pieces, (start, stop) in zip(own, itertools.pairwise(bounds), strict=True):
            sizes = self._sizes.pop(0)
            kept = np.append(False, sizes == most)
            kept[pieces + 1] = totals[group[start:stop]] == most
            largest.append(kept)
        return largest


@frozen(kw_only=True)
class _Runs:
    """Where the pieces are in a section: voxels next to each other along x, which are always of one piece.

    Attributes
    ----------
    starts, stops
        Places in a section with a border of one voxel, ascending; the stops are exclusive.
    pieces
        The piece that each run belongs to, counted from 1 over all slabs.
    """

    starts: NDArray[Any]
    stops: NDArray[Any]
    pieces: NDArray[np.int32]


class _Ties:
    """Which pieces of neighbouring slabs are one.

    Pieces are numbered within a slab, and numbers that touch across the border of two slabs are tied;
    what is kept between slabs is the runs of one section, 12 bytes each, and the ties. All labels of a
    volume together have no more runs than a section has voxels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._width = shape[1] + 2  # with a border, so that all have neighbours
        self._place = np.dtype(np.int32 if (shape[0] + 2) * self._width < 1 << 31 else np.int64)
        self._last: _Runs | None = None
        self._ties: list[NDArray[np.int64]] = []
        self.pieces = 0

    def add(self, numbers: NDArray[np.int32], found: int, corner: tuple[int, int]) -> None:
        """Take in the numbers of the next slab, in a window whose first voxel is at `corner` (y, x)."""
        if self._last is not None:
            for runs in self._in_section(numbers[0], corner):
                self._tie(self._last, runs)
        self._last = _joined(self._in_section(numbers[-1], corner))
        self.pieces += found

    def skip(self) -> None:
        """Take in a slab without pieces."""
        self._last = None

    def _in_section(self, numbers: NDArray[np.int32], corner: tuple[int, int]) -> Iterator[_Runs]:
        """The runs of a section, some rows at a time."""
        height, width = numbers.shape
        rows = max(1, _PART // width)
        for top in range(0, height, rows):
            part = numbers[top : top + rows]
            filled = np.zeros((len(part), width + 1), np.bool_)  # a column that ends each row's last run
            np.not_equal(part, 0, out=filled[:, :width])
            y, x = np.divmod(_changes(filled.reshape(-1)), width + 1)
            places = ((y + (top + corner[0] + 1)) * self._width + (x + (corner[1] + 1))).astype(self._place)
            if places.size:
                pieces = part[y[::2], x[::2]] + np.int32(self.pieces)
                yield _Runs(starts=places[::2], stops=places[1::2], pieces=pieces)

    def _tie(self, below: _Runs, above: _Runs) -> None:
        found = []
        for row in (-self._width, 0, self._width):
            first = np.searchsorted(below.stops, above.starts + self._place.type(row - 1), "right")
            beyond = np.searchsorted(below.starts, above.stops + self._place.type(row + 1), "left")
            ends = np.cumsum(beyond - first)
            for part in _parts(int(ends[-1])):
                pairs = np.arange(part.start, part.stop)
                upper = np.searchsorted(ends, pairs, "right")
                lower = beyond.take(upper) - (ends.take(upper) - pairs)
                tied = below.pieces.take(lower).astype(np.int64) << _HALF | above.pieces.take(upper)
                found.append(_distinct(tied))
        if found:
            self._ties.append(_distinct(np.concatenate(found)))

    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
        """Which pieces are one.

        Returns
        -------
        tied
            The pieces that are tied to any, counted from 0 over all slabs, ascending.
        group
            For each of them, which group it belongs to.
        groups
            Number of groups.
        """
        if not self._ties:
            return np.zeros(0, np.int64), np.zeros(0, np.int32), 0
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ties = np.concatenate(self._ties)
        self._ties = [ties]
        below, above = (ties >> _HALF) - 1, (ties & (1 << _HALF) - 1) - 1
        tied = _distinct(np.concatenate([below, above]))
        ends = np.searchsorted(tied, below), np.searchsorted(tied, above)
        graph = coo_array((np.ones(len(ties), np.int8), ends), shape=(len(tied), len(tied)))
        groups, group = connected_components(graph, directed=False)
        return tied, group, int(groups)


def _joined(parts: Iterable[_Runs]) -> _Runs | None:
    """All runs of a section, None if there are none."""
    runs = list(parts)
    if not runs:
        return None
    return _Runs(
        starts=np.concatenate([part.starts for part in runs]),
        stops=np.concatenate([part.stops for part in runs]),
        pieces=np.concatenate([part.pieces for part in runs]),
    )


def _changes(filled: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where runs of `filled` start and, by turns, stop; its last element is empty."""
    return np.flatnonzero(np.diff(filled, prepend=False))


def _sizes(numbers: NDArray[np.int32], found: int) -> NDArray[np.int64]:
    """How many voxels have each number from 1 to `found`."""
    sizes = np.zeros(found + 1, np.int64)
    for part in _parts(numbers.size):
        own = numbers.reshape(-1)[part]
        own = own[own > 0]
        if own.size:
            lowest = int(own.min())  # those of a part lie close together
            counts = np.bincount(own - lowest)
            sizes[lowest : lowest + len(counts)] += counts
    return sizes[1:]


def _parts(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _PART, size)) for start in range(0, size, _PART))


def _distinct(ties: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each of them once, ascending; neighbours are mostly equal, and are not sorted."""
    ascending: NDArray[np.int64] = np.sort(_without_repeats(ties))
    return _without_repeats(ascending)


def _without_repeats(ties: NDArray[np.int64]) -> NDArray[np.int64]:
    first = np.append(True, ties[1:] != ties[:-1])
    return ties.compress(first)
