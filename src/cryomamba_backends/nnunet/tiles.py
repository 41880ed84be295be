"""Where tiles lie and how they are weighted, as stock nnU-Net has it."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cryomamba_core.geometry import Index3, to_index

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True)
class TileGrid:
    """Tiles over a cropped volume, in model axes.

    Attributes
    ----------
    extent
        Of the cropped volume, in voxels.
    patch
        Of a tile.
    before
        Zeros that are put before the volume so that a tile fits; what is missing after them is put behind.
    starts
        First voxel of the tiles on each axis, in the padded volume, ascending.
    """

    extent: Index3
    patch: Index3
    before: Index3
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def over(cls, extent: Index3, patch: Index3, step: float) -> Self:
        """Tiles of `patch` over a volume of `extent`, at most `step` of an edge apart."""
        missing = [max(0, edge - size) for size, edge in zip(extent, patch, strict=True)]
        padded = [size + gap for size, gap in zip(extent, missing, strict=True)]
        z, y, x = (_starts(size, edge, step) for size, edge in zip(padded, patch, strict=True))
        return cls(extent=extent, patch=patch, before=to_index(gap // 2 for gap in missing), starts=(z, y, x))

    @property
    def padded(self) -> Index3:
        """Extent of the padded volume."""
        return to_index(max(size, edge) for size, edge in zip(self.extent, self.patch, strict=True))

    @property
    def tiles_per_step(self) -> int:
        """Tiles that start at the same row of the first axis."""
        return len(self.starts[1]) * len(self.starts[2])

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.starts[0]) * self.tiles_per_step

    def steps(self, rows: range) -> range:
        """Which rows of tiles touch some rows of the volume along the first axis."""
        start, stop = self.before[0] + rows.start, self.before[0] + rows.stop
        return range(bisect_right(self.starts[0], start - self.patch[0]), bisect_left(self.starts[0], stop))

    def corners(
        self, count: int, wanted: Callable[[tuple[int, int]], bool] | None = None
    ) -> Iterator[list[tuple[int, int]]]:
        """Where the tiles of a step lie on the other axes, in stock's order, up to `count` at a time; all, or some."""
        corners = filter(wanted or (lambda _: True), itertools.product(self.starts[1], self.starts[2]))
        while group := list(itertools.islice(corners, count)):
            yield group


def _starts(size: int, edge: int, step: float) -> tuple[int, ...]:
    if edge == 1:
        return tuple(range(size))
    count = math.ceil((size - edge) / (edge * step)) + 1
    distance = (size - edge) / (count - 1) if count > 1 else 0.0
    return tuple(int(np.round(distance * index)) for index in range(count))


def tile_profile(edge: int) -> NDArray[np.float64]:
    """The weight of a tile along one of its edges: a Gaussian of 1 in the middle, nowhere zero.

    The Gaussian of stock nnU-Net is the product of three of these, which half precision alone hides.
    """
    from scipy.ndimage import gaussian_filter1d

    impulse = np.zeros(edge)
    impulse[edge // 2] = 1
    bell: NDArray[np.float64] = gaussian_filter1d(impulse, edge / 8, mode="constant", cval=0)
    bell /= bell.max()
    bell[bell == 0] = bell[bell > 0].min()
    return bell


def tile_weights(patch: Index3) -> torch.Tensor:
    """The weight of each voxel of a tile: a Gaussian of 10 at the centre, in half precision, nowhere zero."""
    import torch
    from scipy.ndimage import gaussian_filter

    edges = [edge for edge in patch if edge > 1]  # a section is weighted as one
    impulse = np.zeros(edges)
    impulse[tuple(edge // 2 for edge in edges)] = 1
    bell = gaussian_filter(impulse, [edge / 8 for edge in edges], 0, mode="constant", cval=0)
    bell /= np.max(bell) / 10
    weights = torch.from_numpy(bell.reshape(patch)).to(torch.half)
    weights[weights == 0] = weights[weights != 0].min()
    return weights
