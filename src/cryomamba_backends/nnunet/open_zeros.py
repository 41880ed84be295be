"""Zeros around what a volume shows, told from those inside it, slab by slab.

A model may be normalised without the zeros that volumes were padded with. They are those that the outside reaches
from zero to zero, face to face; zeros that are enclosed are voxels like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

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
        links = _Links(len(bounds) - 1)
        for first, stop in pairwise(bounds):
            links.add(_groups(rows(first, stop)), is_first=first == 0, is_last=stop == extent[0])
        return cls(bounds=bounds, open_groups=tuple(links.open_groups()), count=links.count)

    def slab(self, index: int, voxels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where `voxels`, all of a slab, are open zeros."""
        if not self.open_groups[index].size:
            return np.zeros(voxels.shape, bool)
        groups = _groups(voxels)
        is_open = np.zeros(int(groups.max()) + 1, bool)
        is_open[self.open_groups[index]] = True
        found: NDArray[np.bool_] = is_open[groups]
        return found


#: What is known of groups of zeros: in which slab, its number there, how many zeros, and the part of the volume's
#: connected zeros that it belongs to.
_Members = np.dtype([("slab", np.int32), ("group", np.int32), ("zeros", np.int64), ("part", np.int64)])

#: The part of connected zeros that the outside reaches.
_OUTSIDE = 0


class _Links:
    """Groups of zeros of slab after slab, and what they are connected with.

    Only those are held that are open, and those of which that is still to be found, as they are connected with the last
    section: of zeros that are scattered over a volume hardly any.

    Parameters
    ----------
    slabs
        How many slabs will come.

    Attributes
    ----------
    count
        How many zeros are open, as far as is known.
    """

    def __init__(self, slabs: int) -> None:
        self.count: int = 0
        self._open: list[list[NDArray[np.int32]]] = [[] for _ in range(slabs)]
        self._slab = 0
        self._pending = np.empty(0, _Members)
        self._parts = 1  # of connected zeros: the outside, and those that are pending
        self._above: NDArray[np.int32] | None = None  # one more than the part of each voxel of the last section, or 0

    def add(self, groups: NDArray[np.int32], *, is_first: bool, is_last: bool) -> None:
        """Take in the groups of the next slab."""
        sides = [groups[:, 0], groups[:, -1], groups[:, :, 0], groups[:, :, -1]]
        sides += [groups[0]] if is_first else []
        sides += [groups[-1]] if is_last else []
        highest = int(groups.max())
        outer, below = _distinct(sides, highest), _distinct([groups[-1]], highest)
        touching = _distinct([outer, groups[0], below], highest)
        nodes = np.zeros(highest + 1, np.int64)
        nodes[touching] = np.arange(self._parts, self._parts + len(touching))
        joined = self._joined(nodes, outer, groups[0], self._parts + len(touching))
        pending = np.unique(joined[nodes[below]])
        pending = pending[pending != joined[_OUTSIDE]]
        parts = np.full(int(joined.max()) + 1, -1, np.int64)
        parts[joined[_OUTSIDE]] = _OUTSIDE
        parts[pending] = np.arange(1, len(pending) + 1)
        parts = parts[joined]
        found = np.empty(len(touching), _Members)
        found["slab"], found["group"], found["zeros"] = self._slab, touching, np.bincount(groups.ravel())[touching]
        found["part"] = parts[nodes[touching]]
        self._pending["part"] = parts[self._pending["part"]]
        self._sort(np.concatenate([self._pending, found]))
        self._above = np.where(nodes > 0, parts[nodes] + 1, 0).astype(np.int32)[groups[-1]]
        self._parts = 1 + len(pending)
        self._slab += 1

    def _joined(
        self, nodes: NDArray[np.int64], outer: NDArray[np.int32], top: NDArray[np.int32], count: int
    ) -> NDArray[np.int64]:
        """What parts and groups are connected: a number for each, those before and those of the slab."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        first, second = np.full(len(outer), _OUTSIDE, np.int64), nodes[outer]
        if self._above is not None:
            both = (self._above > 0) & (top > 0)
            pairs = np.unique((self._above[both] - 1).astype(np.int64) * count + nodes[top[both]])
            first, second = np.concatenate([first, pairs // count]), np.concatenate([second, pairs % count])
        links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
        _, joined = connected_components(links, directed=False)
        return joined.astype(np.int64)

    def _sort(self, members: NDArray[Any]) -> None:
        """Note those that are open, hold those that are pending, and forget those that are enclosed."""
        is_open = members[members["part"] == _OUTSIDE]
        self.count += int(is_open["zeros"].sum())
        for slab in np.unique(is_open["slab"]):
            self._open[slab].append(is_open["group"][is_open["slab"] == slab])
        self._pending = members[members["part"] > _OUTSIDE]

    def open_groups(self) -> Iterator[NDArray[np.int32]]:
        """For each slab, the groups that are connected with the outside."""
        for found in self._open:
            yield np.concatenate(found) if found else np.empty(0, np.int32)


def _groups(voxels: NDArray[np.float32]) -> NDArray[np.int32]:
    """Number of the group of connected zeros that each voxel belongs to; 0 where it is not zero."""
    from scipy.ndimage import label

    groups = np.zeros(voxels.shape, np.int32)
    label(voxels == 0, output=groups)
    return groups


def _distinct(groups: Sequence[NDArray[np.int32]], highest: int) -> NDArray[np.int32]:
    """Which groups there are, in ascending order."""
    there = np.zeros(highest + 1, bool)
    for part in groups:
        there[part] = True
    there[0] = False
    return np.flatnonzero(there).astype(np.int32)
