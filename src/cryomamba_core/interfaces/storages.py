"""Where uploads and artifacts are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from attrs import frozen


@frozen(kw_only=True)
class ObjectInfo:
    """A stored object.

    Attributes
    ----------
    key
        Its name: parts of ``[A-Za-z0-9._-]`` joined by ``/``, none of them ``.`` or ``..``.
    size
        In bytes.
    sha256
        Hex digest of the content.
    modified_at
        UTC.
    """

    key: str
    size: int
    sha256: str
    modified_at: datetime


class Storage(ABC):
    """Keeps objects by key. All methods block, and may be called by several threads at once.

    Keys begin with ``raw/`` (what was sent) or ``artifacts/`` (what jobs made). Every method that
    takes a key raises `InvalidParameter` for one that is not of the form described at `ObjectInfo`.
    """

    #: Unique name, e.g. ``filesystem``.
    name: ClassVar[str]

    @abstractmethod
    def begin(self, key: str, size: int) -> str:
        """Start writing an object of `size` bytes; nothing is visible under `key` before `commit`.

        Returns
        -------
        token
            Names the write, also after a restart of the process.

        Raises
        ------
        StorageFull
            If there is no room for `size` bytes, which are set aside now.
        """

    @abstractmethod
    def write(self, token: str, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`; durable when it returns. Ranges may come in any order and again.

        To write nothing asks whether the write is open.

        Raises
        ------
        InvalidParameter
            If the range lies outside the size that was announced.
        UnknownObject
            If no such write is open.
        """

    @abstractmethod
    def commit(self, token: str, *, sha256: str | None = None) -> ObjectInfo:
        """Make the object visible, whole and durable; a crash leaves it either so or not there.

        A call that a crash cut short can be made again, by another process as well. The digest is that of
        the bytes that were written, whichever processes wrote them; they need not be read again for it.

        Raises
        ------
        StorageDamaged
            If the content does not have the digest `sha256`; the write stays open.
        UnknownObject
            If no such write is open.
        """

    @abstractmethod
    def abort(self, token: str) -> None:
        """Drop an open write; unknown tokens are ignored."""

    @abstractmethod
    def expire(self, older_than: float) -> int:
        """Drop the open writes that nothing was written to for `older_than` seconds.

        So uploads that nobody goes on with do not fill the disk, nor does what a crash left half written.

        Returns
        -------
        dropped
            How many there were.
        """

    @abstractmethod
    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` (inclusive) to `stop` (exclusive); shorter only at the object's end.

        Raises
        ------
        UnknownObject
            If there is no such object.
        """

    def open(self, key: str) -> int | None:
        """A descriptor of a local file with the object's bytes and nothing else, or None where there is no such file.

        Whoever asks closes it. It goes on to give the same bytes when the object is replaced or deleted. With it, a
        server lets the operating system send the object, at half the cost.

        Raises
        ------
        UnknownObject
            If there is no such object.
        """
        del key
        return None

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """What is known of an object; raises `UnknownObject`."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in order of their keys."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is ignored."""

    @abstractmethod
    def localize(self, key: str) -> AbstractContextManager[Path]:
        """A local path to read the object's bytes from, valid inside the context; raises `UnknownObject`."""

    @abstractmethod
    def publish(self, path: Path, key: str) -> ObjectInfo:
        """Store a complete local file under `key`; the file stays. Replaces an object atomically."""

    def free_bytes(self) -> int | None:
        """How much room there is for new objects, or None where that is not limited or not known."""
        return None

    def presign(self, key: str, expires_in: float) -> str | None:
        """A URL that serves the object for `expires_in` seconds, or None where there is none."""
        return None
