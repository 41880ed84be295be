"""Opening the SQLite file of the job store: where it may lie, how it locks, and its revision."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.pool import StaticPool

from cryomamba_core.errors import DataDirectoryUnusable, StorageError, StorageFull
from cryomamba_server.engine.schema import REVISION

FILE_NAME = "cryomamba.sqlite"

#: Seconds that a process waits for another one's transaction.
BUSY_TIMEOUT = 30.0

#: File systems on which SQLite's locks cannot be relied on.
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "afs",
        "cifs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)


class Database:
    """The job store's file, through one connection: transactions of several threads follow each other.

    Parameters
    ----------
    data_dir
        The data directory; it is made if it is missing. Raises as `open_database`.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._reader = open_database(data_dir)
        self._writer = self._reader.execution_options(writes=True)
        self._turn = threading.RLock()  # a transaction within one is an error, not a wait for ever

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with self._turn, translated(self._path), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write: durable when the context is left, undone if it raises."""
        with self._turn, translated(self._path), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of the file."""
        self._reader.dispose()


def open_database(data_dir: Path) -> sa.Engine:
    """Open the job store's database, making or upgrading it where necessary.

    Several processes may call this at the same time. The returned engine has a single connection:
    one thread at a time may use it.

    Raises
    ------
    DataDirectoryUnusable
        If the folder cannot be written, lies on a network file system, or holds the data of a newer
        version.
    StorageFull
        If there is no room for it.
    """
    _prepare_folder(data_dir)
    path = data_dir / FILE_NAME
    database = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        poolclass=StaticPool,
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
    )
    sa.event.listen(database, "connect", _configure)
    sa.event.listen(database, "begin", _begin)
    try:
        with translated(path):
            revision = _revision(database)
            if revision != REVISION:
                _upgrade(database, data_dir)
    except BaseException:
        database.dispose()
        raise
    return database


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the database's complaints into errors with a hint."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None or isinstance(error, sa.exc.IntegrityError):
            raise
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            raise StorageFull(
                f"there is no space left for the job store {path}", hint="free some space, then try again"
            ) from error
        if primary in _UNUSABLE:
            raise DataDirectoryUnusable(
                f"the job store {path} cannot be used: {error.orig}", hint=_UNUSABLE[primary]
            ) from error
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageError(
                f"the job store {path} was locked by another process for {BUSY_TIMEOUT:.0f} s",
                hint="see which processes use it with: fuser FILE",
            ) from error
        raise
    except MemoryError as error:
        raise StorageError(
            f"there is not enough memory to use the job store {path}", hint="free some memory"
        ) from error


_CHECK = "check the folder's permissions and its disk, or name another with CRYOMAMBA_DATA_DIR"
_DAMAGED = "restore it from a backup, or move it away: jobs are forgotten then, results stay under artifacts/"
_UNUSABLE = {
    sqlite3.SQLITE_PERM: _CHECK,
    sqlite3.SQLITE_READONLY: _CHECK,
    sqlite3.SQLITE_IOERR: _CHECK,
    sqlite3.SQLITE_CANTOPEN: _CHECK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def file_system_of(path: Path, mounts: str) -> str:
    """Type of the file system that holds `path`.

    Parameters
    ----------
    path
        Absolute, links resolved.
    mounts
        The text of ``/proc/mounts``.

    Returns
    -------
    kind
        Such as ``ext4``; empty if no mount holds the path.
    """
    kind, longest = "", -1
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = Path(parts[1].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = parts[2], len(point.parts)
    return kind


def _prepare_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataDirectoryUnusable(
            f"the data directory {data_dir} cannot be made: {error.strerror}",
            hint="name another with CRYOMAMBA_DATA_DIR",
        ) from error
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    kind = file_system_of(data_dir.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise DataDirectoryUnusable(
            f"the data directory {data_dir} lies on a network file system ({kind}), where the job store is not safe",
            hint="name a folder on a local disk with CRYOMAMBA_DATA_DIR",
        )


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, not where sqlite3 guesses
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(database: sa.Engine) -> str | None:
    """The revision of an existing database, None for an empty one."""
    with database.begin() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return revision


def _upgrade(database: sa.Engine, data_dir: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    with FileLock(data_dir / "upgrade.lock", thread_local=False):
        revision = _revision(database)
        if revision == REVISION:
            return
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise DataDirectoryUnusable(
                f"the job store in {data_dir} was written by a newer version of CryoMamba (revision {revision})",
                hint="upgrade with: pip install --upgrade cryomamba",
            )
        with database.execution_options(writes=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, REVISION)
