"""The voxels that the current step of a sweep needs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cryomamba_backends.nnunet.accumulators import move_rows
from cryomamba_backends.nnunet.aside import ahead
from cryomamba_backends.nnunet.course import Course
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
    course
        Says where they lie.
    guide
        Gives further channels of the same rows, behind those of the volume.
    on_read
        Called before each piece is read, by whichever thread reads it; may raise to stop.
    """

    def __init__(
        self,
        grid: TileGrid,
        rows: Sequence[Rows],
        course: Course,
        *,
        guide: GuideRows | None = None,
        on_read: Callable[[], None],
    ) -> None:
        import torch

        self._rows, self._guide, self._grid, self._on_read = rows, guide, grid, on_read
        self._apart = course.apart and guide is None  # what a guide reads, the device makes itself
        self._arrivals = Arrivals(course.device)
        shape = (len(rows) + (guide.channels if guide else 0), grid.patch[0], *grid.padded[1:])
        self._voxels = torch.zeros(shape, dtype=torch.float32, device=course.device)

    def through(self, starts: Sequence[int]) -> Generator[int]:
        """Hold rows from each of `starts` of the padded volume on, one after the other; yields each meanwhile.

        On the way down only those that are new are read: ahead of time, where the device computes apart.
        """
        moves = [_Move.between(held, start, self._grid) for held, start in zip((None, *starts), starts, strict=False)]
        arriving = self._arriving(moves)
        y, x = (slice(gap, gap + size) for gap, size in zip(self._grid.before[1:], self._grid.extent[1:], strict=True))
        with closing(ahead(arriving) if self._apart else arriving) as arrived:
            for move in moves:
                if move.known:
                    move_rows(self._voxels, self._grid.patch[0] - move.known)
                self._voxels[:, move.known :] = 0
                for row, stop in move.pieces:
                    for channels in self._channels:
                        rows = slice(row - move.start, stop - move.start)
                        self._voxels[channels, rows, y, x] = self._arrivals.received(next(arrived))
                yield move.start

    @property
    def _channels(self) -> list[slice]:
        """Those that are read at the same time."""
        single = [slice(channel, channel + 1) for channel in range(len(self._rows))]
        return single if self._guide is None else [*single, slice(len(self._rows), None)]

    def _arriving(self, moves: Sequence[_Move]) -> Generator[Arrival]:
        """Voxels of all pieces that have to be read, for each some channels after the others."""
        before = self._grid.before[0]
        for move in moves:
            for row, stop in move.pieces:
                self._on_read()
                for read in self._rows:
                    yield self._arrivals.sent(read(row - before, stop - before)[None])
                if self._guide is not None:
                    yield self._arrivals.sent(self._guide(row - before, stop - before))

    def tile(self, corner: tuple[int, int]) -> torch.Tensor:
        """The tile (channels, z, y, x) at `corner`; it changes with the window."""
        y, x = (slice(at, at + edge) for at, edge in zip(corner, self._grid.patch[1:], strict=True))
        return self._voxels[..., y, x]


@frozen(kw_only=True)
class _Move:
    """From where a window begins to where it begins next, in rows of the padded volume.

    Attributes
    ----------
    start
        Where it begins next.
    known
        How many of its rows are held already.
    pieces
        Ends of the pieces in which the others are read, as far as they are of the volume.
    """

    start: int
    known: int
    pieces: tuple[tuple[int, int], ...]

    @classmethod
    def between(cls, held: int | None, start: int, grid: TileGrid) -> _Move:
        depth, before, extent = grid.patch[0], grid.before[0], grid.extent
        known = 0 if held is None or held > start else max(0, depth - (start - held))
        first, last = max(start + known, before), min(start + depth, before + extent[0])
        rows = slab_depth(extent, voxels=READ_VOXELS)
        pieces = tuple((row, min(row + rows, last)) for row in range(first, last, rows))
        return cls(start=start, known=known, pieces=pieces)


@frozen
class Arrival:
    """Voxels on their way to a device, and what happens when they are there; None if they are already."""

    voxels: torch.Tensor
    event: Any = None


class Arrivals:
    """Brings voxels to a device: to a GPU from memory that it reads by itself, while it computes.

    Parameters
    ----------
    device
        Where to.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # no types for it

    def sent(self, voxels: Any) -> Arrival:
        """Send an array on its way."""
        import torch

        held = torch.from_numpy(voxels)
        if self._stream is None:
            return Arrival(held.to(self._device))
        with torch.cuda.stream(self._stream):
            there = held.pin_memory().to(self._device, non_blocking=True)
            return Arrival(there, self._stream.record_event())

    def received(self, arrival: Arrival) -> torch.Tensor:
        """The voxels, for what the device computes from now on."""
        import torch

        if arrival.event is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(arrival.event)
            arrival.voxels.record_stream(computing)
        return arrival.voxels
