"""Keys and folders: from the name of an object to an open folder, without following a link.

Folders are opened part by part, each relative to the one before, so that a link that somebody puts
into the tree leads nowhere, even while it is being walked.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryomamba_core.errors import InvalidParameter, StorageError, StorageFull, UnknownObject

#: The first part of every key.
AREAS = ("raw", "artifacts")
#: Where unfinished writes of an area are. No key has a ``+``, so it can hide no object.
PARTIAL = "+partial"
#: Where the digests of an area's objects are.
DIGESTS = "+digests"

_PART = re.compile(r"[A-Za-z0-9._-]{1,255}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def split_key(key: str) -> tuple[str, ...]:
    """The parts of a key, two at least; raises `InvalidParameter` for anything else."""
    parts = tuple(key.split("/"))
    if parts[0] not in AREAS or len(parts) < 2 or not all(map(is_part, parts)):
        raise InvalidParameter(
            f"{key!r} is not the key of an object",
            hint=f"keys begin with {' or '.join(f'{area}/' for area in AREAS)} and have letters, digits, '.', '_', '-'",
        )
    return parts


def is_part(name: str) -> bool:
    """Whether `name` can be a part of a key."""
    return _PART.fullmatch(name) is not None and name not in (".", "..")


@contextmanager
def open_folder(root: Path, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open a folder below `root`.

    Parameters
    ----------
    root
        It may be a link; nothing below it may.
    parts
        Names of the folders on the way.
    create
        Make what is missing, durably.

    Yields
    ------
    descriptor
        Of the folder.

    Raises
    ------
    UnknownObject
        If the folder does not exist and is not to be made.
    StorageError
        If something that is no folder is in the way of one that is to be made.
    """
    if create:
        root.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise UnknownObject(f"there is no folder {root}") from None
    try:
        for part in parts:
            below = _enter(descriptor, part, create=create)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(folder: int, part: str, *, create: bool) -> int:
    try:
        if create:
            try:
                os.mkdir(part, 0o755, dir_fd=folder)
                os.fsync(folder)
            except FileExistsError:
                pass
        return os.open(part, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_A_FOLDER and create:
            raise StorageError(
                f"{part!r} is in the way: it is no folder", hint="remove it, or choose another"
            ) from error
        if error.errno in _NOT_A_FOLDER or (error.errno == errno.ENOENT and not create):
            raise UnknownObject(f"there is no folder {part!r}") from error
        raise


def open_file(folder: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file in an open folder.

    Raises
    ------
    UnknownObject
        If there is none; a link, a folder and a pipe are none.
    """
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise UnknownObject(f"there is no file {name!r}") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnknownObject(f"{name!r} is not a regular file")
    return descriptor


def set_aside(descriptor: int, size: int) -> None:
    """Give a new file its size and the disk space for it; raises OSError ENOSPC where there is none."""
    if size == 0:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    free = os.fstatvfs(descriptor)
    if free.f_bavail * free.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, size)


@contextmanager
def naming_disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into ours; `what` begins the message."""
    try:
        yield
    except StorageError:
        raise
    except OverflowError as error:
        raise StorageFull(f"{what}: no disk is that large") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"{what}: no space is left on the disk", hint="free some space, then retry") from error
        raise StorageError(f"{what}: {os.strerror(error.errno) if error.errno else error}") from error
