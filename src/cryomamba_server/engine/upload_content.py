"""The content of uploads: room for it, its parts, and its way to where it stays. Everything here blocks."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryomamba_core.errors import (
    CryoMambaError,
    PartRefused,
    PluginFault,
    StorageDamaged,
    StorageFull,
    UnknownObject,
    UploadConflict,
)
from cryomamba_core.interfaces import Storage
from cryomamba_core.interfaces.readers import FIRST_BYTES
from cryomamba_core.plugins import PluginHost
from cryomamba_server.engine.records import StoredFile
from cryomamba_server.engine.upload_store import Upload, unknown

#: What to do about content that is not what was announced.
OTHER_CONTENT = "if the file changed while it was sent, abort the upload and begin again"


class UploadContent:
    """Uploads in the storage.

    Parameters
    ----------
    host
        Has the readers that look at the first part.
    storage
        Where the content goes.
    reserve_bytes
        Free space that is left alone.
    """

    def __init__(self, *, host: PluginHost, storage: Storage, reserve_bytes: int) -> None:
        self._host = host
        self._storage = storage
        self._reserve_bytes = reserve_bytes

    def open(self, upload: Upload) -> str:
        """Take the room on the disk; returns the storage's token. Raises `StorageFull`."""
        self._require_room(upload.size)
        token = self._storage.begin(upload.key, upload.size)
        try:
            self._require_room(0)
        except BaseException:
            self._storage.abort(token)
            raise
        return token

    def write(self, upload: Upload, index: int, view: memoryview, sha256: str, *, fresh: bool) -> None:
        """Check a part, and make it durable if it is `fresh`.

        Raises
        ------
        PartRefused
            If the part is not what was said of it.
        InputError
            If the file is of no use.
        UnknownUpload
            If what was stored of the upload is lost.
        """
        found = hashlib.sha256(view).hexdigest()
        if found != sha256:
            raise PartRefused(
                f"part {index} arrived with the digest {found}, not {sha256}",
                hint="it changed on its way: send it again",
            )
        if not fresh:
            if self.is_lost(upload):
                raise unknown(upload.id)
            return
        if index == 0:
            self._check_start(upload, bytes(view[:FIRST_BYTES]))
        try:
            self._storage.write(upload.token or "", index * upload.part_size, view)
        except UnknownObject as error:
            raise unknown(upload.id) from error

    def place(self, upload: Upload, expected: str | None) -> str | None:
        """Check the whole content and rename it into its place; None if there is no such content."""
        try:
            return self._storage.commit(upload.token or "", sha256=expected).sha256
        except StorageDamaged as error:
            if expected is None:
                raise
            raise UploadConflict(f"the file is not what was announced: {error}", hint=OTHER_CONTENT) from error
        except UnknownObject:
            return self._placed(upload, expected)

    def abort(self, upload: Upload) -> None:
        """Remove what was written of an unfinished upload; content that became whole stays."""
        self._storage.abort(upload.token or "")

    def clear(self, upload: Upload) -> None:
        """Remove everything of an unfinished upload, content that became whole included."""
        self._storage.abort(upload.token or "")
        self._storage.delete(upload.key)

    def remove(self, upload: Upload) -> None:
        """Remove what has come to stay."""
        self._storage.delete(upload.key)

    def has(self, stored: StoredFile) -> bool:
        """Whether a file is where its record says."""
        try:
            return self._storage.stat(stored.key).size == stored.record.size
        except UnknownObject:
            return False

    def is_lost(self, upload: Upload) -> bool:
        """Whether there is nothing of an unfinished upload: neither its open write nor what that has become.

        So it is after a crash between the removal of the content and that of the record.
        """
        try:
            self._storage.write(upload.token or "", upload.size, b"")  # fails if there is nothing to write to
        except UnknownObject:
            try:
                self._storage.stat(upload.key)
            except UnknownObject:
                return True
        return False

    def expire(self, older_than: float) -> int:
        """Drop what is open in the storage and was not written to for so many seconds."""
        return self._storage.expire(older_than)

    def suffix(self, filename: str) -> str:
        """The longest ending of a file name that a reader knows, lower case; empty if none does."""
        name = filename.lower()
        known = (suffix for reader in self._host.readers for suffix in reader.suffixes)
        return max((suffix for suffix in known if name.endswith(suffix)), key=len, default="")

    def _check_start(self, upload: Upload, first_bytes: bytes) -> None:
        """Refuse a file of which the beginning shows that it is of no use."""
        reader = self._host.reader_of(Path(upload.filename), first_bytes)
        try:
            reader.validate(first_bytes, upload.size)
        except CryoMambaError:
            raise
        except Exception as error:
            raise PluginFault(f"the reader {reader.name} failed on the file's header: {error!r}") from error

    def _require_room(self, size: int) -> None:
        free = self._storage.free_bytes()
        if free is not None and free - size < self._reserve_bytes:
            raise StorageFull(
                f"there is no room for {size} bytes more on the server",
                hint="try again later, or ask whoever runs the server to free some space",
            )

    def _placed(self, upload: Upload, expected: str | None) -> str | None:
        """The digest of what an earlier try renamed, before it was killed; None if there is nothing."""
        try:
            found = self._storage.stat(upload.key)
        except UnknownObject:
            return None
        if expected not in (None, found.sha256):
            raise UploadConflict(
                f"the file has the digest {found.sha256}, not {expected} as announced", hint=OTHER_CONTENT
            )
        return found.sha256
