"""The digest of an object while it is written, so that completing it need not read it all again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Bytes that are read back at a time: they stay in the processor's cache.
_CHUNK = 1 << 20

#: How much of what came too early a write may hash in addition to its own bytes, in multiples of these.
_CATCH_UP = 2

#: Seconds that a write waits, bytes at hand, for those before it to be hashed, and how far behind they may be for
#: that, in multiples of its own. Several travel at a time and overtake each other by a moment; what is not hashed
#: from memory has to be read back from the disk.
_PATIENCE, _NEAR = 0.3, 8


class RunningDigest:
    """SHA-256 of the beginning of a file, as far as it was written without a gap.

    What is hashed are the bytes that were given to the operating system, or, where they came before
    their turn, what it gives back. Reading the file again right after writing it would come from the
    same memory of the system, and show no more. Whatever is written again is hashed again.

    All writes to the file have to go through `writing`; any thread may call anything.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._digest = hashlib.sha256()
        self._position = 0
        self._claimed = 0
        self._written: list[tuple[int, int]] = []
        self._hashing = False
        self._resets = 0
        self._at_hand: set[int] = set()

    @contextmanager
    def writing(self, offset: int, length: int) -> Iterator[None]:
        """Write a range inside the context, and nothing else."""
        with self._turn:
            self._forget(offset, offset + length)
        yield
        with self._turn:
            self._forget(offset, offset + length)  # somebody else may have written it meanwhile
            self._written = _merged([*self._written, (offset, offset + length)])

    def advance(self, descriptor: int, offset: int, data: memoryview) -> None:
        """Hash what can be hashed by now, from `data`, which was written at `offset`, or from the file."""
        with self._turn:
            self._wait_for_those_before(offset, len(data))
            stop = next((stop for start, stop in self._written if start <= self._position < stop), None)
            if stop is None or self._hashing:
                return
            start, digest, resets = self._position, self._digest, self._resets
            stop = min(stop, start + _CATCH_UP * len(data), *(at for at in self._at_hand if at > start))
            self._hashing, self._claimed = True, stop
        try:
            _hash(digest, descriptor, start, stop, offset, data)
        except BaseException:
            resets = -1
            raise
        finally:
            with self._turn:
                self._hashing = False
                if resets == self._resets:
                    self._position = stop
                else:
                    self._reset()
                self._turn.notify_all()

    def _wait_for_those_before(self, offset: int, length: int) -> None:
        """Wait a little while the bytes at `offset` are at hand, unless many are missing before them."""
        if offset - self._position > _NEAR * length:
            return
        self._at_hand.add(offset)
        self._turn.wait_for(lambda: self._position >= offset and not self._hashing, _PATIENCE)
        self._at_hand.discard(offset)

    def finish(self, descriptor: int) -> str:
        """Hex digest of the whole file; nothing is written any more."""
        with self._turn:
            digest = self._digest.copy() if not self._hashing else hashlib.sha256()
            start = self._position if not self._hashing else 0
        _hash(digest, descriptor, start, os.fstat(descriptor).st_size, 0, memoryview(b""))
        return digest.hexdigest()

    def _reset(self) -> None:
        """Begin again; what was written stays written."""
        self._digest = hashlib.sha256()
        self._position = self._claimed = 0
        self._resets += 1

    def _forget(self, start: int, stop: int) -> None:
        """Take a range for not written while it may be half written, and for not hashed."""
        if start < self._claimed:
            self._reset()
        kept = []
        for first, last in self._written:
            kept += [(first, min(last, start)), (max(first, stop), last)]
        self._written = [(first, last) for first, last in kept if first < last]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _hash(digest: hashlib._Hash, descriptor: int, start: int, stop: int, offset: int, data: memoryview) -> None:
    """Add the bytes `start` to `stop` of a file, of which `data` are those from `offset` on."""
    while start < stop:
        inside = start - offset
        if 0 <= inside < len(data):
            piece = data[inside : inside + stop - start]
        else:
            ahead = offset if start < offset else stop
            piece = memoryview(os.pread(descriptor, min(_CHUNK, stop - start, ahead - start), start))
            if not piece:
                raise OSError("the file ends early")
        digest.update(piece)
        start += len(piece)
