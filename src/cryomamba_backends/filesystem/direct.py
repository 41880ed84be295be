"""Writing past the operating system's cache, where the system can do that.

A part of an upload is in memory already, is synced at once, and may not be read for hours. Copying it into the cache
and from there to the disk costs as much processor time as hashing it, and pushes out of the cache what running jobs
read. ``O_DIRECT`` hands the memory itself to the disk; it takes whole blocks at block boundaries, in memory as in the
file, and not every file system has it. What cannot go that way goes the usual one: the bytes are the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Alignment that every disk takes, in bytes.
BLOCK = 4096

#: Writes below this many bytes go through the cache: the disk is asked less often then.
WORTH_IT = 1 << 20

#: 0 on systems without it, such as macOS.
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def write_all(descriptor: int, data: bytes | memoryview, offset: int, *, past_cache: bool = False) -> None:
    """Write at an offset, as often as the system needs to take all of it.

    Parameters
    ----------
    descriptor
        Of a file that is open for writing.
    data
        Bytes; they go past the cache only if their memory starts at a multiple of `BLOCK`, as that of `mmap.mmap`
        does.
    offset
        Where in the file.
    past_cache
        Whether the cache need not hold them.
    """
    view = memoryview(data)
    if past_cache and len(view) >= WORTH_IT and offset % BLOCK == 0:
        done = _write_blocks(descriptor, view[: len(view) // BLOCK * BLOCK], offset)
        view, offset = view[done:], offset + done
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_blocks(descriptor: int, blocks: memoryview, offset: int) -> int:
    """Write whole blocks past the cache; returns how many bytes went that way."""
    done = 0
    try:
        with _direct(descriptor):
            while done < len(blocks) and done % BLOCK == 0:
                done += os.pwrite(descriptor, blocks[done:], offset + done)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system's answer, or that to memory between two boundaries
            raise
    return done


@contextmanager
def _direct(descriptor: int) -> Iterator[None]:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
