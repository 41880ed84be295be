"""Sums of the scores of the tiles over the rows that the current step of a sweep covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cryomamba_backends.nnunet.tiles import TileGrid, tile_profile, tile_weights
from cryomamba_core.errors import UnusableVolume

if TYPE_CHECKING:
    import torch

#: Weight in the middle of a tile, as in stock nnU-Net: it keeps half precision from underflow.
PEAK = 10.0


class Scores(Protocol):
    """Weighted sums of scores, of which rows are forgotten as the sweep goes on."""

    def move_to(self, start: int) -> None:
        """Hold rows from `start` of the padded volume on, as deep as a tile; never lower than before."""

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor) -> None:
        """Add the scores (heads, z, y, x) of a tile that starts at the first row; folds come in ascending order."""

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores (heads, z, y, x) of rows of the padded volume over tiles and folds, in the place of their sums.

        Ask once for each row, and use them before `move_to` is called again.
        """


class StockScores:
    """Sums for each fold, and of the weights, in half precision as stock nnU-Net has them.

    Parameters
    ----------
    folds, heads
        Number of networks, and of the outputs of each.
    grid
        The tiles.
    """

    def __init__(self, *, folds: int, heads: int, grid: TileGrid) -> None:
        import torch

        shape = (grid.patch[0], *grid.padded[1:])
        self._tile = tile_weights(grid.patch)
        self._sums = [torch.zeros((heads, *shape), dtype=torch.half) for _ in range(folds)]
        self._weights = torch.zeros(shape, dtype=torch.half)
        self._start: int | None = None

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        if self._start is not None:
            for tensor in (*self._sums, self._weights):
                move_rows(tensor, start - self._start)
        self._start = start

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor) -> None:
        """Add a tile's scores, and with those of the first fold its weights."""
        import torch

        square = _square(corner, self._tile)
        with torch.inference_mode():
            self._sums[fold][square] += prediction * self._tile
            if fold == 0:
                self._weights[square] += self._tile

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores of some rows."""
        assert self._start is not None
        rows = slice(start - self._start, stop - self._start)
        total: Any = None
        for sums in self._sums:
            scores = sums[:, rows].div_(self._weights[rows])
            _refuse_infinite(scores)
            total = scores if total is None else total.add_(scores)
        if len(self._sums) > 1:
            total /= len(self._sums)
        scores_of_all: torch.Tensor = total
        return scores_of_all


class SingleScores:
    """One sum for all folds, in single precision; weights are a product along the axes and need no sum.

    Parameters
    ----------
    folds, heads
        Number of networks, and of the outputs of each.
    grid
        The tiles.
    device
        Where to add up; in the memory of the host where that of the device is too small.
    """

    def __init__(self, *, folds: int, heads: int, grid: TileGrid, device: str) -> None:
        import torch

        z, y, x = (torch.from_numpy(tile_profile(edge)) for edge in grid.patch)
        self._sums = _zeros((heads, grid.patch[0], *grid.padded[1:]), device)
        tile = PEAK * z[:, None, None] * y[:, None] * x
        self._tile = tile.to(self._sums.device, torch.float32)
        across = [_profile_sum(grid, axis) for axis in range(3)]
        along = folds * PEAK * across[0][:, None, None]
        self._rows, self._lines, self._columns = (
            torch.from_numpy(weights).to(self._sums.device, torch.float32)
            for weights in (along, across[1][:, None], across[2])
        )
        self._start: int | None = None

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        if self._start is not None:
            move_rows(self._sums, start - self._start)
        self._start = start

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor) -> None:
        """Add a tile's scores."""
        import torch

        with torch.inference_mode():
            self._sums[_square(corner, self._tile)].addcmul_(prediction.to(self._sums.device), self._tile)

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores of some rows."""
        assert self._start is not None
        scores = self._sums[:, start - self._start : stop - self._start].div_(self._rows[start:stop])
        scores /= self._lines
        scores /= self._columns
        _refuse_infinite(scores)
        return scores


def move_rows(tensor: torch.Tensor, rows: int) -> None:
    """Move (…, z, y, x) up by `rows` along z, piece by piece so that nothing is copied twice; zeros come in."""
    depth = tensor.shape[-3]
    for start in range(0, depth - rows, rows):
        stop = min(start + rows, depth - rows)
        tensor[..., start:stop, :, :] = tensor[..., start + rows : stop + rows, :, :]
    tensor[..., max(0, depth - rows) :, :, :] = 0


def _profile_sum(grid: TileGrid, axis: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum of the weights of all tiles along an axis of the padded volume."""
    profile = tile_profile(grid.patch[axis])
    total = np.zeros(grid.padded[axis])
    for start in grid.starts[axis]:
        total[start : start + len(profile)] += profile
    return total


def _zeros(shape: tuple[int, ...], device: str) -> torch.Tensor:
    import torch

    try:
        return torch.zeros(shape, device=device)
    except torch.OutOfMemoryError:
        return torch.zeros(shape)


def _refuse_infinite(scores: torch.Tensor) -> None:
    import torch

    for head in scores:  # one by one, as PyTorch copies what does not lie in one piece
        low, high = torch.aminmax(head)  # of both, a NaN anywhere makes NaN
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise UnusableVolume(
                "the network's scores are not finite numbers",
                hint="look for extreme voxels in the volume; if there are none, the model's weights are broken",
            )


def _square(corner: tuple[int, int], tile: torch.Tensor) -> tuple[Any, ...]:
    y, x = (slice(at, at + edge) for at, edge in zip(corner, tile.shape[1:], strict=True))
    return ..., y, x
