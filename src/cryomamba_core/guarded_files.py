"""Opening a file below a folder that others can write to, so that nothing they do there leads out of it.

The folders on the way are opened one by one, each relative to the one before, and no link is followed.
What was opened is then read through the descriptor: whoever renames, replaces or links in the meantime
changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryomamba_core.errors import Forbidden, MissingFile

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_WAY = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})

#: File systems of the kernel: their files are no data, and reading them may do something.
_KERNEL = ("/proc", "/sys", "/dev")

#: Where the open files of a process have names. The name stands for the file itself on Linux only.
_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def opened_below(root: Path, path: Path, *, closed: Sequence[Path] = ()) -> Iterator[int]:
    """Open a regular file for reading.

    Parameters
    ----------
    root
        An existing folder. It may be a link; nothing below it may.
    path
        Below `root`, and spelled so: without ``..``.
    closed
        Folders that are not entered, wherever they lie.

    Yields
    ------
    descriptor
        Of the file.

    Raises
    ------
    Forbidden
        If `path` does not lie below `root`, or leads through a link, or is not a regular file.
    MissingFile
        If there is nothing there, or it may not be read.
    """
    if not path.is_relative_to(root) or path == root or ".." in path.parts:
        raise Forbidden(f"{path} does not lie below {root}")
    *above, name = path.relative_to(root).parts
    shut = _identities([*closed, *map(Path, _KERNEL)])
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _require_open(folder, shut)
            for part in above:
                folder = _enter(folder, part)
                _require_open(folder, shut)
            descriptor = os.open(name, _FILE, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if isinstance(error, Forbidden):
            raise
        if error.errno in _NO_WAY:
            raise Forbidden(
                f"{path} leads through a link, or is no file", hint="give the path of the file itself"
            ) from error
        raise MissingFile(f"{path} cannot be opened: {error.strerror}", hint="check the path") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_dev in _devices(_KERNEL):
            raise Forbidden(f"{path} is not a regular file", hint="give the path of a tomogram")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def named(descriptor: int, path: Path, folder: Path) -> Iterator[Path]:
    """A path for an open file, for what can only be asked to open one.

    Where the system gives open files names, the path is a link to that: it ends as `path` does, works
    for this process only, and leads to the open file whatever happens to `path`. Elsewhere it is `path`
    itself, if that is still the same file.

    Parameters
    ----------
    descriptor
        The file.
    path
        Where it was opened.
    folder
        Where to make the link; nobody else should be able to write there.
    """
    if not _DESCRIPTORS.is_dir():
        if not os.path.samestat(os.fstat(descriptor), path.lstat()):
            raise Forbidden(f"{path} was replaced while it was opened", hint="try again")
        yield path
        return
    link = folder / path.name
    link.unlink(missing_ok=True)
    link.symlink_to(_DESCRIPTORS / str(descriptor))
    try:
        yield link
    finally:
        link.unlink(missing_ok=True)


def _enter(folder: int, part: str) -> int:
    below = os.open(part, _FOLDER, dir_fd=folder)
    os.close(folder)
    return below


def _require_open(folder: int, shut: set[tuple[int, int]]) -> None:
    if _identity(os.fstat(folder)) in shut:
        raise Forbidden("the path leads into a folder that is not for tomograms")


def _identities(folders: Sequence[Path]) -> set[tuple[int, int]]:
    found = set()
    for folder in folders:
        try:
            found.add(_identity(folder.stat()))
        except OSError:
            continue
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _devices(folders: Sequence[str]) -> set[int]:
    """The devices of file systems that are mounted at these folders."""
    return {device for device, _ in _identities([Path(folder) for folder in folders])} - {Path("/").stat().st_dev}
