"""Copying the records of a data directory, whether a server runs on it or not."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cryomamba_core.durable import replacing, write_privately
from cryomamba_core.errors import DataDirectoryUnusable, OutputExists, StorageDamaged, StorageError
from cryomamba_server.engine.database import BUSY_TIMEOUT
from cryomamba_server.http.upkeep.archive import (
    FORMAT,
    SECRET_FOLDERS,
    STORE,
    BackupManifest,
    describe,
    unpack_archive,
    write_archive,
)


def make_backup(data_dir: Path, target: Path, *, with_keys: bool) -> BackupManifest:
    """Write a backup of the records of one moment: jobs, files, uploads and tokens, not what is in the files.

    Parameters
    ----------
    data_dir
        The data directory; a server may be running on it, and goes on meanwhile.
    target
        The file to write; only its owner can read it.
    with_keys
        Whether keys and the server's own certificate go along.

    Raises
    ------
    DataDirectoryUnusable
        If there are no records.
    OutputExists
        If `target` exists.
    StorageDamaged
        If the job store is damaged: a copy would be of no use.
    """
    store = data_dir / STORE
    if not store.is_file():
        raise DataDirectoryUnusable(
            f"{data_dir} holds no job store", hint="name the server's data directory with --data-dir"
        )
    if target.exists():
        raise OutputExists(f"{target} exists", hint="give another name, or move the file away")
    if not target.parent.is_dir():
        raise StorageError(f"the folder {target.parent} does not exist", hint="make it first")
    with tempfile.TemporaryDirectory(prefix=".cryomamba-backup-", dir=target.parent) as folder:
        copy = Path(folder) / STORE
        _copy_store(store, copy)
        paths = {STORE: copy} | (_copy_secrets(data_dir, Path(folder)) if with_keys else {})
        manifest = _describe(copy, paths)
        with replacing(target) as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write_archive(partial, manifest, paths)
            (Path(folder) / "check").mkdir()
            unpack_archive(partial, Path(folder) / "check")
    return manifest


def _copy_store(store: Path, copy: Path) -> None:
    """Copy the database in one step: writers wait for as long as that takes."""
    try:
        with (
            closing(sqlite3.connect(f"{store.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            copy.chmod(0o600)
            source.backup(target)
            verdict = target.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise StorageError(f"the job store {store} cannot be copied: {error}", hint="check its disk") from error
    if verdict != "ok":
        raise StorageDamaged(f"the job store {store} is damaged: {verdict}", hint="restore an earlier backup")


def _copy_secrets(data_dir: Path, target: Path) -> dict[str, Path]:
    """Copies of the keys and of the server's own certificate, by their path below the data directory.

    Each file is read once, since another process may put a new one in its place at any time.
    """
    copies = {}
    for folder in SECRET_FOLDERS:
        for path in sorted((data_dir / folder).glob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix in (".json", ".pem"):
                copy = copies[f"{folder}/{path.name}"] = target / f"{folder}-{path.name}"
                write_privately(copy, path.read_bytes())
    return copies


def _describe(copy: Path, paths: dict[str, Path]) -> BackupManifest:
    with closing(sqlite3.connect(copy)) as database:
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        (jobs,) = database.execute("SELECT count(*) FROM jobs").fetchone()
        (files,) = database.execute("SELECT count(*) FROM files").fetchone()
    return BackupManifest(
        format=FORMAT,
        version=metadata.version("cryomamba"),
        revision=revision,
        created_at=datetime.now(UTC),
        jobs=jobs,
        files=files,
        members={name: describe(path) for name, path in paths.items()},
    )
