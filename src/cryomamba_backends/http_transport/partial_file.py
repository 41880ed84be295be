"""A file that is not whole yet, beside the one that it will be."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryomamba_core.artifacts import Artifact
from cryomamba_core.durable import CHUNK, sync_folder
from cryomamba_core.errors import OutputExists, StorageDamaged, StorageError, StorageFull


class PartialFile:
    """Bytes of an artifact that have arrived so far; they outlive a download that is cut off. All methods block.

    It is hidden, and its name holds the beginning of the artifact's digest, so that nothing else is
    ever continued.

    Parameters
    ----------
    artifact, target
        What is fetched, and what the file will be called.

    Attributes
    ----------
    size
        Bytes that are there.
    resumed
        Whether an earlier download left some of them.

    Raises
    ------
    OutputExists
        If `target` exists, or another process fetches the same right now.
    StorageError
        If the file cannot be made.
    """

    def __init__(self, artifact: Artifact, target: Path) -> None:
        self._artifact = artifact
        self._target = target
        self._path = target.with_name(f".{target.name}.{artifact.sha256[:12]}.part")
        refuse_existing(target)
        with _as_ours(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._lock()
            self._take_stock()
        self.resumed: bool = self.size > 0

    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.size == self._artifact.size

    def append(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises
        ------
        StorageFull
            If there is no room; what was there is removed.
        """
        try:
            with _as_ours(self._path):
                rest = memoryview(data)
                while rest:
                    written = os.pwrite(self._descriptor, rest, self.size)
                    self._digest.update(rest[:written])
                    self.size += written
                    rest = rest[written:]
        except StorageFull:
            self._path.unlink(missing_ok=True)
            raise

    def restart(self) -> None:
        """Drop what is there."""
        with _as_ours(self._path):
            os.ftruncate(self._descriptor, 0)
        self.size, self.resumed, self._digest = 0, False, hashlib.sha256()

    def sound(self) -> bool:
        """Whether what is there has the artifact's digest."""
        return self._digest.hexdigest() == self._artifact.sha256

    def publish(self) -> None:
        """Give the whole file its name.

        Raises
        ------
        StorageDamaged
            If its digest is wrong; it is removed.
        OutputExists
            If the name has been taken meanwhile.
        """
        if not self.sound():
            self._path.unlink(missing_ok=True)
            raise StorageDamaged(
                f"{self._artifact.name} arrived as something else than what the job made", hint="fetch it again"
            )
        with _as_ours(self._path):
            os.fsync(self._descriptor)
        refuse_existing(self._target)
        with _as_ours(self._target):
            os.replace(self._path, self._target)
            sync_folder(self._target.parent)

    def close(self) -> None:
        """Let go of it; nothing is kept of a file without bytes."""
        if not self.size:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _lock(self) -> None:
        """Refuse to write beside another process, or into a file that it has just renamed."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(self._descriptor).st_ino == self._path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            os.close(self._descriptor)
            raise OutputExists(f"{self._target} is being fetched by another process", hint="wait for its end")

    def _take_stock(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0
        if os.fstat(self._descriptor).st_size > self._artifact.size:
            os.ftruncate(self._descriptor, 0)
        while chunk := os.pread(self._descriptor, CHUNK, self.size):
            self._digest.update(chunk)
            self.size += len(chunk)


def refuse_existing(target: Path) -> None:
    """Raise `OutputExists` if something is there."""
    if target.exists() or target.is_symlink():
        raise OutputExists(f"{target} exists", hint="choose another folder, or move the file away")


@contextmanager
def _as_ours(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into ours."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"there is no room for {path.name} in {path.parent}", hint="free some space, or choose another folder"
            ) from error
        raise StorageError(
            f"{path} cannot be written: {(error.strerror or str(error)).lower()}", hint="choose another folder"
        ) from error
