"""Counting the pieces of a label that is seen section by section."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

#: Voxels that share a face, an edge or a corner are neighbours.
NEIGHBOURS = np.ones((3, 3, 3), np.bool_)

#: A tie is one number, two pieces of so many bits: sorting rows of two takes ten times as long.
_HALF = 32


class ComponentCounter:
    """Counts connected pieces of one label from slabs in ascending order.

    Pieces are numbered within a slab, and numbers that touch across the border of two slabs are tied;
    what is kept between slabs is one section of numbers and the ties.

    Parameters
    ----------
    shape
        Extent (y, x) of a section in voxels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._last = np.zeros((shape[0] + 2, shape[1] + 2), np.int64)  # with a border, so that all have neighbours
        self._last_empty = True
        self._pieces = 0
        self._ties: list[NDArray[np.int64]] = []

    def add(self, mask: NDArray[np.bool_], corner: tuple[int, int]) -> None:
        """Take in the next slab.

        Parameters
        ----------
        mask
            ZYX; all sections of the slab, cropped to any window in Y and X that holds the label.
        corner
            Index (y, x) of the window's first voxel in a section.
        """
        from scipy import ndimage

        numbers, found = ndimage.label(mask, NEIGHBOURS)
        if not self._last_empty:
            self._tie(numbers[0], corner)
        self.skip()
        places, pieces = self._in_section(numbers[-1], corner)
        self._last.reshape(-1)[places] = pieces
        self._last_empty = not places.size
        self._pieces += int(found)

    def skip(self) -> None:
        """Take in a slab without the label."""
        if not self._last_empty:
            self._last[...] = 0
            self._last_empty = True

    def _in_section(
        self, numbers: NDArray[np.int32], corner: tuple[int, int]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Where in a bordered section the label is, and the piece that each voxel of it belongs to."""
        flat = numbers.reshape(-1)
        found = np.flatnonzero(flat != 0)
        y, x = np.divmod(found, numbers.shape[1])
        places = (y + (corner[0] + 1)) * self._last.shape[1] + (x + (corner[1] + 1))
        return places, flat.take(found) + np.int64(self._pieces)

    def _tie(self, first: NDArray[np.int32], corner: tuple[int, int]) -> None:
        places, above = self._in_section(first, corner)
        last = self._last.reshape(-1)
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            below = last.take(places + (dy * self._last.shape[1] + dx))
            touching = below > 0
            if touching.any():
                self._ties.append(_distinct(below[touching] << _HALF | above[touching]))

    @property
    def count(self) -> int:
        """Number of pieces so far."""
        if not self._ties:
            return self._pieces
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ties = _distinct(np.concatenate(self._ties))
        below, above = (ties >> _HALF) - 1, (ties & (1 << _HALF) - 1) - 1
        graph = coo_array((np.ones(len(ties)), (below, above)), shape=(self._pieces, self._pieces))
        pieces, _ = connected_components(graph, directed=False)
        return int(pieces)


def _distinct(ties: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each of them once, ascending; neighbours are mostly equal, and are not sorted."""
    ascending: NDArray[np.int64] = np.sort(_without_repeats(ties))
    return _without_repeats(ascending)


def _without_repeats(ties: NDArray[np.int64]) -> NDArray[np.int64]:
    first = np.append(True, ties[1:] != ties[:-1])
    return ties.compress(first)
