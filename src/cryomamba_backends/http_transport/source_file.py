"""The file that is sent: read once, in order, and watched for changes."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from cryomamba_core.errors import MissingFile, SourceChanged

#: Bytes that are read at a time: both digests take them while they are in the processor's cache, and they go into
#: the socket as they are.
PIECE = 1 << 20

#: Bytes of each sample that goes into a fingerprint, and how many of them lie between head and tail.
SAMPLE = 64 << 10
SAMPLES = 16


@frozen(kw_only=True)
class Part:
    """Some of a file's bytes, in pieces of `PIECE` but for the last, and the SHA-256 of all of them in hexadecimal."""

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
        self._whole = hashlib.sha256()
        self._hashed = 0

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

    def rewind(self) -> None:
        """Begin the digest of the whole anew."""
        self._whole, self._hashed = hashlib.sha256(), 0

    def read(self, index: int, part_size: int) -> Part:
        """The next part, which enters the digest of the whole.

        Raises
        ------
        SourceChanged
            If the file is no longer what it was when it was opened.
        """
        assert index * part_size == self._hashed, "parts are read in order"
        wanted = min(part_size, self.size - self._hashed)
        digest, pieces = hashlib.sha256(), []
        for start in range(0, wanted, PIECE):
            piece = self._pread(min(PIECE, wanted - start))
            digest.update(piece)
            self._whole.update(piece)
            self._hashed += len(piece)
            pieces.append(piece)
        self.check()
        return Part(index=index, pieces=tuple(pieces), size=wanted, sha256=digest.hexdigest())

    def sha256(self) -> str:
        """Digest of the whole, once all of it was read; raises `SourceChanged`."""
        assert self._hashed == self.size, "all parts were read"
        self.check()
        return self._whole.hexdigest()

    def check(self) -> None:
        """Raise `SourceChanged` if somebody has written to the file."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.facts.st_mtime_ns):
            raise self._changed()

    def _pread(self, wanted: int) -> bytes:
        data = os.pread(self._descriptor, wanted, self._hashed)
        while len(data) < wanted:
            more = os.pread(self._descriptor, wanted - len(data), self._hashed + len(data))
            if not more:
                raise self._changed()
            data += more
        return data

    def _changed(self) -> SourceChanged:
        return SourceChanged(
            f"{self.path} was changed while it was sent", hint="wait until it is written to its end, then send it again"
        )
