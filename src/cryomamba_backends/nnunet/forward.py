"""A tile's way through the networks: folds, mirror images, precision and device."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field

from cryomamba_backends.nnunet.aside import Aside, Listener
from cryomamba_backends.nnunet.course import Course
from cryomamba_backends.nnunet.shortage import says_out

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Pieces in which scores of a mirrored tile are turned back.
MIRRORED_PIECES = 8


def mirrorings(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The combinations of axes along which a tile is mirrored, in stock's order, without the empty one."""
    return tuple(chosen for count in range(len(axes)) for chosen in itertools.combinations(axes, count + 1))


@define(kw_only=True)
class Work:
    """Counts images of tiles that went through a network, and looks for the order to stop between them.

    Attributes
    ----------
    context
        Hears of it.
    total
        How many there will be.
    done
        How many there were.
    """

    context: Listener
    total: int = 0
    done: int = 0

    def each(self, items: Generator[T]) -> Generator[T]:
        """What some work yields; in a thread of its own where the device computes apart."""
        return self.context.each(items) if isinstance(self.context, Aside) else items

    def advance(self, images: int) -> None:
        """Count images."""
        self.done += images
        self.context.report(self.done, self.total, "tiles")


@define(kw_only=True, eq=False)
class Forward:
    """Scores of tiles.

    Attributes
    ----------
    networks
        One for each fold, from `prepared`.
    mirror_axes
        Combinations of model axes from `mirrorings`.
    course
        Where and how precisely to compute, and which axis of the model each axis of a tile is.
    work
        Counts images, and says when to stop.
    batch
        Tiles that are computed at once; halved where the memory of a device does not hold them.
    """

    networks: Sequence[torch.nn.Module] = field(repr=False)
    mirror_axes: Sequence[tuple[int, ...]]
    course: Course
    work: Work
    batch: int = 1
    _constant: tuple[float, list[torch.Tensor]] | None = field(init=False, default=None, repr=False)

    @property
    def images(self) -> int:
        """How often a network runs for each tile."""
        return len(self.networks) * (len(self.mirror_axes) + 1)

    def scores(self, tiles: Sequence[torch.Tensor]) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Scores of tiles, averaged over their mirror images.

        Parameters
        ----------
        tiles
            Each (channels, z, y, x) in the axes of the sweep; as many as `batch`, or fewer.

        Yields
        ------
        tile, fold
            Which of the tiles, and of the networks; folds of a tile in ascending order.
        scores
            (heads, z, y, x), in single precision; not to be written to.
        """
        levels = [_level(tile) for tile in tiles]
        various = [index for index, level in enumerate(levels) if level is None]
        if various:
            stacked = self.to_network([tiles[index] for index in various])
            for fold, network in enumerate(self.networks):
                predicted = self._averaged(network, stacked)
                for index, scores in zip(various, predicted, strict=True):
                    yield index, fold, self._to_sweep(scores)
        for index, level in enumerate(levels):
            if level is not None:
                for fold, scores in enumerate(self._of_constant(level, tiles[index])):
                    yield index, fold, scores

    def _of_constant(self, level: float, tile: torch.Tensor) -> list[torch.Tensor]:
        """Scores of a tile that is the same everywhere: such tiles are many around what was cut out."""
        if self._constant is None or self._constant[0] != level:
            stacked = self.to_network([tile])
            found = [self._to_sweep(self._averaged(network, stacked)[0]) for network in self.networks]
            self._constant = level, found
        else:
            self.work.context.checkpoint()
            self.work.advance(self.images)
        return self._constant[1]

    def _averaged(self, network: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            prediction = self._run(network, tiles)
            for axes in self.mirror_axes:
                dims = [axis + 2 for axis in axes]
                add_mirrored(prediction, self._run(network, torch.flip(tiles, dims)), dims)
            if self.mirror_axes:
                prediction /= len(self.mirror_axes) + 1
            return prediction

    def _run(self, network: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
        """One image of each of the tiles through a network, in as many goes as the memory of the device asks for."""
        import torch

        parts: list[torch.Tensor] = []
        waiting = list(torch.split(tiles, self.batch))
        while waiting:
            self.work.context.checkpoint()
            part = waiting.pop(0)
            try:
                with self.course.autocast():
                    parts.append(network(part).float())
            except RuntimeError as error:
                if len(part) == 1 or not says_out(error):
                    raise
                self._halve(len(part))
                waiting = [piece for rest in (part, *waiting) for piece in torch.split(rest, self.batch)]
                continue
            self.work.advance(len(part))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _halve(self, tiles: int) -> None:
        """Compute fewer tiles at once from now on, as memory did not hold so many."""
        self.batch = -(-tiles // 2)
        told = f"{self.course.device} ran out of memory: tiles are computed {self.batch} at a time from there on"
        log.warning("%s", told)
        self.work.context.note(told)

    def to_network(self, tiles: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tiles as a network takes them: (tiles, channels, z, y, x) in the axes of the model, contiguous."""
        import torch

        back = [1 + self.course.order.index(axis) for axis in range(3)]
        return torch.stack([tile.permute(0, *back) for tile in tiles]).contiguous()

    def _to_sweep(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.permute(0, *(axis + 1 for axis in self.course.order))


def add_mirrored(total: torch.Tensor, image: torch.Tensor, dims: list[int]) -> None:
    """Add `image` (tiles, heads, z, y, x), mirrored along `dims`, to `total`, piece by piece: no copy of it is held."""
    import torch

    depth = total.shape[2]
    rows = -(-depth // MIRRORED_PIECES)
    for start in range(0, depth, rows):
        stop = min(start + rows, depth)
        part = image[:, :, depth - stop : depth - start] if 2 in dims else image[:, :, start:stop]
        total[:, :, start:stop] += torch.flip(part, dims)


def _level(tile: torch.Tensor) -> float | None:
    """The value of a tile that is the same everywhere, else None."""
    import torch

    if tile[(0,) * tile.ndim] != tile[(-1,) * tile.ndim]:
        return None  # without a look at the others, as of most tiles
    low, high = torch.aminmax(tile)
    return low.item() if low == high else None
