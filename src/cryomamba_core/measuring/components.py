"""Counting the pieces of a label that is seen section by section."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

#: Voxels that share a face, an edge or a corner are neighbours.
NEIGHBOURS = np.ones((3, 3, 3), np.bool_)


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
        self._last = np.zeros(shape, np.int64)
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
        window = (
            slice(corner[0], corner[0] + mask.shape[1]),
            slice(corner[1], corner[1] + mask.shape[2]),
        )
        if not self._last_empty and numbers[0].any():
            first = np.zeros_like(self._last)
            first[window] = np.where(numbers[0] > 0, numbers[0] + self._pieces, 0)
            self._tie(first)
        self._last[...] = 0
        self._last[window] = np.where(numbers[-1] > 0, numbers[-1].astype(np.int64) + self._pieces, 0)
        self._last_empty = not numbers[-1].any()
        self._pieces += int(found)

    def skip(self) -> None:
        """Take in a slab without the label."""
        if not self._last_empty:
            self._last[...] = 0
            self._last_empty = True

    def _tie(self, first: NDArray[np.int64]) -> None:
        height, width = first.shape
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            below = self._last[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
            above = first[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            touching = (below > 0) & (above > 0)
            if touching.any():
                pairs = np.stack([below[touching], above[touching]], axis=1)
                self._ties.append(np.unique(pairs, axis=0))

    @property
    def count(self) -> int:
        """Number of pieces so far."""
        if not self._ties:
            return self._pieces
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ties = np.unique(np.concatenate(self._ties), axis=0) - 1
        graph = coo_array((np.ones(len(ties)), (ties[:, 0], ties[:, 1])), shape=(self._pieces, self._pieces))
        pieces, _ = connected_components(graph, directed=False)
        return int(pieces)
