"""Files that are whole or not there, whatever moment the power goes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from cryomamba_core.errors import CryoMambaError, StorageError
from cryomamba_core.wire import load_json

T = TypeVar("T")

#: Bytes that are read at a time when a file is hashed or copied.
CHUNK = 4 << 20

#: Ending of files that are being written; whoever finds one without a writer may remove it.
PARTIAL = ".partial"

#: Stand in their names: of this process, not of one with the same number that is gone, and of each time.
_RUN = uuid4().hex
_calls = itertools.count()


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file so that `target` is either as before or whole and durable.

    Yields
    ------
    path
        Write here: beside the target, so that the rename stays on one file system. It is removed
        if the block raises.
    """
    partial = target.with_name(f".{target.name}.{_RUN}-{next(_calls)}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        sync_file(partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def is_of_this_process(partial: Path) -> bool:
    """Whether `replacing` has named a file in this process."""
    return _RUN in partial.name


def write_whole(target: Path, data: bytes) -> None:
    """Replace the content of `target` atomically and durably."""
    with replacing(target) as partial:
        partial.write_bytes(data)


def write_privately(target: Path, data: bytes) -> None:
    """Replace the content of `target` as `write_whole` does; at no moment may anybody but its owner read it."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_bytes(data)


def sha256_of(path: Path, *, on_chunk: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; `on_chunk` hears the size of each piece that is done and may raise to stop."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk(len(chunk))
    return digest.hexdigest()


def load_kept(path: Path, kind: type[T]) -> T | None:
    """What an attempt at a job keeps in a file for the next; None where there is nothing that can be understood.

    Raises
    ------
    StorageError
        If the file is there and cannot be read.
    """
    try:
        return load_json(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error}", hint="see whether the disk is well, then submit the job again"
        ) from error
    except CryoMambaError:
        return None
