"""Putting back the records of a backup, and making them say what is true where they are put back.

Records only are in a backup. The content that they speak of (``raw/``, ``artifacts/``) is there if
somebody has put it back before, from a copy of their own. So before the records take their place:

- a job that was active waits again: no worker is at it here;
- a completed job whose results are not there has failed, and can be retried;
- a file whose content is not there is forgotten, and can be sent again;
- uploads that were not complete are forgotten.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from attrs import define
from filelock import FileLock, Timeout

from cryomamba_core.durable import sync_folder
from cryomamba_core.errors import (
    DataDirectoryUnusable,
    ErrorInfo,
    OutputExists,
    StorageDamaged,
    StorageError,
    UnknownObject,
)
from cryomamba_core.events import Failed, JobEvent, StateChanged
from cryomamba_core.interfaces import Storage
from cryomamba_core.jobs import JobState
from cryomamba_core.wire import dump_json
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.publishing import artifact_key
from cryomamba_server.engine.records import job_record, now
from cryomamba_server.engine.scheduler import LOCK_NAME
from cryomamba_server.engine.schema import events, files, jobs, uploads
from cryomamba_server.http.upkeep.archive import STORE, BackupManifest, unpack_archive

#: What a data directory may hold before records are put back into it: content, and what a killed restore left.
CONTENT = frozenset({"raw", "artifacts", "models", LOCK_NAME})
_UNPACKED = ".restore-"


@define(kw_only=True)
class Restored:
    """What was put back, and what had to be changed for it to be true.

    Attributes
    ----------
    manifest
        Of the backup.
    requeued
        Active jobs that wait again.
    without_results
        Completed jobs that have failed, since their results are not there.
    without_content
        Files that are forgotten, since their content is not there.
    """

    manifest: BackupManifest
    requeued: int = 0
    without_results: int = 0
    without_content: int = 0


def restore_backup(source: Path, data_dir: Path, storage: Storage) -> Restored:
    """Put the records of a backup into a data directory that has none.

    They are there as a whole when this returns, and not at all if it raises.

    Parameters
    ----------
    source
        The backup.
    data_dir
        The data directory: missing, empty, or with content only.
    storage
        The storage of that data directory.

    Raises
    ------
    OutputExists
        If the data directory has records already, or a server.
    MissingFile, StorageDamaged, DataDirectoryUnusable
        If the backup cannot be used.
    """
    _require_empty(data_dir)
    made = not data_dir.exists()
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(data_dir), tempfile.TemporaryDirectory(prefix=_UNPACKED, dir=data_dir) as name:
            _require_empty(data_dir)
            folder = Path(name)
            restored = Restored(manifest=unpack_archive(source, folder))
            _make_true(folder, storage, restored)
            _check(folder / STORE)
            _put_in_place(folder, data_dir, restored.manifest)
    except BaseException:
        if made:
            shutil.rmtree(data_dir, ignore_errors=True)
        raise
    return restored


def _require_empty(data_dir: Path) -> None:
    found = sorted(path.name for path in data_dir.iterdir()) if data_dir.is_dir() else []
    if data_dir.exists() and not data_dir.is_dir():
        raise OutputExists(f"{data_dir} is no folder", hint="name another")
    taken = [name for name in found if name not in CONTENT and not name.startswith(_UNPACKED)]
    if taken:
        raise OutputExists(
            f"{data_dir} is in use: it holds {', '.join(taken[:5])}",
            hint="stop its server and move the folder away; raw, artifacts and models alone may be there before",
        )


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Keep engines from starting on the data directory."""
    lock = FileLock(data_dir / LOCK_NAME, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputExists(f"{data_dir} is in use", hint="stop whatever uses it") from None
    try:
        yield
    finally:
        lock.release()


def _make_true(folder: Path, storage: Storage, restored: Restored) -> None:
    """Upgrade the records, and let them say what is so here."""
    try:
        database = Database(folder)
    except DataDirectoryUnusable as error:
        raise DataDirectoryUnusable(f"the backup cannot be used: {error.message}", hint=error.hint) from error
    try:
        with database.writing() as connection:
            connection.execute(uploads.delete().where(uploads.c.file_id.is_(None)))
            for row in connection.execute(sa.select(jobs)).mappings().all():
                state = JobState(row["state"])
                if state.active:
                    _queue_again(connection, row)
                    restored.requeued += 1
                elif state is JobState.COMPLETED and not _has_results(storage, row):
                    _fail(connection, row)
                    restored.without_results += 1
            for file_id, owner, key in connection.execute(sa.select(files.c.id, files.c.owner, files.c.key)).all():
                if not _has(storage, key):
                    connection.execute(files.delete().where(files.c.id == file_id, files.c.owner == owner))
                    restored.without_content += 1
    finally:
        database.close()


def _queue_again(connection: sa.Connection, row: sa.RowMapping) -> None:
    """Let an active job wait again, unless it was to stop."""
    state, at = JobState.CANCELED if row["cancel_requested"] else JobState.QUEUED, now()
    event = StateChanged(
        seq=row["last_seq"] + 1, at=at, state=state, attempt=row["attempt"], reason="restored from a backup"
    )
    ended = at.isoformat() if state.ended else None
    values = {"state": state.value, "progress": None, "started_at": None, "finished_at": ended}
    _note(connection, row, event, **values, attempts_before=row["attempt"])


def _fail(connection: sa.Connection, row: sa.RowMapping) -> None:
    lost = UnknownObject("the results were not there when the records were restored", hint="retry the job")
    failed = Failed(seq=row["last_seq"] + 1, at=now(), error=ErrorInfo.of(lost))
    _note(connection, row, failed, state=JobState.FAILED.value, error=dump_json(failed.error), artifacts="[]")


def _note(connection: sa.Connection, row: sa.RowMapping, event: StateChanged | Failed, **values: object) -> None:
    """Change a job and tell its listeners; these moves are open to nobody else."""
    kept = {"job_id": row["id"], "seq": event.seq, "attempt": row["attempt"], "worker_seq": None, "type": event.type}
    connection.execute(events.insert().values(**kept, body=dump_json(event, JobEvent)))
    values |= {"last_seq": event.seq, "device": None, "executor": None, "token": None, "cancel_requested": False}
    connection.execute(jobs.update().where(jobs.c.id == row["id"]).values(**values))


def _has_results(storage: Storage, row: sa.RowMapping) -> bool:
    return all(_has(storage, artifact_key(row["id"], each.name), each.size) for each in job_record(row).artifacts)


def _has(storage: Storage, key: str, size: int | None = None) -> bool:
    try:
        return size in (None, storage.stat(key).size)
    except StorageError:
        return False


def _check(store: Path) -> None:
    with closing(sqlite3.connect(store)) as database:
        verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise StorageDamaged(f"the job store in the backup is damaged: {verdict}", hint="use another backup")


def _put_in_place(folder: Path, data_dir: Path, manifest: BackupManifest) -> None:
    """Move the files; the job store last, since it makes the folder a data directory."""
    for name in sorted(manifest.members, key=lambda name: name == STORE):
        target = data_dir / name
        if target.parent != data_dir:
            target.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(folder / name, target)
        sync_folder(target.parent)
    sync_folder(data_dir)
