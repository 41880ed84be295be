"""The file that is sent: read part by part, and watched for changes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from cryomamba_core.errors import MissingFile, SourceChanged

#: Bytes that are read at a time, of each part at first and at most: they go into the socket as they are, and
#: each costs some processor time on its way.
FIRST_PIECE, MOST_PIECE = 256 << 10, 1 << 20

#: Bytes of each sample that goes into a fingerprint, and how many of them lie between head and tail.
SAMPLE = 64 << 10
SAMPLES = 16


@frozen(kw_only=True)
class Part:
    """Some of a file's bytes, in pieces that grow, and the SHA-256 of all of them in hexadecimal."""

    index: int
    pieces: tuple[bytes, ...]
    size: int
    sha256: str


class SourceFile:
    """An open file that is to be sent. All methods block.

    Parameters
    ----------
    path
        The file; it may be renamed or removed while it is sent, but not changed.

    Attributes
    ----------
    facts
        Its size and times when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise MissingFile(
                f"{path} cannot be opened: {error.strerror}", hint="check the path and its permissions"
            ) from error
        self.facts = os.fstat(self._descriptor)
        if not stat.S_ISREG(self.facts.st_mode):
            os.close(self._descriptor)
            raise MissingFile(
                f"{path} is not a regular file", hint="give the path of a file, not of a folder or a pipe"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.facts.st_size

    def fingerprint(self) -> str:
        """A name for this content of this file: its size, its time, and samples of its bytes."""
        digest = hashlib.sha256(f"{self.size}:{self.facts.st_mtime_ns}:".encode())
        last = max(0, self.size - SAMPLE)
        for number in range(SAMPLES + 2):
            digest.update(os.pread(self._descriptor, SAMPLE, last * number // (SAMPLES + 1)))
        return f"v1-{digest.hexdigest()}"

    def read(self, index: int, part_size: int) -> Part:
        """A part.

        Raises
        ------
        SourceChanged
            If the file is no longer what it was when it was opened.
        """
        start = index * part_size
        size = min(part_size, self.size - start)
        digest, pieces = hashlib.sha256(), []
        for offset, wanted in _growing(size):
            piece = self._pread(start + offset, wanted)
            digest.update(piece)
            pieces.append(piece)
        self.check()
        return Part(index=index, pieces=tuple(pieces), size=size, sha256=digest.hexdigest())

    def add_to(self, digest: hashlib._Hash, start: int, stop: int) -> None:
        """Add some of the file's bytes to a digest; raises `SourceChanged` as `read` does."""
        for offset in range(start, min(stop, self.size), MOST_PIECE):
            digest.update(self._pread(offset, min(MOST_PIECE, min(stop, self.size) - offset)))
        self.check()

    def check(self) -> None:
        """Raise `SourceChanged` if somebody has written to the file."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.facts.st_mtime_ns):
            raise self._changed()

    def _pread(self, start: int, wanted: int) -> bytes:
        data = os.pread(self._descriptor, wanted, start)
        while len(data) < wanted:
            more = os.pread(self._descriptor, wanted - len(data), start + len(data))
            if not more:
                raise self._changed()
            data += more
        return data

    def _changed(self) -> SourceChanged:
        return SourceChanged(
            f"{self.path} was changed while it was sent", hint="wait until it is written to its end, then send it again"
        )


def _growing(size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the pieces of a part."""
    offset, length = 0, FIRST_PIECE
    while offset < size:
        yield offset, min(length, size - offset)
        offset, length = offset + length, min(2 * length, MOST_PIECE)
