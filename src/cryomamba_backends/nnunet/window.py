"""The voxels that the current step of a sweep needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cryomamba_backends.nnunet.accumulators import move_rows
from cryomamba_backends.nnunet.guide import GuideRows
from cryomamba_backends.nnunet.rows import Rows
from cryomamba_backends.nnunet.tiles import TileGrid
from cryomamba_core.geometry import slab_depth

if TYPE_CHECKING:
    import torch

#: Voxels that are read at a time.
READ_VOXELS = 1 << 20


class Window:
    """Rows of a volume, as deep as a tile, zeros around the volume included.

    Parameters
    ----------
    grid
        The tiles.
    rows
        Give the volume's voxels, of the grid's extent; one for each channel.
    device
        Where they lie.
    guide
        Gives further channels of the same rows, behind those of the volume.
    on_read
        Called before each piece is read; may raise to stop.
    """

    def __init__(
        self,
        grid: TileGrid,
        rows: Sequence[Rows],
        device: str,
        *,
        guide: GuideRows | None = None,
        on_read: Callable[[], None],
    ) -> None:
        import torch

        self._rows, self._guide, self._grid, self._on_read = rows, guide, grid, on_read
        self._depth = grid.patch[0]
        shape = (len(rows) + (guide.channels if guide else 0), self._depth, *grid.padded[1:])
        self._voxels = torch.zeros(shape, dtype=torch.float32, device=device)
        self._start: int | None = None

    def move_to(self, start: int) -> None:
        """Hold rows from `start` of the padded volume on; on the way down only those that are new are read."""
        import torch

        held = self._start
        if held == start:
            return
        known = 0 if held is None or held > start else max(0, self._depth - (start - held))
        if known:
            move_rows(self._voxels, self._depth - known)
        self._voxels[:, known:] = 0
        self._start = start
        before, extent = self._grid.before, self._grid.extent
        first, last = max(start + known, before[0]), min(start + self._depth, before[0] + extent[0])
        y, x = (slice(gap, gap + size) for gap, size in zip(before[1:], extent[1:], strict=True))
        rows = slab_depth(extent, voxels=READ_VOXELS)
        for row in range(first, last, rows):
            self._on_read()
            stop = min(row + rows, last)
            for channel, read in enumerate(self._rows):
                voxels = torch.from_numpy(read(row - before[0], stop - before[0]))
                self._voxels[channel, row - start : stop - start, y, x] = voxels.to(self._voxels.device)
            if self._guide is not None:
                guide = torch.from_numpy(self._guide(row - before[0], stop - before[0]))
                self._voxels[len(self._rows) :, row - start : stop - start, y, x] = guide.to(self._voxels.device)

    def tile(self, corner: tuple[int, int]) -> torch.Tensor:
        """The tile (channels, z, y, x) at `corner`; it changes with the window."""
        y, x = (slice(at, at + edge) for at, edge in zip(corner, self._grid.patch[1:], strict=True))
        return self._voxels[..., y, x]
