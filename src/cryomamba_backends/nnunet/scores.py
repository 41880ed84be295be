"""Sums of the scores of the tiles over the rows that the current step of a sweep covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cryomamba_backends.nnunet.accumulators import Accumulator
from cryomamba_backends.nnunet.tiles import TileGrid, tile_profile, tile_weights
from cryomamba_core.errors import UnusableVolume

if TYPE_CHECKING:
    import torch

#: Weight in the middle of a tile, as in stock nnU-Net: it keeps half precision from underflow.
PEAK = 10.0

#: Makes room for sums (channels, rows, y, x) of tiles with some edges (y, x) and of a type.
Hold = Callable[[tuple[int, int, int, int], tuple[int, int], "torch.dtype"], Accumulator]


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

    def close(self) -> None:
        """Give back what is not memory."""


class StockScores:
    """Sums for each fold, and of the weights, in half precision as stock nnU-Net has them.

    Parameters
    ----------
    folds, heads
        Number of networks, and of the outputs of each.
    grid
        The tiles.
    hold
        Makes room for the sums.
    """

    def __init__(self, *, folds: int, heads: int, grid: TileGrid, hold: Hold) -> None:
        import torch

        self._tile = tile_weights(grid.patch)
        self._held = _held(hold, folds * heads + 1, grid, torch.half)
        self._folds = [slice(fold * heads, (fold + 1) * heads) for fold in range(folds)]

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        self._held.move_to(start)

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor) -> None:
        """Add a tile's scores, and with those of the first fold its weights."""
        import torch

        square = self._held.square(corner)
        with torch.inference_mode():
            square[self._folds[fold]] += prediction * self._tile
            if fold == 0:
                square[-1] += self._tile

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores of some rows."""
        rows = self._held.rows(start, stop)
        total: Any = None
        for fold in self._folds:
            scores = rows[fold].div_(rows[-1])
            _refuse_infinite(scores)
            total = scores if total is None else total.add_(scores)
        if len(self._folds) > 1:
            total /= len(self._folds)
        scores_of_all: torch.Tensor = total
        return scores_of_all

    def close(self) -> None:
        """Give back what is not memory."""
        self._held.close()


class SingleScores:
    """One sum for all folds, in single precision; weights are a product along the axes and need no sum.

    Parameters
    ----------
    folds, heads
        Number of networks, and of the outputs of each.
    grid
        The tiles.
    hold
        Makes room for the sums, where they are added up.
    """

    def __init__(self, *, folds: int, heads: int, grid: TileGrid, hold: Hold) -> None:
        import torch

        z, y, x = (torch.from_numpy(tile_profile(edge)) for edge in grid.patch)
        self._held = _held(hold, heads, grid, torch.float32)
        device = self._held.device
        tile = PEAK * z[:, None, None] * y[:, None] * x
        self._tile = tile.to(device, torch.float32)
        across = [_profile_sum(grid, axis) for axis in range(3)]
        along, row = folds * PEAK * across[0][:, None, None], across[1][:, None] * across[2]
        self._along, self._row = (torch.from_numpy(weights).to(device, torch.float32) for weights in (along, row))

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        self._held.move_to(start)

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor) -> None:
        """Add a tile's scores."""
        import torch

        square = self._held.square(corner)
        with torch.inference_mode():
            square.addcmul_(prediction.to(square.device), self._tile)

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores of some rows."""
        scores = self._held.rows(start, stop).div_(self._along[start:stop] * self._row)
        _refuse_infinite(scores)
        return scores

    def close(self) -> None:
        """Give back what is not memory."""
        self._held.close()


def _held(hold: Hold, channels: int, grid: TileGrid, dtype: torch.dtype) -> Accumulator:
    return hold((channels, grid.patch[0], *grid.padded[1:]), (grid.patch[1], grid.patch[2]), dtype)


def _profile_sum(grid: TileGrid, axis: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sum of the weights of all tiles along an axis of the padded volume."""
    profile = tile_profile(grid.patch[axis])
    total = np.zeros(grid.padded[axis])
    for start in grid.starts[axis]:
        total[start : start + len(profile)] += profile
    return total


def _refuse_infinite(scores: torch.Tensor) -> None:
    import torch

    for head in scores:  # one by one, as PyTorch copies what does not lie in one piece
        low, high = torch.aminmax(head)  # of both, a NaN anywhere makes NaN
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise UnusableVolume(
                "the network's scores are not finite numbers",
                hint="look for extreme voxels in the volume; if there are none, the model's weights are broken",
            )
