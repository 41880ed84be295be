"""The sweep: tiles row of tiles after row of tiles, and scores as soon as no later tile touches them.

Only a window one tile deep along the first axis is held, whatever the volume's extent there. Tiles are run in stock
nnU-Net's order, and every row gets all tiles that touch it in that order: its scores do not depend on where the sweep
began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING

from attrs import field, frozen

from cryomamba_backends.nnunet.forward import Forward
from cryomamba_backends.nnunet.guide import GuideRows
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.scores import Scores
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.window import Window
from cryomamba_core.allocator import return_freed
from cryomamba_core.geometry import slab_depth

if TYPE_CHECKING:
    import torch

#: Keeps what is freed in a ``with``, or does not.
Freed = Callable[[], AbstractContextManager[None]]

#: Voxels that are decided at a time.
BLOCK_VOXELS = 1 << 20


@frozen(kw_only=True)
class Sweep:
    """One run over a volume.

    Attributes
    ----------
    grid
        Tiles over the volume, in the axes of the sweep.
    rows
        Give the volume's voxels, of the grid's extent; one for each channel.
    guide
        Gives further channels of the same rows; None where the networks take only those of the volume.
    forward
        Gives the scores of tiles.
    sums
        Where they are added up.
    freed
        What to do meanwhile with what a network frees.
    """

    grid: TileGrid
    rows: Sequence[Rows] = field(repr=False)
    guide: GuideRows | None = field(repr=False)
    forward: Forward
    sums: Scores = field(repr=False)
    freed: Freed = field(default=nullcontext, repr=False)

    def scores(self, first_row: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        """Mean scores of the volume, in ascending order of its rows.

        Parameters
        ----------
        first_row
            Rows before this one are left out, with the tiles that only they need.

        Yields
        ------
        row
            Where the piece starts on the first axis, in voxels of the volume.
        scores
            (heads, rows, y, x): some rows, whole on the other axes. They lie where the sums do: they are the
            receiver's until it asks for the next.
        """
        return_freed()
        with closing(self.sums), self.freed():
            yield from self._scores(first_row)

    def _scores(self, first_row: int) -> Iterator[tuple[int, torch.Tensor]]:
        before, extent = self.grid.before, self.grid.extent
        wanted = range(before[0] + first_row, before[0] + extent[0])
        starts, depth = self.grid.starts[0], self.grid.patch[0]
        y, x = (slice(gap, gap + size) for gap, size in zip(before[1:], extent[1:], strict=True))
        rows = slab_depth((depth, *self.grid.padded[1:]), voxels=BLOCK_VOXELS)
        window = Window(
            self.grid,
            self.rows,
            self.forward.course,
            guide=self.guide,
            on_read=self.forward.work.context.checkpoint,
        )
        steps = self.grid.steps(range(first_row, extent[0]))
        with closing(window.through([starts[step] for step in steps])) as moved:
            for step, start in zip(steps, moved, strict=True):
                self.sums.move_to(start)
                return_freed()
                self._run_tiles(window)
                return_freed()
                end = starts[step + 1] if step + 1 < len(starts) else start + depth
                final = range(max(start, wanted.start), min(end, wanted.stop))
                for row in range(final.start, final.stop, rows):
                    yield row - before[0], self.sums.mean(row, min(row + rows, final.stop))[..., y, x]

    def _run_tiles(self, window: Window) -> None:
        for group in self.grid.corners(self.forward.batch):
            for index, fold, scores in self.forward.scores([window.tile(corner) for corner in group]):
                self.sums.add(fold, group[index], scores)
                del scores  # else they are held while the next are computed
