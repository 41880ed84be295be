"""The coarse pass: tiles side by side, each through one network once, to show all of a volume early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.forward import Forward
from cryomamba_backends.nnunet.grid_change import GridChange
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_backends.nnunet.window import Window
from cryomamba_core.geometry import Index3, Region

if TYPE_CHECKING:
    import torch

#: Nobody needs a coarse answer where the whole one takes no longer than this, in seconds.
SHORT = 15.0

#: What the coarse pass may cost of the sweep. With mirrored tiles it is about 2 %, without 12 to 15 %.
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
        Gives voxels.
    change
        From the volume's grid to the one of the tiles.
    forward
        One network, no mirror images.
    decide
        Makes labels (z, y, x) of scores (heads, z, y, x).
    """

    grid: TileGrid
    rows: Rows = field(repr=False)
    change: GridChange
    forward: Forward
    decide: Callable[[torch.Tensor], NDArray[Any]] = field(repr=False)

    def labels(self) -> Iterator[tuple[Region, NDArray[Any]]]:
        """Labels tile by tile.

        Yields
        ------
        region
            Of the volume's box, in the axes of the sweep.
        labels
            Of the region's shape.
        """
        window = Window(self.grid, self.rows, self.forward.course.device, on_read=self.forward.work.context.checkpoint)
        for start in self.grid.starts[0]:
            window.move_to(start)
            for group in self.grid.corners(self.forward.batch):
                for index, _, scores in self.forward.scores([window.tile(corner) for corner in group]):
                    yield self._on_source((start, *group[index]), self.decide(scores))

    def seconds_for_one(self) -> float:
        """How long a tile takes, measured on one of zeros."""
        import torch

        tile = torch.zeros((1, 1, *self.grid.patch), device=self.forward.course.device)
        begun = time.monotonic()
        with torch.inference_mode(), self.forward.course.autocast():
            self.forward.networks[0](tile).sum().item()
        return time.monotonic() - begun

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


def is_worthwhile(coarse: CoarsePass, images: int) -> bool:
    """Whether a coarse pass comes well before a sweep of so many images of tiles is over, and costs little of it."""
    share = SHARE_EXACT if coarse.forward.course.exact else SHARE_FAST
    return coarse.grid.tiles <= share * images and coarse.seconds_for_one() * images > SHORT
