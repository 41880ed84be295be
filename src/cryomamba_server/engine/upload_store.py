"""Files on their way, as the job store knows them. Each method is one transaction, and blocks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from attrs import frozen

from cryomamba_core.errors import PartRefused, QuotaExceeded, UnknownUpload
from cryomamba_core.files import FileRecord
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.records import StoredFile, now, stored_file
from cryomamba_server.engine.schema import files, upload_parts, uploads

# What every part asks for is put together once: that costs more than to carry it out.
_UPLOAD = sa.select(uploads).where(uploads.c.id == sa.bindparam("upload"))
_PART = sa.select(upload_parts.c.sha256).where(
    upload_parts.c.upload_id == sa.bindparam("upload"), upload_parts.c.number == sa.bindparam("index")
)
_ADD_PART = upload_parts.insert()
_TOUCH = uploads.update().where(uploads.c.id == sa.bindparam("upload")).values(touched_at=sa.bindparam("touched_at"))


@frozen(kw_only=True)
class Upload:
    """A file on its way.

    Attributes
    ----------
    id, owner
        Names it, and whose it is.
    filename, size, fingerprint, sha256
        As the client announced them.
    part_size
        Bytes of every part but the last.
    key, token
        Where the storage will have it, and the open write, None once that is over.
    file_id
        The file, once it is complete.
    touched_at
        When the last part came.
    """

    id: str
    owner: str
    filename: str
    size: int
    part_size: int
    fingerprint: str | None
    sha256: str | None
    key: str
    token: str | None
    file_id: str | None
    created_at: datetime
    touched_at: datetime

    @property
    def part_count(self) -> int:
        """How many parts it has."""
        return -(-self.size // self.part_size)

    def part_length(self, index: int) -> int:
        """Bytes of a part; raises `PartRefused` for one that there is not."""
        if not 0 <= index < self.part_count:
            raise PartRefused(
                f"there is no part {index}", hint=f"parts are numbered from 0 to {self.part_count - 1} here"
            )
        return min(self.part_size, self.size - index * self.part_size)


class UploadStore:
    """Uploads and their parts, and the files that they become.

    Methods that take an `owner` treat what belongs to others as if it did not exist.

    Parameters
    ----------
    database
        Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def add(self, upload: Upload, *, quota: int) -> None:
        """Note a new upload; raises `QuotaExceeded` if `quota`, where it is not 0, does not hold it as well."""
        with self._writing() as connection:
            self._require_quota(connection, upload.owner, upload.size, quota)
            connection.execute(uploads.insert().values(_values(upload)))

    def add_complete(self, upload: Upload, file_id: str) -> bool:
        """Note an upload of a file that its owner has, which counts as used now; False if it is not there any more."""
        with self._writing() as connection:
            found = self._use_file(connection, file_id, upload.owner) is not None
            if found:
                connection.execute(uploads.insert().values(_values(upload)))
            return found

    def require_quota(self, owner: str, size: int, quota: int) -> None:
        """Raise `QuotaExceeded` if `quota` does not hold `size` bytes more."""
        with self._reading() as connection:
            self._require_quota(connection, owner, size, quota)

    def find(self, owner: str, *, fingerprint: str, size: int, filename: str) -> Upload | None:
        """The newest upload of the same file, as far as its owner's words go."""
        query = (
            sa.select(uploads)
            .where(
                uploads.c.owner == owner,
                uploads.c.fingerprint == fingerprint,
                uploads.c.size == size,
                uploads.c.filename == filename,
            )
            .order_by(uploads.c.id.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _upload(row)

    def resume(self, upload_id: str, *, sha256: str | None) -> None:
        """Note that the client goes on with an upload, and what it says of it now."""
        values: dict[str, Any] = {"touched_at": now().isoformat()}
        if sha256 is not None:
            values["sha256"] = sha256
        with self._writing() as connection:
            connection.execute(uploads.update().where(uploads.c.id == upload_id).values(values))

    def upload(self, upload_id: str, *, owner: str) -> Upload:
        """An upload; raises `UnknownUpload`."""
        with self._reading() as connection:
            return self._upload(connection, upload_id, owner)

    def upload_and_part(self, upload_id: str, index: int, *, owner: str) -> tuple[Upload, str | None]:
        """An upload, and the digest of one of its parts if that is durable; raises `UnknownUpload` or `PartRefused`."""
        with self._reading() as connection:
            upload = self._upload(connection, upload_id, owner)
            upload.part_length(index)
            return upload, connection.scalar(_PART, {"upload": upload_id, "index": index})

    def parts(self, upload_id: str) -> dict[int, str]:
        """Number → digest of the parts that are durable, ascending."""
        query = (
            sa.select(upload_parts.c.number, upload_parts.c.sha256)
            .where(upload_parts.c.upload_id == upload_id)
            .order_by(upload_parts.c.number)
        )
        with self._reading() as connection:
            return {row.number: row.sha256 for row in connection.execute(query)}

    def add_part(self, upload: Upload, index: int, sha256: str) -> None:
        """Note a part that is durable; raises `UnknownUpload` if the upload was dropped meanwhile."""
        with self._writing() as connection:
            self._upload(connection, upload.id, upload.owner)
            connection.execute(_ADD_PART, {"upload_id": upload.id, "number": index, "sha256": sha256})
            connection.execute(_TOUCH, {"upload": upload.id, "touched_at": now().isoformat()})

    def complete(self, upload: Upload, sha256: str) -> StoredFile:
        """Make a file of an upload whose content is durable under its key.

        Content that is known, from whomever, keeps the place that it has, if readers see the same
        ending there. A file that its owner has sent before counts as used now.

        Returns
        -------
        stored
            The owner's file; its key need not be the upload's.
        """
        record = FileRecord(id=sha256, name=upload.filename, size=upload.size, sha256=sha256, created_at=now())
        with self._writing() as connection:
            self._upload(connection, upload.id, upload.owner)
            stored = self._use_file(connection, sha256, upload.owner)
            if stored is None:
                key = self._known_key(connection, sha256, ending(upload.key)) or upload.key
                stored = StoredFile(record=record, key=key)
                connection.execute(
                    files.insert().values(
                        id=sha256,
                        owner=upload.owner,
                        name=record.name,
                        size=record.size,
                        sha256=sha256,
                        key=key,
                        created_at=record.created_at.isoformat(),
                    )
                )
            done = uploads.update().where(uploads.c.id == upload.id)
            connection.execute(done.values(file_id=sha256, token=None, touched_at=now().isoformat()))
            connection.execute(upload_parts.delete().where(upload_parts.c.upload_id == upload.id))
            return stored

    def file(self, file_id: str, owner: str) -> StoredFile | None:
        """An owner's file."""
        with self._reading() as connection:
            return self._file(connection, file_id, owner)

    def use_file(self, file_id: str, owner: str) -> StoredFile | None:
        """An owner's file, which counts as used now: what was promised a moment ago is not removed for its age."""
        with self._writing() as connection:
            return self._use_file(connection, file_id, owner)

    def move_files(self, lost: str, found: str) -> None:
        """Let files whose content is not where it was be where the same content is now."""
        with self._writing() as connection:
            connection.execute(files.update().where(files.c.key == lost).values(key=found))

    def remove(self, upload_id: str) -> None:
        """Forget an upload; its file stays."""
        with self._writing() as connection:
            connection.execute(uploads.delete().where(uploads.c.id == upload_id))

    def remove_unfinished(self, upload_id: str) -> None:
        """Forget an upload unless it was completed meanwhile."""
        with self._writing() as connection:
            connection.execute(uploads.delete().where(uploads.c.id == upload_id, uploads.c.file_id.is_(None)))

    def untouched(self, older_than: float, *, empty_for: float) -> list[Upload]:
        """Uploads to which nothing came for so many seconds, complete ones included.

        Those to which nothing came at all hold room for nobody knows what: they have `empty_for`
        seconds from their beginning.
        """
        before, begun_before = [(now() - timedelta(seconds=each)).isoformat() for each in (older_than, empty_for)]
        empty = sa.and_(
            uploads.c.file_id.is_(None),
            uploads.c.created_at < begun_before,
            ~sa.exists().where(upload_parts.c.upload_id == uploads.c.id),
        )
        query = sa.select(uploads).where(sa.or_(uploads.c.touched_at < before, empty))
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [_upload(row) for row in rows]

    def in_use(self, key: str) -> bool:
        """Whether a file lies at a key."""
        with self._reading() as connection:
            return connection.scalar(sa.select(files.c.id).where(files.c.key == key).limit(1)) is not None

    def _upload(self, connection: sa.Connection, upload_id: str, owner: str) -> Upload:
        row = connection.execute(_UPLOAD, {"upload": upload_id}).mappings().first()
        if row is None or row["owner"] != owner:
            raise unknown(upload_id)
        return _upload(row)

    def _file(self, connection: sa.Connection, file_id: str, owner: str) -> StoredFile | None:
        query = sa.select(files).where(files.c.id == file_id, files.c.owner == owner)
        row = connection.execute(query).mappings().first()
        return None if row is None else stored_file(row)

    def _use_file(self, connection: sa.Connection, file_id: str, owner: str) -> StoredFile | None:
        used = files.update().where(files.c.id == file_id, files.c.owner == owner)
        connection.execute(used.values(last_used_at=now().isoformat()))
        return self._file(connection, file_id, owner)

    def _known_key(self, connection: sa.Connection, sha256: str, wanted: str) -> str | None:
        query = sa.select(files.c.key).where(files.c.id == sha256).order_by(files.c.created_at)
        return next((key for key in connection.scalars(query) if ending(key) == wanted), None)

    def _require_quota(self, connection: sa.Connection, owner: str, size: int, quota: int) -> None:
        if not quota:
            return
        kept = connection.scalar(sa.select(sa.func.sum(files.c.size)).where(files.c.owner == owner)) or 0
        coming = sa.select(sa.func.sum(uploads.c.size)).where(uploads.c.owner == owner, uploads.c.file_id.is_(None))
        kept += connection.scalar(coming) or 0
        if kept + size > quota:
            raise QuotaExceeded(
                f"{size} bytes are more than is left of your {quota} bytes, of which {kept} are taken",
                hint="files that no job has used for some time are removed; until then ask whoever runs the server",
            )


def ending(key: str) -> str:
    """What a key has behind the first dot of its last part: readers see it as the ending of the file."""
    return key.rpartition("/")[2].partition(".")[2]


def unknown(upload_id: str) -> UnknownUpload:
    """The error for an upload that is not there, or not the caller's."""
    return UnknownUpload(f"no upload has the id {upload_id}", hint="it was dropped, or never was: begin it again")


def _values(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "owner": upload.owner,
        "filename": upload.filename,
        "size": upload.size,
        "part_size": upload.part_size,
        "fingerprint": upload.fingerprint,
        "sha256": upload.sha256,
        "key": upload.key,
        "token": upload.token,
        "file_id": upload.file_id,
        "created_at": upload.created_at.isoformat(),
        "touched_at": upload.touched_at.isoformat(),
    }


def _upload(row: sa.RowMapping) -> Upload:
    times = {name: datetime.fromisoformat(row[name]) for name in ("created_at", "touched_at")}
    return Upload(**{**row, **times})
