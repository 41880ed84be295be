"""The sweep: tiles row of tiles after row of tiles, and labels as soon as no later tile touches them.

Bit by bit the labels of stock nnU-Net on the CPU: its tile order, its half-precision sums, its order of mirrored
tiles and of folds. Only a window one tile deep along the first axis of the model is held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from cryomamba_backends.nnunet.normalisation import Normalise
from cryomamba_backends.nnunet.plans import ModelRecipe
from cryomamba_backends.nnunet.tiles import TileGrid, tile_weights
from cryomamba_core.errors import UnusableVolume
from cryomamba_core.geometry import Index3, Region, slab_depth
from cryomamba_core.interfaces import RunContext
from cryomamba_core.volumes import Volume

if TYPE_CHECKING:
    import torch

#: Voxels that are read, or decided, at a time.
BLOCK_VOXELS = 4 << 20


def mirrorings(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The combinations of axes along which a tile is mirrored, in stock's order, without the empty one."""
    return tuple(chosen for count in range(len(axes)) for chosen in itertools.combinations(axes, count + 1))


@frozen(kw_only=True, eq=False)
class Sweep:
    """One run over a volume.

    Attributes
    ----------
    volume
        What is segmented.
    box
        The part of it that is not zero, in its own axes (z, y, x).
    recipe
        The model's plans.
    normalise
        Its normalisation, measured on `box`.
    grid
        Tiles over `box`, in model axes.
    networks
        One for each fold.
    mirror_axes
        Combinations of model axes from `mirrorings`.
    context
        Hears of progress, and says when to stop.
    """

    volume: Volume
    box: Region
    recipe: ModelRecipe
    normalise: Normalise = field(repr=False)
    grid: TileGrid
    networks: Sequence[torch.nn.Module] = field(repr=False)
    mirror_axes: Sequence[tuple[int, ...]]
    context: RunContext

    def labels(self, first_row: int = 0) -> Iterator[tuple[int, NDArray[np.uint8 | np.uint16]]]:
        """Labels inside the box, in model axes, in ascending order of the first.

        Parameters
        ----------
        first_row
            Rows of the first axis before this one are left out, with the tiles that only they need.

        Yields
        ------
        row
            Where the piece starts on the first axis, in voxels of the box.
        labels
            Some rows, whole on the other axes.
        """
        before, extent = self.grid.before, self.grid.extent
        wanted = range(before[0] + first_row, before[0] + extent[0])
        depth = self.grid.patch[0]
        starts = self.grid.starts[0]
        first = next(step for step, start in enumerate(starts) if start + depth > wanted.start)
        window = _Window(self)
        scores = _Scores(len(self.networks), self.recipe.labels.heads, (depth, *self.grid.padded[1:]))
        weights = tile_weights(self.grid.patch)
        window.move_to(starts[first])
        for step in range(first, len(starts)):
            start = starts[step]
            if step > first:
                window.move_to(start)
                scores.shift(start - starts[step - 1])
            self._run_tiles(step, window, scores, weights)
            end = starts[step + 1] if step + 1 < len(starts) else start + depth
            final = range(max(start, wanted.start), min(end, wanted.stop))
            rows = slab_depth((depth, *self.grid.padded[1:]), voxels=BLOCK_VOXELS)
            for row in range(final.start, final.stop, rows):
                stop = min(row + rows, final.stop)
                yield row - before[0], self._decide(scores, row - start, stop - start)

    def _run_tiles(self, step: int, window: _Window, scores: _Scores, weights: torch.Tensor) -> None:
        total = self.grid.tiles
        corners = itertools.product(self.grid.starts[1], self.grid.starts[2])
        for done, corner in enumerate(corners, start=step * self.grid.tiles_per_step + 1):
            tile = window.tile(corner)
            for fold, network in enumerate(self.networks):
                scores.add(fold, corner, self._predict(network, tile), weights)
            scores.weigh(corner, weights)
            self.context.report(done, total, "tiles")

    def _predict(self, network: torch.nn.Module, tile: torch.Tensor) -> torch.Tensor:
        """Scores (heads, z, y, x) of a tile, averaged over its mirror images."""
        import torch

        with torch.inference_mode():
            self.context.checkpoint()
            prediction: torch.Tensor = network(tile)
            for axes in self.mirror_axes:
                self.context.checkpoint()
                dims = [axis + 2 for axis in axes]
                prediction += torch.flip(network(torch.flip(tile, dims)), dims)
            if self.mirror_axes:
                prediction /= len(self.mirror_axes) + 1
            return prediction[0]

    def _decide(self, scores: _Scores, start: int, stop: int) -> NDArray[np.uint8 | np.uint16]:
        y, x = (slice(gap, gap + size) for gap, size in zip(self.grid.before[1:], self.grid.extent[1:], strict=True))
        return self.recipe.labels.decide(scores.mean(start, stop))[:, y, x]


