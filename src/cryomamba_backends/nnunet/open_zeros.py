"""Zeros around what a volume shows, told from those inside it, slab by slab.

A model may be normalised without the zeros that volumes were padded with. They are those that the outside reaches
from zero to zero, face to face; zeros that are enclosed are voxels like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.rows import Rows
from cryomamba_core.geometry import Index3, slab_depth

#: Voxels that are looked at at a time.
SLAB_VOXELS = 2 << 20


@frozen(kw_only=True, eq=False)
class OpenZeros:
    """Which zeros of an array are open to its outside.

    Attributes
    ----------
    bounds
        First row of each slab, and the row after the last.
    open_groups
        For each slab, which of its groups of connected zeros are open.
    count
        How many zeros are open.
    """

    bounds: tuple[int, ...]
    open_groups: tuple[NDArray[np.int32], ...] = field(repr=False)
    count: int

    @classmethod
    def find(cls, rows: Rows, extent: Index3) -> OpenZeros:
        """Look at all rows of an array of `extent` once."""
        depth = slab_depth(extent, voxels=SLAB_VOXELS)
        bounds = (*range(0, extent[0], depth), extent[0])
        links = _Links()
        for first, stop in pairwise(bounds):
            links.add(_groups(rows(first, stop)), is_first=first == 0, is_last=stop == extent[0])
        found = list(links.open_groups())
        return cls(
            bounds=bounds,
            open_groups=tuple(groups for groups, _ in found),
            count=sum(int(sizes.sum()) for _, sizes in found),
        )

    def slab(self, index: int, voxels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where `voxels`, all of a slab, are open zeros."""
        if not self.open_groups[index].size:
            return np.zeros(voxels.shape, bool)
        groups = _groups(voxels)
        is_open = np.zeros(int(groups.max()) + 1, bool)
        is_open[self.open_groups[index]] = True
        found: NDArray[np.bool_] = is_open[groups]
        return found


class _Links:
    """Groups of zeros that touch the faces of their slab, and what they are connected with."""

    def __init__(self) -> None:
        self._touching: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._nodes = 1  # the first is the outside
        self._above: NDArray[np.int64] | None = None

    def add(self, groups: NDArray[np.int32], *, is_first: bool, is_last: bool) -> None:
        """Note the groups of the next slab."""
        sides = [groups[:, 0], groups[:, -1], groups[:, :, 0], groups[:, :, -1]]
        sides += [groups[0]] if is_first else []
        sides += [groups[-1]] if is_last else []
        outer = _distinct(sides)
        touching = _distinct([outer, groups[0], groups[-1]])
        nodes = np.zeros(int(groups.max()) + 1, np.int64)
        nodes[touching] = np.arange(self._nodes, self._nodes + len(touching))
        self._pairs.append(np.stack([np.zeros(len(outer), np.int64), nodes[outer]]))
        if self._above is not None:
            both = (self._above > 0) & (groups[0] > 0)
            self._pairs.append(np.unique(np.stack([self._above[both], nodes[groups[0][both]]]), axis=1))
        self._above = nodes[groups[-1]]
        self._touching.append((touching, np.bincount(groups.ravel())[touching]))
        self._nodes += len(touching)

    def open_groups(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """For each slab, the groups that are connected with the outside, and how many zeros each has."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        first, second = np.concatenate(self._pairs, axis=1)
        links = coo_array((np.ones(len(first), bool), (first, second)), shape=(self._nodes, self._nodes))
        _, part = connected_components(links, directed=False)
        start = 1
        for touching, sizes in self._touching:
            is_open = part[start : start + len(touching)] == part[0]
            yield touching[is_open], sizes[is_open]
            start += len(touching)


def _groups(voxels: NDArray[np.float32]) -> NDArray[np.int32]:
    """Number of the group of connected zeros that each voxel belongs to; 0 where it is not zero."""
    from scipy.ndimage import label

    groups = np.zeros(voxels.shape, np.int32)
    label(voxels == 0, output=groups)
    return groups


def _distinct(groups: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    found = np.unique(np.concatenate([part.ravel() for part in groups]))
    return found[found > 0]
