"""The coarse pass: tiles side by side, each through one network once, to show all of a volume early."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.forward import Forward
from cryomamba_backends.nnunet.grid_change import GridChange
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.sweep import Freed
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.window import Window
from cryomamba_core.geometry import Index3, Region

if TYPE_CHECKING:
    import torch

#: Rows on one side of the first that are taken before those on the other, where tiles are thinner than that.
RUN = 32

#: Says of a tile, by its place on the other axes than that of the sweep, whether it is to be taken.
Wanted = Callable[[tuple[int, int]], bool]

#: Nobody needs a coarse answer where the whole one takes no longer than this, in seconds.
SHORT = 15.0

#: Tiles that the coarse pass may have for an image of a tile in the sweep. With mirrored tiles it has 2 to 5 of 100,
#: without 12 to 15, and each takes a half to a fifth of the time where the CPU multiplies bfloat16.
SHARE_FAST = 0.2
SHARE_EXACT = 0.05


@frozen(kw_only=True)
class CoarsePass:
    """Labels of a volume from tiles that do not overlap; where the last ones must, the later wins.

    Attributes
    ----------
    grid
        Tiles, one edge apart, in the axes of the sweep.
    rows
        Give voxels, one for each channel.
    change
        From the volume's grid to the one of the tiles.
    forward
        One network, no mirror images, `Course.rough`.
    decide
        Makes labels (z, y, x) of scores (heads, z, y, x).
    first
        Axis of the sweep, and row of the volume's box along it, whose tiles come before the others; None for the order
        of the sweep.
    freed
        What to do meanwhile with what the network frees.
    """

    grid: TileGrid
    rows: Sequence[Rows] = field(repr=False)
    change: GridChange
    forward: Forward
    decide: Callable[[torch.Tensor], NDArray[Any]] = field(repr=False)
    first: tuple[int, int] | None = None
    freed: Freed = field(default=nullcontext, repr=False)

    def labels(self, rows: range) -> Generator[tuple[Region, NDArray[Any]]]:
        """Labels tile by tile, of those that touch some rows of the volume's box, beginning with `first`.

        Yields
        ------
        region
            Of the volume's box, in the axes of the sweep.
        labels
            Of the region's shape.
        """
        window = Window(self.grid, self.rows, self.forward.course, on_read=self.forward.work.context.checkpoint)
        turns = list(self._in_turn(rows))
        with self.freed(), closing(window.through([start for start, _ in turns])) as moved:
            for (start, wanted), _ in zip(turns, moved, strict=True):
                for group in self.grid.corners(self.forward.batch, wanted):
                    for index, _, scores in self.forward.scores([window.tile(corner) for corner in group]):
                        yield self._on_source((start, *group[index]), self.decide(scores))

    def _in_turn(self, rows: range) -> Iterator[tuple[int, Wanted | None]]:
        """Where rows of tiles start, in the order in which they are taken, and which of their tiles; None for all.

        Along the sweep, it goes on to both sides in runs, as rows cost least when they ascend. A section across the
        sweep lies in tiles of all its rows: they are read twice for it.
        """
        steps = self.grid.steps(self.change.rows_on_target(rows))
        starts = self.grid.starts[0][steps.start : steps.stop]
        if self.first is None or len(self.grid.starts[self.first[0]]) == 1:
            yield from ((start, None) for start in starts)
            return
        axis, row = self.first
        middle = self.grid.before[axis] + (row + 0.5) * self._scale(axis) - self.grid.patch[axis] / 2
        nearest = min(self.grid.starts[axis], key=lambda start: abs(start - middle))
        if axis == 0:
            run = max(self.grid.patch[0], RUN)
            in_turn = sorted(starts, key=lambda start: (start != nearest, abs(start - middle) // run, start))
            yield from ((start, None) for start in in_turn)
            return
        yield from ((start, lambda corner: corner[axis - 1] == nearest) for start in starts)
        yield from ((start, lambda corner: corner[axis - 1] != nearest) for start in starts)

    def is_needed(self, images: int) -> bool:
        """Whether a sweep of so many images of tiles takes longer than `SHORT`, going by one tile of zeros."""
        import torch

        zeros = torch.zeros((len(self.rows), *self.grid.patch), device=self.forward.course.device)
        tile = self.forward.to_network([zeros])
        begun = time.monotonic()
        with self.freed(), torch.inference_mode(), self.forward.course.autocast():
            self.forward.networks[0](tile).sum().item()
        return (time.monotonic() - begun) * images > SHORT

    def _on_source(self, corner: Index3, labels: NDArray[Any]) -> tuple[Region, NDArray[Any]]:
        """The voxels of the volume whose nearest ones of the tiles' grid lie in a tile, and their labels."""
        start, stop, picked = [], [], []
        for axis, at in enumerate(corner):
            nearest = np.floor((np.arange(self.change.source[axis]) + 0.5) * self._scale(axis)).astype(np.intp)
            first = at - self.grid.before[axis]
            low, high = np.searchsorted(nearest, [max(0, first), first + self.grid.patch[axis]])
            start.append(low)
            stop.append(high)
            picked.append(nearest[low:high] - first)
        return Region(start=start, stop=stop), labels[np.ix_(*picked)]

    def _scale(self, axis: int) -> float:
        return self.change.target[axis] / self.change.source[axis]


def tiles_touching(grid: TileGrid, change: GridChange, rows: range) -> int:
    """How many tiles of `grid` touch some rows of the box of a volume that `change` brings onto it."""
    return len(grid.steps(change.rows_on_target(rows))) * grid.tiles_per_step


def costs_little(tiles: int, images: int, *, exact: bool) -> bool:
    """Whether a coarse pass of so many tiles does, beside a sweep of so many images of tiles."""
    return tiles <= (SHARE_EXACT if exact else SHARE_FAST) * images