class _Window:
    """The normalised voxels of the rows that the current step needs, zeros around the box included."""

    def __init__(self, sweep: Sweep) -> None:
        import torch

        self._volume, self._box, self._normalise = sweep.volume, sweep.box, sweep.normalise
        self._transpose, self._grid, self._context = sweep.recipe.transpose, sweep.grid, sweep.context
        self._depth = sweep.grid.patch[0]
        self._voxels = torch.zeros((self._depth, *sweep.grid.padded[1:]), dtype=torch.float32)
        self._start: int | None = None

    def move_to(self, start: int) -> None:
        """Hold rows from `start` of the padded volume on; only those that are new are read."""
        known = 0 if self._start is None else max(0, self._depth - (start - self._start))
        if known:
            _move_rows(self._voxels, self._depth - known)
        self._voxels[known:] = 0
        self._start = start
        before, extent = self._grid.before, self._grid.extent
        first, last = max(start + known, before[0]), min(start + self._depth, before[0] + extent[0])
        y, x = (slice(gap, gap + size) for gap, size in zip(before[1:], extent[1:], strict=True))
        rows = slab_depth(extent, voxels=BLOCK_VOXELS)
        for row in range(first, last, rows):
            self._context.checkpoint()
            stop = min(row + rows, last)
            self._voxels[row - start : stop - start, y, x] = self._read(row - before[0], stop - before[0])

    def tile(self, corner: tuple[int, int]) -> torch.Tensor:
        """The tile at `corner` as the network takes it: (1, 1, z, y, x)."""
        import torch

        y, x = (slice(at, at + edge) for at, edge in zip(corner, self._grid.patch[1:], strict=True))
        return torch.clone(self._voxels[None, None, :, y, x], memory_format=torch.contiguous_format)

    def _read(self, first: int, last: int) -> torch.Tensor:
        import torch

        axis = self._transpose[0]
        start, stop = list(self._box.start), list(self._box.stop)
        start[axis], stop[axis] = self._box.start[axis] + first, self._box.start[axis] + last
        voxels = self._volume.read(Region(start=start, stop=stop)).transpose(self._transpose)
        slab = np.ascontiguousarray(voxels, dtype=np.float32)
        self._normalise(slab)
        return torch.from_numpy(slab)


class _Scores:
    """Weighted sums of the scores of each fold, and of the weights, in half precision as stock has them."""

    def __init__(self, folds: int, heads: int, shape: Index3) -> None:
        import torch

        self._sums = [torch.zeros((heads, *shape), dtype=torch.half) for _ in range(folds)]
        self._weights = torch.zeros(shape, dtype=torch.half)

    def shift(self, rows: int) -> None:
        """Forget the first `rows` rows."""
        for tensor in (*self._sums, self._weights):
            _move_rows(tensor, rows)

    def add(self, fold: int, corner: tuple[int, int], prediction: torch.Tensor, weights: torch.Tensor) -> None:
        """Add a tile's scores."""
        import torch

        with torch.inference_mode():
            prediction *= weights
            self._sums[fold][(..., *_square(corner, weights))] += prediction

    def weigh(self, corner: tuple[int, int], weights: torch.Tensor) -> None:
        """Add a tile's weights."""
        self._weights[(..., *_square(corner, weights))] += weights

    def mean(self, start: int, stop: int) -> torch.Tensor:
        """Mean scores (heads, z, y, x) of some rows over tiles and folds."""
        import torch

        total: Any = None
        for sums in self._sums:
            scores = torch.div(sums[:, start:stop], self._weights[start:stop])
            if not torch.isfinite(scores).all():
                raise UnusableVolume(
                    "the network's scores are not finite numbers",
                    hint="look for extreme voxels in the volume; if there are none, the model's weights are broken",
                )
            total = scores if total is None else total.add_(scores)
        if len(self._sums) > 1:
            total /= len(self._sums)
        scores_of_all: torch.Tensor = total
        return scores_of_all


def _square(corner: tuple[int, int], weights: torch.Tensor) -> tuple[slice, slice]:
    y, x = (slice(at, at + edge) for at, edge in zip(corner, weights.shape[1:], strict=True))
    return y, x


def _move_rows(tensor: torch.Tensor, rows: int) -> None:
    """Move (…, z, y, x) up by `rows` along z, piece by piece so that nothing is copied twice; zeros come in."""
    depth = tensor.shape[-3]
    for start in range(0, depth - rows, rows):
        stop = min(start + rows, depth - rows)
        tensor[..., start:stop, :, :] = tensor[..., start + rows : stop + rows, :, :]
    tensor[..., max(0, depth - rows) :, :, :] = 0
