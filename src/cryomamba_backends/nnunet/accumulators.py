"""Where sums are held while a sweep adds to them: in memory, or in a file of which only a strip is in memory.

A file is read and written rather than mapped: a process is charged for every page of a map that it touches, counts the
whole of it against a limit of its addresses, and is killed where the disk does not hold it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryomamba_backends.nnunet.room import disk_room
from cryomamba_core.errors import StorageDamaged, StorageFull

if TYPE_CHECKING:
    import torch

#: Bytes of zeros that are written at a time.
ZEROS = bytes(1 << 20)

#: What a disk says that has no room for a file.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Accumulator(Protocol):
    """Numbers (channels, rows, y, x) of as many rows as a tile is deep, zero until they are added to."""

    @property
    def device(self) -> torch.device:
        """Where the numbers can be added to."""

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on; never lower than before."""

    def square(self, corner: tuple[int, int]) -> torch.Tensor:
        """What a tile at `corner` (y, x) covers, of all rows; to be added to before the next call."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop), the caller's own until `move_to` is called; ask once for each."""

    def close(self) -> None:
        """Give back what is not memory."""


class MemoryAccumulator:
    """All in the memory of a device.

    Parameters
    ----------
    shape
        Channels, rows, and the extent of a row (y, x).
    edges
        Of a tile (y, x).
    dtype, device
        Of the numbers.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], edges: tuple[int, int], dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        import torch

        self._numbers = torch.zeros(shape, dtype=dtype, device=device)
        self._edges = edges
        self._start: int | None = None

    @property
    def device(self) -> torch.device:
        """Where all is held."""
        return self._numbers.device

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        if self._start is not None:
            move_rows(self._numbers, start - self._start)
        self._start = start

    def square(self, corner: tuple[int, int]) -> torch.Tensor:
        """A part of what is held."""
        y, x = (slice(at, at + edge) for at, edge in zip(corner, self._edges, strict=True))
        return self._numbers[..., y, x]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A part of what is held."""
        assert self._start is not None
        return self._numbers[:, start - self._start : stop - self._start]

    def close(self) -> None:
        """Nothing but memory is held."""


class FileAccumulator:
    """In a file without a name, which is gone with the process; in memory is what tiles at the same y cover.

    Row r lies at r modulo the number of rows, so that none is moved.

    Parameters
    ----------
    shape
        Channels, rows, and the extent of a row (y, x).
    edges
        Of a tile (y, x).
    dtype
        Of the numbers.
    folder
        On whose disk the file is.

    Raises
    ------
    StorageFull
        If there is no room for it.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], edges: tuple[int, int], dtype: torch.dtype, folder: Path
    ) -> None:
        import torch

        self._shape, self._edges = shape, edges
        channels, depth, height, width = shape
        self._strip = torch.zeros((channels, depth, edges[0], width), dtype=dtype)
        self._plane = height * width * self._strip.element_size()
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # `close` closes it
        self._start: int | None = None
        self._strip_at: int | None = None
        try:
            _reserve(self._file.fileno(), channels * depth * self._plane, folder)
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> torch.device:
        """That of the strip."""
        return self._strip.device

    def move_to(self, start: int) -> None:
        """Hold rows from `start` on."""
        self._put_back()
        if self._start is not None:
            depth = self._shape[1]
            for row in range(max(start, self._start + depth), start + depth):
                for channel in range(self._shape[0]):
                    self._clear(self._offset(channel, row))
        self._start = start

    def square(self, corner: tuple[int, int]) -> torch.Tensor:
        """A part of the strip, which is first changed for that at y."""
        y, x = corner
        if y != self._strip_at:
            self._put_back()
            self._transfer(self._strip, self._first_row, y, write=False)
            self._strip_at = y
        return self._strip[..., x : x + self._edges[1]]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A copy."""
        self._put_back()
        channels, _, height, width = self._shape
        copied = self._strip.new_empty((channels, stop - start, height, width))
        self._transfer(copied, start, 0, write=False)
        return copied

    def close(self) -> None:
        """Close the file, and with it remove what it held."""
        self._file.close()

    @property
    def _first_row(self) -> int:
        assert self._start is not None
        return self._start

    def _put_back(self) -> None:
        if self._strip_at is not None:
            self._transfer(self._strip, self._first_row, self._strip_at, write=True)
            self._strip_at = None

    def _transfer(self, numbers: torch.Tensor, row: int, y: int, *, write: bool) -> None:
        """Move numbers (channels, rows, y, x) of rows from `row` on, and lines from `y` on, to the file or from it."""
        transfer = os.pwritev if write else os.preadv
        for channel, rows in enumerate(numbers):
            for number, lines in enumerate(rows, row):
                view = memoryview(lines.numpy().reshape(-1).view("u1"))
                offset = self._offset(channel, number, y)
                while view:
                    count = transfer(self._file.fileno(), [view], offset)
                    if count == 0:
                        raise StorageDamaged("the file of sums ends before they do")
                    view, offset = view[count:], offset + count

    def _clear(self, offset: int) -> None:
        stop = offset + self._plane
        while offset < stop:
            offset += os.pwrite(self._file.fileno(), ZEROS[: stop - offset], offset)

    def _offset(self, channel: int, row: int, y: int = 0) -> int:
        _, depth, _, width = self._shape
        return (channel * depth + row % depth) * self._plane + y * width * self._strip.element_size()


def move_rows(tensor: torch.Tensor, rows: int) -> None:
    """Move (…, z, y, x) up by `rows` along z, piece by piece so that nothing is copied twice; zeros come in."""
    if not rows:
        return
    depth = tensor.shape[-3]
    for start in range(0, depth - rows, rows):
        stop = min(start + rows, depth - rows)
        tensor[..., start:stop, :, :] = tensor[..., start + rows : stop + rows, :, :]
    tensor[..., max(0, depth - rows) :, :, :] = 0


def _reserve(descriptor: int, size: int, folder: Path) -> None:
    """Make a file of zeros, and set its disk space aside where that can be done."""
    try:
        os.truncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise no_disk_room(size, folder) from error


def no_disk_room(size: int, folder: Path) -> StorageFull:
    """The error of sums that fit neither in memory nor on the disk."""
    return StorageFull(
        f"sums of {size >> 20} MiB fit neither in memory nor on the disk of the job's folder, which has "
        f"{disk_room(folder) >> 20} MiB left",
        hint=f"free {size >> 20} MiB on the disk of {folder}, or of memory, then retry",
    )
