"""One at a time in a job's folder: other windows, of this process or of another one, wait."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Name of the file that is locked; it is there only meanwhile, or after a kill.
LOCK = ".mask.lock"
#: Seconds between two looks whether it is one's turn.
LOOK = 0.05


@contextmanager
def alone_in(folder: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Have a folder to oneself for the block; blocks until that is so.

    On a file system without locks nobody waits.

    Parameters
    ----------
    folder
        Is there.
    on_wait
        Called again and again while another one has it; may raise to stop.
    """
    path = folder / LOCK
    descriptor = _take(path, on_wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever waits for this one finds it gone, and takes a new one
        os.close(descriptor)


def _take(path: Path, on_wait: Callable[[], object]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _is_locked(descriptor):
                on_wait()
                time.sleep(LOOK)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Lock a file if nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # there are no locks here
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
